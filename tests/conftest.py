import gc
import os

# TensorFlow reports its build and the missing GPU on every import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

# Tracing makes millions of Python objects that live on: look through them for garbage less
# often. It is collected all the same, for models hold gigabytes.
gc.set_threshold(50_000, 10, 2)


@pytest.fixture(scope="module")
def plain_graphs():
    """Run graphs as they are traced: optimising them takes a third of the time of a small fit.

    For tests of what a fit does, not of how: those of the loop itself do without.
    """
    import tensorflow as tf  # the process that hands out the tests does without

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})

import gc
import os

# TensorFlow reports its build and the missing GPU on every import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

# Tracing makes millions of Python objects that live on; looking through them again and again
# for garbage took a tenth of the tests' time.
gc.set_threshold(200_000, 20, 100)


@pytest.fixture(scope="module")
def plain_graphs():
    """Run graphs as they are traced: optimising them takes a third of the time of a small fit.

    For tests of what a fit does, not of how: those of the loop itself do without.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})

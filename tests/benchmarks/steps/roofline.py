"""The machine's limit: nothing but a step's matrix products, tanh and normal numbers.

Each of the three by whatever at hand is fastest in this very run: NumPy's OpenBLAS,
TensorFlow with and without XLA, PyTorch's MKL; for the normals our own too.
"""

import contextlib
import statistics
import time

import numpy as np
import tensorflow as tf

from deen_tf.training import noise

torch = None
with contextlib.suppress(ImportError):
    import torch

TITLE = "roofline"
SECONDS = 0.08  # for one library's turn at one part


class Steps:
    def __init__(self, network, weights, x, batch):
        self.steps = network.epoch[batch]
        self.flops = 2 * sum(m * k * n for m, k, n, _ in network.products(batch))
        hidden, self.random = sum(network.hidden), np.random.default_rng(0)
        factors = [
            (np.ones((k, m) if transposed else (m, k), "f4"), np.ones((k, n), "f4"))
            for m, k, n, transposed in network.products(batch)
        ]
        transposed = [t for *_, t in network.products(batch)]
        a = np.linspace(-3, 3, batch * hidden, dtype="f4").reshape(batch, hidden)
        nu = np.empty((batch, network.d), "f4")
        self.parts = {
            "products": {
                "OpenBLAS": self._numpy_products(factors, transposed),
                "TensorFlow": self._tf_products(factors, transposed, False),
                "XLA": self._tf_products(factors, transposed, True),
            },
            "tanh": {"NumPy": lambda: np.tanh(a), "TensorFlow": self._tf_tanh(a)},
            "normals": {
                "NumPy": lambda: self.random.standard_normal(out=nu, dtype="f4"),
                "TensorFlow": self._tf_normals(nu.shape),
                "deen_tf": self._our_normals(nu.shape),
            },
        }
        if torch:
            self.parts["products"]["MKL"] = self._torch_products(factors, transposed)
            t, n = torch.from_numpy(a), torch.from_numpy(nu)
            self.parts["tanh"]["PyTorch"] = lambda: torch.tanh(t)
            self.parts["normals"]["PyTorch"] = lambda: n.normal_()
        self.best = {}

    def run(self, epochs):
        """Return the seconds that `epochs` epochs of the best of each would take."""
        total = 0.0
        for part, libraries in self.parts.items():
            seconds = {name: _median(step) for name, step in libraries.items()}
            best = min(seconds, key=seconds.get)
            self.best.setdefault(part, []).append((best, seconds[best]))
            total += seconds[best]
        return total * self.steps * epochs

    def details(self):
        """Return the library used most and its median time, for each part."""
        details = {}
        for part, turns in self.best.items():
            names = [name for name, _ in turns]
            best = max(set(names), key=names.count)
            details[part] = {
                "library": best,
                "seconds": statistics.median(s for _, s in turns),
            }
        rate = self.flops / details["products"]["seconds"]
        details["products"]["GFLOP/s"] = rate / 1e9
        return details

    @staticmethod
    def _numpy_products(factors, transposed):
        factors = [
            (a.T if t else a, b) for (a, b), t in zip(factors, transposed, strict=True)
        ]
        out = [np.empty((len(a), b.shape[1]), "f4") for a, b in factors]

        def step():
            for (a, b), c in zip(factors, out, strict=True):
                np.matmul(a, b, out=c)

        return step

    @staticmethod
    def _torch_products(factors, transposed):
        factors = [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in factors]
        factors = [
            (a.T if t else a, b) for (a, b), t in zip(factors, transposed, strict=True)
        ]
        out = [torch.empty(len(a), b.shape[1]) for a, b in factors]

        def step():
            for (a, b), c in zip(factors, out, strict=True):
                torch.mm(a, b, out=c)

        return step

    @staticmethod
    def _tf_products(factors, transposed, jit_compile):
        factors = [(tf.constant(a), tf.constant(b)) for a, b in factors]

        @tf.function(autograph=False, jit_compile=jit_compile)
        def step(factors):
            products = []
            for (a, b), t in zip(factors, transposed, strict=True):
                # One after the other: each has all threads to itself.
                with tf.control_dependencies(products[-1:]):
                    products.append(tf.matmul(a, b, transpose_a=t))
            return products

        return lambda: step(factors)

    @staticmethod
    def _tf_tanh(a):
        a = tf.constant(a)
        return lambda: tf.tanh(a)

    @staticmethod
    def _tf_normals(shape):
        random = tf.random.Generator.from_seed(0)
        return lambda: random.normal(shape)

    @staticmethod
    def _our_normals(shape):
        @tf.function(autograph=False, jit_compile=True)
        def draw(step):
            return noise.standard_normal(shape, noise.key(0, step))

        step = tf.constant(1)
        return lambda: draw(step)


def _median(step):
    step()
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)

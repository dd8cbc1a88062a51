"""The networks, weights and data that every implementation is timed on.

One step of training, for a minibatch x (n, d) without replacement and fresh noise nu ~ N(0, I):

    xi = x + sigma nu
    L(theta) = 1/n sum |x - xi + sigma^2 dE(xi; theta)/dxi|^2            (Eq. 19)
    theta <- Adam(theta, dL/dtheta),    learning rate 1e-3, Keras' other constants

E is an MLP with tanh layers and a linear last layer without bias (Eq. 18).
"""

from typing import NamedTuple

import numpy as np

LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-7


class Network(NamedTuple):
    """A network and the batches it is timed with.

    Attributes
    ----------
    d : int
        Dimensions of the data.
    hidden : tuple of int
    sigma : float
    epoch : dict
        Batch -> steps of an epoch on a CPU: the data set has batch * steps points.
    gpu_epoch : dict
        The same on a GPU.
    """

    d: int
    hidden: tuple
    sigma: float
    epoch: dict
    gpu_epoch: dict

    @property
    def widths(self):
        return (self.d, *self.hidden, 1)

    @property
    def parameters(self):
        """Number of weights, biases among them."""
        return sum(w.size for w in self.weights())

    def weights(self, seed=0):
        """Return [W1 (d, h1), b1 (h1,), W2, b2, ..., w (h_L, 1)], float32."""
        random = np.random.default_rng(seed)
        weights = []
        for rows, columns in zip(self.widths[:-1], self.widths[1:], strict=True):
            weights.append(random.normal(size=(rows, columns)) / np.sqrt(rows))
            weights.append(0.1 * random.normal(size=columns))
        return [w.astype("float32") for w in weights[:-1]]

    def data(self, n, seed=1):
        """Return n points (n, d), float32."""
        return np.random.default_rng(seed).standard_normal((n, self.d), "float32")

    def products(self, batch):
        """Return the matrix products of one step, as (rows, inner, columns, transposed).

        For each layer: the energy, its gradient in xi, the derivative of that along the
        residual, two products for the weights' gradient; and, but for the first layer, what
        goes back to the layer below. `transposed` tells whether the left factor is held as
        (inner, rows). The last layer's, matrix times vector, are left out.
        """
        products = []
        for layer, (m, n) in enumerate(
            zip(self.widths[:-2], self.widths[1:-1], strict=True)
        ):
            products += [(batch, m, n, False)] * 2 + [(batch, n, m, False)]
            products += [(m, batch, n, True)] * 2
            if layer:
                products.append((batch, n, m, False))
        return products


NETWORKS = {
    "2-D 32-32-32": Network(
        2,
        (32, 32, 32),
        0.1,
        {128: 1024, 1024: 256, 4096: 64, 16384: 16},
        {128: 1024, 8192: 128, 131072: 16},
    ),
    "MNIST 128-128-256": Network(
        784,
        (128, 128, 256),
        0.14,
        {128: 160, 1024: 20},
        {128: 160, 1024: 40, 8192: 8},
    ),
    "natural 256-256-256-512-512": Network(
        1024,
        (256, 256, 256, 512, 512),
        0.4,
        {128: 96, 1024: 12},
        {128: 160, 1024: 40},
    ),
    "MNIST 1024-256": Network(784, (1024, 256), 0.14, {128: 64, 1024: 8}, {}),
    "natural 2048-256": Network(
        1024, (2048, 256), 0.4, {128: 48, 1024: 6}, {1024: 40, 8192: 8}
    ),
}

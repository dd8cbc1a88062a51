"""The step in NumPy, its gradient derived by hand. In float64 it is the reference of all.

With h_0 = xi, a_l = h_(l-1) W_l + b_l, h_l = tanh a_l, E = h_L w and s_l = 1 - h_l^2:

    delta_L = w s_L,     delta_l = (delta_(l+1) W_(l+1)^T) s_l          dE/da_l
    g = delta_1 W_1^T                                                   dE/dxi
    L = 1/n sum |r|^2,   r = x - xi + sigma^2 g,   v = 2 sigma^2 r / n  dL/dg

The gradient of L is that of the directional derivative v.g with v held fixed. Along v:

    t_0 = v,   p_l = t_(l-1) W_l,   t_l = s_l p_l                       v.g = t_L w

and back, with delta as above and u_l = delta_(l+1) W_(l+1)^T (u_L = w):

    beta_l = (beta_(l+1) W_(l+1)^T - 2 h_l p_l u_l) s_l
    dW_l = t_(l-1)^T delta_l + h_(l-1)^T beta_l,   db_l = sum beta_l,   dw = sum t_L
"""

import numpy as np

from tests.benchmarks.networks import BETA_1, BETA_2, EPSILON, LEARNING_RATE

TITLE = "NumPy by hand"


def loss_and_gradients(weights, x, nu, sigma):
    """Return L and its gradients, in the order of the weights."""
    *layers, w = weights
    kernels, biases = layers[::2], layers[1::2]
    xi = x + sigma * nu
    h = [xi]
    for kernel, bias in zip(kernels, biases, strict=True):
        h.append(np.tanh(h[-1] @ kernel + bias))
    slopes = [1 - np.square(h_l) for h_l in h[1:]]
    u = [np.broadcast_to(w[:, 0], h[-1].shape)]
    delta = [u[0] * slopes[-1]]
    for kernel, slope in zip(kernels[:0:-1], slopes[-2::-1], strict=True):
        u.insert(0, delta[0] @ kernel.T)
        delta.insert(0, u[0] * slope)
    r = x - xi + sigma**2 * (delta[0] @ kernels[0].T)
    loss = np.einsum("ij,ij->", r, r) / len(x)

    t, p = [r * (2 * sigma**2 / len(x))], []
    for kernel, slope in zip(kernels, slopes, strict=True):
        p.append(t[-1] @ kernel)
        t.append(slope * p[-1])
    gradients = [t[-1].sum(0)[:, None]]
    above = 0
    for i in reversed(range(len(kernels))):
        beta = (above - 2 * h[i + 1] * p[i] * u[i]) * slopes[i]
        gradients = [t[i].T @ delta[i] + h[i].T @ beta, beta.sum(0), *gradients]
        if i:
            above = beta @ kernels[i].T
    return loss, gradients


class Steps:
    def __init__(self, network, weights, x, batch):
        self.network, self.weights, self.x, self.batch = network, weights, x, batch
        self.first = [np.zeros_like(w) for w in weights]
        self.second = [np.zeros_like(w) for w in weights]
        self.random, self.step = np.random.default_rng(0), 0

    def loss_and_gradients(self, x, nu):
        return loss_and_gradients(self.weights, x, nu, self.network.sigma)

    def run(self, epochs):
        for _ in range(epochs):
            order = self.random.permutation(len(self.x))
            for rows in order.reshape(-1, self.batch):
                x = self.x[rows]
                nu = self.random.standard_normal(x.shape, dtype="float32")
                self._adam(self.loss_and_gradients(x, nu)[1])

    def _adam(self, gradients):
        self.step += 1
        rate = LEARNING_RATE * (1 - BETA_2**self.step) ** 0.5 / (1 - BETA_1**self.step)
        for w, m, v, g in zip(
            self.weights, self.first, self.second, gradients, strict=True
        ):
            m += (1 - BETA_1) * (g - m)
            v += (1 - BETA_2) * (np.square(g) - v)
            w -= rate * m / (np.sqrt(v) + EPSILON)

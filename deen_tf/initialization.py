"""Where training starts: at the best that a linear denoiser can do with the data.

With the data's mean m and covariance C, in whitened noisy coordinates

    z = (C + sigma^2 I)^(-1/2) (x - m),      E_0(x) = |z|^2 / 2,

E_0 is the energy of N(m, C + sigma^2 I): its single step (Eq. 11) is the Wiener filter,
the best linear denoiser. A tanh network holds it as follows.

First layer. Unit k sees u_k = b + g a_k . z with b = artanh(1 / sqrt 3), where tanh has
its largest curvature and no third derivative:

    tanh(u_k) = 1/sqrt(3) + (2/3) g a_k.z - 2/(3 sqrt 3) (g a_k.z)^2 + O((g a_k.z)^4).

The rows a_k, r of them, are a tight frame that sums to zero, sum_k a_k = 0 and
sum_k a_k a_k^T = I, so that the linear terms cancel:

    E_0 = -3 sqrt(3) / (4 g^2) sum_k tanh(u_k) + constant.

For r = 2 d they are the pairs +-e_k / sqrt 2: a unit looks at one decorrelated coordinate.
For r <= d, where the rank of the score is the limit (`deen_tf.energy`), they span r - 1 of
the r directions of least variance: there a step has most noise to remove.

Layers above. A unit sees its usual Glorot mixture of the layer below, centred, and besides
s (E_0 - mean) / kappa with a random sign s, where kappa, four standard deviations of E_0,
keeps it in the near-linear middle of tanh. The last layer reads E_0 off sum_alpha s h_alpha.

Models with d outputs have no energy to carry: their objective is quadratic in the last
layer, whose weights are the least-squares ones, on the same first layer.
"""

import numpy as np

SAMPLE = 20_000  # points from which mean and covariance are taken
PROBES = 4096  # noisy points for the statistics of the layers above
BEND = np.arctanh(3**-0.5)
SPREAD = 4.0  # kappa, in standard deviations of E_0
RIDGE = 1e-3  # of the least squares, relative to the mean square of a hidden unit


def default_gain(units, d):
    """Return the standard deviation of g a_k.z: the more units, the more they may bend.

    With two units to a dimension all of them are needed to hold the quadratic energy, in
    the range where tanh is quadratic; with sixteen they are free to specialise.
    """
    return float(np.clip(units / (8 * d), 0.2, 1.5))


def gaussian_energy(hidden, last, x, sigma, gain, rng):
    """Give an MLP energy the weights of E_0.

    Parameters
    ----------
    hidden, last : list of Dense, Dense
        Built, with Glorot weights.
    x : ndarray, shape (n, d), float64
        Data.
    sigma : float
        Noise level.
    gain : float
        Standard deviation of g a_k.z over noisy data.
    rng : numpy Generator
    """
    h, g, _, _ = _first_layer(hidden[0], x, sigma, gain, rng)
    signs, scale = np.ones(h.shape[1]), -3 * 3**0.5 / (4 * g**2)
    energy = scale * h.sum(1)  # E_0 up to a constant, (PROBES,)
    kappa = SPREAD * energy.std()
    for layer in hidden[1:]:
        below, signs = signs, rng.choice([-1.0, 1.0], layer.units)
        carrier = scale / kappa * np.outer(below, signs)
        h = _centred(layer, np.asarray(layer.kernel) + carrier, h)
        carried = h @ signs
        scale = np.cov(energy, carried)[0, 1] / carried.var()
    last.kernel.assign(scale * signs[:, None])


def least_squares(hidden, last, x, sigma, gain, rng, target):
    """Give an MLP with a linear last layer the best last layer for a random start.

    Parameters
    ----------
    hidden, last, x, sigma, gain, rng
        See `gaussian_energy`.
    target : callable
        (x, nu) -> what the outputs should be at x + sigma nu, (n, d).
    """
    h, _, clean, nu = _first_layer(hidden[0], x, sigma, gain, rng)
    for layer in hidden[1:]:
        h = _centred(layer, np.asarray(layer.kernel), h)
    wanted = target(clean, nu)
    if last.use_bias:
        means = h.mean(0), wanted.mean(0)
        h, wanted = h - means[0], wanted - means[1]
    gram = h.T @ h
    ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    kernel = np.linalg.solve(gram + ridge, h.T @ wanted)
    last.kernel.assign(kernel)
    if last.use_bias:
        last.bias.assign(means[1] - means[0] @ kernel)


def _first_layer(layer, x, sigma, gain, rng):
    """Set the first layer; return h^(1) of noisy points, g, and the x and nu of those."""
    x = x[rng.permutation(len(x))[:SAMPLE]]
    mean, d = x.mean(0), x.shape[1]
    variances, axes = np.linalg.eigh(np.cov(x.T, ddof=0).reshape(d, d))
    variances = np.maximum(variances, 0) + sigma**2  # rounding gives tiny negative ones
    whiten = axes / np.sqrt(variances) @ axes.T  # symmetric: keeps coordinates local
    frame = _frame(layer.units, axes, rng)
    g = gain / np.sqrt(np.mean(np.sum(frame**2, axis=1)))
    kernel = g * whiten @ frame.T
    bias = BEND - mean @ kernel
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)
    clean = x[rng.integers(len(x), size=PROBES)]
    nu = rng.normal(size=clean.shape)
    return np.tanh((clean + sigma * nu) @ kernel + bias), g, clean, nu


def _centred(layer, kernel, h):
    """Set a layer so that its units see mean zero; return its tanh, (PROBES, units)."""
    u = h @ kernel
    layer.kernel.assign(kernel)
    layer.bias.assign(-u.mean(0))
    return np.tanh(u - u.mean(0))


def _frame(r, axes, rng):
    """Return rows a_k, (r, d): a tight frame that sums to zero, as far as r allows.

    `axes`, (d, d), are the data's principal axes in its columns, least variance first.
    """
    d = len(axes)
    if r == 1:
        return axes[:, :1].T
    if r < d:
        rows = _rotation(r, rng) @ axes[:, :r].T
    else:
        rows = np.concatenate([np.eye(d), -np.eye(d)])
    while len(rows) < r:
        turn = _rotation(d, rng)
        rows = np.concatenate([rows, turn, -turn])
    rows = rows[:r]
    left, _, right = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    rank = min(d, r - 1)
    return left[:, :rank] @ right[:rank]


def _rotation(d, rng):
    return np.linalg.qr(rng.normal(size=(d, d)))[0]

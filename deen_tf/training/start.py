"""Where an MLP starts: as an energy, at the best that a linear denoiser can do.

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
For r <= d, where the rank of the score is the limit (`deen_tf.models.energy`), they span r - 1 of
the r directions of least variance: there a step has most noise to remove.

Layers above. A unit sees its usual Glorot mixture of the layer below, centred, and besides
s (E_0 - mean) / kappa with a random sign s, where kappa, four standard deviations of E_0,
keeps it in the near-linear middle of tanh. The last layer reads E_0 off sum_alpha s h_alpha.

Models with d outputs have no energy to carry. Their first units see w . (x - c) with random
directions w and noisy data points c; the other weights are Glorot's. (A last layer at the
least squares is a better start, and a worse end: on the mixture of Figure 1 an error of
0.14 after 1000 iterations instead of 0.02.)
"""

import numpy as np

SAMPLE = 20_000  # points from which mean and covariance are taken
PROBES = 4096  # noisy points for the statistics of the layers above
BEND = np.arctanh(3**-0.5)
SPREAD = 4.0  # kappa, in standard deviations of E_0


def principal_axes(x):
    """Return mean (d,), variances (d,), ascending, and axes (d, d), in columns, of data."""
    mean, d = x.mean(0), x.shape[1]
    variances, axes = np.linalg.eigh(np.cov(x.T, ddof=0).reshape(d, d))
    return mean, np.maximum(variances, 0), axes  # rounding gives tiny negative ones


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
    gain : float or None
        Standard deviation of g a_k.z over noisy data; by default `default_gain`.
    rng : numpy Generator
    """
    x = x[rng.permutation(len(x))[:SAMPLE]]
    d = x.shape[1]
    gain = gain or default_gain(hidden[0].units, d)
    mean, variances, axes = principal_axes(x)
    variances = variances + sigma**2
    whiten = axes / np.sqrt(variances) @ axes.T  # symmetric: keeps coordinates local
    frame = _frame(hidden[0].units, axes, rng)
    g = gain / np.sqrt(np.mean(np.sum(frame**2, axis=1)))
    kernel = g * whiten @ frame.T
    clean, nu = _probes(x, rng)
    h = _set(hidden[0], kernel, BEND - mean @ kernel, clean + sigma * nu)
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


def units_at_data(first, x, sigma, gain, rng):
    """Let the first layer's units bend where the data are.

    Parameters
    ----------
    first : Dense
        Built. Inputs beyond the coordinates of x keep their weights.
    x, sigma, rng
        See `gaussian_energy`.
    gain : float or None
        Standard deviation of w.x over noisy data; by default 1.
    """
    clean, nu = _probes(x, rng)
    xi = clean + sigma * nu
    kernel = rng.normal(size=(x.shape[1], first.units))
    kernel *= (gain or 1.0) / (xi @ kernel).std(0)
    centres = xi[rng.integers(len(xi), size=first.units)]  # (r, d)
    first.bias.assign(-np.einsum("rd,dr->r", centres, kernel))
    others = first.kernel.numpy()[x.shape[1] :]
    first.kernel.assign(np.concatenate([kernel, others]))


def _probes(x, rng):
    clean = x[rng.integers(len(x), size=PROBES)]
    return clean, rng.normal(size=clean.shape)


def _set(layer, kernel, bias, h):
    """Set a layer's weights and return its tanh of h, (PROBES, units)."""
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)
    return np.tanh(h @ kernel + bias)


def _centred(layer, kernel, h):
    """Set a layer so that its units see mean zero, and return its tanh of h."""
    return _set(layer, kernel, -h.mean(0) @ kernel, h)


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

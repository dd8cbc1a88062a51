"""How near a denoised image is to the clean one.

The paper's err/pixel |x - x_hat|^2 / d (Sec. 4), PSNR and SSIM, per patch;
`mean_and_standard_error` takes their mean over patches with its error over images.
"""

import numpy as np

from deen_tf.checks import as_points, image_shape, positive


def err_per_pixel(x, x_hat):
    """Return |x - x_hat|^2 / d of each patch (Sec. 4), shape (n,).

    Parameters
    ----------
    x, x_hat : array_like, shape (n, d)
        Clean and denoised patches.
    """
    x, x_hat = alike(x, x_hat, "x", "x_hat")
    return np.mean((x - x_hat) ** 2, axis=1)


def psnr(x, x_hat, peak):
    """Return 10 log10(peak^2 / err_per_pixel) of each patch in decibel, shape (n,).

    Parameters
    ----------
    x, x_hat : array_like, shape (n, d)
    peak : float or array_like, shape (n,)
        The largest possible signal, or the range of each clean patch.

    Examples
    --------
    >>> deen.metrics.psnr(np.zeros((1, 4)), np.full((1, 4), 0.1), 1.0)
    array([20.])
    """
    error = err_per_pixel(x, x_hat)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(_ranges(peak, len(error), "peak") ** 2 / error)


def ssim(x, x_hat, shape, data_range):
    """Return the structural similarity (Wang et al. 2004) of each patch, shape (n,).

    scikit-image's, with that paper's Gaussian window (standard deviation 1.5, 11 x 11).

    Parameters
    ----------
    x, x_hat : array_like, shape (n, d)
    shape : pair of int
        (height, width), 11 at least.
    data_range : float or array_like, shape (n,)
        Of the values, of all or of each patch.
    """
    from skimage.metrics import structural_similarity

    x, x_hat = alike(x, x_hat, "x", "x_hat")
    ranges = _ranges(data_range, len(x), "data_range")
    shape = image_shape(shape)
    if np.prod(shape) != x.shape[1] or min(shape) < 11:
        raise ValueError(
            f"shape must be 11 x 11 or more of {x.shape[1]} pixels, got {shape}"
        )
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    triples = zip(x.reshape(-1, *shape), x_hat.reshape(-1, *shape), ranges, strict=True)
    return np.array(
        [structural_similarity(a, b, data_range=r, **settings) for a, b, r in triples]
    )


def mean_and_standard_error(values, groups=None):
    """Return the mean over patches and its standard error over images.

    Patches of one image are not independent, so the error is that of a mean of clusters:
    SE^2 = G / (G - 1) sum_g (sum_{i in g} (v_i - mean))^2 / n^2, G groups, n values. With a
    group for each value it is the usual std / sqrt(n).

    Parameters
    ----------
    values : array_like, shape (n,)
    groups : array_like, shape (n,), optional
        Which image each patch comes from (`Patches.image_of`).

    Returns
    -------
    mean, standard_error : float
        The error is NaN if there is one group only.
    """
    n = np.size(values)
    groups = np.arange(n) if groups is None else np.asarray(groups)
    if np.ndim(values) != 1 or groups.shape != (n,) or not n:
        raise ValueError(
            f"values {np.shape(values)} and groups {groups.shape} must be one (n,)"
        )
    values = as_points(np.reshape(values, (n, 1)), 1, "values", "float64")[:, 0]
    mean = values.mean()
    _, group = np.unique(groups, return_inverse=True)
    sums = np.bincount(group, values - mean)
    if len(sums) == 1:
        return float(mean), float("nan")
    variance = len(sums) / (len(sums) - 1) * np.sum(sums**2) / len(values) ** 2
    return float(mean), float(np.sqrt(variance))


def removed_noise_fraction(x, xi, x_hat):
    """Return 1 - E|x - x_hat|^2 / E|x - xi|^2: 1 if all noise is gone, 0 if none.

    Parameters
    ----------
    x, xi, x_hat : array_like, shape (n, d)
        Clean, noisy and denoised points.
    """
    noise = err_per_pixel(x, xi).mean()
    if noise == 0:
        raise ValueError("xi equals x: there is no noise to remove")
    return float(1 - err_per_pixel(x, x_hat).mean() / noise)


def alike(a, b, name_a, name_b):
    """Return two sets of points, (n, d), of one shape, in float64."""
    a = as_points(a, name=name_a, dtype="float64")
    b = as_points(b, a.shape[1], name_b, "float64")
    if len(a) != len(b):
        raise ValueError(f"{name_a} has {len(a)} points but {name_b} has {len(b)}")
    return a, b


def _ranges(value, n, name):
    if np.ndim(value) == 0:
        return np.full(n, positive(np.asarray(value).item(), name))
    if np.shape(value) != (n,):
        raise ValueError(
            f"{name} must be one number or {n}, one for each patch, got shape "
            f"{np.shape(value)}"
        )
    value = as_points(np.reshape(value, (n, 1)), 1, name, "float64")[:, 0]
    if value.min() <= 0:
        raise ValueError(f"{name} must be positive, got {value.min()}")
    return value

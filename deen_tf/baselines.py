"""What a denoiser is compared with: filters of signal processing and the linear optimum.

    xi = x + sigma nu,  nu ~ N(0, I),    x_hat = f(xi)

- median, then Gaussian filter (the paper's baseline, Sec. 4), sizes tuned on clean examples;
- the Wiener filter, the best linear estimate: Eq. 11 for the Gaussian density with the mean
  and covariance of clean training data (`deen_tf.laws.gaussian`);
- non-local means, wavelet shrinkage and total variation of scikit-image, told the true
  noise level. Their one free strength can be tuned on clean examples too.

Patches are rows: (n, d) with `shape` = (height, width), by default square, or (n, height,
width). A noise level is one number, or one per patch, (n,). Answers have the shape of xi.
"""

import contextlib

import numpy as np

from deen_tf.checks import as_points, image_shape, positive, whole
from deen_tf.laws.gaussian import Gaussian, noise_levels


def median_gaussian(xi, median_size=3, gaussian_sigma=1.0, shape=None):
    """Return patches filtered by a median and then by a Gaussian.

    Parameters
    ----------
    xi : array_like, shape (n, d) or (n, height, width)
    median_size : int
        Side of the median's square window in pixels; 1 leaves it out.
    gaussian_sigma : float
        Width of the Gaussian in pixels; 0 leaves it out.
    shape : pair of int, optional
        (height, width) of patches given as rows.

    Returns
    -------
    ndarray, float32, shape of xi
    """
    from scipy import ndimage

    median_size = whole(median_size, "median_size")
    gaussian_sigma = positive(gaussian_sigma, "gaussian_sigma", zero=True)
    images = _as_images(xi, shape)
    if median_size > 1:
        images = ndimage.median_filter(images, size=(1, median_size, median_size))
    if gaussian_sigma > 0:
        images = ndimage.gaussian_filter(
            images, sigma=(0, gaussian_sigma, gaussian_sigma)
        )
    return images.reshape(np.shape(xi))


def tune_median_gaussian(
    clean,
    noisy,
    median_sizes=(3, 5, 7),
    gaussian_sigmas=(0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.2, 1.5, 2),
    shape=None,
):
    """Find the filter sizes that denoise given pairs best.

    Parameters
    ----------
    clean, noisy : array_like, shape (n, d) or (n, height, width)
        Pairs for validation, not those the filter will be judged on.
    median_sizes, gaussian_sigmas : sequences
        What is tried, in all combinations; see `median_gaussian`. median_sizes=(1,) tunes
        the Gaussian alone, gaussian_sigmas=(0,) the median alone.
    shape : pair of int, optional

    Returns
    -------
    best : dict
        Keyword arguments for `median_gaussian`.
    errors : dict
        (median_size, gaussian_sigma) -> mean squared error per pixel.
    """
    if not (len(median_sizes) and len(gaussian_sigmas)):
        raise ValueError("median_sizes and gaussian_sigmas must not be empty")
    clean, noisy = _pairs(clean, noisy, shape)
    errors = {}
    for m in median_sizes:
        after_median = median_gaussian(noisy, m, 0)
        for s in gaussian_sigmas:
            errors[m, s] = _error(clean, median_gaussian(after_median, 1, s))
    m, s = min(errors, key=errors.get)
    return {"median_size": m, "gaussian_sigma": s}, errors


Wiener = Gaussian.fit  # of clean data (n, d): .denoise(xi, sigma), .score, .energy


def non_local_means(
    xi, sigma, shape=None, strength=0.6, patch_size=5, patch_distance=11, progress=False
):
    """Return non-local means (Buades, Coll & Morel 2005; scikit-image's fast form).

    Parameters
    ----------
    xi : array_like, shape (n, d) or (n, height, width)
    sigma : float or array_like, shape (n,)
        The true noise level.
    shape : pair of int, optional
    strength : float
        The cut-off h in units of sigma; `tune_strength` finds it.
    patch_size, patch_distance : int
        Side of the compared patches and reach of the search, in pixels.
    progress : bool
        Show a progress bar.

    Returns
    -------
    ndarray, float32, shape of xi
    """
    from skimage.restoration import denoise_nl_means

    strength = positive(strength, "strength")
    patch_size = whole(patch_size, "patch_size")
    patch_distance = whole(patch_distance, "patch_distance")

    def denoise(image, s):
        return denoise_nl_means(
            image,
            patch_size,
            patch_distance,
            h=strength * s,
            sigma=s,
            preserve_range=True,
        )

    return _each(denoise, xi, sigma, shape, progress)


def wavelet(xi, sigma, shape=None, wavelet="db1", shifts=4, progress=False):
    """Return wavelet shrinkage (soft, BayesShrink) at the true noise level.

    It is made invariant to translations by the average over shifts x shifts of them
    (Coifman & Donoho 1995).

    Parameters
    ----------
    xi, sigma, shape, progress
        See `non_local_means`.
    wavelet : str
        PyWavelets' name of an orthogonal wavelet.
    shifts : int
        1 for none.

    Returns
    -------
    ndarray, float32, shape of xi

    Raises
    ------
    ImportError
        If PyWavelets is not there.
    ValueError
        If it does not know the wavelet.
    """
    try:
        import pywt
    except ImportError:
        raise ImportError(
            "baselines.wavelet needs PyWavelets: pip install PyWavelets"
        ) from None
    from skimage.restoration import denoise_wavelet

    if wavelet not in (known := pywt.wavelist(kind="discrete")):
        raise ValueError(f"wavelet must be one of {known}, got {wavelet!r}")
    steps = list(np.ndindex(2 * (whole(shifts, "shifts"),)))

    def denoise(image, s):
        total = np.zeros(image.shape)
        for down, right in steps:
            shifted = np.roll(image, (down, right), (0, 1))
            answer = denoise_wavelet(shifted, s, wavelet, rescale_sigma=False)
            total += np.roll(answer, (-down, -right), (0, 1))
        return total / len(steps)

    return _each(denoise, xi, sigma, shape, progress)


def total_variation(xi, sigma, shape=None, strength=0.6, progress=False):
    """Return total-variation denoising (Chambolle 2004), weight = strength sigma.

    Parameters are those of `non_local_means`; `tune_strength` finds the strength.
    """
    from skimage.restoration import denoise_tv_chambolle

    strength = positive(strength, "strength")

    def denoise(image, s):
        return denoise_tv_chambolle(image, weight=strength * s)

    return _each(denoise, xi, sigma, shape, progress)


def tune_strength(denoiser, clean, noisy, sigma, strengths, shape=None):
    """Find the strength with which `denoiser` serves given pairs best.

    Parameters
    ----------
    denoiser : function
        `non_local_means` or `total_variation`.
    clean, noisy : array_like, shape (n, d) or (n, height, width)
        Pairs for validation.
    sigma : float or array_like, shape (n,)
        The true noise level.
    strengths : sequence of float
        What is tried, for example 0.4, 0.5, ..., 0.8.
    shape : pair of int, optional

    Returns
    -------
    best : float
    errors : dict
        Strength -> mean squared error per pixel.
    """
    if not len(strengths):
        raise ValueError("strengths must not be empty")
    clean, noisy = _pairs(clean, noisy, shape)
    errors = {s: _error(clean, denoiser(noisy, sigma, strength=s)) for s in strengths}
    return min(errors, key=errors.get), errors


def _each(denoise, xi, sigma, shape, progress):
    """Apply denoise(image, noise level) to one patch after another."""
    from tqdm.auto import tqdm

    images = _as_images(xi, shape)
    levels = noise_levels(sigma, len(images))
    pairs = zip(images, levels, strict=True)
    pairs = tqdm(pairs, "patches", len(images), disable=not progress, leave=False)
    return (
        np.stack([denoise(*pair) for pair in pairs])
        .astype("float32")
        .reshape(np.shape(xi))
    )


def _as_images(xi, shape):
    """Return patches as (n, height, width), float32."""
    if shape is not None:
        shape = image_shape(shape)
    with contextlib.suppress(ValueError):  # as_points says what is wrong
        xi = np.asanyarray(xi)
    if isinstance(xi, np.ndarray) and xi.ndim == 3:
        if shape not in (None, xi.shape[1:]):
            raise ValueError(f"shape is {shape} but the patches are {xi.shape[1:]}")
        rows = xi.reshape(len(xi), xi.shape[1] * xi.shape[2])
        return as_points(rows, name="patches").reshape(xi.shape)
    points = as_points(xi, name="patches")
    d = points.shape[1]
    if shape is None:
        side = round(d**0.5)
        shape = (side, side)
    if shape[0] * shape[1] != d:
        raise ValueError(f"patches of {d} pixels do not have shape {shape}: give shape")
    return points.reshape(-1, *shape)


def _pairs(clean, noisy, shape):
    if np.shape(clean) != np.shape(noisy):
        raise ValueError(f"clean is {np.shape(clean)} but noisy is {np.shape(noisy)}")
    return _as_images(clean, shape), _as_images(noisy, shape)


def _error(x, x_hat):
    return float(np.mean((x - x_hat) ** 2, dtype="float64"))

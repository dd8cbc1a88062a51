"""Whole photographs, denoised by a model of patches.

Every patch P_k xi of the noisy photograph xi = x + s nu is denoised on its own, in the
units in which its noise has the model's level sigma, and a pixel becomes the average of
what the patches that cover it say (the average of shifted denoisings):

    z_k = (P_k xi - m_k) sigma / s,           m_k: the patch's own mean
    x_hat = sum_k P_k^T [m_k + (s / sigma) z_hat(z_k)]  /  sum_k P_k^T 1

The squared error of an average is at most the average of the squared errors, so that more
overlap (a smaller stride) never costs accuracy, only time.

The model sees patches without their mean, as it does in training on `remove_mean` patches;
its noise level then means s = sigma times the scale they were divided by. Another s shows it
patches of another contrast than it learned from.
"""

import numpy as np

from deen_tf.checks import as_points, image_shape, positive, whole


def denoise_image(model, image, noise_level=None, stride=4, shape=None, progress=False):
    """Denoise a photograph by overlapping patches.

    Parameters
    ----------
    model : ScoreModel or any object with `sigma` and `denoise`
        Of patches as rows: `denoise` takes and returns (n, d).
    image : array_like, shape (height, width)
        The noisy photograph, in any units; white noise.
    noise_level : float, optional
        Standard deviation s of its noise, in its units; by default the model's sigma.
    stride : int
        Pixels from one patch to the next, down and across; 1 for all patches, at most the
        side of a patch.
    shape : pair of int, optional
        (height, width) of a patch; by default square, of the model's dimension.
    progress : bool
        Show a progress bar.

    Returns
    -------
    ndarray, shape (height, width), float32

    Raises
    ------
    TypeError, ValueError
        If the image is smaller than a patch or not finite, the stride leaves pixels that no
        patch covers, the model cannot denoise, or its dimension is not that of the shape, or
        of a square if none is given.
    """
    from tqdm.auto import tqdm

    if not (hasattr(model, "sigma") and hasattr(model, "denoise")):
        raise TypeError(f"model must have sigma and denoise, got {model!r}")
    image = as_points(image, name="image")
    height, width = _patch_shape(model, shape)
    if image.shape[0] < height or image.shape[1] < width:
        raise ValueError(
            f"image must be at least one patch of {height} x {width}, got {image.shape}"
        )
    stride = whole(stride, "stride")
    if stride > min(height, width):
        raise ValueError(
            f"stride must be at most {min(height, width)}, the side of a patch, or pixels "
            f"stay uncovered; got {stride}"
        )
    level = model.sigma if noise_level is None else noise_level
    scale = positive(level, "noise_level", dtype="float32") / model.sigma
    total, cover = np.zeros(image.shape), np.zeros(image.shape)
    rows, columns = (
        _places(side, patch, stride)
        for side, patch in zip(image.shape, (height, width), strict=True)
    )
    for top in tqdm(rows, "rows of patches", disable=not progress, leave=False):
        strip = image[top : top + height]
        xi = np.stack([strip[:, left : left + width] for left in columns])
        mean = xi.mean((1, 2), keepdims=True)
        z = ((xi - mean) / scale).reshape(len(xi), -1)
        x_hat = mean + scale * np.asarray(model.denoise(z)).reshape(xi.shape)
        for left, patch in zip(columns, x_hat, strict=True):
            total[top : top + height, left : left + width] += patch
            cover[top : top + height, left : left + width] += 1
    return (total / cover).astype("float32")


def _places(side, patch, stride):
    """Return where patches begin along one side: every `stride`, and at the far end."""
    return sorted({*range(0, side - patch, stride), side - patch})


def _patch_shape(model, shape):
    d = getattr(model, "dimension", None)
    if shape is not None:
        height, width = image_shape(shape)
        if d not in (None, height * width):
            raise ValueError(
                f"shape must have the model's {d} pixels, got {height} x {width}"
            )
        return height, width
    side = round((d or 0) ** 0.5)
    if d is None or side**2 != d:
        raise ValueError(
            f"the model is of {d or 'unknown'} dimensions, not a square patch: give shape"
        )
    return side, side

"""Whole photographs, denoised by a model of photographs or of patches.

An energy of images of any size (`networks.DeepField`) has one gradient for the whole picture:
Eq. 11 at once. Because what it says of a pixel depends on those within `network.reach` alone,
a large photograph is cut into tiles that overlap by so much, with the very same answer.

By a model of patches every patch P_k xi of the noisy photograph xi = x + s nu is denoised on
its own, in the units in which its noise has the model's level sigma, and a pixel becomes the average of
what the patches that cover it say (the average of shifted denoisings):

    z_k = (P_k xi - m_k) sigma / s,           m_k: the patch's own mean, or 0
    x_hat = sum_k P_k^T [m_k + (s / sigma) z_hat(z_k)]  /  sum_k P_k^T 1

The squared error of an average is at most the average of the squared errors, so that more
overlap (a smaller stride) never costs accuracy, only time.

A model of patches without their mean (`remove_mean` in training) sees them so; its noise level
then means s = sigma times the scale they were divided by. One that learned patches as they
are, of digits say, sees them with their mean: m_k = 0. Another s shows it patches of another
contrast than it learned from. Colours are denoised one by one by a model
of grayscale (what they have in common is not used), together by a model of images (height,
width, 3); each has a mean of its own.
"""

import numpy as np

from deen_tf.checks import as_points, check_units, image_shape, positive, whole
from deen_tf.fields import units_of
from deen_tf.laws.parzen import Parzen

WITH_MEAN = 0.05  # mean of a model's data, in its scale, from which on they had one


def denoise_image(
    model, image, noise_level=None, stride=4, shape=None, progress=False, tile=512,
    remove_mean=None,
):  # fmt: skip
    """Denoise a photograph: by one gradient, or by overlapping patches.

    A photograph of any size: beside the noisy and the denoised one, memory holds only one
    tile, or the patches of one row of places.

    Parameters
    ----------
    model : any object with `sigma` and `denoise`
        Of images of any size (point_shape (None, None, channels)), or of patches, as images
        (n, height, width[, channels]) or as rows (n, d).
    image : array_like, shape (height, width) or (height, width, channels)
        The noisy photograph, in any units; white noise. One or three channels, or as many as
        the model's patches have.
    noise_level : float, optional
        Standard deviation s of its noise, in its units; by default the model's sigma, for an
        image in the model's units. A model of several noise levels is used at this one, in
        the units it was trained in.
    stride : int
        Of a model of patches. Pixels from one patch to the next, down and across; 1 for all
        patches, at most the side of a patch.
    shape : pair of int, optional
        (height, width) of a patch, for a model of rows; by default square.
    progress : bool
        Show a progress bar, where standard error is a terminal.
    tile : int
        Of a model of images of any size. Side of the parts, without their overlap, that are
        denoised one after the other; it decides time and memory, not the answer.
    remove_mean : bool, optional
        Whether the model sees patches without their mean. By default as it learned them: with
        it where the mean of its data (`center` of a model, of a Gaussian, a mixture or a Parzen density
        their mean) is more than 0.05 of their scale, without it where it is not, or not known.
        Of a model of images of any size True: a mean changes nothing there.

    Returns
    -------
    ndarray, shape of the image, float32

    Raises
    ------
    TypeError, ValueError
        If the image is smaller than a patch, not finite or of other channels; not in the
        model's units, where noise_level does not say which (its standard deviation is below
        the model's sigma, so that there would be more noise than image); the stride
        leaves pixels that no patch covers; or the model cannot denoise, its sigma differs
        from pixel to pixel, or its points are not of the shape, or of a square if none is given.

    Examples
    --------
    >>> law = deen.laws.Gaussian(np.zeros(64), np.full((64, 64), 0.1) + 0.01 * np.eye(64))
    >>> image = np.random.default_rng(0).normal(size=(32, 40))  # noise alone
    >>> smooth = deen.denoise_image(law.smoothed(1.0), image, stride=2)
    >>> smooth.shape, bool(smooth.std() < 0.2)
    ((32, 40), True)
    """
    if isinstance(model, type):
        raise TypeError(f"model must be an instance, got the class {model.__name__}")
    if not (hasattr(model, "sigma") and hasattr(model, "denoise")):
        raise TypeError(f"model must have sigma and denoise, got {model!r}")
    if not isinstance(remove_mean, bool | None):
        raise TypeError(f"remove_mean must be True, False or None, got {remove_mean!r}")
    network = getattr(model, "network", None)
    image = as_points(image, ..., "image")
    if getattr(model, "several_levels", False):
        if noise_level is None:
            raise ValueError("noise_level must be given to a model of several")
        noise_level = float(positive(noise_level, "noise_level"))
        check_units(image, noise_level, units_of(model)[1])
        model = model.smoothed(noise_level)
    point = getattr(model, "point_shape", None) or ()
    any_size = len(point) == 3 and None in point
    if any_size:
        if shape is not None:
            raise ValueError("shape is for a model of patches given as rows")
        least = getattr(network, "any_size", 1)
        height, width, together = least, least, point[2]
    else:
        (height, width, together), point = _patch_shape(model, shape)
    planes = image[..., None] if image.ndim == 2 else image
    if planes.ndim != 3 or planes.shape[2] not in (
        (1, 3) if together == 1 else (together,)
    ):
        wanted = (
            "width) or (height, width, 3)" if together == 1 else f"width, {together})"
        )
        raise ValueError(f"image must have shape (height, {wanted}, got {image.shape}")
    if planes.shape[0] < height or planes.shape[1] < width:
        least = "" if any_size else "one patch of "
        raise ValueError(
            f"image must be at least {least}{height} x {width}, got {image.shape}"
        )
    stride, tile = whole(stride, "stride"), whole(tile, "tile")
    if not any_size and stride > min(height, width):
        raise ValueError(
            f"stride must be at most {min(height, width)}, the side of a patch, or pixels "
            f"stay uncovered; got {stride}"
        )
    sigma = np.unique(model.sigma)
    if sigma.size != 1:
        raise ValueError(f"model must have one sigma for all pixels, got {model.sigma}")
    level = sigma.item() if noise_level is None else noise_level
    scale = positive(level, "noise_level", dtype="float32") / sigma.item()
    if noise_level is None:
        _check_default_level(image, level, units_of(model)[1])
    if remove_mean is None:
        remove_mean = any_size or not _learned_with_mean(model, point)

    def denoise(xi, mean=None):  # (n, height, width, channels)
        if not remove_mean:
            mean = np.float32(0)
        mean = xi.mean((1, 2), keepdims=True) if mean is None else mean
        z = ((xi - mean) / scale).reshape(-1, *(xi.shape[1:] if any_size else point))
        return mean + scale * np.asarray(model.denoise(z)).reshape(xi.shape)

    answer = np.empty_like(planes)
    firsts = range(0, planes.shape[2], together)
    if any_size:
        parts = list(_tiles(planes.shape, network, tile))
        with _bar("tiles", len(firsts) * len(parts), progress) as bar:
            for first in firsts:
                plane = np.s_[..., first : first + together]
                mean = planes[plane].mean((0, 1), dtype="float64").astype("float32")
                for place, seen, inside in parts:
                    x_hat = denoise(planes[plane][seen][None], mean)[0]
                    answer[plane][place] = x_hat[inside]
                    bar.update()
        return answer.reshape(image.shape)
    total = len(firsts) * len(_places(planes.shape[0], height, stride))
    with _bar("rows of patches", total, progress) as bar:
        for first in firsts:
            part = np.s_[..., first : first + together]
            bands = _bands(denoise, planes[part], (height, width), stride)
            for top, band in bands:
                answer[part][top : top + len(band)] = band
                bar.update()
    return answer.reshape(image.shape)


def _check_default_level(image, level, spread):
    """Refuse an image that is not in the units in which its noise would have the level."""
    check_units(image, level, spread)
    # White noise alone has a standard deviation so near to its level, with 3 standard errors.
    if image.std() < level * (1 - 3 / np.sqrt(2 * image.size)):
        raise ValueError(
            f"noise_level must be given: the model's sigma = {level:.3g} would be more noise "
            f"than there is image, whose standard deviation is {image.std():.3g}"
        )


def _learned_with_mean(model, point):
    """Return whether the patches of which a model learned had means."""
    center, scale, _ = units_of(model)
    law, variances = getattr(model, "law", model), None
    if hasattr(law, "mean") and hasattr(law, "variances"):
        center, variances = law.mean, law.variances
    elif hasattr(law, "means") and hasattr(law, "weights"):
        center, variances = law.weights @ law.means, law.sample(1000, seed=0).var(0)
    elif isinstance(law, Parzen):
        center, variances = law.x.mean(0), law.x.var(0)
    if variances is not None:
        scale = np.hypot(model.sigma, np.mean(variances) ** 0.5)
    channels = point[2] if len(point) == 3 else 1
    means = np.broadcast_to(center, point).reshape(-1, channels).mean(0, "float64")
    return bool(np.abs(means).max() > WITH_MEAN * scale)


def _bar(what, total, progress):
    from tqdm.auto import tqdm

    off = None if progress else True  # None: where nobody watches
    return tqdm(desc=what, total=total, disable=off, leave=False)


def _tiles(shape, network, tile):
    """Yield for every tile (its place, what the model sees, where it lies in that).

    Tiles begin at multiples of the network's stride, as the places of its filters do.
    """
    reach, stride = getattr(network, "reach", None), getattr(network, "stride", 1)
    if reach is None:  # who knows what depends on what
        tile, reach = max(shape[:2]), 0
    margin = -(-reach // stride) * stride
    tile = max(1, tile // stride) * stride

    def along(side):
        for begin in range(0, side, tile):
            end = min(begin + tile, side)
            first, last = max(0, begin - margin), min(side, end + margin)
            yield (
                slice(begin, end),
                slice(first, last),
                slice(begin - first, end - first),
            )

    for rows in along(shape[0]):
        for columns in along(shape[1]):
            yield tuple(zip(rows, columns, strict=True))


def windows(image, shape):
    """Return a view of all patches of an image.

    Parameters
    ----------
    image : ndarray, shape (rows, columns) or (rows, columns, channels)
    shape : (height, width)

    Returns
    -------
    ndarray, shape (rows - height + 1, columns - width + 1, height, width[, channels])
    """
    view = np.lib.stride_tricks.sliding_window_view(image, shape, axis=(0, 1))
    return np.moveaxis(view, 2, -1) if image.ndim == 3 else view


def _bands(denoise, image, shape, stride):
    """Yield (top, denoised rows from there on), from the first row to the last."""
    height, width = shape
    rows = _places(image.shape[0], height, stride)
    columns = _places(image.shape[1], width, stride)
    over, across = _cover(rows, height), _cover(columns, width)[:, None]
    total = np.zeros((height, *image.shape[1:]))  # of the rows that later patches reach
    for top, after in zip(rows, [*rows[1:], image.shape[0]], strict=True):
        x_hat = denoise(windows(image[top : top + height], shape)[0, columns])
        for left, patch in zip(columns, x_hat, strict=True):
            total[:, left : left + width] += patch
        done = after - top
        yield top, total[:done] / (over[top:after, None, None] * across)
        total = np.concatenate([total[done:], np.zeros((done, *image.shape[1:]))])


def _places(side, patch, stride):
    """Return where patches begin along one side: every `stride`, and at the far end."""
    return sorted({*range(0, side - patch, stride), side - patch})


def _cover(places, patch):
    """Return how many patches cover each pixel along one side."""
    return np.bincount((np.array(places)[:, None] + np.arange(patch)).ravel())


def _patch_shape(model, shape):
    """Return (height, width, channels) of the model's patches, and the shape of its points."""
    if shape is not None:
        shape = image_shape(shape)
    point = getattr(model, "point_shape", None) or (getattr(model, "dimension", None),)
    if len(point) in (2, 3):
        if shape not in (None, point[:2]):
            raise ValueError(f"shape must be the model's {point[:2]}, got {shape}")
        return (*point, 1)[:3], point
    d = point[0] if len(point) == 1 else None
    if shape is None:
        side = round((d or 0) ** 0.5)
        shape = (side, side)
        if d is None or side**2 != d:
            raise ValueError(
                f"the model is of {d or 'unknown'} dimensions, not a square patch: give shape"
            )
    elif d not in (None, shape[0] * shape[1]):
        raise ValueError(
            f"shape must have the model's {d} pixels, got {shape[0]} x {shape[1]}"
        )
    return (*shape, 1), (shape[0] * shape[1],)

"""A field of experts: one small MLP, shared by all places of an image.

    E(x) = sum_p e(P_p x; theta),     e = MLP, tanh layers, linear last        (Eqs. 18, 24)

P_p cuts the window of size x size pixels at place p, every `stride` pixels, out of the image
continued by its mirror image. It is a product of experts (Eq. 24) whose weights are tied by
translation, as images have statistics of that kind (Roth and Black, "Fields of experts",
CVPR 2005). Written out as an MLP on d pixels its first layer has places x dim(h^(1)) units,
so that the rank bound of `deen_tf.models.energy` is no bound; but it has the parameters of an
MLP on size^2 pixels, each of which sees every place of every image.

Because the weights are few and each step sees them at every place, the gradient has little
noise: large steps are stable, and a random start serves better than that of
`deen_tf.training.start`, whose decorrelated coordinates hold mostly noise.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from deen_tf.checks import image_shape, whole
from deen_tf.networks.mlp import MLP

WINDOWS = 20_000  # of the data, to which the filters are drawn
GAIN = 1.3  # see `FieldOfExperts.start`


@keras.saving.register_keras_serializable(package="deen_tf.networks")
class FieldOfExperts(keras.layers.Layer):
    """The sum over places of one MLP energy of small windows.

    Parameters
    ----------
    hidden_units : sequence of int
        Widths of the MLP.
    size : int
        Side of a window in pixels.
    stride : int
        Pixels from one window to the next, down and across; at most `size`.
    shape : pair of int, optional
        (height, width) of images given as rows (n, height * width); by default square. Images
        (n, height, width, channels) have the shape they have.
    seed : int
        Of the initial weights.

    Examples
    --------
    >>> network = deen.networks.FieldOfExperts((8, 4), size=4)
    >>> network(np.zeros((5, 12, 12, 1), "float32")).shape
    TensorShape([5, 4])
    """

    center = "all"  # every place is seen by the same filters

    def __init__(
        self, hidden_units=(64, 32), size=8, stride=2, shape=None, seed=0, **kwargs
    ):
        super().__init__(**kwargs)
        self.size = whole(size, "size")
        self.stride = whole(stride, "stride")
        if self.stride > self.size:
            raise ValueError(
                f"stride must be at most size = {size}, or pixels are passed over; got "
                f"{stride}"
            )
        self.shape = None if shape is None else image_shape(shape)
        self.experts = MLP(
            hidden_units, seed=seed, dtype=self.dtype_policy, name="expert"
        )

    def get_config(self):
        return super().get_config() | {
            "hidden_units": self.experts.hidden_units,
            "size": self.size,
            "stride": self.stride,
            "shape": self.shape,
            "seed": self.experts.seed,
        }

    def build(self, input_shape):
        point = tuple(input_shape[1:])
        side = math.isqrt(point[0])
        rows = len(point) == 1
        height, width = (self.shape or (side, side)) if rows else point[:2]
        if (rows and height * width != point[0]) or min(height, width) < self.size:
            raise ValueError(
                f"images must have at least {self.size} x {self.size} pixels and, as rows, "
                f"be square or have the shape given: got points of shape {point} and shape "
                f"{self.shape}"
            )
        channels = point[2] if len(point) == 3 else 1
        self.image_shape = (height, width, channels)
        self.experts.build((None, self.size**2 * channels))
        self.built = True

    def call(self, x):
        return self._over_places(self.experts(self.windows(x)))

    def last_hidden(self, x):
        """Return h^(L), summed over the places, (n, dim h^(L))."""
        return self._over_places(self.experts.last_hidden(self.windows(x)))

    def _over_places(self, h):
        return tf.reduce_sum(tf.reshape(h, (-1, self.places, h.shape[-1])), axis=1)

    @property
    def hidden_units(self):
        return self.experts.hidden_units

    @property
    def hidden(self):
        return self.experts.hidden

    @property
    def last(self):
        return self.experts.last

    def windows(self, x):
        """Return all windows of the images as points, (n * places, size^2 * channels)."""
        margin = self.size // 2
        images = tf.pad(
            tf.reshape(x, (-1, *self.image_shape)),
            [[0, 0], [margin, margin], [margin, margin], [0, 0]],
            "SYMMETRIC",
        )
        # Slices, one for each pixel of a window: in a compiled program they cost nothing.
        down, across = (self._end(side) for side in self.image_shape[:2])
        pixels = [
            images[:, i : i + down : self.stride, j : j + across : self.stride, c]
            for i in range(self.size)
            for j in range(self.size)
            for c in range(self.image_shape[2])
        ]
        return tf.reshape(tf.stack(pixels, axis=-1), (-1, len(pixels)))

    def _end(self, side):
        return side + 2 * (self.size // 2) - self.size + 1

    @property
    def places(self):
        """How many windows an image has."""
        return math.prod(
            -(-self._end(side) // self.stride) for side in self.image_shape[:2]
        )

    def rank(self, shape):
        return min(math.prod(shape), self.places * self.experts.hidden_units[0])

    def start(self, x, sigma, gain, rng):
        """Draw the filters to suit the data.

        They have random directions, blind to brightness, the length at which tanh sees the
        standard deviation `gain` over noisy windows, and random biases as large. The last
        layer is zero: the first steps find out what the filters are for.

        Parameters
        ----------
        x : ndarray, shape (n, ...)
        sigma : float
        gain : float or None
            By default 1.3.
        rng : numpy Generator
        """
        images = x[rng.integers(len(x), size=WINDOWS)].astype("float32")
        places = np.lib.stride_tricks.sliding_window_view(
            images.reshape(-1, *self.image_shape), (self.size, self.size), (1, 2)
        )  # (n, down, across, channels, size, size)
        top, left = rng.integers(places.shape[1:3], size=(WINDOWS, 2)).T
        windows = places[np.arange(WINDOWS), top, left]
        windows = np.moveaxis(windows, 1, -1).reshape(
            WINDOWS, -1
        )  # as `windows` has it
        first = self.experts.hidden[0]
        w = rng.normal(size=(windows.shape[1], first.units))
        if len(w) > 1:
            w -= w.mean(0)
        variance = (windows @ w).var(0) + sigma**2 * (w**2).sum(0)
        gain = gain or GAIN
        first.kernel.assign(w * (gain / np.sqrt(variance)))
        first.bias.assign(gain * rng.normal(size=first.units))
        self.silence()

    def silence(self):
        self.experts.silence()

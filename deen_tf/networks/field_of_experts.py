"""A field of experts: one small DEEN, shared by all places of an image.

    E(x) = sum_p e(P_p x; theta),     e = MLP, tanh layers, linear last        (Eqs. 18, 24)

P_p cuts the window of size x size pixels at place p, every `stride` pixels, out of the image
continued by its mirror image. It is a product of experts (Eq. 24) whose weights are tied by
translation, as images have statistics of that kind (Roth and Black, "Fields of experts",
CVPR 2005), trained like any DEEN (Eq. 19). Written out as an MLP on d pixels its first layer
has places x dim(h^(1)) units, so that the rank bound of `deen_tf.models.energy` is no bound; but it
has the parameters of an MLP on size^2 pixels, each of which sees every place of every image.

Because the weights are few and each step sees them at every place, the gradient has little
noise: large steps are stable, and a random start serves better than that of
`deen_tf.training.start`, whose decorrelated coordinates hold mostly noise.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from deen_tf.checks import as_points, image_shape, whole
from deen_tf.models.deen import DEEN

WINDOWS = 20_000  # of the data, to which the filters are drawn
GAIN = 1.3  # see `FieldOfExperts.adapt`


@keras.saving.register_keras_serializable(package="deen_tf")
class FieldOfExperts(DEEN):
    """The sum over places of one MLP energy of small windows, trained as a DEEN.

    Parameters
    ----------
    hidden_units : sequence of int
        Widths of the MLP.
    sigma, seed, noise_samples, first_layer_gain
        See `ScoreModel`.
    size : int
        Side of a window in pixels.
    stride : int
        Pixels from one window to the next, down and across; at most `size`.
    shape : pair of int, optional
        (height, width) of the images, given as rows (n, height * width); by default square.
    """

    def __init__(
        self,
        hidden_units=(64, 32),
        sigma=0.1,
        seed=0,
        size=8,
        stride=2,
        shape=None,
        **kwargs,
    ):
        super().__init__(hidden_units, sigma=sigma, seed=seed, **kwargs)
        self.size = whole(size, "size")
        self.stride = whole(stride, "stride")
        if self.stride > self.size:
            raise ValueError(
                f"stride must be at most size = {size}, or pixels are passed over; got "
                f"{stride}"
            )
        self.shape = None if shape is None else image_shape(shape)

    def get_config(self):
        return super().get_config() | {
            "size": self.size,
            "stride": self.stride,
            "shape": self.shape,
        }

    def build(self, input_shape):
        d = int(input_shape[-1])
        side = math.isqrt(d)
        height, width = self.shape or (side, side)
        if height * width != d or min(height, width) < self.size:
            raise ValueError(
                f"images must have at least {self.size} x {self.size} pixels and be "
                f"square or have the shape given: got {d} pixels and shape {self.shape}"
            )
        super().build((None, self.size**2))
        self.dimension, self.image_shape = d, (height, width)

    def adapt(self, x):
        """Draw the filters to suit the data: see `ScoreModel.adapt`.

        They have random directions, blind to brightness, the length at which tanh sees the
        standard deviation `first_layer_gain` over noisy windows, and random biases as
        large. The last layer is zero: the first steps find out what the filters are for.

        Parameters
        ----------
        x : array_like, shape (n, d)
        """
        x = as_points(x, self.dimension)
        self._check_width(x)
        rng = np.random.default_rng([self.seed, 1])
        images = x[rng.integers(len(x), size=WINDOWS)].reshape(-1, *self.image_shape)
        places = np.lib.stride_tricks.sliding_window_view(
            images, (self.size, self.size), (1, 2)
        )
        top, left = rng.integers(places.shape[1:3], size=(WINDOWS, 2)).T
        windows = places[np.arange(WINDOWS), top, left].reshape(WINDOWS, -1)
        w = rng.normal(size=(self.size**2, self.hidden_units[0]))
        w -= w.mean(0)
        variance = (windows @ w).var(0) + self.sigma**2 * (w**2).sum(0)
        gain = self.first_layer_gain or GAIN
        self.hidden[0].kernel.assign(w * (gain / np.sqrt(variance)))
        self.hidden[0].bias.assign(gain * rng.normal(size=w.shape[1]))
        self.last.kernel.assign(np.zeros(self.last.kernel.shape))

    def windows(self, x):
        """Return all windows of the images as points, (n * places, size^2)."""
        margin = self.size // 2
        images = tf.pad(
            tf.reshape(x, (-1, *self.image_shape)),
            [[0, 0], [margin, margin], [margin, margin]],
            "SYMMETRIC",
        )
        # Slices, one for each pixel of a window: in a compiled program they cost nothing.
        down, across = (self._end(side) for side in self.image_shape)
        pixels = [
            images[:, i : i + down : self.stride, j : j + across : self.stride]
            for i in range(self.size)
            for j in range(self.size)
        ]
        return tf.reshape(tf.stack(pixels, axis=-1), (-1, self.size**2))

    def last_hidden(self, x):
        """Return h^(L), summed over the places, (n, dim h^(L))."""
        h = super().last_hidden(self.windows(x))
        return tf.reduce_sum(tf.reshape(h, (-1, self.places, h.shape[-1])), axis=1)

    def _end(self, side):
        return side + 2 * (self.size // 2) - self.size + 1

    @property
    def places(self):
        """How many windows an image has."""
        return math.prod(
            -(-self._end(side) // self.stride) for side in self.image_shape
        )

    @property
    def evaluation_batch(self):
        """Images evaluated at once: as many as keep the activations near 128 MB."""
        width = self.places * (sum(self.hidden_units) + self.size**2)
        return max(16, 2**25 // width)

    @property
    def weights_per_point(self):
        return self.places * super().weights_per_point

    def loss_bound(self):
        """Return sigma^2 (d - r), r = min(d, places dim h^(1)): see `EnergyModel`."""
        if self.dimension is None:
            raise ValueError("the bound needs the dimension: build the model first")
        rank = min(self.dimension, self.places * self.hidden_units[0])
        return self.sigma**2 * (self.dimension - rank)

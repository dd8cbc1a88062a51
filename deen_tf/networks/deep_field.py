"""A deep field of experts: an energy of images of any size, at any noise level.

    u = W_1 * (x / sigma),    h_1 = silu(g_1 u + b_1),    h_l = silu(g_l (W_l * h_{l-1}) + b_l)
    r = V^T * (g_r h_L)

    E(x, sigma) = sum_p [ 1/2 |r(p)|^2 + 1/2 <c, u(p)^2> + sum_l <a_l, h_l(p)> ]

* are convolutions, p their places, every one an expert (Eq. 24) of the windows of the layer's
reach. It is a field of experts whose first filters have mean zero, so that brightness costs
nothing. The quadratic experts are what a Gaussian field has; the others are potentials of one
channel each; and r is a picture put together by further filters, whose square is counted: what
does not belong in a photograph (E = |r|^2 / 2 alone has the step x - J^T r, J = dr/dx: a
network of twice the depth, with the same weights).

An image and the same image turned or mirrored have one energy: the filters of every layer are
turned copies of an eighth of them, and what one copy sees of the others is turned with it
(Cohen and Welling, "Group equivariant convolutional networks", ICML 2016). So a network has an
eighth of the weights.

In units of the noise, x / sigma, there is noise of variance 1 at every level, below images of
another contrast. The rest the level tells by v = log(s / sigma), s the standard deviation of
the data: c, a_l, g_l, g_r and b_l are quadratic functions of v, each with its own
coefficients. Where there is one level they can be constants.

The image is continued by its mirror image, and the places p are those within the image; all
else are convolutions, which take an image of any size. What E says of a pixel (its score)
depends on those within `reach`.

Energies of different levels are trained each for itself (`normalised`): their constants have
no meaning. silu has all derivatives, as a score and its gradient need.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

from deen_tf.checks import whole

FIRST = 1.0  # standard deviation of noise after the first filters, at the start
BACK = 0.02  # of the weights V
TERMS = 3  # of a polynomial in the level


@keras.saving.register_keras_serializable(package="deen_tf.networks")
class DeepField(keras.layers.Layer):
    """Convolutions; every channel's sum over the places is an expert.

    Parameters
    ----------
    layers : sequence of (size, stride, channels)
        Side of the filters in pixels of their input, step from one place to the next, number
        of filters.
    residual : int
        Side in pixels of the filters V that make r; 0 for an energy without it.
    levels : bool
        Whether the noise level decides more than the unit.
    symmetric : bool
        Whether an image and the same image turned or mirrored have the same energy. Every
        filter then has eight turned copies among the channels, which must be a multiple of 8,
        and the weights of one.
    seed : int
        Of the initial weights.

    Attributes
    ----------
    reach : int
        How far the score at a pixel looks.
    stride : int
        Of all layers together: a shift by so many pixels changes nothing.
    any_size : int
        The least side of an image.
    """

    center = "all"  # every place is seen by the same filters
    normalised = False

    def __init__(
        self,
        layers=((8, 2, 64), (3, 1, 64), (3, 1, 64)),
        residual=6,
        levels=True,
        symmetric=True,
        seed=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.convolutions = tuple(
            tuple(
                whole(v, name)
                for v, name in zip(layer, ("size", "stride", "channels"), strict=True)
            )
            for layer in layers
        )
        if not self.convolutions:
            raise ValueError("layers must name at least one, got ()")
        self.levels, self.seed = bool(levels), whole(seed, "seed", least=0)
        self.symmetric = bool(symmetric)
        for size, stride, channels in self.convolutions:
            if self.symmetric and (channels % 8 or (size - stride) % 2):
                raise ValueError(
                    "a symmetric field has multiples of 8 channels, and filters whose size is "
                    "even or odd as their stride is, or places lie to one side; got size "
                    f"{size}, stride {stride}, {channels} channels"
                )
        self.reach, self.stride = 0, 1
        for size, stride, _ in self.convolutions:
            if stride > size:
                raise ValueError(
                    f"stride must be at most size = {size}, or pixels are passed over; got "
                    f"{stride}"
                )
            self.reach += (size - 1) * self.stride
            self.stride *= stride
        self.residual = whole(residual, "residual", least=0)
        # Places beyond the image, whose filters reach into it.
        self.overlap = self.residual - self.stride if self.residual else 0
        odd = self.residual and (self.reach - self.residual) % 2 == 0
        if odd or self.overlap < 0 or self.overlap % (2 * self.stride):
            raise ValueError(
                f"residual must be 1, 3, 5, ... times all layers' stride = {self.stride}, even "
                f"or odd as their window of {self.reach + 1} pixels is, or 0; got {residual}"
            )
        self.window = self.reach + 1
        self.margin = (self.window - self.stride + self.overlap) // 2
        self.any_size = max(1, self.window - 1 + self.overlap - self.margin)
        self.reach += max(0, self.residual - 1)

    def get_config(self):
        names = ("residual", "levels", "symmetric", "seed")
        own = {name: getattr(self, name) for name in names}
        return super().get_config() | own | {"layers": self.convolutions}

    def build(self, input_shape):
        rng = np.random.default_rng([self.seed, 3])
        channels, terms = input_shape[-1], TERMS if self.levels else 1
        self.spread = self.add_weight(
            name="spread", shape=(), trainable=False, initializer="ones"
        )
        turns = 8 if self.symmetric else 1
        self.filters, self.gains, self.biases, self.experts = [], [], [], []
        before = 1  # turned copies of each channel
        for i, (size, _, width) in enumerate(self.convolutions, 1):
            own = width // turns
            filters = rng.normal(size=(size, size, before, channels, own))
            if i == 1:
                filters -= filters.mean((0, 1), keepdims=True)
                filters *= FIRST / np.sqrt(np.square(filters).sum((0, 1, 2, 3)))
            else:
                filters /= (size**2 * before * channels) ** 0.5
            bias = np.zeros((terms, own))
            bias[0] = rng.normal(size=own) * (1.0 if i == 1 else 0.3)
            self.filters.append(self._weight(f"filters{i}", filters))
            self.gains.append(self._weight(f"gains{i}", np.zeros((terms, own))))
            self.biases.append(self._weight(f"biases{i}", bias))
            self.experts.append(self._weight(f"experts{i}", np.zeros((terms, own))))
            before, channels = turns, own
        quadratic = np.zeros((terms, self.convolutions[0][2] // turns))
        self.quadratic = self._weight("quadratic", quadratic)
        if self.residual:
            shape = (self.residual, self.residual, 1, input_shape[-1], channels)
            back = BACK * rng.normal(size=shape)
            self.back = self._weight("back", back)
            self.back_gains = self._weight("back_gains", np.zeros((terms, channels)))
        self.built = True

    def _weight(self, name, value):
        weight = self.add_weight(name=name, shape=value.shape, initializer="zeros")
        weight.assign(value)
        return weight

    def start(self, x, sigma, gain, rng):
        """Take the contrast of the data."""
        self.spread.assign(np.std(x))

    def call(self, x, sigma):
        return tf.concat(self.maps(x, sigma, summed=True), axis=-1)

    def maps(self, x, sigma, summed=False):
        """Return the experts of every place, one map (n, rows, columns, channels) a layer.

        The first are the quadratic ones. With `summed`, their sums over the places, (n, channels).
        """
        sigma = tf.reshape(tf.cast(sigma, x.dtype), (-1, 1, 1, 1))
        level = tf.math.log(tf.cast(self.spread, x.dtype) / sigma)

        def at(coefficients):  # (1 or n, 1, 1, width)
            powers = tf.concat([level**k for k in range(coefficients.shape[0])], -1)
            values = powers @ tf.cast(coefficients, x.dtype)
            return tf.tile(values, (1, 1, 1, 8)) if self.symmetric else values

        def over_places(h, weight):
            h = h[:, first : first + rows, first : first + columns]
            if not summed:
                return h * weight
            return tf.reduce_sum(h, axis=(1, 2)) * weight[:, 0, 0]

        h, maps = self._continued(x / sigma), []
        reach, step = (
            self.window - 1,
            1,
        )  # of the layers to come, in pixels of the image
        for i, (size, stride, _) in enumerate(self.convolutions):
            reach, step = reach - (size - 1) * step, step * stride
            first = (self.overlap + reach + step - self.stride) // (2 * step)
            rows, columns = (n * self.stride // step for n in self._places(x))
            u = tf.nn.conv2d(h, self.all_filters(i, x.dtype), stride, "VALID")
            if i == 0:
                maps.append(over_places(tf.square(u) / 2, at(self.quadratic)))
            u = (1 + at(self.gains[i])) * u + at(self.biases[i])
            h = u * tf.sigmoid(u)
            maps.append(over_places(h, at(self.experts[i])))
        if self.residual:
            r = self._put_together((1 + at(self.back_gains)) * h, tf.shape(x))
            maps.append(tf.square(r) / 2)
            if summed:
                maps[-1] = tf.reduce_sum(maps[-1], axis=(1, 2))
        return maps

    def _put_together(self, h, shape):
        """Return r within the image, of the shape of x."""
        back = tf.cast(self.back, h.dtype)
        if self.symmetric:
            back = tf.gather(tf.reshape(back, (-1,)), turned(back.shape))
        else:
            back = back[:, :, 0]
        rows, columns = (
            (side - 1) * self.stride + self.residual
            for side in tf.unstack(tf.shape(h)[1:3])
        )
        whole = [shape[0], rows, columns, shape[3]]
        r = tf.nn.conv2d_transpose(h, back, whole, self.stride, "VALID")
        first = self.overlap
        return r[:, first : first + shape[1], first : first + shape[2]]

    def all_filters(self, i, dtype="float32"):
        """Return the filters of layer i, (size, size, channels before, channels)."""
        filters = tf.cast(self.filters[i], dtype)
        if i == 0:
            filters -= tf.reduce_mean(filters, axis=(0, 1), keepdims=True)
        if self.symmetric:
            return tf.gather(tf.reshape(filters, (-1,)), turned(filters.shape))
        return tf.reshape(filters, (*filters.shape[:2], -1, filters.shape[-1]))

    def _places(self, x):
        """Return how many places of the last layer lie within the image, down and across."""
        return [-(-side // self.stride) for side in tf.unstack(tf.shape(x)[1:3])]

    def _continued(self, x):
        """Return the images continued by their mirror images."""
        sides = []
        for side, places in zip(tf.unstack(tf.shape(x)[1:3]), self._places(x)):
            whole = (places - 1) * self.stride + self.overlap + self.window
            sides.append([self.margin, whole - self.margin - side])
        return tf.pad(x, [[0, 0], *sides, [0, 0]], "SYMMETRIC")


def symmetries():
    """Return the eight symmetries of the square, and the table of their products.

    Functions of arrays (side, side, ...): T_0 = 1, ..., T_7; T_g T_h = T_(table[g, h]).
    """

    def turn(k):
        return lambda a: np.rot90(a[:, ::-1] if k >= 4 else a, k)

    every = [turn(k) for k in range(8)]
    square = np.arange(9).reshape(3, 3)
    known = {every[k](square).tobytes(): k for k in range(8)}
    table = [[known[g(h(square)).tobytes()] for h in every] for g in every]
    return every, np.array(table)


@functools.cache
def turned(shape):
    """Return where the turned copies of filters have their weights.

    Channel (g, c) is channel c turned by T_g. With W[h, c'] of the weights what channel c sees
    of (h, c'), its copy (g, c) sees T_g W[g^-1 h, c'] of (h, c'): a turned image has the turned
    channels, in another order.

    Parameters
    ----------
    shape : tuple
        (size, size, 1 or 8, channels before, channels) of the weights.

    Returns
    -------
    ndarray of int, shape (size, size, 1 or 8 times channels before, 8 times channels)
    """
    places = np.arange(np.prod(shape)).reshape(shape)
    every, table = symmetries()
    copies = []
    for g, turn in enumerate(every):
        inverse = np.flatnonzero(table[g] == 0).item()
        order = table[inverse] if shape[2] == 8 else [0]
        copies.append(turn(places[:, :, order]))
    return np.stack(copies, axis=-2).reshape(*shape[:2], shape[2] * shape[3], -1)

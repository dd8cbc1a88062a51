"""A small convolutional network, told the noise level: experts of an energy of images.

    h_0 = x,   h_l = silu((1 + a_l(t)) conv_l(h_{l-1}) + b_l(t)),     eps_l = w_l(t) sum_p h_l(p)

Every layer has its experts, one for each channel, summed over the places p: edges count at
every place, strokes at fewer, and a last dense layer of `units` sees the whole image. t are
the three numbers that tell the noise level (`networks.Levels`): through a small MLP they
scale and shift every channel before its nonlinearity, and weigh its expert, so that what is an
edge at one level is noise at another. Without a level a, b are constants, and learned as well.

silu has all derivatives, as a score and its gradient need. The last weights w are zero at
first: see `networks.WithGaussian`. The layers are Keras' own; on a CPU the plain graph, whose
convolutions are a library's, is several times faster than XLA, and `fit` finds that out.
"""

import math

import keras
import tensorflow as tf

from deen_tf.checks import image_shape, whole

LEVEL_UNITS = 64  # of the MLP that the level goes through
LARGE = 10.0  # what an expert of the dense layer counts: it is no sum over places


@keras.saving.register_keras_serializable(package="deen_tf.networks")
class ConvNet(keras.layers.Layer):
    """Convolutions and a dense layer; every channel's sum over the places is an expert.

    Parameters
    ----------
    channels : sequence of int
        Widths of the convolutions.
    strides : sequence of int, optional
        Of each; by default 2 for every other one, beginning with the first.
    units : int
        Width of the dense layer.
    size : int
        Side of the first layer's filters in pixels; 3 in all others.
    shape : pair of int, optional
        (height, width) of images given as rows (n, height * width); by default square. Images
        (n, height, width, channels) have the shape they have.
    seed : int
        Of the initial weights.
    """

    center = "coordinate"

    def __init__(
        self,
        channels=(48, 64, 96, 96),
        strides=None,
        units=128,
        size=5,
        shape=None,
        seed=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels = tuple(whole(c, "channels") for c in channels)
        if not self.channels:
            raise ValueError("channels must name at least one layer, got ()")
        if strides is None:
            strides = (2, 1) * len(self.channels)
            strides = strides[: len(self.channels)]
        self.strides = tuple(whole(s, "strides") for s in strides)
        if len(self.strides) != len(self.channels):
            raise ValueError(
                f"strides must be as many as channels, {len(self.channels)}, got {strides}"
            )
        self.units, self.size = whole(units, "units"), whole(size, "size")
        self.shape = None if shape is None else image_shape(shape)
        self.seed = whole(seed, "seed", least=0)
        layers = keras.layers
        self.convolutions = [
            layers.Conv2D(
                width,
                3 if i else self.size,
                stride,
                padding="same",
                use_bias=False,
                **self._of(i, f"conv{i + 1}"),
            )
            for i, (width, stride) in enumerate(zip(self.channels, self.strides))
        ]
        k = len(self.channels)
        self.dense = layers.Dense(self.units, use_bias=False, **self._of(k, "dense"))
        self.level = layers.Dense(
            LEVEL_UNITS, activation="silu", **self._of(k + 1, "level")
        )
        # a, b of every layer, and what its experts weigh more or less
        widths = (*self.channels, self.units)
        self.modulations = [
            layers.Dense(3 * width, **self._of(k + 2 + i, f"modulation{i + 1}"))
            for i, width in enumerate(widths)
        ]

    def _of(self, i, name):
        seed = 1000 * self.seed + i
        kernel = keras.initializers.HeNormal(seed)
        return {"kernel_initializer": kernel, "dtype": self.dtype_policy, "name": name}

    def get_config(self):
        names = ("channels", "strides", "units", "size", "shape", "seed")
        return super().get_config() | {name: getattr(self, name) for name in names}

    def build(self, input_shape):
        point = tuple(input_shape[1:])
        side = math.isqrt(point[0])
        height, width = (self.shape or (side, side)) if len(point) == 1 else point[:2]
        if len(point) == 1 and height * width != point[0]:
            raise ValueError(
                f"images given as rows must be square or have the shape given: got points of "
                f"shape {point} and shape {self.shape}"
            )
        self.image_shape = (height, width, point[2] if len(point) == 3 else 1)
        at = (None, *self.image_shape)
        for layer in self.convolutions:
            layer.build(at)
            at = layer.compute_output_shape(at)
        self.dense.build((None, math.prod(at[1:])))
        self.level.build((None, 3))
        for layer in self.modulations:
            layer.build((None, LEVEL_UNITS))
        self.weights_of_experts = self.add_weight(
            name="experts",
            shape=(sum(self.channels) + self.units,),
            initializer="zeros",
        )
        self.built = True

    def call(self, x, level=None):
        h, weights = self.pooled(x, level)  # both (n, k)
        return h * weights * tf.cast(self.weights_of_experts, h.dtype)

    def pooled(self, x, level=None):
        """Return every channel's sum over the places, (n, k), and how the level weighs it."""
        if level is None:
            level = tf.zeros((tf.shape(x)[0], 3), x.dtype)
        h = tf.reshape(x, (-1, *self.image_shape))
        t, pooled, weights = self.level(level), [], []
        layers = zip([*self.convolutions, self.dense], self.modulations, strict=True)
        for layer, modulation in layers:
            a, b, w = tf.split(modulation(t), 3, axis=-1)
            weights.append(1 + w)
            if layer is self.dense:
                h = tf.nn.silu(
                    (1 + a) * layer(tf.reshape(h, (-1, layer.kernel.shape[0]))) + b
                )
                pooled.append(LARGE * h)
            else:
                a, b = a[:, None, None], b[:, None, None]
                h = tf.nn.silu((1 + a) * layer(h) + b)
                pooled.append(tf.reduce_sum(h, axis=[1, 2]))
        return tf.concat(pooled, 1), tf.concat(weights, 1)

    def silence(self):
        """Let the network begin at zero: its last weights are."""
        self.weights_of_experts.assign(tf.zeros_like(self.weights_of_experts))

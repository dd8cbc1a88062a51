"""In which units a model sees points, and at which noise level.

The network sees z = (x - m) / s (`deen_tf.training.scaling`), and there the noise has the
level sigma / s. m, s and the level are weights of the model, kept and exported with it; what
the level is changed to takes effect at once, in what has been compiled as well.

sigma is one number; or one for each coordinate, the level times a fixed profile, which is a
part of s; or a range (low, high) of an energy at all levels between (`networks.Levels`).
"""

import warnings

import keras
import numpy as np
import tensorflow as tf

from deen_tf import networks
from deen_tf.checks import as_numbers, as_points, check_shape, positive, whole
from deen_tf.models.keras_methods import KerasMethods
from deen_tf.networks.levels import Levels
from deen_tf.training import loop, scaling

UNITS = 4  # weights of a model itself: noise_level, center, scale, profile
START = 20_000  # points that a network's first weights are drawn to suit
GLANCE = 256  # points that a further fit looks at: it may be one of many short ones
FAR = 10  # standard deviations from the data a model has its units from


class UnitModel(KerasMethods):
    """Base of `ScoreModel`: its network, and the units of points and noise."""

    # What decides a model, but for sigma and network: fixed when it is made.
    settings = ("hidden_units", "seed", "noise_samples", "first_layer_gain")

    def __init__(
        self,
        hidden_units=None,
        sigma=0.1,
        seed=0,
        noise_samples=1,
        first_layer_gain=None,
        network=None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        if not tf.as_dtype(self.variable_dtype).is_floating:
            raise ValueError(
                f"dtype must be a floating-point type, got {self.variable_dtype}"
            )
        self.seed = whole(seed, "seed", least=0)
        self.noise_samples = whole(noise_samples, "noise_samples")
        if first_layer_gain is not None:
            first_layer_gain = positive(first_layer_gain, "first_layer_gain")
        self.first_layer_gain = first_layer_gain
        if network is None:
            self._make_network((32, 32, 32) if hidden_units is None else hidden_units)
        else:
            if hidden_units is not None:
                raise ValueError("give hidden_units or a network, not both")
            if not isinstance(network, keras.layers.Layer):
                raise TypeError(
                    f"network must be a Keras model or layer, got {network!r:.80}"
                )
            self.network = network
            self.hidden_units = getattr(network, "hidden_units", None)
        self._own_network = network is None  # made of the settings
        self.levels = None
        if isinstance(sigma, tuple | dict):
            sigma = self._set_levels(sigma)
        self._profile = None  # sigma of each coordinate, in units of the level
        self.noise_level = self.add_weight(
            name="noise_level", shape=(), trainable=False, initializer="ones"
        )
        self.sigma = sigma

    def _set_levels(self, sigma):
        """Take a range of noise levels; return the lowest."""
        levels = sigma["levels"] if isinstance(sigma, dict) else sigma
        if len(levels) != 2:
            raise ValueError(
                f"sigma of several levels must be (low, high), got {levels}"
            )
        low, high = levels
        low, high = positive(low, "the lowest sigma"), positive(high, "the highest")
        if not low < high:
            raise ValueError(
                f"sigma must be (low, high) with low < high, got ({low:g}, {high:g})"
            )
        self.levels = (low, high)
        if not takes_sigma(self.network):
            self.network = Levels(self.network, dtype=self.dtype_policy)
        return low

    @property
    def several_levels(self):
        """Whether the energy is one of x and sigma."""
        return self.levels is not None

    def _make_network(self, hidden_units):
        self.network = networks.MLP(
            hidden_units, seed=self.seed, dtype=self.dtype_policy, name="mlp"
        )
        self.hidden_units = self.network.hidden_units

    @property
    def hidden(self):
        """The hidden layers of a network of the package: a list of Dense."""
        return self.network.hidden

    @property
    def last(self):
        """The last layer of a network of the package: a Dense."""
        return self.network.last

    def __setattr__(self, name, value):
        fixed = name in self.settings and name in self.__dict__
        if name in ("network", "noise", "levels"):
            fixed = getattr(self, "built", False)
        if fixed:
            raise AttributeError(
                f"{name} is fixed when a {type(self).__name__} is made: make another one"
            )
        super().__setattr__(name, value)

    def get_config(self):
        config = {name: getattr(self, name) for name in self.settings}
        config["sigma"] = self.sigma.tolist() if np.ndim(self.sigma) else self.sigma
        if self.several_levels:
            config["sigma"] = {"levels": list(self.levels)}
        if not self._own_network:
            network = keras.saving.serialize_keras_object(self.network)
            config |= {"network": network, "hidden_units": None}
        return super().get_config() | config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        if config.get("network") is not None:
            network = keras.saving.deserialize_keras_object(
                config["network"], custom_objects
            )
            config = config | {"network": network}
        return cls(**config)

    def load_own_variables(self, store):
        """Read the model's own weights; a file of 0.1 has none for units, there z = x."""
        own = self._trainable_variables + self._non_trainable_variables
        if len(store.keys()) != len(own) - UNITS:
            return super().load_own_variables(store)
        self._load_0_1(store)
        self.scale.assign(1.0)
        # Its optimizer's moments are of another objective, sigma^2 times this one.
        self.compiled, self.optimizer = False, None
        loop.log.warning(
            "%s was written by deen_tf 0.1, without units; compile() it to train it on",
            self.name,
        )

    def _load_0_1(self, store):
        for name in store.keys():  # noqa: SIM118 (no iterator)
            self._trainable_variables[int(name)].assign(store[name])

    # ---- points and units ------------------------------------------------------------

    @property
    def sigma(self):
        """The noise level, in the units of the data.

        A float, or an array of a point's shape; of a model of several levels the lowest.
        """
        level = float(str(self.noise_level.numpy()))  # 0.1, not 0.10000000149
        return level if self._profile is None else level * self._profile

    @sigma.setter
    def sigma(self, value):
        if self.built and self.several_levels:
            raise AttributeError(f"the range of noise levels {self.levels} is fixed")
        if np.ndim(value) == 0:
            level, profile = positive(value, dtype=self.variable_dtype), None
        else:
            value = as_points([value], ..., "sigma", "float64")[0]
            positive(value.min(), dtype=self.variable_dtype)
            level = float(np.sqrt(np.mean(np.square(value))))
            profile = value / level
        if self.built and not np.allclose(
            1.0 if profile is None else profile,
            1.0 if self._profile is None else self._profile,
            rtol=1e-5,
        ):
            raise ValueError(
                "sigma can only be changed in proportion: another ratio of the "
                "coordinates' noise levels needs another model"
            )
        if not self.built:
            self._profile = profile
        self.noise_level.assign(level)

    @property
    def dimension(self):
        """d, the number of coordinates of a point; None until it is built, or for any size."""
        shape = self.point_shape
        return None if shape is None or None in shape else int(np.prod(shape))

    @property
    def point_shape(self):
        """Shape of one point; None until the model is built.

        (None, None, channels) of a network of images of any size (`any_size`).
        """
        if not self.built:
            return None
        shape = self._build_shapes_dict["input_shape"][1:]
        return (None, None, shape[-1]) if hasattr(self.network, "any_size") else shape

    def build(self, input_shape):
        shape = tuple(input_shape[1:])
        check_shape(("n", *shape), ...)
        least = getattr(self.network, "any_size", None)
        if least is not None:  # whatever the size of those that it is built for
            check_shape(("n", *shape), (None, None, shape[-1]), "images")
            shape = (None, None, shape[-1])
        if self._profile is not None and self._profile.shape != tuple(shape):
            raise ValueError(
                f"sigma is given for points of shape {self._profile.shape}, got points of "
                f"shape {tuple(shape)}"
            )
        profile = np.ones(()) if self._profile is None else self._profile
        for name, of, value in (
            ("center", self._center_shape(shape), 0.0),
            ("scale", (), 0.0),  # 0: not known yet, taken for 1
            ("profile", profile.shape, profile),
        ):
            weight = self.add_weight(
                name=name, shape=of, trainable=False, initializer="zeros"
            )
            weight.assign(np.broadcast_to(value, of))
            setattr(self, name, weight)
        self._takes_sigma = takes_sigma(self.network)
        z = np.random.default_rng(0).normal(
            size=(2, *(side or least for side in shape))
        )
        z, one = tf.constant(z, self.variable_dtype), tf.ones((), self.variable_dtype)
        outputs = self.outputs_at(z, one)
        self._check_network(outputs, shape)
        _check_alone(outputs[:1], self.outputs_at(z[:1], one), self.network)
        for layer in self.network._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                loop.log.warning(
                    "%s: with BatchNormalization what a point is worth in training depends "
                    "on its batch; LayerNormalization or GroupNormalization do not do that",
                    self.name,
                )
        self._build_shapes_dict = {"input_shape": (None, *shape)}
        self.built = True

    def _center_shape(self, shape):
        center = getattr(self.network, "center", None)
        if not isinstance(center, str):
            center = "coordinate" if len(shape) == 1 else "channel"
        self._centered = center
        return {"coordinate": shape, "channel": shape[-1:], "all": ()}[center]

    def _check_network(self, outputs, shape):
        if outputs.shape[:1] != 2 or tf.size(outputs) != 2 * np.prod(shape):
            raise ValueError(
                f"the network of a {type(self).__name__} must map points of shape {shape} to "
                f"that shape, got {tuple(outputs.shape)} for two points"
            )

    def see_shape(self, shape):
        """Build the model for points (n, ...) of this shape, or check that it is theirs."""
        check_shape(shape, ... if self.point_shape is None else self.point_shape)
        least = getattr(self.network, "any_size", 1)
        if len(shape) == 4 and min(shape[1:3]) < least:
            raise ValueError(
                f"images must be at least {least} x {least}, got {tuple(shape)}"
            )
        if not self.built:
            with self.distribute_strategy.scope():
                self.build((None, *shape[1:]))

    def adapt(self, x):
        """Take units from the data x, and draw the initial weights to suit them.

        `fit` does so for a model that has no weights yet: with data in memory, or the first
        batches of a stream. To begin with a network's own weights, `build((None, d))` first.
        What suits is up to the network's `start`; the paper's begins at the energy of a
        Gaussian with the data's mean and covariance (`deen_tf.training.start`).

        Parameters
        ----------
        x : array_like, shape (n, ...)
        """
        x = as_points(x, self.point_shape or ..., dtype=self.variable_dtype)
        self.see_shape(x.shape)
        x = self._take_units(x)
        if hasattr(self.network, "start"):
            rng = np.random.default_rng([self.seed, 1])
            x = x[rng.permutation(len(x))[:START]].astype("float64")
            scale = self.scale.numpy().astype("float64") * self.profile.numpy()
            z = (x - self.center.numpy().astype("float64")) / scale
            level = float(self.noise_level.numpy() / self.scale.numpy())
            self.network.start(z, level, self.first_layer_gain, rng)

    def _take_units(self, x):
        """Set m and s by the data x, without those that lie out of all proportion."""
        x = scaling.ordinary(x)
        center, scale = scaling.center_and_scale(x, self.sigma, self._centered)
        self.center.assign(center)
        self.scale.assign(np.sqrt(np.mean(np.square(scale))))
        return x

    def _prepare(self, x):
        """Adapt to the points x as far as that has not been done."""
        fresh = not self.built and not self.network.built
        self.see_shape(x.shape)
        if fresh:
            self.adapt(x)
        elif self.scale.numpy() == 0:
            self._take_units(x)
        else:
            scale = self.scale.numpy() * self.profile.numpy()
            some = x[:: max(1, len(x) // GLANCE)]
            far = np.median(np.abs((some - self.center.numpy()) / scale))
            if far > FAR:
                warnings.warn(
                    f"the points lie {far:.3g} standard deviations from those that the model "
                    "has its units from (in the median): adapt(x) takes new ones, and new "
                    "weights",
                    stacklevel=3,
                )

    def scales(self):
        """Return s for all coordinates at once, (), and for each, a point's shape or ()."""
        s = tf.convert_to_tensor(self.scale)
        s = tf.where(s > 0, s, tf.ones_like(s))
        return s, s * tf.convert_to_tensor(self.profile)

    def to_network(self, x):
        """Return z = (x - m) / s."""
        x = tf.cast(x, self.variable_dtype)
        return (x - tf.convert_to_tensor(self.center)) / self.scales()[1]

    def from_network(self, z):
        """Return x = m + s z."""
        return tf.convert_to_tensor(self.center) + self.scales()[1] * z

    def level(self, x, sigma=None):
        """Return the noise level, in the units of the data, as a tensor."""
        if not self.several_levels:
            if sigma is not None:
                raise ValueError(
                    f"this {type(self).__name__} has one noise level, model.sigma: its "
                    "methods take no sigma"
                )
            return tf.convert_to_tensor(self.noise_level)
        if sigma is None:
            raise ValueError(
                f"this {type(self).__name__} has noise levels from {self.levels[0]:g} to "
                f"{self.levels[1]:g}: say at which, sigma=..."
            )
        if isinstance(sigma, str | bytes | dict):
            raise TypeError(
                f"sigma must be one number or one for each point, got {sigma!r:.60}"
            )
        if not tf.is_tensor(sigma):
            sigma = as_numbers(sigma, "sigma").astype("float64")
            if sigma.shape not in ((), tuple(x.shape[:1])):
                raise ValueError(
                    f"sigma must be one number or one for each point, ({x.shape[0]},), got "
                    f"shape {sigma.shape}"
                )
            low, high = self.levels
            if not ((sigma >= low * 0.999) & (sigma <= high * 1.001)).all():
                raise ValueError(
                    f"sigma must lie within {self.levels}, where the model was trained, in the "
                    f"units of its data, got {sigma.ravel()[:5]}"
                )
        sigma = tf.cast(sigma, self.variable_dtype)
        return tf.broadcast_to(sigma, tf.shape(x)[:1])

    def level_at(self, sigma):
        """Return noise levels, () or (n,), in the network's units: () or (n, 1, ..., 1)."""
        sigma = sigma / self.scales()[0]
        if sigma.shape.rank:
            sigma = tf.reshape(sigma, (-1, *[1] * len(self.point_shape)))
        return sigma

    def outputs_at(self, z, sigma, training=False):
        """Return what the network puts out for points and a noise level in its own units."""
        arguments = (z, sigma) if self._takes_sigma else (z,)
        outputs = self.network(*arguments, training=training)
        if isinstance(outputs, list | tuple | dict):
            raise TypeError(
                f"the network must have one output, got {len(outputs)}: concatenate them"
            )
        return tf.cast(outputs, z.dtype)


def takes_sigma(network):
    """Whether a network asks for the noise level."""
    return "sigma" in network._call_signature.parameters


def _check_alone(together, alone, network):
    """Refuse a network that says of a point what depends on the others of the batch."""
    together, alone = (tf.cast(v, "float64").numpy() for v in (together, alone))
    if (
        np.abs(together - alone).max() > 0.05 * np.abs(together).max()
    ):  # bfloat16 rounds
        raise ValueError(
            f"the network {network.name} mixes the points of a batch: what it says of a point "
            "must depend on that point alone"
        )

"""An energy, and what follows from it.

    q(x)    = exp(-E(x)),  p = q / Z            unnormalised density    (Eqs. 1-2)
    psi(x)  = -dE/dx                            score                   (Eq. 3)
    E(x)    = sum_alpha eps_alpha(x)            sum of experts          (Eq. 24)

The experts are what the network puts out, any Keras network; the paper's is an MLP of tanh
units with a linear last layer (Eq. 18). Sign: LOW energy is HIGH density. E is defined up to
a constant.

Rank bound, of networks whose first layer is a matrix. With r = dim(h^(1)), dE/dx = W1^T g(x)
for some g(x) in R^r, where W1 (r, d) holds the first layer's weights. Every score therefore
lies in the row space V of W1, dim V <= r. Split the noise xi - x = sigma nu into its part in
V and the rest: the step sigma^2 psi(xi) cannot touch the rest, so

    |x - x_hat(xi)|^2 >= sigma^2 |P_rest nu|^2,    L_DEEN >= sigma^2 (d - r),

whatever the other layers and however long the training. A single step removes at most
the fraction r / d of the noise power.
"""

import keras
import numpy as np
import tensorflow as tf

from deen_tf.models import export
from deen_tf.models.base import ScoreModel
from deen_tf.models.pointwise import pointwise


@keras.saving.register_keras_serializable(package="deen_tf")
class EnergyModel(ScoreModel):
    """An energy; subclasses bring the objective.

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain, network
        See `ScoreModel`.
    """

    signatures = ("energy", "score", "denoise", "experts")

    def _check_network(self, outputs, shape):
        if outputs.shape.rank < 1 or outputs.shape[0] != 2:
            raise ValueError(
                "the network must put out experts for each point, (n, ...), got shape "
                f"{tuple(outputs.shape)} for two points"
            )

    def call(self, x, sigma=None, training=False):
        """Return E(x), (n,); in training with layers as they behave there."""
        level = self.level_at(self.level(x, sigma))
        return self.energy_at(self.to_network(x), level, training) + self._log_volume()

    def energy_at(self, z, sigma, training=False):
        """Return the sum of the experts (Eq. 24), (n,), in the network's units."""
        experts = self.outputs_at(z, sigma, training)
        return tf.reduce_sum(experts, axis=list(range(1, len(experts.shape))))

    def score_at(self, z, sigma, training=False):
        """Return -dE/dz (Eq. 3), shape of z, in the network's units."""
        return self.energy_and_score_at(z, sigma, training)[1]

    def energy_and_score_at(self, z, sigma, training=False):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(z)
            energy = self.energy_at(z, sigma, training)
        slope = tape.gradient(energy, z)
        if slope is None:
            raise ValueError(
                "the energy has no gradient with respect to the points: the network rounds, "
                "stops gradients, or does not use them"
            )
        return energy, -slope

    @pointwise
    def energy(self, x, sigma):
        """Return E(x) (Eq. 24), up to a constant; of several levels, -log p_sigma(x).

        Parameters
        ----------
        x : array_like or tensor, shape (n, ...)

        Returns
        -------
        ndarray or tensor, shape (n,)
            In nats.
        """
        energy = self.energy_at(self.to_network(x), self.level_at(sigma))
        return energy + self._log_volume()

    @property
    def normalised(self):
        """Whether the energy's constant is known: E(x, sigma) = -log p_sigma(x)."""
        return self.several_levels and getattr(self.network, "normalised", True)

    def _log_volume(self):
        """Return log dx / dz, of a normalised energy: p(x) = p(z) / s^d."""
        if not self.normalised:
            return 0.0
        units = tf.broadcast_to(self.scales()[1], self.point_shape)
        return tf.reduce_sum(tf.math.log(units))

    @pointwise
    def log_density(self, x, sigma):
        """Return log p_sigma(x) of a model of several noise levels, normalised.

        Parameters
        ----------
        x : array_like or tensor, shape (n, ...)
        sigma : float or array_like, shape (n,)

        Returns
        -------
        ndarray or tensor, shape (n,)
            In nats; over d log 2, negated, bits per dimension.

        Raises
        ------
        ValueError
            If the model has one level, or a network that is not normalised: its energy is
            free up to a constant.
        """
        if not self.normalised:
            raise ValueError(
                "this energy is free up to a constant: log_density needs several levels, "
                "sigma=(low, high), and a network whose levels are compared (normalised)"
            )
        energy = self.energy_at(self.to_network(x), self.level_at(sigma))
        return -energy - self._log_volume()

    def smoothed(self, sigma):
        """Return the density at one of several noise levels, with the methods of a model."""
        return AtLevel(self, sigma)

    def energy_and_score(self, x, sigma=None):
        """Return E(x) and psi(x) of a tensor x, from one pass forth and back."""
        level = self.level_at(self.level(x, sigma))
        energy, score = self.energy_and_score_at(self.to_network(x), level)
        return energy + self._log_volume(), score / self.scales()[1]

    @pointwise
    def experts(self, x, sigma):
        """Return the experts eps_alpha(x) (Eq. 24), what the network puts out.

        Parameters
        ----------
        x : array_like or tensor, shape (n, ...)

        Returns
        -------
        ndarray or tensor, shape (n, ...)
            Their sum over all axes but the first is the energy (where that is normalised,
            but for d log s of the units). Of an MLP they are w_alpha h_alpha(x),
            (n, dim(h^(L))).

        Examples
        --------
        >>> model = deen.DEEN.from_preset("fig1-mixture")
        >>> x = np.array([[1.0, 0.0], [0.0, 0.0]])
        >>> experts = model.experts(x)
        >>> experts.shape, np.allclose(experts.sum(1), model.energy(x), atol=1e-4)
        ((2, 32), True)
        """
        experts = self.outputs_at(self.to_network(x), self.level_at(sigma))
        return experts if len(experts.shape) > 1 else experts[:, None]

    def last_hidden(self, x):
        """Return h^(L)(x) of a network of the package, (n, dim h^(L)), of a tensor x."""
        return self.network.last_hidden(self.to_network(x))

    def loss_bound(self):
        """Return sigma^2 (d - r): no training goes below it. r = min(d, dim h^(1)).

        Raises
        ------
        ValueError
            If the model has not seen data yet, or its network does not begin with a matrix.

        Examples
        --------
        >>> model = deen.DEEN((128, 128, 256), sigma=0.14)  # the paper's, of digits
        >>> model.build((None, 784))
        >>> round(model.loss_bound() / (0.14**2 * 784), 3)  # of the noise: no step leaves less
        0.837
        """
        if not self.built:
            raise ValueError("the bound needs the dimension: build the model first")
        network, shape = self.network, self.point_shape
        if callable(getattr(network, "rank", None)):
            rank = network.rank(shape)
        else:
            layers = [
                layer
                for layer in getattr(network, "layers", [network])
                if not isinstance(layer, keras.layers.InputLayer)
            ]
            sequential = isinstance(network, keras.Sequential | keras.layers.Dense)
            if not (sequential and isinstance(layers[0], keras.layers.Dense)):
                raise ValueError(
                    f"there is no rank bound for {type(network).__name__}: it is a property "
                    "of networks whose first layer is a matrix"
                )
            if len(shape) > 1:
                raise ValueError("there is no rank bound: its first layer is shared")
            rank = min(self.dimension, layers[0].units)
        return float(np.mean(np.square(self.sigma))) * (self.dimension - rank)


class AtLevel:
    """A model of several noise levels at one: what samplers, metrics and plots take.

    Parameters
    ----------
    model : EnergyModel
    sigma : float
        Within the model's range.
    """

    def __init__(self, model, sigma):
        if not model.several_levels:
            raise ValueError(
                f"this {type(model).__name__} has one noise level, model.sigma, and is the "
                "density smoothed by that"
            )
        if np.ndim(sigma):
            raise ValueError(f"sigma must be one number, got {sigma!r:.60}")
        model.level(np.zeros((1, 1)), sigma)  # refuses what is out of range
        self.model, self.sigma = model, float(sigma)
        self.dimension, self.point_shape = model.dimension, model.point_shape
        self.compute_dtype = model.variable_dtype

    def __call__(self, x):
        return self.energy(x)

    def energy(self, x):
        return self.model.energy(x, self.sigma)

    def score(self, x):
        return self.model.score(x, self.sigma)

    def denoise(self, xi):
        return self.model.denoise(xi, self.sigma)

    def experts(self, x):
        return self.model.experts(x, self.sigma)

    def log_density(self, x):
        return self.model.log_density(x, self.sigma)

    def energy_and_score(self, x):
        return self.model.energy_and_score(x, self.sigma)

    def export(self, filepath, format="tf_saved_model", verbose=False):
        """Write this level for use without Keras; see `EnergyModel.export`.

        `format` is "tf_saved_model", or "litert" where LiteRT has the network's gradients
        (`deen_tf.networks.Levels` needs some that it lacks); the signatures take `x` alone.
        """
        if format not in export.FORMATS:
            raise ValueError(
                f"format must be one of {list(export.FORMATS)}, got {format!r}"
            )
        export.FORMATS[format](self.model, filepath, verbose, self.sigma)

"""Mixture of DEENs: the energy is the average of M networks (end of "DEEN as PoE", Sec. 3).

    E(x; theta^1, ..., theta^M) = 1/M sum_m MLP(x; theta^m) = sum_m eps_m(x)

The networks share no parameters; each is one expert, eps_m = MLP(x; theta^m) / M, as each
hidden unit of the last layer is one of a single DEEN (Eq. 24). Averaged energies MULTIPLY
densities, prod_m exp(-eps_m): it is a product of experts, and a mixture in name only. All
networks are trained together on DEEN's objective (Eq. 19).

The first layers together span at most M dim(h^(1)) directions: L >= sigma^2 (d - r) with
r = min(d, M dim(h^(1))).
"""

import keras
import tensorflow as tf

from deen_tf.checks import as_points, whole
from deen_tf.models.deen import DEEN
from deen_tf.models.pointwise import pointwise


@keras.saving.register_keras_serializable(package="deen_tf")
class MixtureOfDEENs(DEEN):
    """The average of several MLP energies, trained as one DEEN.

    Parameters
    ----------
    hidden_units : sequence of int
        Widths of each network.
    sigma, seed, noise_samples, first_layer_gain
        See `ScoreModel`.
    networks : int
        M.
    """

    def __init__(self, *args, networks=4, **kwargs):
        super().__init__(*args, **kwargs)
        self.members = [
            DEEN(
                self.hidden_units,
                sigma=self.sigma,
                # Network 0 begins as a single DEEN of this seed does.
                seed=(self.seed + 1_000_003 * m) % 2**31,
                first_layer_gain=self.first_layer_gain,
                dtype=self.dtype_policy,
                name=f"network{m + 1}",
            )
            for m in range(whole(networks, "networks"))
        ]

    def get_config(self):
        return super().get_config() | {"networks": len(self.members)}

    def build(self, input_shape):
        self.dimension = int(input_shape[-1])
        for network in self.members:
            network.build(input_shape)
        self.built = True

    def adapt(self, x):
        """Draw the first layer of every network to suit the data; see `ScoreModel`."""
        x = as_points(x, self.dimension, dtype="float64")
        self._check_width(x)
        for network in self.members:
            network.adapt(x)

    def call(self, x):
        return tf.add_n([network(x) for network in self.members]) / len(self.members)

    @pointwise
    def experts(self, x):
        """Return the experts eps_m(x) = MLP(x; theta^m) / M.

        Parameters
        ----------
        x : array_like or tensor, shape (n, d)

        Returns
        -------
        ndarray or tensor, shape (n, M)
            Their sum over the last axis is the energy.
        """
        outputs = tf.stack([network(x) for network in self.members], axis=1)
        return outputs / len(self.members)

    def last_hidden(self, x):
        """Return the last hidden layers of all networks, (n, M dim h^(L))."""
        return tf.concat([network.last_hidden(x) for network in self.members], axis=1)

    @property
    def evaluation_batch(self):
        return max(256, super().evaluation_batch // len(self.members))

    def loss_bound(self):
        """Return sigma^2 (d - r), r = min(d, M dim h^(1)): see `EnergyModel`."""
        if self.dimension is None:
            raise ValueError("the bound needs the dimension: build the model first")
        rank = min(self.dimension, len(self.members) * self.hidden_units[0])
        return self.sigma**2 * (self.dimension - rank)

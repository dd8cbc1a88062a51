"""The average of several networks: a mixture of DEENs (end of "DEEN as PoE", Sec. 3).

    E(x; theta^1, ..., theta^M) = 1/M sum_m E(x; theta^m) = sum_m eps_m(x)

The networks share no parameters; each is one expert, eps_m = E(x; theta^m) / M, as each
hidden unit of the last layer is one of a single MLP (Eq. 24). Averaged energies MULTIPLY
densities, prod_m exp(-eps_m): it is a product of experts, and a mixture in name only. All
networks are trained together.
"""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="deen_tf.networks")
class Average(keras.layers.Layer):
    """The average of networks.

    Parameters
    ----------
    members : sequence of keras layers
        Each maps points to experts; every one with weights (and a seed) of its own.
    """

    def __init__(self, members, **kwargs):
        super().__init__(**kwargs)
        self.members = list(members)
        if not self.members:
            raise ValueError("an average needs at least one network, got none")

    def get_config(self):
        members = [keras.saving.serialize_keras_object(m) for m in self.members]
        return super().get_config() | {"members": members}

    @classmethod
    def from_config(cls, config):
        members = map(keras.saving.deserialize_keras_object, config["members"])
        return cls(**(config | {"members": list(members)}))

    def call(self, x, training=False):
        sums = []
        for member in self.members:
            experts = member(x, training=training)
            sums.append(tf.reduce_sum(experts, axis=list(range(1, len(experts.shape)))))
        return tf.stack(sums, axis=1) / len(sums)  # (n, M)

    def last_hidden(self, x):
        """Return the last hidden layers of all networks, (n, M dim h^(L))."""
        return tf.concat([member.last_hidden(x) for member in self.members], axis=1)

    @property
    def hidden_units(self):
        return getattr(self.members[0], "hidden_units", None)

    @property
    def hidden(self):
        return [layer for member in self.members for layer in member.hidden]

    @property
    def center(self):
        return getattr(self.members[0], "center", None)

    def rank(self, shape):
        """Return what the first layers together see: at most M times one."""
        d = 1
        for side in shape:
            d *= side
        return min(d, sum(member.rank(shape) for member in self.members))

    def silence(self):
        for member in self.members:
            member.silence()

    def start(self, x, sigma, gain, rng):
        for member in self.members:
            if hasattr(member, "start"):
                member.start(x, sigma, gain, rng)

"""The paper's network: a multi-layer perceptron with tanh units (Eqs. 18, 24).

    h^(0) = x,  h^(l) = tanh(h^(l-1) W_l + b_l),    E(x) = sum_alpha w_alpha h^(L)_alpha

Without `outputs` it puts out the experts eps_alpha = w_alpha h_alpha, whose sum is an energy:
up to a constant, so that the last layer has no bias. (As a product of matrix and vector the
same sum has a gradient in w that takes XLA on a CPU ten times as long.) With `outputs` it is
a map to R^k.
"""

import keras
import numpy as np
import tensorflow as tf

from deen_tf.checks import whole
from deen_tf.training import start


@keras.saving.register_keras_serializable(package="deen_tf.networks")
class MLP(keras.layers.Layer):
    """Tanh layers and a linear last one.

    Parameters
    ----------
    hidden_units : sequence of int
        Widths dim(h^(1)), ..., dim(h^(L)).
    outputs : int, optional
        k of a map to R^k. Without, experts of an energy.
    use_bias : bool
        Whether such a map has one.
    seed : int
        Of the initial weights, Glorot's.

    Raises
    ------
    TypeError, ValueError
        If a width is no positive whole number, or there is none.

    Examples
    --------
    >>> network = deen.networks.MLP((32, 16))
    >>> network(np.zeros((5, 2), "float32")).shape
    TensorShape([5, 16])
    """

    def __init__(self, hidden_units, outputs=None, use_bias=False, seed=0, **kwargs):
        super().__init__(**kwargs)
        if not hasattr(hidden_units, "__iter__") or isinstance(hidden_units, str):
            raise TypeError(
                f"hidden_units must be a sequence of widths, got {hidden_units!r}"
            )
        self.hidden_units = tuple(whole(u, "hidden_units") for u in hidden_units)
        if not self.hidden_units:
            raise ValueError("hidden_units must name at least one hidden layer, got ()")
        self.outputs = outputs if outputs is None else whole(outputs, "outputs")
        self.use_bias, self.seed = bool(use_bias), whole(seed, "seed", least=0)
        self.hidden = [
            self._dense(layer, units, f"h{layer + 1}", activation="tanh")
            for layer, units in enumerate(self.hidden_units)
        ]
        bias = self.use_bias and self.outputs is not None
        self.last = self._dense(
            len(self.hidden), self.outputs or 1, "last", use_bias=bias
        )

    def _dense(self, layer, units, name, **kwargs):
        words = np.random.SeedSequence([self.seed, layer]).generate_state(1)
        glorot = keras.initializers.GlorotUniform(seed=int(words[0] >> 1))
        return keras.layers.Dense(
            units,
            kernel_initializer=glorot,
            dtype=self.dtype_policy,
            name=name,
            **kwargs,
        )

    def get_config(self):
        return super().get_config() | {
            "hidden_units": self.hidden_units,
            "outputs": self.outputs,
            "use_bias": self.use_bias,
            "seed": self.seed,
        }

    def build(self, input_shape):
        width = int(np.prod(input_shape[1:]))
        for layer in [*self.hidden, self.last]:
            layer.build((None, width))
            width = layer.units
        self.built = True

    def call(self, x):
        h = self.last_hidden(x)  # (n, dim h^(L))
        if self.outputs is not None:
            return self.last(h)  # (n, k)
        # Outside a model's call Keras leaves weights in their own type.
        return h * tf.cast(tf.squeeze(self.last.kernel, axis=1), h.dtype)

    def last_hidden(self, x):
        """Return h^(L)(x), (n, dim h^(L)); points of other shapes become rows."""
        h = x if len(x.shape) == 2 else tf.reshape(x, (-1, np.prod(x.shape[1:])))
        for layer in self.hidden:
            h = layer(h)
        return h

    def rank(self, shape):
        """Return min(d, dim h^(1)): the directions of a point that the first layer sees."""
        return min(int(np.prod(shape)), self.hidden_units[0])

    def bend(self, x, gain, rng):
        """Let the first layer's units bend where the points are, (n, d)."""
        start.units_at_data(self.hidden[0], x, 0.0, gain, rng)

    def silence(self):
        """Let the network begin at zero: its last layer is."""
        self.last.kernel.assign(np.zeros(self.last.kernel.shape))

    def start(self, x, sigma, gain, rng):
        """Draw the first weights to suit data; see `deen_tf.training.start`."""
        x = x.reshape(len(x), -1)
        if self.outputs is None:
            start.gaussian_energy(self.hidden, self.last, x, sigma, gain, rng)
        else:
            start.units_at_data(self.hidden[0], x, sigma, gain, rng)

"""Deep score matching: an MLP that maps R^d to R^d learns the score itself (end of Sec. 3).

    psi(x) = MLP(x),    L = E |x - (xi + sigma^2 psi(xi))|^2             (Eq. 17)

Nothing makes psi a gradient: its curl need not vanish (Fig. 1 g, h).
"""

import keras

from deen_tf.models.pointwise import pointwise
from deen_tf.models.score_model import ScoreModel
from deen_tf.training import start as initialization


@keras.saving.register_keras_serializable(package="deen_tf")
class DSM(ScoreModel):
    """Deep score matching: the MLP of DEEN with d outputs, trained on Eq. 17.

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain
        See `ScoreModel`.
    """

    def _start(self, *data):
        initialization.units_at_data(self.hidden[0], *data)

    def call(self, x):
        return self.last(self.last_hidden(x))

    @pointwise
    def score(self, x):
        """Return psi(x) = MLP(x), (n, d)."""
        return self(x)

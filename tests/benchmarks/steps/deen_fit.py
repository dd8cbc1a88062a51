"""Our `fit`, as a user calls it."""

import numpy as np
import tensorflow as tf

import deen_tf as deen
from deen_tf import fields

TITLE = "deen_tf fit"
PACKAGES = ("deen-tf", "tensorflow", "keras")

allow_tf32 = deen.allow_tf32


def device():
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    return tf.config.experimental.get_device_details(gpus[0])["device_name"]


class Steps:
    """Without `weights` the model draws its own, to suit the data, when it is trained."""

    def __init__(self, network, weights, x, batch):
        self.x, self.batch, self.sigma = x, batch, network.sigma
        self.model = deen.DEEN(network.hidden, sigma=network.sigma, seed=0)
        self.model.compile()
        if weights is not None:
            self.model.build((None, network.d))
            self.model.network.set_weights(weights)

    def loss_and_gradients(self, x, nu):
        # The model has seen no data: the units are those of x, and of sigma^2.
        x, nu, sigma = map(tf.constant, (x, nu, np.float32(self.sigma)))
        with tf.GradientTape() as tape:
            loss = sigma**2 * tf.reduce_mean(self.model.objective(x, nu, sigma))
        return loss, tape.gradient(loss, self.model.trainable_variables)

    def run(self, epochs):
        self.model.fit(self.x, batch_size=self.batch, epochs=epochs, verbose=0)


def losses(network, batch, steps):
    """Return the losses of the first steps, from the same weights, in the same order."""
    run = Steps(network, network.weights(), network.data(batch * steps), batch)
    run.run(1)
    return run.model.step_losses.tolist()


def relative_curl(steps=2000, points=4096):
    """Return rms(curl) / rms(|J|_F) of a DEEN trained on a ring of eight Gaussians."""
    x = deen.laws.GaussianMixture.ring(modes=8).sample(100 * points, seed=0)
    model = deen.DEEN((32, 32, 32), sigma=0.1, seed=0)
    model.compile()
    model.fit(x, batch_size=points, epochs=steps // 100, verbose=0)
    J = fields.jacobian(model, x[:points]).astype("float64")
    curl = J[:, 1, 0] - J[:, 0, 1]
    return float(np.sqrt(np.mean(curl**2) / np.mean(np.sum(J**2, axis=(1, 2)))))

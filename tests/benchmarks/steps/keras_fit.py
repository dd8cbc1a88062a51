"""A plain keras.Model with the same nested tapes, everything else at Keras' defaults."""

import keras
import tensorflow as tf

from tests.benchmarks.networks import LEARNING_RATE

TITLE = "Keras fit, defaults"
PACKAGES = ("tensorflow", "keras")

allow_tf32 = tf.config.experimental.enable_tensor_float_32_execution


def device():
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


class Plain(keras.Model):
    def __init__(self, network):
        super().__init__()
        self.sigma = network.sigma
        self.hidden = [keras.layers.Dense(n, activation="tanh") for n in network.hidden]
        self.last = keras.layers.Dense(1, use_bias=False)
        self.random = keras.random.SeedGenerator(0)
        self.loss_tracker = keras.metrics.Mean("loss")

    def call(self, x):
        for layer in self.hidden:
            x = layer(x)
        return self.last(x)[:, 0]

    def objective(self, x, nu):
        xi = x + self.sigma * nu
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(xi)
            energy = self(xi)
        r = x - xi + self.sigma**2 * tape.gradient(energy, xi)
        return tf.reduce_mean(tf.reduce_sum(tf.square(r), axis=1))

    def train_step(self, x):
        nu = keras.random.normal(tf.shape(x), seed=self.random)
        with tf.GradientTape() as tape:
            loss = self.objective(x, nu)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    @property
    def metrics(self):
        return [self.loss_tracker]


class Steps:
    def __init__(self, network, weights, x, batch):
        self.x, self.batch = x, batch
        self.model = Plain(network)
        self.model(x[:1])
        for variable, value in zip(
            self.model.trainable_variables, weights, strict=True
        ):
            variable.assign(value)
        self.model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE))

    def loss_and_gradients(self, x, nu):
        with tf.GradientTape() as tape:
            loss = self.model.objective(tf.constant(x), tf.constant(nu))
        return loss, tape.gradient(loss, self.model.trainable_variables)

    def run(self, epochs):
        self.model.fit(self.x, batch_size=self.batch, epochs=epochs, verbose=0)

"""Our `fit`, as a user calls it."""

import tensorflow as tf

import deen_tf as deen

TITLE = "deen_tf fit"


class Steps:
    def __init__(self, network, weights, x, batch):
        self.x, self.batch = x, batch
        self.model = deen.DEEN(network.hidden, sigma=network.sigma, seed=0)
        self.model.compile()
        self.model.build((None, network.d))
        self.model.set_weights(weights)

    def loss_and_gradients(self, x, nu):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.model.objective(tf.constant(x), tf.constant(nu)))
        return loss, tape.gradient(loss, self.model.trainable_variables)

    def run(self, epochs):
        self.model.fit(self.x, batch_size=self.batch, epochs=epochs, verbose=0)

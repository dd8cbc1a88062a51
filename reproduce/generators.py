"""What generated digits are judged by, and what they are judged beside.

The judge is a small convolutional classifier of MNIST, trained on its 60,000 digits. It gives
every picture a class, its confidence (the largest of the ten probabilities), and features: the
last hidden layer h. Of pictures with features of mean m and covariance C, and test digits with
m', C', the Frechet distance (Heusel et al. 2017, there with another network) is

    |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)).

It grows smaller with the number of pictures: compare equal numbers.

Beside: the variational autoencoder of Keras' examples (keras.io/examples/generative/vae: two
latent numbers, batches of 128, Adam), and a mixture of Gaussians in the leading principal
coordinates of the digits (fitted by scikit-learn), the others being Gaussian.
"""

import keras
import numpy as np
import tensorflow as tf
from sklearn.mixture import GaussianMixture as Fit

from deen_tf.laws.gaussian import Gaussian
from deen_tf.laws.mixtures import GaussianMixture

BATCH = 1000  # pictures at once


# ---- the judge ---------------------------------------------------------------------------


class Judge:
    """A classifier of digits.

    Parameters
    ----------
    units : int
        Of the last hidden layer.
    seed : int
    """

    def __init__(self, units, seed=0):
        keras.utils.set_random_seed(seed)
        layers = keras.layers
        self.body = keras.Sequential(
            [
                layers.Input((784,)),
                layers.Reshape((28, 28, 1)),
                layers.Conv2D(32, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(64, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dropout(0.3),
                layers.Dense(units, activation="relu"),
            ]
        )
        self.head = keras.Sequential(
            [layers.Input((units,)), layers.Dense(10, "softmax")]
        )
        self.network = keras.Sequential([layers.Input((784,)), self.body, self.head])

    def fit(self, x, y, epochs):
        """Train on digits x (n, 784) and labels y; return the weights, {name: array}."""
        rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * -(-len(x) // 128))
        self.network.compile(
            keras.optimizers.Adam(rate), "sparse_categorical_crossentropy"
        )
        self.network.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
        return weights_of(self.network)

    def __call__(self, images):
        """Return features (n, units) and probabilities (n, 10) of images in [0, 1]."""
        h = self.body.predict(np.clip(images, 0, 1), batch_size=BATCH, verbose=0)
        return h, self.head.predict(h, batch_size=BATCH, verbose=0)


def weights_of(network):
    return {f"w{i}": w for i, w in enumerate(network.get_weights())}


def set_weights(network, weights):
    network.set_weights([weights[f"w{i}"] for i in range(len(network.weights))])


def frechet(features, others):
    """Return the Frechet distance between the Gaussians of two sets of features (n, k)."""
    means = features.mean(0, dtype="float64"), others.mean(0, dtype="float64")
    a, b = (np.cov(f.astype("float64"), rowvar=False) for f in (features, others))
    # The eigenvalues of C C' are those of a positive semidefinite matrix.
    root = np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()
    return float(np.sum((means[0] - means[1]) ** 2) + np.trace(a + b) - 2 * root)


# ---- Keras' variational autoencoder ------------------------------------------------------


class Autoencoder(keras.Model):
    """The variational autoencoder of Keras' examples.

    Objective: cross-entropy of the pixels, summed, and KL(q(z | x) || N(0, I)).
    """

    def __init__(self, latent=2, seed=0):
        super().__init__()
        keras.utils.set_random_seed(seed)
        layers, how = keras.layers, {"activation": "relu", "padding": "same"}
        self.latent, self.seed = latent, keras.random.SeedGenerator(seed)
        self.encoder = keras.Sequential(
            [
                layers.Input((784,)),
                layers.Reshape((28, 28, 1)),
                layers.Conv2D(32, 3, strides=2, **how),
                layers.Conv2D(64, 3, strides=2, **how),
                layers.Flatten(),
                layers.Dense(16, activation="relu"),
                layers.Dense(2 * latent),  # mean and log variance of z
            ]
        )
        self.decoder = keras.Sequential(
            [
                layers.Input((latent,)),
                layers.Dense(7 * 7 * 64, activation="relu"),
                layers.Reshape((7, 7, 64)),
                layers.Conv2DTranspose(64, 3, strides=2, **how),
                layers.Conv2DTranspose(32, 3, strides=2, **how),
                layers.Conv2DTranspose(1, 3, activation="sigmoid", padding="same"),
                layers.Reshape((784,)),
            ]
        )

    def call(self, x):
        mean, log_var = tf.split(self.encoder(x), 2, axis=1)
        noise = keras.random.normal(tf.shape(mean), seed=self.seed)
        x_hat = self.decoder(mean + tf.exp(log_var / 2) * noise)
        kl = (tf.square(mean) + tf.exp(log_var) - 1 - log_var) / 2
        self.add_loss(tf.reduce_mean(tf.reduce_sum(kl, axis=1)))
        return x_hat

    def train(self, x, epochs):
        """Train on digits x (n, 784); return the weights and the losses of the epochs."""

        def cross_entropy(x, x_hat):
            return 784 * keras.losses.binary_crossentropy(x, x_hat)

        self.compile("adam", cross_entropy)
        history = self.fit(x, x, batch_size=128, epochs=epochs, verbose=0)
        return weights_of(self) | {"losses": np.array(history.history["loss"])}

    def sample(self, n, seed):
        """Return n pictures (n, 784): the decoder's means at z ~ N(0, I)."""
        z = np.random.default_rng(seed).normal(size=(n, self.latent))
        return self.decoder.predict(z.astype("float32"), batch_size=BATCH, verbose=0)


# ---- a mixture of Gaussians --------------------------------------------------------------


class PrincipalMixture:
    """A mixture in the leading principal coordinates of data, a Gaussian in the others.

        p(x) = p_mixture(u_1, ..., u_k) prod_{i > k} N(u_i; 0, v_i),    u = V^T (x - m)

    Parameters
    ----------
    gaussian : Gaussian
        m, v and V.
    mixture : GaussianMixture
        Of u_1, ..., u_k: those of largest variance, largest first.
    """

    def __init__(self, gaussian, mixture):
        self.gaussian, self.mixture = gaussian, mixture

    @classmethod
    def fit(cls, x, coordinates, components, seed, iterations=30):
        """Return the mixture of so many Gaussians, each with a covariance of its own."""
        gaussian = Gaussian.fit(x)
        u = (x - gaussian.mean) @ gaussian.directions[:, ::-1][:, :coordinates]
        found = Fit(components, reg_covar=1e-4, max_iter=iterations, random_state=seed)
        found.fit(u)
        law = GaussianMixture(found.means_, found.covariances_, found.weights_)
        return cls(gaussian, law)

    def arrays(self):
        law = self.mixture
        return {
            "means": law.means,
            "covariances": law.covariances,
            "weights": law.weights,
        }

    def log_density(self, x, sigma):
        """Return log p_sigma(x), (n,), of the mixture smoothed by N(0, sigma^2 I)."""
        u = (x - self.gaussian.mean) @ self.gaussian.directions[:, ::-1]
        k = self.mixture.dimension
        v = self.gaussian.variances[::-1][k:] + sigma**2
        rest = -0.5 * np.sum(u[:, k:] ** 2 / v + np.log(2 * np.pi * v), axis=1)
        return rest - self.mixture.energy(u[:, :k], sigma)

    def sample(self, n, seed):
        """Return n points (n, d)."""
        k, rng = self.mixture.dimension, np.random.default_rng([seed, 1])
        v = self.gaussian.variances[::-1][k:]
        first = self.mixture.sample(n, seed, dtype="float64")
        u = np.concatenate([first, rng.normal(size=(n, len(v))) * np.sqrt(v)], axis=1)
        return self.gaussian.mean + u @ self.gaussian.directions[:, ::-1].T

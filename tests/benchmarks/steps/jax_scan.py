"""JAX: an epoch is one program, a `lax.scan` over its steps; grad of the norm of a grad."""

import functools

import jax
import jax.numpy as jnp

from tests.benchmarks.networks import BETA_1, BETA_2, EPSILON, LEARNING_RATE

TITLE = "JAX scan"
PACKAGES = ("jax", "jaxlib")


def device():
    return jax.devices()[0].device_kind.replace("cpu", "CPU")


def allow_tf32(allow):
    jax.config.update(
        "jax_default_matmul_precision", "tensorfloat32" if allow else "highest"
    )


def energy(weights, x):
    *layers, w = weights
    for kernel, bias in zip(layers[::2], layers[1::2], strict=True):
        x = jnp.tanh(x @ kernel + bias)
    return (x @ w)[:, 0]


def objective(weights, x, nu, sigma):
    xi = x + sigma * nu
    gradient = jax.grad(lambda xi: energy(weights, xi).sum())(xi)
    return jnp.mean(jnp.sum(jnp.square(x - xi + sigma**2 * gradient), axis=1))


@functools.partial(
    jax.jit, static_argnames=("batch", "sigma"), donate_argnames=("state",)
)
def epoch(state, x, key, *, batch, sigma):
    order, noise = jax.random.split(key)
    order = jax.random.permutation(order, len(x))

    def step(state, i):
        weights, first, second, t = state
        rows = jax.lax.dynamic_slice_in_dim(order, i * batch, batch)
        minibatch = x[rows]
        nu = jax.random.normal(jax.random.fold_in(noise, i), minibatch.shape)
        loss, g = jax.value_and_grad(objective)(weights, minibatch, nu, sigma)
        t = t + 1
        rate = LEARNING_RATE * jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        first = jax.tree.map(lambda m, g: m + (1 - BETA_1) * (g - m), first, g)
        second = jax.tree.map(lambda v, g: v + (1 - BETA_2) * (g * g - v), second, g)
        weights = jax.tree.map(
            lambda w, m, v: w - rate * m / (jnp.sqrt(v) + EPSILON),
            weights,
            first,
            second,
        )
        return (weights, first, second, t), loss

    return jax.lax.scan(step, state, jnp.arange(len(x) // batch))


class Steps:
    def __init__(self, network, weights, x, batch):
        self.x = jnp.asarray(x)
        weights = [jnp.asarray(w) for w in weights]
        zeros = functools.partial(jax.tree.map, jnp.zeros_like)
        self.state = (weights, zeros(weights), zeros(weights), jnp.zeros(()))
        self.key, self.sigma = jax.random.key(0), network.sigma
        self.epoch = functools.partial(epoch, batch=batch, sigma=network.sigma)

    def loss_and_gradients(self, x, nu):
        gradient = jax.jit(jax.value_and_grad(objective), static_argnames="sigma")
        return gradient(self.state[0], x, nu, sigma=self.sigma)

    def run(self, epochs):
        for _ in range(epochs):
            self.key, key = jax.random.split(self.key)
            self.state, loss = self.epoch(self.state, self.x, key)
        jax.block_until_ready((self.state, loss))

# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tour: from a table of your own to a served energy
#
# A table with columns in units of their own, an energy learned from it, what it says of points
# it has not seen, samples, and the model in a server's format. Half a minute on two cores; as a
# notebook: `jupytext --to notebook reproduce/notebooks/tour.py`.

# %%
import logging
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported
logging.getLogger("tensorflow").setLevel("ERROR")

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import deen_tf as deen

folder = pathlib.Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)

# %% [markdown]
# ## The data
#
# Two seasons of a weather station, as a file would hold them, kelvin beside hectopascal. Put
# your own file here.

# %%
summer = rng.normal([294.0, 1016.0], [3.0, 5.0], size=(12_000, 2))
winter = rng.normal([276.0, 1008.0], [5.0, 11.0], size=(8_000, 2))
table = np.concatenate([summer, winter])
rng.shuffle(table)
np.savetxt(folder / "station.csv", table, delimiter=",", header="kelvin,hectopascal")

x = np.loadtxt(folder / "station.csv", delimiter=",")
train, validation, test = x[:14_000], x[14_000:17_000], x[17_000:]

# %% [markdown]
# ## The noise level
#
# The bandwidth at which held-out points are likeliest under a kernel density estimate, one for
# each column: kelvin and hectopascal have nothing in common.

# %%
sigma = deen.parzen.select_sigma(train, validation, per_coordinate=True)
print("sigma:", np.round(sigma, 2), "kelvin, hectopascal")

# %% [markdown]
# ## The fit
#
# `fit` is Keras': callbacks, validation data, optimizers, schedules. The loss has a floor that
# is not zero, the error of the best possible denoiser.

# %%
model = deen.DEEN(hidden_units=(32, 32, 32), sigma=sigma, seed=0)
model.compile()
history = model.fit(
    train, batch_size=2000, epochs=60, validation_data=validation, verbose=0
)
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot(history.history["loss"], label="training")
ax.plot(history.history["val_loss"], label="validation")
ax.set(xlabel="epoch", ylabel="loss (Eq. 19)")
ax.legend()

# %% [markdown]
# ## What the energy says
#
# Low energy is high density. Its differences are differences of log density, here of the density
# smoothed by sigma; the score points to where points are denser. The energy is a function, so
# that the score has no curl but rounding.

# %%
corner = np.array([[294.0, 1016.0], [276.0, 1008.0], [285.0, 1012.0]])
energy = model.energy(corner)
for place, e in zip(
    ("summer", "winter", "between"), energy - energy.min(), strict=True
):
    print(f"{place:8} {e:6.2f} nats above the lowest")
curl = deen.fields.curl(model, test[:500])
slope = np.abs(model.score(test[:500])).mean()
print(f"curl {np.abs(curl).max():.1e}, beside scores of {slope:.2f} nats per unit")

# %% [markdown]
# Held against a kernel density estimate of the same points, which is the density DEEN aims at,
# known up to the points it was drawn from:

# %%
scale = np.asarray(sigma)
parzen = deen.laws.Parzen(train / scale, 1.0)  # in units of sigma
difference = model.energy(test) - parzen.energy(test / scale)
print(f"energies differ by {difference.std():.2f} nats (std over test points)")

low, high = x.min(0) - 5, x.max(0) + 5
nodes = np.stack(
    np.meshgrid(np.linspace(low[0], high[0], 121), np.linspace(low[1], high[1], 121)),
    -1,
)
E = model.energy(nodes.reshape(-1, 2)).reshape(121, 121)
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
lines = ax.contourf(nodes[..., 0], nodes[..., 1], np.minimum(E - E.min(), 12), 24)
figure.colorbar(lines, ax=ax, label="E, nats above the lowest")
ax.plot(*test[:400].T, ".", ms=2, color="white")
ax.set(xlabel="kelvin", ylabel="hectopascal")

# %% [markdown]
# ## What it is good for
#
# Denoising is one step of the score (Eq. 11). Unusual readings are those of high energy: here two
# are put among the others. (Far from all data, where no noisy point ever was, an energy of tanh
# units is flat and says nothing.)

# %%
noisy = test + sigma * rng.normal(size=test.shape)
before, after = (
    np.mean(((y - test) / sigma) ** 2) for y in (noisy, model.denoise(noisy))
)
print(f"error over sigma^2: noisy {before:.2f}, denoised {after:.2f}")

planted = np.array([[289.0, 1034.0], [304.0, 1000.0]])
both = np.concatenate([test, planted])
rank = np.argsort(np.argsort(-model.energy(both)))[-2:] + 1
print(
    f"planted readings are numbers {rank[0]} and {rank[1]} of {len(both):,} by energy"
)

# %% [markdown]
# Samplers take a model as they take any density. They step alike in all directions, so that they
# want points in units of sigma; and chains that leave the data must find back, so that the energy
# needs a part that grows: a network of one's own, here the package's MLP beside a Gaussian.

# %%
network = deen.networks.WithGaussian(deen.networks.MLP((32, 32, 32)))
growing = deen.DEEN(network=network, sigma=1.0, seed=0)
growing.compile()
growing.fit(train / scale, batch_size=2000, epochs=60, verbose=0)
start = validation[:300] / scale
chains = deen.sampling.hamiltonian(growing, start, step=1.2, leapfrogs=12, steps=150)
drawn = chains.states[-1] * scale
print(f"R-hat {chains.r_hat:.2f}, accepted {chains.acceptance.mean():.2f}")
print(
    "mean of samples:", np.round(drawn.mean(0), 1), "of data:", np.round(x.mean(0), 1)
)

# %% [markdown]
# ## Keep it, serve it
#
# A `.keras` file trains on exactly where it stopped; a SavedModel needs neither Keras nor this
# package.

# %%
model.save(folder / "station.keras")
model.export(str(folder / "station"))

served = tf.saved_model.load(str(folder / "station"))
answer = served.signatures["score"](x=tf.constant(test[:5], tf.float32))["score"]
print("served and own scores differ by", np.abs(answer - model.score(test[:5])).max())
print(f"saved_model_cli show --dir {folder / 'station'} --all")

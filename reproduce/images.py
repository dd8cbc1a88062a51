"""How the networks of Figures 2 and 3 are made and trained; what they are called.

A network is named by what decides it:

    {"kind": "DEEN", "hidden_units": (1568, 256), "sigma": 0.14,
     "batch": 128, "epochs": 13, "rate": 1e-3, "warmup": 300}

With `warmup` (steps) the start is suited to the data and the rate of Adam rises in so many
steps, then falls by a cosine to zero, with gradients clipped; without, it is the paper's way:
Keras' usual weights and a constant rate. With `gaussian` the energy has a Gaussian part
(`deen_tf.networks.with_gaussian`).
"""

import keras
from plots import block_means

import deen_tf as deen
from deen_tf import networks

# Gradients are cut at this norm, for the loss in the units of the data (Eq. 19). What is
# descended is that loss over sigma^2.
CLIP = 1.0
BLOCK = 50  # steps of which a loss is the mean


def steps(network, x):
    return network["epochs"] * -(-len(x) // network["batch"])


def train(run, network, seed, x, name):
    """Make a network and fit it to x (n, d).

    Returns
    -------
    model : keras.Model
    curve : (ndarray, ndarray), each (blocks,)
        Iterations, and the mean losses of blocks of steps that end there.
    seconds : float
    """
    cls = getattr(deen, network["kind"])
    sigma, rate = network["sigma"], network["rate"]
    more = {"hidden_units": network["hidden_units"]}
    if network.get("gaussian"):
        mlp = networks.MLP(network["hidden_units"], seed=seed)
        more = {"network": networks.WithGaussian(mlp)}
    model = cls(**more, sigma=sigma, seed=seed)
    if "warmup" in network:
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, steps(network, x) - network["warmup"]),
            warmup_target=rate,
            warmup_steps=network["warmup"],
        )
        adam = keras.optimizers.Adam(schedule, global_clipnorm=CLIP / sigma**2)
    else:
        adam = keras.optimizers.Adam(rate)
        model.build((None, x.shape[1]))
    # XLA takes longer to compile than a quick run to train.
    model.compile(adam, **({"jit_compile": False} if run.quick else {}))
    with run.stage(f"train {name}"):
        losses, seconds = run.fit(
            model,
            x,
            batch_size=network["batch"],
            epochs=network["epochs"],
            name=f"{name}, seed {seed}",
        )
    block = min(BLOCK, max(1, len(losses) // 8))
    return model, block_means(losses, block), seconds


def widths(network):
    """Return the hidden layers in words."""
    where = " on windows" if network["kind"] == "FieldOfExperts" else ""
    part = " and a Gaussian part" if network.get("gaussian") else ""
    return "-".join(map(str, network["hidden_units"])) + where + part


def rank_bound(model):
    """Return {"loss_bound": sigma^2 (d - r)} of a model that has one (`loss_bound`)."""
    try:
        return {"loss_bound": model.loss_bound()}
    except (
        AttributeError,
        ValueError,
    ):  # no energy, or no first layer that is a matrix
        return {}

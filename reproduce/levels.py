"""Every noise level at once: what an energy E(x, sigma) sees that one at a single level does not.

A DEEN at one sigma knows its energy up to a constant; and up to one constant for each mode,
where modes lie many sigma apart, for no noisy point is between them. The paper's Sec. 5 leaves
"several sigma" open. Dual score matching (`deen_tf.models.deen`) learns E(x, sigma) at all
levels, with its constant: E(x, sigma) = -log p_sigma(x).

- mass: two Gaussians in the plane, 0.8 and 0.2 of the points, 10, 20, 40 sigma apart. The
  error of the logarithm of their mass ratio, by quadrature of exp(-E) on either side.
- rings: radii 1, 3, 5 with probability in proportion, width 0.2, 10,000 points. The mean log
  density of fresh points: of the model as it is, without any normaliser of a grid.
- scales: N(0, I) and N(0, 16 I) in d = 1000, equal parts. E against the exact energy. The
  network sees the lengths of points: what is tested are weights and constants.
- laws: the four of the plane at all levels from 0.03 to 3, one model each.

    python reproduce/levels.py --seeds 3                # the committed run

What to see: (a) from 20 sigma on one level is off by whole nats, all levels by hundredths; (b)
where there are data (black) the energy is on the exact one, with its constant; (c) the score
error at every level of one model.
"""

from command import options

if __name__ == "__main__":
    args = options(__doc__)

import functools

import keras
import numpy as np
import tensorflow as tf
from experiment import Run
from plots import panels
from scipy import special
from scipy.stats import norm
from truth import HIDDEN_UNITS, LAWS, Truth

import deen_tf as deen
from deen_tf import grids, plotting
from deen_tf.laws import GaussianMixture, Parzen

SMALL = {"hidden_units": (64, 64, 64), "rate": 3e-3}
LARGE = {"hidden_units": (128, 128, 128), "rate": 2e-3}
SETTINGS = {
    "optimizer": "Adam, cosine decay to zero",
    "hidden_units": HIDDEN_UNITS,  # of the single levels, as in figure 1
    "apart": (10, 20, 40),  # sigmas between the two Gaussians
    # Of all levels; tried on held-out points of the rings, for 6000 steps: hidden layers of
    # 64-64-64 (log density -3.89), 128-128 (-4.3); from Glorot's weights (-3.98).
    "mass": SMALL | {"points": 100_000, "batch": 1000, "steps": 4000, "sigma": 0.1},
    "rings": LARGE | {"points": 10_000, "batch": 1000, "steps": 20_000, "lowest": 0.03},
    "scales": SMALL
    | {"points": 100_000, "batch": 500, "steps": 6000, "dimension": 1000},
    "scale_levels": (0.3, 1.0, 3.0),
    "laws": SMALL | {"batch": 2048, "steps": 10_000, "steps_per_epoch": 20},
    "levels": (0.03, 0.1, 0.3, 1.0, 3.0),
    "highest": 20.0,  # times the least standard deviation of the data, or more: a Gaussian
    "test_points": 10_000,
    "cells": 400,
}
TINY = {"points": 2000, "steps": 20, "hidden_units": (8, 8)}
QUICK = {
    "hidden_units": (8, 8),
    "apart": (10, 20),
    "mass": SETTINGS["mass"] | TINY,
    "rings": SETTINGS["rings"] | TINY,
    "scales": SETTINGS["scales"] | TINY,
    "laws": SETTINGS["laws"] | TINY | {"batch": 256},
    "test_points": 200,
    "cells": 100,
}
RADII, WIDTH, BOX = np.array([1.0, 3.0, 5.0]), 0.2, (-7.0, 7.0)


def main(args):
    run = Run(__file__, args, SETTINGS, QUICK)
    run.data = {D: repr(LAWS[D]) for D in LAWS} | {
        "rings of the peer": f"radii {RADII}, probability in proportion, width {WIDTH}"
    }
    shown = {}
    for seed, part in run.each([(s, p) for s in run.seeds for p in PARTS], unit="part"):
        with run.stage(part.__name__):
            shown[part.__name__, seed] = part(run, seed)
    draw(run, shown)
    at = run.settings
    names = [f"mass/{k}-sigma/{one}-levels" for k in at.apart for one in ("all",)]
    names += [f"mass/{k}-sigma/one-level" for k in at.apart]
    names += ["three-rings/all-levels/log_density", "two-scales/energy_error"]
    run.finish(names + [f"{D}/relative_score_error/worst-level" for D in LAWS])


def fit(run, x, sigma, seed, name, at, network=None):
    """Return a DEEN of these points, at one level or at all of a range."""
    batch, steps, several = at["batch"], at["steps"], isinstance(sigma, tuple)
    widths = at["hidden_units"] if several else run.settings.hidden_units
    model = deen.DEEN(None if network else widths, sigma, seed, network=network)
    schedule = keras.optimizers.schedules.CosineDecay(at["rate"], steps)
    model.compile(keras.optimizers.Adam(schedule))
    epochs = max(1, round(steps * batch / len(x)))
    run.fit(model, x, batch_size=batch, epochs=epochs, name=f"{name}, seed {seed}")
    return model


# ---- the relative mass of modes ------------------------------------------------------


def mass(run, seed):
    at = run.settings
    sigma = at.mass["sigma"]
    for k in at.apart:
        means = np.array([[-0.5, 0.0], [0.5, 0.0]]) * k * sigma
        law = GaussianMixture(means, [sigma**2 * np.eye(2)] * 2, [0.8, 0.2])
        x = law.sample(at.mass["points"], seed=seed)
        side = np.abs(means).max() + 8 * sigma
        nodes, cell = grids.midpoints(
            ((-side, side), (-8 * sigma, 8 * sigma)), at.cells
        )
        for name, levels in (
            ("one-level", sigma),
            ("all-levels", (sigma, at.highest * law_scale(x))),
        ):
            model = fit(run, x, levels, seed, f"{k} sigma, {name}", at.mass)
            several = isinstance(levels, tuple)
            energy = (model.smoothed(sigma) if several else model).energy(nodes)
            log_q = -energy.astype("float64")
            left, right = (
                special.logsumexp(log_q[half]) + np.log(cell)
                for half in (nodes[:, 0] < 0, nodes[:, 0] > 0)
            )
            run.metric(f"mass/{k}-sigma/{name}", abs(left - right - np.log(4)))
            if several:
                run.metric(f"mass/{k}-sigma/log_z", np.logaddexp(left, right))


def law_scale(x):
    return float(np.sqrt(np.mean(np.var(x, axis=0))))


# ---- three rings ---------------------------------------------------------------------


def three_rings(run, seed):
    at, lowest = run.settings, run.settings.rings["lowest"]
    x = rings(at.rings["points"], seed)
    held_out, test = (rings(at.test_points, s + seed) for s in (10**5, 10**6))
    one = deen.laws.select_sigma(x, held_out)
    nodes, cell = grids.midpoints(BOX, 2 * at.cells)
    densities = {
        "exact": (log_rings(test), None),
        "parzen": (Parzen(x, one).log_density(test), None),
    }
    model = fit(run, x, one, seed, "rings, one level", at.rings)
    densities["one-level"] = -model.energy(test), -model.energy(nodes)
    model = fit(run, x, (lowest, at.highest * 4), seed, "rings, all levels", at.rings)
    several = [model.log_density(y, lowest) for y in (test, nodes)]
    densities["all-levels"] = several
    for name, (log_p, on_nodes) in densities.items():
        log_p = np.asarray(log_p, "float64")
        if on_nodes is not None:
            log_q = np.asarray(on_nodes, "float64")
            log_z = special.logsumexp(log_q) + np.log(cell)
            radius, p = np.hypot(*nodes.T), np.exp(log_q - log_z) * cell
            ring = np.digitize(radius, [2, 4])
            shares = np.bincount(ring, p, minlength=3) / (RADII / RADII.sum())
            run.metric(f"three-rings/{name}/smallest_mode_ratio", shares.min())
            if name == "one-level":
                log_p = log_p - log_z  # it has no constant of its own
            else:
                run.metric(f"three-rings/{name}/log_z", log_z)
        run.metric(f"three-rings/{name}/log_density", log_p.mean())
    run.metric("three-rings/sigma_best", one)
    return log_q.reshape(2 * at.cells, -1)


def rings(n, seed):
    rng = np.random.default_rng(seed)
    radius = rng.choice(RADII, n, p=RADII / RADII.sum()) + WIDTH * rng.normal(size=n)
    angle = rng.uniform(0, 2 * np.pi, n)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return points.astype("float32")


def log_rings(x):
    """Return the exact log density: that of the radius, spread over its circle."""
    r = np.hypot(*np.asarray(x, "float64").T)
    p = norm.pdf(r[:, None], RADII, WIDTH) @ (RADII / RADII.sum())
    p += norm.pdf(-r[:, None], RADII, WIDTH) @ (RADII / RADII.sum())
    return np.log(p) - np.log(2 * np.pi * r)


# ---- two scales in many dimensions ---------------------------------------------------


@keras.saving.register_keras_serializable(package="reproduce")
class Lengths(keras.layers.Layer):
    """Two experts, of a point's length and of the level alone; (n, d) -> (n, 2).

    d MLP(log |z|^2 / d, level) and sqrt(d) MLP(level). The second is a constant to the score:
    its gradient is that of the second term of dual score matching alone, and Adam, which
    divides by the size of a weight's gradients, does not drown it in the noise of the first.
    """

    def __init__(self, hidden_units=(64, 64), seed=0, **kwargs):
        super().__init__(**kwargs)
        self.hidden_units, self.seed = tuple(hidden_units), seed
        self.of_length = deen.networks.MLP(hidden_units, seed=seed)
        self.of_level = deen.networks.MLP(hidden_units[-1:], seed=seed + 1)

    def get_config(self):
        config = {"hidden_units": self.hidden_units, "seed": self.seed}
        return super().get_config() | config

    def build(self, input_shape):
        self.of_length.build((None, 4))
        self.of_level.build((None, 3))
        self.built = True

    def call(self, z, level, training=False):
        d, sums = z.shape[1], functools.partial(tf.reduce_sum, axis=1)
        length = tf.math.log(tf.reduce_mean(tf.square(z), axis=1, keepdims=True))
        of_length = sums(self.of_length(tf.concat([length, level], axis=1)))
        of_level = sums(self.of_level(level))
        return tf.stack([d * of_length, d**0.5 * of_level], axis=1)

    def silence(self):
        self.of_length.silence()
        self.of_level.silence()


def two_scales(run, seed):
    at, d = run.settings, run.settings.scales["dimension"]
    law = GaussianMixture.two_scales(d)
    x = law.sample(at.scales["points"], seed=seed, dtype="float32")
    lowest = min(at.scale_levels)
    models = {"all-levels": (lowest, at.highest * law_scale(x)), "one-level": lowest}
    curves = {}
    for name, levels in models.items():
        network = Lengths(seed=seed)
        if name == "one-level":
            network = OneLevel(network)
        model = fit(run, x, levels, seed, f"scales, {name}", at.scales, network)
        errors = []
        for level in at.scale_levels if name == "all-levels" else (lowest,):
            density = law.smoothed(level)
            xi = density.sample(min(at.test_points, 2000), seed=10**6 + seed)
            one = model.smoothed(level) if name == "all-levels" else model
            difference = np.asarray(one.energy(xi), "float64") - density.energy(xi)
            if name == "one-level":  # free up to a constant: that of the narrow part
                narrow = (xi**2).mean(1) < 4 + level**2
                difference -= np.median(difference[narrow])
            errors.append(np.abs(difference))
            run.metric(f"two-scales/{name}/energy_error@{level:g}", errors[-1].mean())
            radii = np.linspace(0.02, 5, 250)
            direction = np.random.default_rng(seed).normal(size=d)
            line = radii[:, None] * direction * np.sqrt(d) / np.linalg.norm(direction)
            curves[name, level] = radii, one.energy(line), density.energy(line)
        worst = max(e.mean() for e in errors)
        if name == "all-levels":
            run.metric("two-scales/energy_error", worst)
            run.metric(
                "two-scales/energy_error_99",
                max(np.quantile(e, 0.99) for e in errors),
            )
    return curves


@keras.saving.register_keras_serializable(package="reproduce")
class OneLevel(keras.layers.Layer):
    """Lengths at a single level, beside the Gaussian part: 0.5 |z|^2 and the rest."""

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        self.network = network

    def get_config(self):
        network = keras.saving.serialize_keras_object(self.network)
        return super().get_config() | {"network": network}

    def build(self, input_shape):
        self.network.build(input_shape)
        self.built = True

    def call(self, z, training=False):
        told = keras.ops.zeros_like(z[:, :3])
        return self.network(z, level=told, training=training)


# ---- the laws of the plane, at every level -------------------------------------------


def plane(run, seed):
    at = run.settings
    curves = {}
    for D, law in LAWS.items():
        x = law.sample(at.laws["batch"] * at.laws["steps_per_epoch"], seed=seed)
        highest = at.highest * law_scale(x)
        model = fit(run, x, (min(at.levels), highest), seed, D, at.laws)
        errors = []
        for level in at.levels:
            truth = Truth(law, level, at.test_points, at.cells)
            truth.draw(seed)
            one = model.smoothed(level)
            errors.append(truth.relative_score_error(one))
            run.metric(f"{D}/relative_score_error/level={level:g}", errors[-1])
            kl = (one.energy(truth.xi) - truth.density.energy(truth.xi)).mean()
            run.metric(f"{D}/model_kl/level={level:g}", kl)
            run.metric(f"{D}/grid_kl/level={level:g}", truth.grid_kl(one))
            if level == 0.1:
                run.metric(f"{D}/kl", kl)
        run.metric(f"{D}/relative_score_error/worst-level", max(errors))
        curves[D] = errors
    return curves


PARTS = (mass, three_rings, two_scales, plane)


# ---- the figure ----------------------------------------------------------------------


def draw(run, shown):
    at = run.settings
    figure, axes = panels(2, 2, 7)
    ax = axes[0, 0]
    for k, name in enumerate(("one-level", "all-levels")):
        values = [run.values(f"mass/{a}-sigma/{name}") for a in at.apart]
        label = name.replace("-", " ")
        place = np.array(at.apart) * (0.98, 1.02)[k]
        plotting.median_and_range(ax, place, values, fmt="o-", label=label)
    ax.axhline(0.05, color="0.6", ls="--", label="0.05")
    ax.set(xscale="log", yscale="log", xlabel="distance of the two Gaussians, sigma")
    ax.set_xticks(at.apart, list(map(str, at.apart)))
    ax.minorticks_off()
    ax.set(ylabel="|error of log mass ratio|, nats", title="(a) mass of modes")
    ax.legend()

    ax = axes[0, 1]
    curves, d = shown["two_scales", run.first], at.scales["dimension"]
    for k, ((name, level), (r, energy, exact)) in enumerate(curves.items()):
        values = {"r": r, "energy": energy, "exact": exact}
        run.arrays(f"scales/{name}/{level:g}", values, unit="nats")
        if name == "all-levels":
            ax.plot(r, exact, color="0.7", lw=3, label="exact" if k == 0 else None)
            ax.plot(r, energy, color=f"C{k}", label=f"model, sigma {level:g}")
            data = np.hypot([1, 4], level)  # the lengths that points have
            style = {"label": "where points are"} if k == 0 else {}
            ax.plot(data, np.interp(data, r, exact), "ko", **style)
    ax.set(xlabel=r"$|x| / \sqrt{d}$", ylabel="E, nats")
    ax.set_title(f"(b) two scales, d = {d}: E(x, sigma), no constant left free")
    ax.legend()

    ax = axes[1, 0]
    for k, D in enumerate(LAWS):
        values = [
            run.values(f"{D}/relative_score_error/level={s:g}") for s in at.levels
        ]
        plotting.median_and_range(
            ax, at.levels, values, fmt="o-", color=f"C{k}", label=D
        )
    ax.axhline(0.01, color="0.6", ls="--", label="0.01")
    ax.set(xscale="log", yscale="log", xlabel="sigma", ylabel="relative score error")
    ax.set_title("(c) one model of all levels")
    ax.legend()

    ax = axes[1, 1]
    density = np.exp(shown["three_rings", run.first])
    told = run.median("three-rings/all-levels/log_density")
    true = run.median("three-rings/exact/log_density")
    title = f"(d) three rings: log density {told:.3f} (exact {true:.3f})"
    label = "density, with its own constant"
    plotting.value_map(ax, density.ravel(), BOX, title, label=label)
    run.arrays("rings", {"density": density}, box=BOX)
    seeds = len(run.seeds)
    told = f"median and range of {seeds} seeds" if seeds > 1 else f"seed {run.first}"
    figure.suptitle(f"One energy of x and sigma at every noise level; {told}")
    run.figure(figure, run.name)


if __name__ == "__main__":
    main(args)

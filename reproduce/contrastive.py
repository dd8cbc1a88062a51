"""Contrastive divergence beyond the paper's one setting: the step swept, from two starts.

Sec. 4 reports the collapse of contrastive divergence with one Langevin step at sigma = 0.1,
"we did some experimentations" for others. Eq. 26 has one sigma, the step s of the chain.
For Gaussian data of width w the energy has a fixed point only for s < w / sqrt 2; there it
is too steep by the factor (see `deen_tf.models.contrastive_divergence`)

    k w^2 = (1 - sqrt(1 - 2 r)) / r,    r = s^2 / w^2,

which for modes that are far apart, Gaussian in m dimensions, is a divergence of

    m / 2 (k w^2 - 1 - log k w^2)  nats:  m = 2 for the mixture, 1 across the spiral.

    python reproduce/contrastive.py --seeds 3           # the committed run

The model aims at the density of the data, not at a smoothed one, and is measured against it.

What to see: the divergence is least at a step of 0.03, far above the closed form, rises at
smaller steps, which 10,000 iterations do not finish, and leaves all bounds just left of
w / sqrt 2, where the paper's step lies.
"""

from command import options

if __name__ == "__main__":
    args = options(__doc__)

import keras
import numpy as np
from experiment import Run
from plots import panels
from truth import HIDDEN_UNITS, LAWS, SIGMA, Truth

import deen_tf as deen
from deen_tf import plotting

SETTINGS = {  # as in fig1.py: network, optimizer, batch, iterations to an epoch
    "hidden_units": HIDDEN_UNITS,
    "steps": (0.01, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2),  # the paper's is 0.1
    "iterations": (1000, 10_000),
    "batch": 1024,
    "steps_per_epoch": 25,
    "optimizer": "Adam(1e-3)",
    "test_points": 10_000,  # of the data; fresh
    "cells": 200,
}
QUICK = {"steps": (0.05, 0.2), "iterations": (50, 100)}
STARTS = {"glorot": "Glorot's weights", "gaussian": "Gaussian energy"}
WIDTHS = {"mixture": (0.15, 2), "spiral": (0.1, 1)}  # w, and in how many dimensions
METRICS = ("relative_score_error", "grid_kl", "smallest_mode_ratio")


def main(args):
    run = Run(__file__, args, SETTINGS, QUICK)
    at = run.settings
    run.data = {D: repr(LAWS[D]) for D in WIDTHS}
    truths = {D: Truth(LAWS[D], 0.0, at.test_points, at.cells) for D in WIDTHS}
    for D, (width, _) in WIDTHS.items():
        run.metric(f"{D}/largest_step", width / 2**0.5)
    for seed, D, start, s in run.each(
        (seed, D, start, s)
        for seed in run.seeds
        for D in WIDTHS
        for start in STARTS
        for s in at.steps
    ):
        model = deen.ContrastiveDivergence(
            hidden_units=HIDDEN_UNITS, sigma=SIGMA, step=s, seed=seed
        )
        model.compile(keras.optimizers.Adam(1e-3))
        x, done = LAWS[D].sample(at.batch * at.steps_per_epoch, seed=seed), 0
        if start == "glorot":
            model.build(x.shape)
        for end in at.iterations:
            epochs, done = (end - done) // at.steps_per_epoch, end
            run.fit(
                model, x, batch_size=at.batch, epochs=epochs, name=f"{D} {start} {s}"
            )
            for metric, value in truths[D].measure(model, *METRICS).items():
                run.metric(f"{D}/{start}/{metric}/s={s}@{end}", value)
    draw(run)
    s, end = at.steps[-1 if run.quick else 4], at.iterations[-1]
    run.finish(
        f"{D}/{A}/{m}/s={s}@{end}" for D in WIDTHS for A in STARTS for m in METRICS[1:]
    )


def divergence(s, width, across):
    """Return the divergence at the fixed point, in nats; NaN where there is none."""
    r = s**2 / width**2
    with np.errstate(invalid="ignore"):
        steepness = (1 - np.sqrt(1 - 2 * r)) / r  # k w^2
    return across / 2 * (steepness - 1 - np.log(steepness))


def draw(run):
    at = run.settings
    figure, axes = panels(2, 2, 7, sharex=True, sharey="row")
    for (row, column), ax in np.ndenumerate(axes):
        metric, D = METRICS[1 + row], list(WIDTHS)[column]
        for k, (start, label) in enumerate(STARTS.items()):
            for end in at.iterations:
                values = [
                    run.values(f"{D}/{start}/{metric}/s={s}@{end}") for s in at.steps
                ]
                last = end == at.iterations[-1]
                plotting.median_and_range(
                    ax,
                    np.array(at.steps) * (0.97, 1.03)[k],  # side by side
                    values,
                    fmt="o-" if last else "o:",
                    mfc=f"C{k}" if last else "white",
                    color=f"C{k}",
                    label=f"{label}, {end} iterations",
                )
        width, across = WIDTHS[D]
        edge = width / 2**0.5
        ax.axvline(edge, color="k", ls="--", label=r"$w/\sqrt{2}$")
        ax.axvline(SIGMA, color="0.6", label="the paper's step")
        ax.grid(alpha=0.4)
        if row == 0:
            fine = np.geomspace(at.steps[0], edge, 200)
            ax.plot(fine, divergence(fine, width, across), "k", label="closed form")
            ax.set(xscale="log", yscale="log", ylim=(1e-3, None))
            ax.set_title(f"{D}, w = {width:.3g}")
        else:
            ax.set(ylim=(-0.03, 1.03), xlabel="step s of Eq. 26")
            ax.set_xticks(at.steps, list(map(str, at.steps)))
            ax.minorticks_off()
    axes[0, 0].set_ylabel("KL(data || model), nats")
    axes[1, 0].set_ylabel("poorest mode's share of its mass")
    axes[0, 0].legend()
    figure.suptitle(
        "Contrastive divergence, one Langevin step, Adam 1e-3; median and range of "
        f"{len(run.seeds)} seeds"
    )
    run.figure(figure, run.name)


if __name__ == "__main__":
    main(args)

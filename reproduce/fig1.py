"""Figure 1: energies, scores and curls of DEEN, DSM and contrastive divergence in 2-D.

Claim (Sec. 4): after 1000 iterations DEEN has learned the energies of a Gaussian mixture
and of a spiral, its score has no curl; the score learned directly (DSM) has one, far from
zero; contrastive divergence collapses.

Both data sets have a known density, so every panel is measured against the truth: the
density smoothed by N(0, sigma^2 I), which is what DEEN and DSM aim at.

    python reproduce/fig1.py                                  # one seed, 1000 iterations
    python reproduce/fig1.py --variants --seeds 5 --long 2    # the committed run
    python reproduce/fig1.py --study                # dependence on batch and data set size

What to see: (a)-(d) are the exact density and score up to a percent where there are data;
away from them, under the veil, nothing was learned and DEEN and DSM
differ. (g)(h) are no rounding: DEEN's curl is a millionth of them. In (i)(j) modes are gone.
"""

from command import options

if __name__ == "__main__":
    args = options(
        __doc__,
        long={
            "type": int,
            "default": 0,
            "metavar": "K",
            "help": "let the first K seeds go on to 10,000 iterations (@10k)",
        },
        variants={
            "action": "store_true",
            "help": "also what no panel shows: the other starts, and Eq. 27's plain step",
        },
        study={
            "action": "store_true",
            "help": "only measure the dependence on batch and data set size",
        },
    )

import functools

import keras
import numpy as np
from experiment import Run
from plots import block_means, panels
from truth import HIDDEN_UNITS, LAWS, SIGMA, Truth

import deen_tf as deen
from deen_tf import fields, plotting

SETTINGS = {
    # The paper's: architecture, sigma, Adam 1e-3, 1000 iterations.
    "hidden_units": HIDDEN_UNITS,
    "sigma": SIGMA,
    "iterations": 1000,
    "long": 10_000,
    # Ours: the paper states neither batch nor data set size. With Adam at a constant rate
    # the error that remains is the noise of the last steps, which falls with the batch:
    # these are the smallest powers of two at which it is below what 1000 (10,000)
    # iterations otherwise leave. The data set is so large that it does not matter; a point
    # is seen 40 times in 1000 iterations. See `--study`. Contrastive divergence goes wrong
    # at any batch; a smaller one costs less.
    "batch": {"to 1000": 8192, "to 10,000": 16384, "cd": 1024},
    "steps_per_epoch": 25,
    "test_points": 20_000,  # fresh, from the exact smoothed density
    "optimizer": "Adam(1e-3); cd-sgd: SGD(1e-3), which is Eq. 27 to the letter",
    # The paper states no start. DEEN's and DSM's is the models' own, suited to the data;
    # contrastive divergence, which loses modes from Keras' usual one, has that. The rows
    # deen-glorot and cd-gaussian are the other way round.
    "glorot": ("deen-glorot", "cd", "cd-sgd"),
}
QUICK = {"iterations": 25, "long": 50, "batch": dict.fromkeys(SETTINGS["batch"], 256)}
DATA = ("mixture", "spiral")
MODELS = ("deen", "deen-glorot", "dsm", "cd", "cd-gaussian", "cd-sgd")
LONG_MODELS = ("deen", "deen-glorot", "dsm", "cd")
METRICS = ("relative_score_error", "relative_curl", "max_abs_curl", "excess_loss")
METRICS += ("grid_kl", "smallest_mode_ratio")
NODES = 201  # along a side of a panel

PANELS = {  # as in the paper; its caption does not name (e)(f), which are DSM's score here
    "a": ("mixture", "deen", "q"),
    "b": ("mixture", "deen", "psi"),
    "e": ("mixture", "dsm", "psi"),
    "g": ("mixture", "dsm", "curl"),
    "i": ("mixture", "cd", "q"),
    "c": ("spiral", "deen", "q"),
    "d": ("spiral", "deen", "psi"),
    "f": ("spiral", "dsm", "psi"),
    "h": ("spiral", "dsm", "curl"),
    "j": ("spiral", "cd", "q"),
}
QUANTITIES = {  # in words, unit, equation
    "q": ("$q = e^{-E}$", "1, peak at 1", "q = exp(-E), Eq. 1"),
    "psi": (r"$\psi$", "nats per unit of x", "psi = -grad E, Eq. 3 (DSM: Eq. 17)"),
    "curl": (
        r"$\nabla\times\psi$",
        "nats per unit of x squared",
        "d1 psi2 - d2 psi1, Sec. 4",
    ),
}
AXES = "(x2, x1, ...): rows are x2, columns x1, both over `box`"
NAMES = {"deen": "DEEN", "dsm": "DSM", "cd": "CD from Glorot's\nweights (Adam)"}


def main(args):
    if args.study:
        return study(args)
    run = Run(__file__, args, SETTINGS, QUICK)
    at = run.settings
    truths = {D: Truth(LAWS[D], at.sigma, at.test_points) for D in DATA}
    run.data = {D: repr(LAWS[D]) for D in DATA}
    models = MODELS if args.variants else NAMES
    fits = [
        (
            seed,
            D,
            M,
            [at.iterations, at.long][: 1 + (k < args.long and M in LONG_MODELS)],
        )
        for k, seed in enumerate(run.seeds)
        for D in DATA
        for M in models
    ]
    shown = {}
    for seed, D, M, ends in run.each(fits):
        truth, model, done, seconds = truths[D], build(M, seed), 0, 0.0
        truth.draw(seed)
        for end in ends:
            tag = "@10k" if end == at.long else ""
            batch = at.batch["cd" if "cd" in M else "to 10,000" if tag else "to 1000"]
            x = LAWS[D].sample(batch * at.steps_per_epoch, seed=seed)
            epochs = (end - done) // at.steps_per_epoch
            losses, spent = run.fit(
                model, x, batch_size=batch, epochs=epochs, name=f"{D} {M}, seed {seed}"
            )
            done, seconds = end, seconds + spent
            with run.stage("measure"):
                measured = truth.measure(model, *METRICS) | {"seconds": seconds}
                run.record(f"{D}/{M}{tag}", measured)
            if seed == run.first and not tag and M in NAMES:
                shown[D, M] = maps(model, truth) | {"losses": losses}
                run.export(model, f"{D}-{M}")
    draw_paper(run, shown, truths)
    draw_truth(run, shown, truths)
    run.finish(
        f"{D}/{M}/{metric}"
        for D in DATA
        for M, metrics in (
            ("deen", METRICS[::4]),
            ("dsm", METRICS[:2]),
            ("cd", METRICS[4:]),
        )
        for metric in metrics
    )


def build(name, seed):
    """Compile one model, with Adam at 1e-3 as in the paper.

    For contrastive divergence the paper gives two prescriptions: Adam for all experiments
    "presented so far", and Eq. 27, a plain gradient step of 1e-3. The plain step moves the
    energy hardly at all in 1000 iterations; `cd` is therefore the one with Adam.
    """
    kind, _, variant = name.partition("-")
    cls = {"deen": deen.DEEN, "dsm": deen.DSM, "cd": deen.ContrastiveDivergence}[kind]
    model = cls(hidden_units=HIDDEN_UNITS, sigma=SIGMA, seed=seed)
    model.compile(None if variant == "sgd" else keras.optimizers.Adam(1e-3))
    if name in SETTINGS["glorot"]:
        model.build((None, 2))
    return model


def maps(model, truth):
    """Return what the panels show of a model, on the nodes of their grid."""
    nodes = plotting.grid(truth.view, NODES)
    values = {"psi": model.score(nodes), "curl": fields.curl(model, nodes)}
    if hasattr(model, "energy"):
        energy = model.energy(nodes)
        # E is free up to a constant: choose it so that q peaks at 1.
        values["q"] = np.exp(-(energy - energy.min()))
    return values


def draw_paper(run, shown, truths):
    """All ten panels of the paper's Figure 1, in its letters."""
    figure, axes = panels(2, 5, 5.6)
    for ax, (letter, (D, M, what)) in zip(axes.flat, PANELS.items(), strict=True):
        values, box, (p, _) = shown[D, M][what], truths[D].view, exact(truths[D])
        title = f"({letter}) {NAMES[M]}: {QUANTITIES[what][0]}"
        if what == "psi":
            plotting.score_field(ax, values, box, title, density=p)
        elif what == "curl":
            more = {"signed": True, "label": "nats per unit$^2$", "density": p}
            plotting.value_map(ax, values, box, title, **more)
        else:
            plotting.value_map(ax, values, box, title)
        about = dict(zip(("unit", "equation"), QUANTITIES[what][1:], strict=True))
        values = values.reshape(NODES, NODES, -1).squeeze()
        about |= {"data": D, "model": M, "box": box, "axes": AXES}
        run.arrays(letter, {"values": values}, **about)
    figure.suptitle(
        f"Figure 1 after {run.settings.iterations} iterations, sigma = {SIGMA}, seed "
        f"{run.first}; q scaled to peak at 1.\nVeiled: where there are no data (one point in "
        "a thousand) nothing is learned, and models differ"
    )
    run.figure(figure, "fig1")


def draw_truth(run, shown, truths):
    """The exact density and score, each model's error on the same axes, the curves."""
    figure, axes = panels(2, 6, 4.6)
    for ax, (D, truth) in zip(axes, truths.items(), strict=True):
        p, psi = exact(truth)
        box = truth.view
        plotting.value_map(ax[0], p, box, f"{D}: exact density $p_\\sigma$")
        plotting.score_field(ax[1], psi, box, r"exact score $\psi^*$")
        for panel, M in zip(ax[2:5], NAMES, strict=True):
            error = np.linalg.norm(shown[D, M]["psi"] - psi, axis=1) * np.sqrt(p)
            relative = run.values(f"{D}/{M}/relative_score_error")[0]
            title = f"{M.upper()}: relative\nerror {relative:.3g}"
            label = "nats per unit$^2$"
            plotting.value_map(panel, error, box, title, label=label)
        steps = run.settings.steps_per_epoch
        curves = {M: block_means(shown[D, M]["losses"], steps) for M in ("deen", "dsm")}
        plotting.loss_curves(ax[5], curves, f"{D}: training", floor=truth.floor)
        ax[5].legend(loc="upper right", fontsize=6, handlelength=1)
        values = {"p": p.reshape(NODES, NODES), "psi": psi.reshape(NODES, NODES, 2)}
        about = {"box": box, "unit": "per unit area; nats per unit", "axes": AXES}
        run.arrays(f"truth/{D}", values, **about)
        about = {"floor": truth.floor, "equation": "Eq. 19 (DSM: Eq. 17), epoch means"}
        for M, (iterations, losses) in curves.items():
            values = {"iterations": iterations, "losses": losses}
            run.arrays(f"curves/{D}/{M}", values, **about)
    said = r"Errors: $|\psi-\psi^*|\sqrt{p_\sigma}$, each on a scale of its own"
    figure.suptitle(said)
    run.figure(figure, "fig1-truth")


@functools.cache
def exact(truth):
    """Return density (nodes,) and score (nodes, 2) on the nodes of the panels."""
    nodes = plotting.grid(truth.view, NODES)
    return np.exp(-truth.density.energy(nodes)), truth.density.score(nodes)


def study(args):
    """How DEEN's error after 1000 iterations depends on batch and data set size."""
    run = Run(__file__, args, SETTINGS, QUICK, name="fig1-study")
    at = run.settings
    run.data = {D: repr(LAWS[D]) for D in DATA}
    cases = [(batch, 1_000_000) for batch in (128, 512, 2048, 8192, 32768)]
    cases += [(8192, n) for n in (1000, 10_000, 100_000)]
    for D, (batch, n), seed in run.each(
        (D, case, seed)
        for D in DATA
        for case in (cases[:1] if run.quick else cases)
        for seed in run.seeds
    ):
        # One long epoch: every point equally often, in random order.
        x = LAWS[D].sample(n, seed=seed)
        rows, model = np.resize(x, (batch * at.iterations, 2)), build("deen", seed)
        run.fit(model, rows, batch_size=batch, epochs=1, name=f"{D} {batch} {n}")
        truth = Truth(LAWS[D], at.sigma, at.test_points)
        truth.draw(seed)
        name = f"{D}/deen/relative_score_error/batch {batch}, {n} points"
        run.metric(name, truth.relative_score_error(model))
    run.finish(run.recorded)


if __name__ == "__main__":
    main(args)

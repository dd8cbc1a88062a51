"""The products of experts that DEEN learns on Figure 1's data, taken apart (Sec. 3, Eq. 24).

    E(x) = sum_alpha eps_alpha(x),   eps_alpha = w_alpha h_alpha^(L),   q = prod exp(-eps_alpha)

Sec. 5 calls "understanding the PoE underlying DEEN" an important next step. Asked here, of
networks trained as those of Figure 1: what does an expert look like, how many matter, what
does removing one do? With coefficients c_alpha on the experts (1 as trained, 0 removed),

    psi_c = -sum_alpha c_alpha grad eps_alpha,   E|psi_c - psi*|^2 = c.Gc - 2 b.c + E|psi*|^2,
    G = E grad eps_alpha . grad eps_beta,        b = -E grad eps_alpha . psi*,

so that one matrix answers for every subset of experts; E is over the exact smoothed density,
psi* its score. An expert's share is s_alpha = G_alpha,alpha: with psi = psi*, removing it
makes a Fisher divergence of just s_alpha. Refitted, the others' coefficients are those of
least score error, G_SS c_S = b_S: what is lost then was in no other expert.

The end of that section averages M networks. As members of a `MixtureOfDEENs`, trained
together, each network is one expert MLP / M; DEENs trained apart, by seed, can be averaged
too. Both averages are held against their members.

    python reproduce/experts.py --seeds 5               # the committed run

What to see: no expert has a region of its own; (a)(b) one removed is hardly missed, (c) but
it takes two thirds of them; (d) each of the four networks alone is useless.
"""

from command import options

if __name__ == "__main__":
    args = options(__doc__)

import numpy as np
import tensorflow as tf
from experiment import Run
from fig1 import SETTINGS as FIG1
from plots import WIDTH, plt
from truth import HIDDEN_UNITS, LAWS, SIGMA, SMALLER, Truth, remembered

import deen_tf as deen
from deen_tf import metrics, plotting

SETTINGS = {
    "deen": {"hidden_units": HIDDEN_UNITS},
    "deens": SMALLER,
    "sigma": SIGMA,
    "iterations": FIG1["iterations"],
    "batch": FIG1["batch"]["to 1000"],
    "steps_per_epoch": FIG1["steps_per_epoch"],
    "optimizer": "Adam(1e-3)",
    "test_points": FIG1["test_points"],
    "cells": 200,  # along a side, of the quadrature
    "enough": 0.1,  # nats of divergence that experts left out may cost
    "nodes": 81,  # along a side, of an expert's map
}
QUICK = {"iterations": 25, "batch": 256, "test_points": 2000, "cells": 60, "nodes": 41}
DATA, AXES = ("mixture", "spiral"), "experts, largest share first"
KINDS = {"deen": deen.DEEN, "deens": deen.MixtureOfDEENs}


def main(args):
    run = Run(__file__, args, SETTINGS, QUICK)
    at = run.settings
    shown, trained = {}, {D: [] for D in DATA}
    for D, seed, kind in run.each(
        (D, s, k) for D in DATA for s in run.seeds for k in KINDS
    ):
        law = LAWS[D]
        run.data[D] = repr(law)
        model = KINDS[kind](**vars(at)[kind], sigma=SIGMA, seed=seed)
        model.compile()
        x = law.sample(at.batch * at.steps_per_epoch, seed=seed)
        epochs = at.iterations // at.steps_per_epoch
        run.fit(model, x, batch_size=at.batch, epochs=epochs, name=f"{D} {kind}")
        truth = Truth(law, SIGMA, at.test_points, at.cells)
        truth.draw(seed)
        with run.stage("measure"):
            experts = Experts(model.experts, gradients(model), truth)
            if kind == "deens":
                against_members(run, f"{D}/deens", experts)
                continue
            curves = take_apart(run, D, experts)
            shown.setdefault((D, "curves"), []).append(curves)
            run.arrays(f"{D}/seed {seed}", curves, axes=AXES, equation="Eq. 24")
            if D not in shown:
                shown[D] = found = maps(run, experts)
                about = {"axes": f"({AXES}; x2, x1)", "box": found["box"]}
                about["unit"] = "nats, less the mean over the data"
                run.arrays(f"{D}/maps", {"eps": found["eps"]}, **about)
            trained[D].append(model)
        if len(trained[D]) == len(run.seeds) > 1:
            together = Experts(*averaged(trained[D]), truth)
            against_members(run, f"{D}/average", together)
    draw(run, shown)
    names = ("deen/grid_kl", "experts/participation_ratio", "experts/needed")
    names += ("removal/grid_kl_median", "deens/grid_kl", "average/grid_kl")
    run.finish(f"{D}/{name}" for D in DATA for name in names)


def gradients(model):
    """Return the function x (n, d) -> grad eps_alpha(x), (n, experts, d)."""

    @tf.function
    def compiled(x):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            eps = model.experts(x)
        return tape.batch_jacobian(eps, x)

    return lambda x: compiled(tf.constant(np.asarray(x, "float32"))).numpy()


def averaged(models):
    """Return experts and gradients of the average of DEENs trained apart: E_m / M."""
    M = len(models)
    return (
        lambda x: np.stack([model.energy(x) for model in models], axis=1) / M,
        lambda x: -np.stack([model.score(x) for model in models], axis=1) / M,
    )


class Experts:
    """A product of experts beside the truth, for any coefficients c.

    Parameters
    ----------
    values : callable
        x (n, 2) -> eps_alpha(x), (n, experts).
    gradients : callable
        x (n, 2) -> grad eps_alpha(x), (n, experts, 2).
    truth : Truth
    """

    def __init__(self, values, gradients, truth):
        self.truth, self.values = truth, remembered(values)
        slopes = gradients(truth.xi).astype("float64")
        n, self.count, _ = slopes.shape
        self.G = np.einsum("nad,nbd->ab", slopes, slopes, optimize=True) / n
        self.b = -np.einsum("nad,nd->a", slopes, truth.score) / n
        self.power = np.sum(truth.score**2) / n
        self.shares = np.diag(self.G)
        self.order = np.argsort(-self.shares)

    def score_error(self, c):
        return float((c @ self.G @ c - 2 * self.b @ c) / self.power + 1)

    def kl(self, c):
        truth = self.truth
        energy = lambda x: self.values(x) @ c
        return metrics.grid_kl(truth.energy, energy, truth.box, truth.cells)

    def keep(self, some, refit=False):
        """Return the coefficients that keep some experts and remove the others."""
        c = np.zeros(self.count)
        c[some] = 1
        if refit:
            c[some] = np.linalg.lstsq(self.G[np.ix_(some, some)], self.b[some])[0]
        return c


def take_apart(run, D, experts):
    """Record the metrics of one DEEN; return its curves, largest share first."""
    every = np.ones(experts.count)
    s, order = experts.shares, experts.order
    run.metric(f"{D}/deen/relative_score_error", experts.score_error(every))
    run.metric(f"{D}/deen/grid_kl", experts.kl(every))
    run.metric(f"{D}/experts/participation_ratio", s.sum() ** 2 / (s @ s))
    run.metric(f"{D}/experts/agreement", experts.G.sum() / s.sum())
    curves = {"share": s[order] / experts.power}
    for refit, tag in ((False, ""), (True, "_refitted")):
        first = [experts.keep(order[:k], refit) for k in range(1, len(order) + 1)]
        kls = np.array([experts.kl(c) for c in first])
        short = np.flatnonzero(kls > kls[-1] + run.settings.enough)
        needed = short[-1] + 2 if len(short) else 1  # one more than the last too few
        run.metric(f"{D}/experts/needed{tag}", needed)
        without = [experts.keep(np.delete(order, k), refit) for k in range(len(order))]
        damage = {
            "relative_score_error": [experts.score_error(c) for c in without],
            "grid_kl": [experts.kl(c) for c in without],
        }
        then = "; one expert removed, the others " + ("refitted" if refit else "kept")
        for metric, values in damage.items():
            for which in ("min", "median", "max"):
                value = getattr(np, which)(values)
                note = f"{then}; {which} over the experts"
                run.metric(f"{D}/removal{tag}/{metric}_{which}", value, metric, note)
        curves |= {f"kl of the first{tag}": kls}
        curves |= {f"{m} without one{tag}": np.array(v) for m, v in damage.items()}
    return curves


def against_members(run, name, experts):
    """Record an average of M networks, its members alone, and the average less one."""
    M = experts.count
    alone = M * np.eye(M)  # the experts are MLP / M
    less_one = (1 - np.eye(M)) * M / (M - 1)
    for metric, f in (
        ("relative_score_error", experts.score_error),
        ("grid_kl", experts.kl),
    ):
        run.metric(f"{name}/{metric}", f(np.ones(M)))
        for tag, coefficients, what in (
            ("-members", alone, "each network alone"),
            ("-less-one", less_one, "the average of all networks but one"),
        ):
            value = np.median([f(c) for c in coefficients])
            note = f"; {what}: median"
            run.metric(f"{name}{tag}/{metric}_median", value, metric, note)


def maps(run, experts):
    """Return each expert on a grid, and the densities of the first few, largest share first."""
    truth, nodes = experts.truth, run.settings.nodes
    eps = experts.values(plotting.grid(truth.view, nodes))
    densities = {}
    for k in (experts.count // 4, experts.count // 2, experts.count):
        energy = eps @ experts.keep(experts.order[:k])
        densities[k] = np.exp(energy.min() - energy)
    eps = (eps - experts.values(truth.xi).mean(0))[:, experts.order]
    return {"eps": eps.T.reshape(-1, nodes, nodes), "q": densities, "box": truth.view}


# ---- figures -------------------------------------------------------------------------


def draw(run, shown):
    """For each data set a page: every expert's map, what its removal does, how many it takes."""
    at = run.settings
    for D in DATA:
        figure = plt.figure(figsize=(WIDTH, 11), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=(1.15, 1))
        draw_maps(upper, shown[D], shown[D, "curves"][0])
        draw_curves(run, lower, shown[D], shown[D, "curves"], D)
        figure.suptitle(
            f"{D}: the {HIDDEN_UNITS[-1]} experts of DEEN after {at.iterations} iterations, "
            f"sigma = {SIGMA}; pictures of seed {run.first}, lines: median and range of "
            f"{len(run.seeds)} seeds"
        )
        run.figure(figure, f"experts-{D}")


def draw_maps(figure, answer, curves):
    axes = figure.subplots(4, len(answer["eps"]) // 4)
    low, high = answer["box"]
    limit = np.abs(answer["eps"]).max()
    style = {"origin": "lower", "extent": (low, high, low, high), "vmin": -limit}
    style |= {"cmap": plotting.DIVERGING, "vmax": limit}
    for k, ax in enumerate(axes.flat):
        image = ax.imshow(answer["eps"][k], **style)
        ax.set(xticks=[], yticks=[], title=f"{curves['share'][k]:.2g}")
    figure.colorbar(
        image,
        ax=axes,
        orientation="horizontal",
        fraction=0.03,
        aspect=50,
        label=r"$\varepsilon_\alpha$ less its mean over the data, nats; above each map the "
        r"share $E|\nabla\varepsilon_\alpha|^2 / E|\psi^*|^2$; "
        f"box {low:.2f} to {high:.2f}",
    )


def draw_curves(run, figure, answer, curves, D):
    axes = figure.subplot_mosaic("aaaabbbbcccc;dddeeefffggg")
    for letter, name, title, whole in (
        (
            "a",
            "relative_score_error without one",
            "one removed",
            "relative_score_error",
        ),
        ("b", "grid_kl without one", "one removed", "grid_kl"),
        ("c", "kl of the first", "only the first $k$", "grid_kl"),
    ):
        ax = axes[letter]
        for tag, text in (("", "as trained"), ("_refitted", "those kept refitted")):
            values = np.array([c[name + tag] for c in curves]).T  # (experts, seeds)
            at = np.arange(1, len(values) + 1)
            plotting.median_and_range(ax, at, values, fmt="o-", ms=2.5, label=text)
        value = run.median(f"{D}/deen/{whole}")
        ax.axhline(value, color="black", ls="--", label="all experts")
        unit = "KL, nats" if whole == "grid_kl" else "relative score error"
        ax.set(title=f"({letter}) {title}", ylabel=unit, yscale="log")
        ax.set_xlabel("$k$" if letter == "c" else "rank of the expert by its share")
        if letter != "b":  # the same lines
            ax.legend(loc=(0.03, 0.2) if letter == "c" else "upper right")
    networks = {
        "one\nDEEN": "deen/relative_score_error",
        "4 DEENs,\ntogether": "deens/relative_score_error",
        "one of\nthe 4": "deens-members/relative_score_error_median",
        "3 of\nthe 4": "deens-less-one/relative_score_error_median",
        "all seeds'\nDEENs": "average/relative_score_error",
    }
    networks = {
        k: f"{D}/{v}" for k, v in networks.items() if f"{D}/{v}" in run.recorded
    }
    values = [run.values(name) for name in networks.values()]
    plotting.median_and_range(
        axes["d"], range(len(values)), values, fmt="o", color="C2"
    )
    axes["d"].set_xticks(range(len(values)), networks, fontsize=6)
    axes["d"].set(title="(d) averages of networks", yscale="log", xlim=(-0.5, 4.5))
    axes["d"].set_ylabel("relative score error")
    for letter, (k, q) in zip("efg", answer["q"].items(), strict=True):
        title = f"({letter}) $q$ of the first {k}"
        plotting.value_map(axes[letter], q, answer["box"], title)


if __name__ == "__main__":
    main(args)

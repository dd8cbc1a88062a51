"""Sampling from a learned energy: Langevin, Hamiltonian Monte Carlo, walk-jump.

Claim (Sec. 5): "the energy function could be directly plugged-in in various MCMC methods".

The plane. A DEEN is trained and sampled with each method, at the same number of score
evaluations. All chains start at ONE data point: they must find the rest of the density for
themselves. Two statistics of where they end, each beside its range for exact points:

- the energy distance to an exact sample: has the whole density been found?
- the excess of the exact energy, its mean over the chains less that under p_sigma: are the
  widths right? (An error of a tenth in them does not show in the energy distance.)

Langevin without Metropolis is off by its step h: where the variance is s^2 it settles at
s^2 / (1 - h / 2 s^2), in the plane an excess of about h / 2 s^2 nats. The same chains on
the exact energy have that error and no other; what lies between the two is the model's.

The walks aim at the smoothed density; the jumps of walk-jump (Eq. 11) are compared with
clean data, which they aim at, and with jumps from exact noisy points by the exact denoiser,
which is the best they can do: a posterior mean is less spread than the data.

MNIST: walk-jump from the wide network and the field of experts of Figure 2 (`walks.py`).

    python reproduce/sampling.py --seeds 3 --data DIR   # the committed run
    python reproduce/sampling.py --parts plane          # needs no data

What to see: all samplers find all of the density; the energies of the two that are exact are
within the range of exact points, their energy distances up to 2.4 times it; Langevin is off by its
step on DEEN's energy and on the true one alike.
"""

from command import options

PARTS = ("plane", "mnist")

if __name__ == "__main__":
    args = options(
        __doc__,
        parts={
            "nargs": "+",
            "choices": PARTS,
            "default": PARTS,
            "help": "what to run (default: both)",
        },
        data={"help": "folder or file of MNIST (default: Keras' cache)"},
    )

import time
import warnings

import numpy as np
import walks
from experiment import Run
from plots import panels
from scipy.spatial.distance import cdist, pdist
from scipy.special import softmax
from truth import HIDDEN_UNITS, LAWS, SIGMA

import deen_tf as deen
from deen_tf import metrics
from deen_tf.diagnostics import ChainsWarning
from deen_tf.grids import midpoints
from deen_tf.laws.parzen import Parzen
from deen_tf.sampling import hamiltonian, langevin, walk_jump

SETTINGS = {
    "hidden_units": HIDDEN_UNITS,
    "sigma": SIGMA,
    "laws": ("mixture", "spiral", "rings"),
    "batch": 2048,
    "steps_per_epoch": 100,
    "iterations": 5000,
    "chains": 1000,  # all from one data point
    "exact_points": 5000,  # of the sample that the chains are compared with
    "evaluations": 2000,  # to a chain: points at which it needs the score
    "kept": 20,  # states on the way
    # On the exact mixture, tried: h = 0.002, 0.005, 0.01, 0.02; e = 0.05, 0.1, 0.15, 0.2
    # with L = 5, 10, 20. h = sigma^2, the step of Eq. 26, and this leapfrog are within a
    # factor of two of the soonest there, and accept 0.93 and 0.97 of their proposals.
    "langevin_step": SIGMA**2,
    "leapfrog_step": 0.1,
    "leapfrogs": 10,
    "null_samples": 200,  # for the ranges of exact points
    "walks": walks.SETTINGS,
}
QUICK = {"laws": ("mixture",), "iterations": 100, "chains": 200, "exact_points": 500}
QUICK |= {"evaluations": 200, "null_samples": 20, "walks": walks.SETTINGS | walks.QUICK}
METHODS = {"langevin": "Langevin", "mala": "Langevin, adjusted", "hmc": "Hamiltonian"}


# What samplers warn of is recorded here.
warnings.simplefilter("ignore", ChainsWarning)


def main(args):
    run = Run(__file__, args, SETTINGS, QUICK)
    if "plane" in args.parts:
        plane(run)
    if "mnist" in args.parts:
        walks.walk(run, args.data)
    shown = [
        f"{D}/deen/{m}/energy_distance" for D in run.settings.laws for m in METHODS
    ]
    shown += [f"{D}/null_95" for D in run.settings.laws]
    shown += [f"mnist/{n}/digits/energy_distance" for n in run.settings.walks["models"]]
    run.finish(shown, part=set(args.parts) != set(PARTS))


def plane(run):
    """Train, sample and measure on every law."""
    at = run.settings
    references, shown = {}, {}
    for D, seed in run.each((D, seed) for D in at.laws for seed in run.seeds):
        law = LAWS[D]
        run.data[D] = repr(law)
        # Every law, and the exact energy beside DEEN's, has noise of its own.
        k = at.laws.index(D)
        if D not in references:
            with run.stage("null ranges"):
                exact = references[D] = Exact(law, at)
            run.record(D, exact.metrics)
            start = law.sample(1, seed=run.first)
            on_exact = chains(run, f"{D}-exact", exact.density, start, 10**6 + k)
            measure(run, f"{D}/exact", on_exact, exact)
        model = deen.DEEN(hidden_units=HIDDEN_UNITS, sigma=SIGMA, seed=seed)
        model.compile()
        x = law.sample(at.batch * at.steps_per_epoch, seed=seed)
        epochs = at.iterations // at.steps_per_epoch
        run.fit(model, x, batch_size=at.batch, epochs=epochs, name=D)
        start = law.sample(1, seed=seed)
        on_deen = chains(run, f"{D}-{seed}", model, start, 1000 * k + seed)
        measure(run, f"{D}/deen", on_deen, exact)
        compare(run, f"{D}/deen", model, on_deen, on_exact, exact, seed)
        shown.setdefault(D, {"deen": on_deen, "exact": on_exact})
    draw(run, references, shown)


# ---- what is exact -------------------------------------------------------------------


class Sample:
    """A sample, and the energy distance of others to it (Szekely and Rizzo 2004).

    2 E|X - Y| - E|X - X'| - E|Y - Y'|: zero if and only if the laws are equal. With means
    over pairs of different points its mean is right for independent samples of any size.
    """

    def __init__(self, points):
        self.points, self.within = points, pdist(points).mean()

    def energy_distance(self, x):
        return 2 * cdist(x, self.points).mean() - pdist(x).mean() - self.within


class Exact:
    """A law's smoothed density, exact samples, and what the statistics are for them.

    Parameters
    ----------
    law : Law
    at : namespace
        sigma, exact_points, chains, null_samples.
    """

    def __init__(self, law, at):
        self.density, self.box = exact_density(law, at.sigma), law.box(at.sigma)
        # Seeds of training count up from 0: the exact samples share none.
        draw, n, first = law.sample_smoothed, at.exact_points, 10**6
        self.noisy = Sample(draw(n, at.sigma, seed=first))
        self.clean = Sample(law.sample(n, seed=first + 1))
        many = draw(40 * n, at.sigma, seed=first + 2)
        self.mean_energy = self.density.energy(many).mean()
        seeds = range(2 * first, 2 * first + at.null_samples)
        null = [draw(at.chains, at.sigma, seed=seed) for seed in seeds]
        pairs = zip(null[::2], null[1::2], strict=True)
        statistics = {
            "null_95": [self.noisy.energy_distance(x) for x in null],
            "null_95_two_samples": [Sample(x).energy_distance(y) for x, y in pairs],
            "excess_energy_null_95": [abs(self.excess_energy(x)) for x in null],
        }
        self.metrics = {k: np.quantile(v, 0.95) for k, v in statistics.items()}
        jumps = self.density.denoise(null[0])
        self.metrics["best_jump"] = self.clean.energy_distance(jumps)

    def escaped(self, x):
        """Return which points are outside the square that holds all but 1e-6 of p_sigma."""
        return (abs(x) > self.box[1]).any(axis=1)

    def excess_energy(self, x):
        """Return the excess of the points that have not escaped: one that has may count
        for more than all the others.
        """
        return self.density.energy(x[~self.escaped(x)]).mean() - self.mean_energy


def exact_density(law, sigma):
    """Return p_sigma with `.energy`, `.score` and `.denoise`, soon evaluated."""
    exact = law.smoothed(sigma)
    # Round modes make a Parzen density of their centres; a curve does of points along it,
    # to 1e-8 of the power of its score.
    if hasattr(law, "covariances"):
        std = law.covariances[0, 0, 0] ** 0.5
    elif hasattr(law, "length"):
        std = law.std
    else:
        return exact
    parzen = Parzen(law.centers(400), np.hypot(std, sigma))
    exact.energy, exact.score = parzen.energy, parzen.score
    return exact


def drawn_on_grid(density, box, n, seed, cells=400):
    """Draw n points of exp(-E) on the box, E taken as constant in a cell of a grid."""
    centres, area = midpoints(box, cells)
    mass = softmax(-density.energy(centres).astype("float64"))
    rng = np.random.default_rng(seed)
    chosen = centres[rng.choice(len(centres), size=n, p=mass)]
    return chosen + area**0.5 * (rng.random((n, 2)) - 0.5)


# ---- chains --------------------------------------------------------------------------


def chains(run, name, density, start, seed):
    """Return each method's chains, {method: {"states": ..., ...}}."""

    def sample(method):
        return lambda: sampled(density, start, method, seed, run.settings)

    with run.stage("sample"):
        return {m: run.once(f"{name}-{m}", sample(m), run.data) for m in METHODS}


def sampled(density, start, method, seed, at):
    """Return the chains of one method; those of plain Langevin with their jumps."""
    start = np.repeat(start, at.chains, axis=0)
    common = {"step": at.langevin_step, "steps": at.evaluations}
    common |= {"seed": seed, "kept": at.kept}
    clock = time.perf_counter()
    jumps = {}
    if method == "hmc":
        trajectories = at.evaluations // at.leapfrogs
        common |= {"step": at.leapfrog_step, "steps": trajectories}
        found = hamiltonian(density, start, leapfrogs=at.leapfrogs, **common)
    elif method == "mala":
        found = langevin(density, start, adjusted=True, **common)
    else:
        jumps["jumps"], found = walk_jump(density, start, **common)
    return jumps | {
        "states": found.states,
        "acceptance": found.acceptance.mean(),
        "r_hat": found.r_hat,
        "ess": found.ess,
        "seconds": time.perf_counter() - clock,
    }


def measure(run, name, chains, exact):
    """Record the numbers of each method; keep the energy distance on the way."""
    for method, answer in chains.items():
        states, null = answer["states"], exact.metrics["null_95"]
        way = np.array([exact.noisy.energy_distance(x) for x in states])
        answer["way"] = way
        values = {
            "energy_distance": way[-1],
            "excess_energy": exact.excess_energy(
                np.concatenate(states[len(way) // 2 :])
            ),
            "escaped": exact.escaped(states[-1]).mean(),
        } | {k: answer[k] for k in ("seconds", "r_hat", "ess")}
        if method != "langevin":
            values["acceptance"] = answer["acceptance"]
        if (way <= null).any():
            part = (np.argmax(way <= null) + 1) / len(way)
            values["evaluations"] = part * run.settings.evaluations
        run.record(f"{name}/{method}", values)
    jumps = exact.clean.energy_distance(chains["langevin"]["jumps"][-1])
    run.metric(f"{name}/walk-jump/energy_distance_to_clean", jumps)


def compare(run, name, model, on_deen, on_exact, exact, seed):
    """Tell the model's error from the sampler's."""
    run.metric(f"{name}/grid_kl", metrics.grid_kl(exact.density, model, exact.box))
    own = Sample(drawn_on_grid(model, exact.box, run.settings.exact_points, seed))
    for method in METHODS:
        last, other = (c[method]["states"][-1] for c in (on_deen, on_exact))
        inside = last[~exact.escaped(last)]
        to_sampler = Sample(other).energy_distance(last)
        values = {
            "energy_distance_to_model": own.energy_distance(inside),
            "energy_distance_to_sampler_on_exact": to_sampler,
        }
        run.record(f"{name}/{method}", values)


# ---- figure --------------------------------------------------------------------------


def draw(run, references, shown):
    """For each law: exact points, where each method's chains ended; both statistics."""
    at = run.settings
    figure, axes = panels(2 * len(references), 5, 4.3 * len(references))
    for upper, lower, D in zip(axes[::2], axes[1::2], references, strict=True):
        exact, found = references[D], shown[D]["deen"]
        points = {f"{D}: exact, smoothed": exact.noisy.points[: at.chains]}
        points |= {METHODS[m]: found[m]["states"][-1] for m in METHODS}
        points["jumps (grey: data)"] = found["langevin"]["jumps"][-1]
        for ax, (title, x) in zip(upper, points.items(), strict=True):
            if "jumps" in title:
                ax.plot(*exact.clean.points[: at.chains].T, ".", ms=1, color="0.6")
            ax.plot(*x.T, ".", ms=1)
            outside = exact.escaped(x).mean()
            ax.set_title(title + (f",\n{outside:.1%} outside" if outside else ""))
            ax.set(xlim=exact.box, ylim=exact.box, aspect="equal")
        grid = lower[0].get_gridspec()
        row = lower[0].get_subplotspec().rowspan.start
        for ax in lower:
            ax.remove()
        draw_ways(figure.add_subplot(grid[row, :3]), exact, shown[D], at.evaluations, D)
        draw_excess(figure.add_subplot(grid[row, 3:]), run, D)
    figure.suptitle(
        f"Samples of DEEN's energy after {at.iterations} iterations, sigma = {SIGMA}, seed "
        f"{run.first}: {at.chains} chains, all from one data point"
    )
    run.figure(figure, run.name)


def draw_ways(ax, exact, shown, evaluations, D):
    """The energy distance on the way."""
    null = exact.metrics["null_95"]
    for k, (method, label) in enumerate(METHODS.items()):
        for density, style in (("deen", "-"), ("exact", ":")):
            way = shown[density][method]["way"]
            at = np.arange(1, len(way) + 1) * evaluations / len(way)
            name = label if density == "deen" else None
            ax.plot(at, way, style, color=f"C{k}", label=name)
    ax.plot([], [], ":", color="0.4", label="on the exact energy")
    ax.axhspan(-null, null, color="0.85", label="exact points, 95%")
    ax.set_yscale("symlog", linthresh=2 * null)
    ax.set(
        xlabel="score evaluations to a chain",
        ylabel=f"units of x; linear up to {2 * null:.2g}",
        ylim=(-2 * null, 1),
    )
    ax.set_title(f"{D}: energy distance to exact points")
    ax.legend(ncols=2)


def draw_excess(ax, run, D):
    """The excess of the exact energy at the end, for all seeds."""
    null = run.median(f"{D}/excess_energy_null_95")
    for k, method in enumerate(METHODS):
        for shift, density, marker, label in (
            (-0.12, "deen", "o", "DEEN, each seed"),
            (0.12, "exact", "x", "exact energy"),
        ):
            values = run.values(f"{D}/{density}/{method}/excess_energy")
            style = {"color": f"C{k}", "label": None if k else label}
            ax.plot(np.full(len(values), k + shift), values, marker, **style)
    ax.axhspan(-null, null, color="0.85", label="exact points, 95%")
    ax.axhline(0, color="0.5", lw=0.8)
    ax.set_xticks(range(len(METHODS)), METHODS.values())
    ax.set(xlim=(-0.5, len(METHODS) - 0.5), ylabel="nats")
    ax.set_title(f"{D}: excess of the exact energy")
    ax.legend()


if __name__ == "__main__":
    main(args)

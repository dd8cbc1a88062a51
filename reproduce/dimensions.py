"""Truth in many dimensions: every estimator against the dimension, and against the points.

The paper has it that the Parzen density suffers from the curse of dimensionality, and that a
network learns its energy from the Parzen density's own samples all the same (Secs. 1, 2).
Here are laws of any dimension whose smoothed density is known exactly, so that score, loss,
Kullback-Leibler divergence and the masses of modes stand beside the truth:

    wells     many wells, a double well in every second coordinate, 2^(d/2) modes
    mixture   40 Gaussians of unit width, scattered over [-40, 40]^d
    student   10 products of Student-t distributions with 2 degrees of freedom
    scales    N(0, I) and N(0, 16 I) in equal parts
    ica       independent Laplace sources, rotated
    funnel    Neal's: the first coordinate is the log variance of the others
    natural   images with the 1/f^2 spectrum of natural ones, a Gaussian: here the Wiener
              filter is the optimum, and a network has to find it

One network and one number of steps for all. And, for the wells, how many points an estimator
needs for a given error, against d.

    python reproduce/dimensions.py                      # the committed run
    python reproduce/dimensions.py --laws wells ica

An interrupted run takes up at the cell (law, dimension, estimator, seed) where it stopped; a
run of some laws keeps its cells for the run of all.
"""

import os

from command import options

LAWS = {  # noise level, dimensions
    # The wells' level is that at which they touch: DEEN sees the relative mass of modes only
    # where it can walk from one to the other.
    "wells": (1.0, (2, 8, 32, 128, 512)),
    "mixture": (1.0, (2, 8, 32, 128, 512)),
    "student": (1.0, (2, 8, 32, 128)),
    "scales": (1.0, (2, 8, 32, 128, 1000)),
    "ica": (0.5, (2, 8, 32, 64)),
    "funnel": (0.5, (2, 10, 32)),
    "natural": (0.5, (16, 64, 256, 1024)),
}

if __name__ == "__main__":
    args = options(
        __doc__,
        laws={"nargs": "+", "choices": LAWS, "metavar": "LAW", "default": list(LAWS)},
        jobs={
            "type": int,
            "default": os.cpu_count(),
            "help": "processes at once, one core each (default: the number of cores)",
        },
    )

import functools
import math
import time

import keras
import numpy as np
from experiment import Run
from plots import panels
from processes import evaluate_all

import deen_tf as deen
from deen_tf import annealing, laws, metrics, plotting

SETTINGS = {
    "hidden_units": (256, 128),
    "steps": 4000,
    "long": 6,  # times as many steps: what more training gives
    "batch": 512,
    "points": 400_000,  # but at most so many numbers:
    "numbers": 5 * 10**7,
    "learning_rate": 2e-3,  # Adam, falling to zero as a cosine
    "parzen_points": 20_000,  # of the data: its cost is their number times that of questions
    "test_points": 10_000,  # fresh, from the exact smoothed density; the same for all
    "annealing": {"chains": 128, "steps": 200, "leapfrogs": 3},
    "laws": LAWS,
    "study": {"law": "wells", "dimensions": (2, 4, 8, 16, 32)},
    "study_points": (100, 1000, 10_000, 100_000),
    "goal": 0.1,  # relative score error
    "segments": 10,  # of a fit to few points: the best on a fifth held out counts
}
QUICK = {
    "hidden_units": (16, 8),
    "steps": 20,
    "batch": 64,
    "points": 1000,
    "parzen_points": 500,
    "test_points": 500,
    "annealing": {"chains": 16, "steps": 10, "leapfrogs": 1},
    "laws": {"wells": (1.0, (2,)), "natural": (0.5, (16,))},
    "study": {"law": "wells", "dimensions": (2,)},
    "study_points": (100, 200),
    "segments": 2,
}
ESTIMATORS = {
    "exact": "exact smoothed density",
    "parzen": "Parzen density (Eq. 12)",
    "gaussian": "Gaussian: the Wiener filter",
    "deen": "DEEN (Eq. 19), with a Gaussian part",
    "dsm": "DSM (Eq. 17)",
    "deen-long": "DEEN, six times as many steps",
    "deen-mlp": "DEEN, the paper's MLP",
    "dae": "denoising autoencoder (Eq. 25)",
    "sm": "score matching (Eq. 9)",
    "rsm": "regularised s. m. (Eq. 10, squared)",
    "nce": "NCE, Gaussian noise",
    "cd": "contrastive divergence (Eq. 26), half the step",
    "stein": "Stein contrastive divergence",
}
UNTRAINED = ("exact", "parzen", "gaussian")
EVERYWHERE = (*UNTRAINED, "deen", "dsm")  # the others: of the wells
STUDIED = ("deen", "parzen", "gaussian")
FARTHEST = {
    "sm": 8,
    "rsm": 8,
    "deen-long": 128,
}  # d backward passes a step: see cost.py


def main(args):
    run = Run(__file__, args, SETTINGS, QUICK)
    at = run.settings
    names = [name for name in args.laws if name in at.laws]
    if not names:
        raise ValueError(f"a quick run has the laws {', '.join(at.laws)} only")
    run.data = {name: f"{law_of(name, 16)!r} for d = 16" for name in names}
    cells = against_d(run, names)
    study = against_n(run) if at.study["law"] in names else []
    # The dearest first: no core waits for the last one.
    order = sorted(cells + study, key=lambda cell: -cell[1])
    compute = functools.partial(evaluate, settings=vars(at))
    with run.stage("cells"):
        found = evaluate_all(run, compute, order, args.jobs)
    answers = dict(zip(order, found, strict=True))
    for law, d, E, seed, n in cells:
        run.record(f"{law}/{d}/{E}", answers[law, d, E, seed, n])
    record_study(run, study, answers)
    draw(run, names)
    shown = [f"{law}/{at.laws[law][1][-1]}/deen/relative_score_error" for law in names]
    shown += [f"wells/32/{E}/mode_mass_error" for E in ("deen", "deen-long")]
    shown += [f"natural/{d}/deen/excess_loss" for d in at.laws["natural"][1]]
    part = set(names) != set(at.laws)
    run.finish(shown, part, estimators=ESTIMATORS)


# ---- what is asked -------------------------------------------------------------------


def against_d(run, names):
    """Return the cells (law, d, estimator, seed, None)."""
    return [
        (law, d, E, seed, None)
        for law in names
        for d in run.settings.laws[law][1]
        for E in ESTIMATORS
        if (E in EVERYWHERE or (law == "wells" and not run.quick))
        and d <= FARTHEST.get(E, math.inf)
        for seed in (run.seeds[:1] if E in UNTRAINED else run.seeds)
    ]


def against_n(run):
    """Return the cells (law, d, estimator, seed, number of points)."""
    at = run.settings
    return [
        (at.study["law"], d, E, seed, n)
        for d in at.study["dimensions"]
        for E in STUDIED
        for n in at.study_points
        for seed in run.seeds
    ]


def law_of(name, d):
    return {
        "wells": laws.ManyWells,
        "mixture": laws.GaussianMixture.scattered,
        "student": laws.StudentMixture.scattered,
        "scales": laws.GaussianMixture.two_scales,
        "ica": laws.IndependentComponents.random,
        "funnel": laws.Funnel,
        "natural": lambda d: laws.Gaussian.natural(math.isqrt(d)),
    }[name](d)


def model_of(E, sigma, seed, hidden_units, steps, rate):
    """Return an estimator, compiled; all energies but one have the same network."""
    plain = {"hidden_units": hidden_units}
    mlp = deen.networks.MLP(hidden_units, seed=seed)
    energy = {"network": deen.networks.WithGaussian(mlp)}
    cls, more = {
        "deen": (deen.DEEN, energy),
        "deen-long": (deen.DEEN, energy),
        "deen-mlp": (deen.DEEN, plain),
        "dsm": (deen.DSM, plain),
        "dae": (deen.DenoisingAutoencoder, plain),
        "sm": (deen.ScoreMatching, energy),
        "rsm": (deen.RegularizedScoreMatching, energy),
        "nce": (deen.NoiseContrastive, energy | {"noise": "gaussian"}),
        "cd": (
            deen.ContrastiveDivergence,
            energy | {"smooth": True, "step": sigma / 2},
        ),
        "stein": (deen.SteinContrastiveDivergence, energy),
    }[E]
    model = cls(sigma=sigma, seed=seed, **more)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    )
    return model


# ---- a cell: fit and measure ---------------------------------------------------------


def evaluate(name, d, E, seed, n, settings):
    """Fit and measure one cell; return {metric: value}."""
    keras.utils.clear_session()
    truth = truth_of(name, d, settings["test_points"])
    law, sigma = truth.law, truth.sigma
    x = law.sample(n or min(settings["points"], settings["numbers"] // d), seed=seed)
    if E == "exact":
        return truth.measure(law.smoothed(sigma), E, settings["annealing"])
    if E == "gaussian":
        model = laws.Gaussian.fit(x).smoothed(sigma)
    elif E == "parzen":
        model = laws.Parzen(x[: n or settings["parzen_points"]], sigma)
    else:
        steps = settings["steps"] * (settings["long"] if E == "deen-long" else 1)
        model = model_of(
            E, sigma, seed, settings["hidden_units"], steps, settings["learning_rate"]
        )
        start = time.process_time()
        try:
            fit(model, x, steps, settings["batch"], settings["segments"] if n else 1)
        except deen.DivergenceError:
            return {"relative_score_error": math.nan}
        seconds = time.process_time() - start
    if n:
        return {"relative_score_error": truth.score_error(model)}
    more = {} if E in UNTRAINED else {"seconds": seconds}
    return truth.measure(model, E, settings["annealing"]) | more


def fit(model, x, steps, batch, segments):
    """Fit the model; of several segments, keep the best on a fifth that is held out."""
    held_out, x = (x[: len(x) // 5], x[len(x) // 5 :]) if segments > 1 else (None, x)
    batch = min(batch, len(x))
    epochs = max(1, round(steps / segments / (len(x) // batch)))
    x, best = x[: len(x) // batch * batch], (math.inf, None)
    for _ in range(segments):
        model.fit(x, batch_size=batch, epochs=epochs, verbose=0)
        if held_out is not None:
            loss = model.evaluate(held_out, batch_size=len(held_out), verbose=0)
            if loss < best[0]:
                best = loss, model.get_weights()
    if held_out is not None:
        model.set_weights(best[1])


@functools.lru_cache(maxsize=2)
def truth_of(name, d, points):
    return Truth(name, d, points)


class Truth:
    """A law at its noise level, and fresh points of it; the same for every estimator."""

    def __init__(self, name, d, points):
        self.name, self.law, self.sigma = name, law_of(name, d), LAWS[name][0]
        density = self.law.smoothed(self.sigma)
        # Seeds of training count up from 0: the test set never shares one.
        self.xi = density.sample(points, seed=10**6)
        self.energy, self.score = density.energy(self.xi), density.score(self.xi)
        few = {} if name in ("wells", "ica", "natural") else {"n": points}
        self.floor = self.law.bayes_loss(self.sigma, **few)

    def score_error(self, model):
        return metrics.relative_score_error(model.score(self.xi), self.score)

    def measure(self, model, E, chains):
        """Return the metrics of a density or a score."""
        psi = model.score(self.xi)
        if not np.isfinite(psi).all():  # diverged
            return {"relative_score_error": math.nan}
        excess = self.sigma**4 * metrics.fisher_divergence(psi, self.score)
        values = {
            "relative_score_error": self.score_error(model),
            "excess_loss": excess / self.floor,
        }
        if E in ("deen", "dsm", "dae"):
            some = self.xi[:1000]
            values["asymmetry"] = metrics.projected_asymmetry(model, some, probes=2)
        if not hasattr(model, "energy"):
            return values
        energy = np.asarray(model.energy(self.xi), "float64")
        values["energy_error"] = metrics.energy_error(energy, self.energy).mean
        ratios = [metrics.mode_ratios(energy, self.energy, k) for k in self.modes()]
        if ratios and ratios[0].effective >= 100:  # of fewer points nothing can be told
            error = max(np.abs(one.ratios - 1).max() for one in ratios)
            values["mode_mass_error"] = float(error)
        # Without a Gaussian part exp(-E) of tanh units has no integral; and of a law whose
        # tails are those of a power every KL but that of the exact density is infinite.
        if E == "deen-mlp" or self.name == "student":
            return values
        log_z = 0.0
        if E not in ("parzen", "gaussian"):
            log_z, error = self.log_z(model, energy, chains)
            values["log_z_error"] = abs(log_z) if E == "exact" else error
        return values | {"kl": float(np.mean(energy - self.energy) + log_z)}

    def modes(self):
        """Return which modes the points belong to: of every pair of wells, or of all."""
        xi = self.xi.astype("float64")
        if self.name == "wells":
            return list((xi[:, ::2] > 0).T)
        if self.name == "mixture":  # the nearest centre
            means = self.law.means
            return [np.argmin(np.sum(means**2, axis=1) - 2 * xi @ means.T, axis=1)]
        if self.name == "scales":  # the likelier one
            variances = np.array([1.0, 16.0]) + self.sigma**2
            squares = np.sum(xi**2, axis=1)[:, None]
            minus_log = squares / variances + self.law.dimension * np.log(variances)
            return [np.argmin(minus_log, axis=1)]
        return []

    def log_z(self, model, energy, chains):
        """Return log Z by annealed importance sampling, and its error."""
        # The reverse chains want points of the model's density: those of the exact one, drawn
        # again with the weights exp(E* - E).
        weights = np.exp(self.energy - energy - np.max(self.energy - energy))
        rng = np.random.default_rng(2018)
        again = rng.choice(len(weights), chains["chains"], p=weights / weights.sum())
        start = laws.Gaussian.fit(
            self.law.sample_smoothed(20_000, self.sigma, seed=10**6 + 1)
        )
        found = annealing.log_z(model, start, self.xi[again], **chains)
        apart = abs(found.reverse - found.forward) / 2
        error = math.hypot(found.forward_error, found.reverse_error) / 2
        return (found.forward + found.reverse) / 2, error + apart


# ---- outputs -------------------------------------------------------------------------


def record_study(run, study, answers):
    """Record the error at every number of points, and how many reach the goal."""
    curves = {}
    for law, d, E, seed, n in study:
        value = answers[law, d, E, seed, n]["relative_score_error"]
        run.metric(f"{law}/{d}/{E}/relative_score_error@{n}", value)
        curves.setdefault((f"{law}/{d}/{E}", seed), []).append(value)
    goal = run.settings.goal
    for (prefix, _), errors in curves.items():
        needed = points_for(goal, run.settings.study_points, errors)
        if needed:
            run.metric(
                f"{prefix}/points_for_error_{goal}", needed, of="points_for_error"
            )


def points_for(goal, numbers, errors):
    """Return n where the error falls to the goal, log-log between neighbours; or None."""
    if errors[0] <= goal:
        return numbers[0]
    for k in range(1, len(numbers)):
        if errors[k] <= goal:
            way = math.log(goal / errors[k - 1]) / math.log(errors[k] / errors[k - 1])
            return numbers[k - 1] * (numbers[k] / numbers[k - 1]) ** way
    return None


def draw(run, names):
    """Error against d, for each law; cost and masses; error against the number of points."""
    at, colours = run.settings, {E: f"C{k % 10}" for k, E in enumerate(ESTIMATORS)}
    colours |= {"cd": "black", "stein": "gold"}  # there are more than ten
    marks = {E: "os"[k // 10] for k, E in enumerate(ESTIMATORS)}
    figure, axes = panels(3, 4, 9.5)
    axes = axes.ravel()

    def lines(ax, name, places, of, **labels):
        """Draw a metric of every estimator; `of(E, place)` is its name."""
        for E in ESTIMATORS:
            known = [
                (p, run.values(of(E, p)))
                for p in places
                if of(E, p) in run.recorded and np.all(run.values(of(E, p)) > 0)
            ]
            if known and E != "exact":
                style = {"color": colours[E], "fmt": f"{marks[E]}-", "label": E}
                plotting.median_and_range(ax, *zip(*known, strict=True), **style)
        ax.set(xscale="log", yscale="log", title=name, **labels)
        ax.set_xticks(places, [str(p) for p in places])
        ax.xaxis.minorticks_off()
        ax.grid(alpha=0.3)

    for ax, law in zip(axes, names, strict=False):
        sigma, dimensions = at.laws[law]
        title = f"{law}, $\\sigma$ = {sigma:g}"
        metric = "relative_score_error"
        labels = {"xlabel": "d", "ylabel": "relative score error", "ylim": (1e-4, 10)}
        lines(ax, title, dimensions, lambda E, d: f"{law}/{d}/{E}/{metric}", **labels)  # noqa: B023
    law = at.study["law"]
    if law in names:
        dimensions = at.laws[law][1]
        for ax, metric, label in (
            (axes[7], "seconds", "processor time of the fit, s"),
            (axes[8], "mode_mass_error", "largest error of a well's mass"),
        ):
            labels = {"xlabel": "d", "ylabel": label}
            lines(ax, law, dimensions, lambda E, d: f"{law}/{d}/{E}/{metric}", **labels)  # noqa: B023
        for ax, E in zip(axes[9:11], ("deen", "parzen"), strict=True):
            for d in at.study["dimensions"]:
                name = f"{law}/{d}/{E}/relative_score_error"
                errors = [run.values(f"{name}@{n}") for n in at.study_points]
                plotting.median_and_range(
                    ax, at.study_points, errors, fmt="o-", label=f"d = {d}"
                )
            ax.axhline(at.goal, color="black", lw=0.6, ls="--")
            ax.set(xscale="log", yscale="log", title=f"{law}: {E}", xlabel="points")
            ax.set(ylabel="relative score error", ylim=(1e-3, 3))
            ax.grid(alpha=0.3)
        axes[9].legend()
        goal = f"points_for_error_{at.goal}"
        labels = {"xlabel": "d", "ylabel": f"points for an error of {at.goal}"}
        lines(
            axes[11],
            f"{law} ({at.study_points[0]}: or fewer)",
            at.study["dimensions"],
            lambda E, d: f"{law}/{d}/{E}/{goal}",
            **labels,
        )
        axes[11].legend()
    names = axes[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=6, fontsize=7)
    figure.suptitle(
        f"{'-'.join(map(str, at.hidden_units))}, {at.steps} steps of batch {at.batch}; energies (but "
        "deen-mlp) beside a Gaussian's. Against the dimension; many wells against the number of\n"
        "points. A curve that breaks off goes on beyond the axes, or is not finite, or was not run"
    )
    run.figure(figure, run.name)


if __name__ == "__main__":
    main(args)

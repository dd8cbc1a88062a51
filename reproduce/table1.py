"""Table 1: every estimator that the paper names, on the same network and the same data.

One row to an estimator, between the exact density and the Parzen density of the same
points; score error, Kullback-Leibler divergence, curl and time, after 1000 and 10,000
iterations. All are measured against the density smoothed by sigma, which is known exactly.
Two aim beside it: regularised score matching at a first order of it in sigma^2, and
contrastive divergence as the paper has it at the density of the data. Sec. 5 asks "whether
NCE provides energy estimates of the same quality as score matching", and to compare Stein
contrastive divergence: here they stand beside DEEN.

    python reproduce/table1.py --seeds 10               # the committed run
    python reproduce/table1.py --rows deen sm --sets mixture
    python reproduce/table1.py --rows deen --batch 1024 # dependence on the batch

An interrupted run takes up at the cell (estimator, data set, seed) where it stopped; a run
of some rows or sets keeps its cells for the run of all.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import math
import multiprocessing
import os
import statistics
import time

from outputs import Run, guarded, options, versions, write_json

# The paper's network, sigma and optimizer (Adam 1e-3), all estimators alike. Four networks
# of width 16 have nearly as many parameters (2432) as one of width 32 (2240).
HIDDEN_UNITS = (32, 32, 32)
MIXED = {"hidden_units": (16, 16, 16), "networks": 4}
SIGMA = 0.1
ITERATIONS = (1000, 10_000)
# What ten seeds of all rows can afford in a quarter of an hour on two cores. A data set is
# seen once in 200 iterations.
BATCH = 256
STEPS_PER_EPOCH = 200
TEST_POINTS = 10_000  # fresh, from the exact smoothed density; the same for all
GRID = 200  # cells along a side, for the divergence
PARZEN_POINTS = 10_000  # of the data: its cost is their number times that of questions

# All energies start at the Gaussian energy (`deen_tf.training.start`), as any `fit` does.
# At 1000 iterations the start decides more than the estimator. Score error, 3 seeds, DEEN
# and score matching: rings 0.27-0.34 and 0.45-0.56 from the Gaussian energy, 0.12-0.21 and
# 0.09-0.11 with the first layer's units bent at data points, 0.71-0.73 and 0.67-0.74 from
# Glorot's weights; mixture 0.03-0.04 and 0.02-0.05, 0.06-0.09 and 0.02-0.03, 0.21-0.35 and
# 0.33-0.55. At 10,000 the first two starts are level (rings 0.012-0.017 against 0.017-0.018
# for DEEN) and Glorot's is mostly behind. The order of two rows at 1000 is therefore that of
# this start, and no property of the objectives.
#
# Stein's kernel has the median heuristic's width, 0.55 on the mixture, three times that of
# a smoothed mode, and blurs the scores over it. With widths of 0.3 and 0.15 the score error
# at 10,000 iterations was 0.13 and 0.19 there, not 0.33 (one seed): the heuristic is what
# the row shows, and not the best of the estimator.

# Two sets of the paper; rings five widths apart, so that scores hardly tell the mass of one
# from that of the other; a board of sharp edges.
SETS = ("mixture", "spiral", "rings", "checkerboard")

ROWS = {
    "exact": "exact smoothed density",
    "parzen": "Parzen density (Eq. 12)",
    "deen": "DEEN (Eq. 19)",
    "deens": "mixture of 4 DEENs",
    "dsm": "DSM (Eq. 17)",
    "dae": "denoising autoencoder (Eq. 25)",
    "sm": "score matching (Eq. 9)",
    "rsm": "regularised score matching (Eq. 10, squared)",
    "nce-uniform": "NCE, uniform noise",
    "nce-gaussian": "NCE, Gaussian noise",
    "nce-smoothed": "NCE, smoothed data as noise",
    "cd": "contrastive divergence (Eq. 26, Adam)",
    "cd-short": "the same, noisy points, half the step",
    "stein": "Stein contrastive divergence",
}

UNTRAINED = ("exact", "parzen")
FEWER = {"exact": 1, "parzen": 3}  # seeds; Parzen densities hardly differ, and are dear
HIGHEST = {"relative_score_error": 10, "grid_kl": 10}  # shown; beyond, an arrow

DEFINITIONS = {
    "relative_score_error": (
        "1",
        "E|psi - psi*|^2 / E|psi*|^2 over fresh points of the exact smoothed density",
    ),
    "grid_kl": (
        "nats",
        "KL(exact smoothed density || model normalised on the grid), by quadrature",
    ),
    "relative_curl": (
        "1",
        "rms of d1 psi2 - d2 psi1 over rms Frobenius norm of the Jacobian, same points "
        + "(Parzen and exact: by central differences, whose own error is what there is)",
    ),
    "seconds": (
        "s",
        "processor time of the fit in a process of one thread, without compilation",
    ),
}


def main(argv=None):
    parser = options(
        __doc__,
        rows={"nargs": "+", "choices": ROWS, "metavar": "ROW", "default": list(ROWS)},
        sets={"nargs": "+", "choices": SETS, "metavar": "SET", "default": list(SETS)},
        jobs={
            "type": int,
            "default": os.cpu_count(),
            "help": "processes at once, one core each (default: the number of cores)",
        },
        batch={
            "type": int,
            "default": BATCH,
            "help": f"minibatch (default: {BATCH})",
        },
    )
    args = parser.parse_args(argv)
    from deen_tf.checks import whole

    sets, iterations = args.sets, ITERATIONS
    batch = whole(args.batch, "--batch")
    if args.quick:
        sets, iterations = sets[:1], (STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH)
    settings = {
        "hidden_units": HIDDEN_UNITS,
        "mixture of DEENs": MIXED,
        "sigma": SIGMA,
        "iterations": iterations,
        "batch": batch,
        "points": batch * STEPS_PER_EPOCH,
        "points of Parzen": PARZEN_POINTS,
        "optimizer": "Adam(1e-3)",
        "test_points": TEST_POINTS,
        "grid": GRID,
        "start": "ScoreModel.adapt: energies at that of a Gaussian, others random filters",
        "noise_contrastive": "one point of noise to one of data; uniform: the data's box "
        "widened by a quarter on each side; smoothed: Parzen of 256 points, bandwidth 2 sigma",
        "contrastive divergence": "step sigma on the points, as the paper; half the step: "
        "sigma / 2 on noisy points, where the closed form of deen_tf.models.contrastive_divergence is 4% off",
        "stein": "one SVGD step of size sigma^2, median heuristic",
    }
    run = Run("table1", args, settings)
    cells = [
        {"row": R, "D": D, "seed": seed, "batch": batch, "ends": iterations}
        for seed in run.seeds
        for R in args.rows
        for D in sets
        if seed - run.first < FEWER.get(R, math.inf)
    ]
    paths = checkpoints(run, cells)
    with run.stage("cells"):
        compute(cells, paths, args.jobs)
        answers = read(cells, paths)
    record(run, args.rows, sets, answers)
    write_markdown(run, args.rows, sets)
    with run.stage("draw"):
        draw(run, args.rows, sets)
    run.json(rows={R: ROWS[R] for R in args.rows}, sets=sets)
    if run.quick or (set(args.rows) == set(ROWS) and set(sets) == set(SETS)):
        forget(run, paths)
    run.table()


# ---- a cell: one estimator, one data set, one seed -----------------------------------


def law(name):
    from deen_tf import datasets

    return {
        "mixture": datasets.GaussianMixture.ring,
        "spiral": datasets.Spiral,
        "rings": datasets.Rings,
        "checkerboard": datasets.Checkerboard,
    }[name]()


def build(row, seed):
    """Return the estimator of a row, compiled."""
    import keras

    import deen_tf as deen
    from deen_tf.models.noise_contrastive import NoiseContrastive
    from deen_tf.models.score_matching import RegularizedScoreMatching, ScoreMatching
    from deen_tf.models.stein import SteinContrastiveDivergence
    from deen_tf.networks.mixture import MixtureOfDEENs

    kind, _, variant = row.partition("-")
    short = {"smooth": True, "step": SIGMA / 2} if variant == "short" else {}
    cls, more = {
        "deen": (deen.DEEN, {}),
        "deens": (MixtureOfDEENs, MIXED),
        "dsm": (deen.DSM, {}),
        "dae": (deen.DenoisingAutoencoder, {}),
        "sm": (ScoreMatching, {}),
        "rsm": (RegularizedScoreMatching, {}),
        "nce": (NoiseContrastive, {"noise": variant}),
        "cd": (deen.ContrastiveDivergence, short),
        "stein": (SteinContrastiveDivergence, {}),
    }[kind]
    arguments = {"hidden_units": HIDDEN_UNITS, "sigma": SIGMA, "seed": seed} | more
    model = one_program_for_all_seeds(cls)(**arguments)
    model.compile(keras.optimizers.Adam(1e-3))
    return model


@functools.cache
def shared_model(row):
    """Return the one model of a row in this process: it compiles once for all its fits."""
    return build(row, 0)


def one_program_for_all_seeds(cls):
    """Return a subclass whose noise is keyed by a variable beside the seed.

    The seed is a constant of the compiled step. With the run's number in a variable, a row
    compiles once, not ten times, and the noise of its runs is still each its own.
    """
    import tensorflow as tf

    class Numbered(cls):
        run = tf.Variable(0, dtype=tf.int64, trainable=False)

        def _loss(self, data, step, stream):
            step = tf.cast(step, tf.int64) + self.run * 2**32
            return super()._loss(data, step, stream)

    return Numbered


def restart(model, row, seed, x):
    """Give the model the state in which a fit with this seed begins."""
    fresh = build(row, seed)
    fresh.adapt(x)
    if not model.built:
        model.build(x.shape)
    model.set_weights(fresh.get_weights())
    model.optimizer.build(model.trainable_variables)
    for v in model.optimizer.variables:
        if v is not model.optimizer.learning_rate:
            v.assign(0 * v)
    model.run.assign(seed)


def evaluate(cell):
    """Fit and measure one cell; return {metric: {end of the fit: value}}."""
    from deen_tf.laws import parzen

    row, seed, batch = cell["row"], cell["seed"], cell["batch"]
    truth, measure = law(cell["D"]), measure_of(cell["D"])
    values = {metric: {} for metric in DEFINITIONS}

    def keep(end, model, seconds=math.nan):
        for metric, value in (measure(model) | {"seconds": seconds}).items():
            values[metric][str(end)] = value

    if row == "exact":
        keep(0, measure.truth)
        return values
    if row == "parzen":
        keep(0, parzen.Parzen(truth.sample(PARZEN_POINTS, seed=seed), SIGMA))
        return values
    x = truth.sample(batch * STEPS_PER_EPOCH, seed=seed)
    model = shared_model(row)
    if not model.built:  # compile: no part of the seconds
        model.fit(x, batch_size=batch, verbose=0)
    restart(model, row, seed, x)
    done, seconds = 0, 0.0
    for end in cell["ends"]:
        epochs = (end - done) // STEPS_PER_EPOCH
        start = time.process_time()
        model.fit(x, batch_size=batch, epochs=epochs, verbose=0)
        done, seconds = end, seconds + time.process_time() - start
        keep(end, model, seconds)
    return values


@functools.cache
def measure_of(D):
    return Measure(law(D))


class Measure:
    """The metrics against one law; the same points for every model."""

    def __init__(self, truth):
        self.truth = truth.smoothed(SIGMA)
        self.box = truth.box(SIGMA)
        # Seeds of training count up from 0: the test set never shares one.
        self.xi = truth.sample_smoothed(TEST_POINTS, SIGMA, seed=10**6)
        self.score = self.truth.score(self.xi)
        self.grid_energy = None

    def exact_energy(self, x):
        if self.grid_energy is None:  # asked on one grid only
            self.grid_energy = self.truth.energy(x)
        return self.grid_energy

    def __call__(self, model):
        import numpy as np

        from deen_tf import fields, metrics

        psi = model.score(self.xi)
        if not np.isfinite(psi).all():  # diverged: no number, and it shows
            return dict.fromkeys(list(DEFINITIONS)[:3], math.nan)
        step = None if hasattr(model, "compute_dtype") else 1e-3
        J = fields.jacobian(model, self.xi, step=step)
        kl = math.nan  # a score has no density
        if hasattr(model, "energy"):
            kl = metrics.grid_kl(self.exact_energy, model.energy, self.box, GRID)
        return {
            "relative_score_error": metrics.relative_score_error(psi, self.score),
            "grid_kl": kl,
            "relative_curl": metrics.relative_curl(J),
        }


# ---- all cells, in several processes -------------------------------------------------


def checkpoints(run, cells):
    """Return the file of each cell's answer, known by all that decides it."""
    folder = run.path("checkpoints", run.name)
    os.makedirs(folder, exist_ok=True)
    settings = {k: v for k, v in run.settings.items() if k != "seeds"}

    def path(cell):
        key = json.dumps([cell, settings, versions()], default=str)
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        name = f"{cell['row']}-{cell['D']}-{cell['seed']}-{digest}.json"
        return os.path.join(folder, name)

    return [path(cell) for cell in cells]


def compute(cells, paths, jobs):
    """Write the answer of every cell that an earlier run has not left."""
    from tqdm import tqdm

    from deen_tf.checks import whole

    pool = concurrent.futures.ProcessPoolExecutor(
        whole(jobs, "--jobs"),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=one_core,
    )
    try:
        futures = {
            pool.submit(evaluate, cell): path
            for cell, path in zip(cells, paths, strict=True)
            if not os.path.exists(path)
        }
        done = concurrent.futures.as_completed(futures)
        for future in tqdm(done, total=len(futures), unit="cell", dynamic_ncols=True):
            write_json(futures[future], future.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def read(cells, paths):
    """Return {(row, set): [answer of each seed]}."""
    answers = {}
    for cell, path in zip(cells, paths, strict=True):
        with open(path) as stream:
            answers.setdefault((cell["row"], cell["D"]), []).append(json.load(stream))
    return answers


def one_core():
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def forget(run, paths):
    for path in paths:
        os.remove(path)
    with contextlib.suppress(OSError):  # another run's are still there
        os.rmdir(os.path.dirname(paths[0]))
    run.finish_training()


# ---- outputs -------------------------------------------------------------------------


def record(run, rows, sets, answers):
    """Every seed's value of every metric, under `set/row/metric@iterations`."""
    for D in sets:
        run.data[D] = {"law": repr(law(D)), "sampled with seed": "the run's"}
        for R in rows:
            for answer in answers[R, D]:
                for metric, ends in answer.items():
                    for end, value in ends.items():
                        if math.isnan(value) and (
                            metric in ("seconds", "grid_kl")
                            and not diverged(answer, end)
                        ):
                            continue  # no fit, or a score without a density
                        name = f"{D}/{R}/{metric}" + (f"@{end}" if int(end) else "")
                        run.metric(name, value, *DEFINITIONS[metric])


def diverged(answer, end):
    return math.isnan(answer["relative_score_error"][end])


def cell_values(run, D, R, metric):
    """Return [values after each number of iterations]; without a fit, one for both."""
    metrics = run.metrics()
    names = [f"{D}/{R}/{metric}@{end}" for end in run.settings["iterations"]]
    if R in UNTRAINED:
        names = [f"{D}/{R}/{metric}"]
    return [metrics[name]["values"] if name in metrics else [] for name in names]


def seeds_said(run):
    few = [f"{R} {n}" for R, n in FEWER.items() if n < len(run.seeds)]
    return f"{len(run.seeds)} seeds" + (f" ({', '.join(few)})" if few else "")


def write_markdown(run, rows, sets):
    """Write table1.md: a table for each data set."""
    from deen_tf.atomic import replacing

    short, long = run.settings["iterations"]
    lines = [
        "# Table 1: estimators on the same network and data",
        "",
        f"Median over {seeds_said(run)} (smallest - largest), after {short} and after "
        f"{long} iterations of batch {run.settings['batch']}; sigma = {SIGMA}. "
        + "All are measured against the exact density smoothed by sigma."
        + (" **A quick run: the numbers mean nothing.**" if run.quick else ""),
        "",
    ]
    lines += [f"- {m}: {d} [{unit}]" for m, (unit, d) in DEFINITIONS.items()]
    for D in sets:
        lines += ["", f"## {D}", "", "| estimator | " + " | ".join(DEFINITIONS) + " |"]
        lines += ["|---" * (1 + len(DEFINITIONS)) + "|"]
        for R in rows:
            columns = []
            for metric in DEFINITIONS:
                parts = [
                    f"{statistics.median(v):.2g} ({min(v):.2g} - {max(v):.2g})"
                    for v in cell_values(run, D, R, metric)
                    if v
                ]
                columns.append("<br>".join(parts) or "-")
            lines.append(f"| {ROWS[R]} | " + " | ".join(columns) + " |")
    with (
        replacing(run.path(f"{run.name}.md")) as temporary,
        open(temporary, "w") as stream,
    ):
        stream.write("\n".join(lines) + "\n")


def draw(run, rows, sets):
    """Medians and ranges: hollow after the first, filled after the second end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = ("relative_score_error", "grid_kl", "relative_curl", "seconds")
    figure, axes = plt.subplots(
        len(shown),
        len(sets),
        figsize=(4.2 * len(sets) + 2, 0.24 * len(shown) * len(rows) + 2),
        sharey=True,
        sharex="row",
        squeeze=False,
        layout="constrained",
    )
    for i, metric in enumerate(shown):
        for j, D in enumerate(sets):
            ax = axes[i, j]
            for y, R in enumerate(rows):
                ends = cell_values(run, D, R, metric)
                for k, values in enumerate(ends):
                    values = [v for v in values if math.isfinite(v)]
                    if not values or max(values) <= 0:
                        continue
                    at = y + (0.17 if k == 0 else -0.17) * (len(ends) > 1)
                    color = "black" if len(ends) == 1 else f"C{k}"
                    median, edge = statistics.median(values), HIGHEST.get(metric, 1e99)
                    ax.plot(
                        [min(*values, edge), min(max(values), edge)],
                        [at, at],
                        color=color,
                        lw=1,
                    )
                    ax.plot(
                        min(median, edge),
                        at,
                        "o" if median <= edge else ">",
                        color=color,
                        ms=5,
                        mfc=color if k == len(ends) - 1 else "white",
                    )
            ax.set(xscale="log", title=D if i == 0 else "")
            ax.set_xlabel(f"{metric.replace('_', ' ')} [{DEFINITIONS[metric][0]}]")
            ax.set_yticks(range(len(rows)), [ROWS[R] for R in rows], fontsize=8)
            ax.grid(axis="x", alpha=0.4)
    axes[0, 0].invert_yaxis()
    short, long = run.settings["iterations"]
    figure.suptitle(
        f"Table 1. Median and range over {seeds_said(run)}; batch "
        f"{run.settings['batch']}.\nHollow: after {short} iterations, filled: after {long}."
        "\nNo mark: zero (the exact density), or not defined; an arrow: far beyond."
    )
    run.figure(figure, run.name)
    plt.close(figure)


if __name__ == "__main__":
    guarded(main)

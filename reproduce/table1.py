"""Table 1: every estimator that the paper names, on the same network and the same data.

One row to an estimator, between the exact density and the Parzen density of the same
points; score error, Kullback-Leibler divergence, curl and time, after 1000 and 10,000
iterations. All aim at the density smoothed by sigma, which is known exactly. Sec. 5 asks
"whether NCE provides energy estimates of the same quality as score matching", and to
compare Stein contrastive divergence: here they stand beside DEEN.

    python reproduce/table1.py --seeds 10               # the committed run
    python reproduce/table1.py --rows deen sm --sets mixture
    python reproduce/table1.py --rows deen --batch 1024 # dependence on the batch

An interrupted run takes up at the cell (estimator and data set) where it stopped.
"""

import concurrent.futures
import hashlib
import json
import math
import multiprocessing
import os
import shutil
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
    "stein": "Stein contrastive divergence",
}

UNTRAINED = ("exact", "parzen")
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
    "seconds": ("s", "wall time of the fit on one core, without compilation"),
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
    from deen_tf.validation import whole

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
        "start": "weights drawn to suit the data (ScoreModel.adapt)",
        "noise_contrastive": "one point of noise to one of data; uniform: the data's box "
        "widened by a quarter on each side; smoothed: Parzen of 256 points, bandwidth 2 sigma",
        "stein": "one SVGD step of size sigma^2, median heuristic",
    }
    run = Run("table1", args, settings)
    cells = [
        {"row": R, "D": D, "seeds": list(run.seeds), "batch": batch, "ends": iterations}
        for R in by_cost(args.rows)
        for D in sets
    ]
    with run.stage("cells"):
        answers = compute(run, cells, args.jobs)
    record(run, args.rows, sets, answers)
    write_markdown(run, args.rows, sets)
    with run.stage("draw"):
        draw(run, args.rows, sets)
    run.json(rows={R: ROWS[R] for R in args.rows}, sets=sets)
    forget(run)
    run.table()


# ---- a cell: one estimator, one data set, all seeds ----------------------------------


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
    from deen_tf.mixture import MixtureOfDEENs
    from deen_tf.noise_contrastive import NoiseContrastive
    from deen_tf.score_matching import RegularizedScoreMatching, ScoreMatching
    from deen_tf.stein import SteinContrastiveDivergence

    kind, _, noise = row.partition("-")
    cls, more = {
        "deen": (deen.DEEN, {}),
        "deens": (MixtureOfDEENs, MIXED),
        "dsm": (deen.DSM, {}),
        "dae": (deen.DenoisingAutoencoder, {}),
        "sm": (ScoreMatching, {}),
        "rsm": (RegularizedScoreMatching, {}),
        "nce": (NoiseContrastive, {"noise": noise}),
        "cd": (deen.ContrastiveDivergence, {}),
        "stein": (SteinContrastiveDivergence, {}),
    }[kind]
    arguments = {"hidden_units": HIDDEN_UNITS, "sigma": SIGMA, "seed": seed} | more
    model = one_program_for_all_seeds(cls)(**arguments)
    model.compile(keras.optimizers.Adam(1e-3))
    return model


def one_program_for_all_seeds(cls):
    """Return a subclass whose noise is keyed by a variable beside the seed.

    The seed is a constant of the compiled step. With the run's number in a variable, a cell
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
    """Fit and measure one cell; return {metric: {end of the fit: [value of each seed]}}."""
    from deen_tf import parzen

    row, ends = cell["row"], cell["ends"]
    truth = law(cell["D"])
    measure = Measure(truth)
    values = {metric: {str(end): [] for end in ends} for metric in DEFINITIONS}

    def keep(end, model, seconds=math.nan):
        for metric, value in (measure(model) | {"seconds": seconds}).items():
            values[metric][str(end)].append(value)

    if row == "exact":
        keep(ends[0], measure.truth)
    if row == "parzen":
        for seed in cell["seeds"]:
            x = truth.sample(PARZEN_POINTS, seed=seed)
            keep(ends[0], parzen.Parzen(x, SIGMA))
    if row in UNTRAINED:
        return {metric: {"0": v[str(ends[0])]} for metric, v in values.items()}
    points = cell["batch"] * STEPS_PER_EPOCH
    model = build(row, 0)
    restart(model, row, 0, truth.sample(points, seed=0))
    model.fit(truth.sample(points, seed=0), batch_size=cell["batch"], verbose=0)
    for seed in cell["seeds"]:
        x = truth.sample(points, seed=seed)
        restart(model, row, seed, x)
        done, seconds = 0, 0.0
        for end in ends:
            start = time.perf_counter()
            model.fit(
                x,
                batch_size=cell["batch"],
                epochs=(end - done) // STEPS_PER_EPOCH,
                verbose=0,
            )
            done, seconds = end, seconds + time.perf_counter() - start
            keep(end, model, seconds)
    return values


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


def by_cost(rows):
    """The dearest first, so that no process is left with a long one at the end."""
    dear = ("stein", "nce-smoothed", "parzen", "sm", "rsm", "deens")
    return sorted(rows, key=lambda row: dear.index(row) if row in dear else len(dear))


def compute(run, cells, jobs):
    """Return the answer of every cell, from an interrupted run or computed now."""
    from tqdm import tqdm

    from deen_tf.validation import whole

    folder = checkpoints(run)
    os.makedirs(folder, exist_ok=True)
    paths = {}
    for cell in cells:
        key = json.dumps([cell, run.settings, versions()], default=str)
        name = f"{cell['row']}-{cell['D']}"
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        paths[name] = os.path.join(folder, f"{name}-{digest}.json"), cell
    missing = {p: cell for p, cell in paths.values() if not os.path.exists(p)}
    pool = concurrent.futures.ProcessPoolExecutor(
        whole(jobs, "--jobs"),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=one_core,
    )
    try:
        futures = {pool.submit(evaluate, cell): p for p, cell in missing.items()}
        done = concurrent.futures.as_completed(futures)
        for future in tqdm(done, total=len(futures), unit="cell", dynamic_ncols=True):
            write_json(futures[future], future.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    answers = {}
    for name, (path, _) in paths.items():
        with open(path) as stream:
            answers[name] = json.load(stream)
    return answers


def one_core():
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def checkpoints(run):
    return run.path("checkpoints", run.name)


def forget(run):
    shutil.rmtree(checkpoints(run), ignore_errors=True)
    run.finish_training()


# ---- outputs -------------------------------------------------------------------------


def record(run, rows, sets, answers):
    """Every seed's value of every metric, under `set/row/metric@iterations`."""
    for D in sets:
        run.data[D] = {"law": repr(law(D)), "sampled with seed": "the run's"}
        for R in rows:
            answer = answers[f"{R}-{D}"]
            for metric, ends in answer.items():
                for end, values in ends.items():
                    if all(map(math.isnan, values)) and (
                        metric in ("seconds", "grid_kl") and not diverged(answer, end)
                    ):
                        continue  # no fit, or a score without a density
                    name = f"{D}/{R}/{metric}" + (f"@{end}" if int(end) else "")
                    for value in values:
                        run.metric(name, value, *DEFINITIONS[metric])


def diverged(answer, end):
    return all(map(math.isnan, answer["relative_score_error"][end]))


def cell_values(run, D, R, metric):
    """Return [values after each number of iterations]; without a fit, one for both."""
    metrics = run.metrics()
    names = [f"{D}/{R}/{metric}@{end}" for end in run.settings["iterations"]]
    if R in UNTRAINED:
        names = [f"{D}/{R}/{metric}"]
    return [metrics[name]["values"] if name in metrics else [] for name in names]


def write_markdown(run, rows, sets):
    """Write table1.md: a table for each data set."""
    from deen_tf.atomic import replacing

    short, long = run.settings["iterations"]
    lines = [
        "# Table 1: estimators on the same network and data",
        "",
        f"Median over {len(run.seeds)} seeds (smallest - largest), after {short} and after "
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
        f"Table 1. Median and range over {len(run.seeds)} seeds (batch "
        f"{run.settings['batch']});\nhollow: after {short} iterations, filled: after {long}."
        "\nNo mark: zero (the exact density), or not defined; an arrow: far beyond."
    )
    run.figure(figure, run.name)
    plt.close(figure)


if __name__ == "__main__":
    guarded(main)

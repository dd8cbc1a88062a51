"""What a training step costs: against the dimension, and against the number of parameters.

Claims (Sec. 3): "the computations are scalable, unlike a straight-forward application of the
original score matching", whose Hessian diagonal takes d backward passes where DEEN takes
one; and the cost of a step is linear in the number of parameters.

    python reproduce/cost.py --seeds 7                  # the committed run

The data are standard normal: the cost of a step does not depend on them. A seed is a
repetition of the measurement, an epoch of it. Seconds are processor time in one thread, so
that other work on the machine does not count. An interrupted run takes up at the case where
it stopped.

What to see: left, DEEN's line is nearly flat and score matching's leaves it as d; right, all
points lie along the line in proportion to the parameters once layers are wide.
"""

from command import options

if __name__ == "__main__":
    args = options(__doc__)

import functools
import time

import keras
import numpy as np
import tensorflow as tf
from experiment import Run
from plots import panels
from truth import HIDDEN_UNITS

import deen_tf as deen
from deen_tf import plotting

SETTINGS = {
    "batch": 128,
    # Against d: the network of the 2-D experiments, whose parameters grow by 32 for each
    # dimension; the d copies of a point that exact score matching needs are the rest.
    "hidden_units": HIDDEN_UNITS,
    "dimensions": (2, 4, 8, 16, 32, 64, 128, 256),
    "from_d": 16,  # slopes: from here on exact score matching makes one batch of its d passes
    # Against the parameters: two dimensions, three layers of one width.
    "widths": (16, 32, 64, 128, 256, 512, 1024),
    "from_width": 128,  # slopes: below, tanh and dispatch, linear in the width, count as well
}
QUICK = {"dimensions": (8, 16, 32), "widths": (32, 128, 256)}
MODELS = {
    "deen": (deen.DEEN, "DEEN (Eq. 19)"),
    "sm": (deen.ScoreMatching, "score matching (Eq. 9)"),
    "rsm": (deen.RegularizedScoreMatching, "regularised score matching (Eq. 10)"),
}


def main(args):
    run = Run(__file__, args, SETTINGS, QUICK)
    at = run.settings
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    cases = {
        f"{M}/ms@d={d}": (M, d, HIDDEN_UNITS) for M in MODELS for d in at.dimensions
    }
    cases |= {
        f"deen/ms@width={width}": ("deen", 2, (width,) * 3) for width in at.widths
    }
    for name, case in run.each(cases.items(), unit="case"):
        measure = functools.partial(milliseconds, *case, at.batch, len(run.seeds))
        found = run.once(name, measure, len(run.seeds))
        record(run, name, found["ms"])
        if "width" in name:
            run.metric(name.replace("ms", "parameters"), found["parameters"])
    summarise(run)
    draw(run)
    run.finish(name for name in run.recorded if "exponent" in name or "128" in name)


def milliseconds(M, d, hidden_units, batch, repetitions):
    """Return the number of parameters, and the time of a step, each time."""
    model = MODELS[M][0](hidden_units=hidden_units)
    model.build((None, d))
    # An epoch takes a few tenths of a second: enough for the clock, and for Keras' few
    # milliseconds an epoch not to count.
    passes = 1 if M == "deen" else d
    steps = int(np.clip(1e7 / (model.count_params() * passes), 5, 1000))
    model.compile(steps_per_execution=steps)
    x = np.random.default_rng(0).normal(size=(steps * batch, d)).astype("float32")
    ends = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(time.process_time())
    )
    # The first epoch compiles, and ends where the first repetition begins.
    model.fit(x, batch_size=batch, epochs=1 + repetitions, verbose=0, callbacks=[clock])
    return {"parameters": model.count_params(), "ms": 1000 * np.diff(ends) / steps}


def record(run, name, values):
    for value in values:
        run.metric(name, value)


def times(run, M):
    """Return the milliseconds at every dimension, (dimensions, repetitions)."""
    return np.array([run.values(f"{M}/ms@d={d}") for d in run.settings.dimensions])


def by_width(run):
    """Return parameters, (widths,), and milliseconds, (widths, repetitions)."""
    names = [f"width={width}" for width in run.settings.widths]
    counts = np.array([run.median(f"deen/parameters@{name}") for name in names])
    return counts, np.array([run.values(f"deen/ms@{name}") for name in names])


def summarise(run):
    """Record the powers of d and of the number of parameters, and the ratios to DEEN."""
    at = run.settings
    baseline = np.median(times(run, "deen"), axis=1, keepdims=True)

    def slopes(abscissae, values):
        """Return the slope of each repetition in the logarithms."""
        return np.polyfit(np.log(abscissae), np.log(values), 1)[0]

    ds = np.array(at.dimensions)
    large = ds >= at.from_d
    for M in MODELS:
        values = times(run, M)
        record(run, f"{M}/exponent", slopes(ds[large], values[large]))
        if M != "deen":
            for d, ratio in zip(ds, values / baseline, strict=True):
                record(run, f"{M}/ratio@d={d}", ratio)
            ratios = slopes(ds[large], (values / baseline)[large])
            record(run, f"{M}/ratio_exponent", ratios)
    wide = np.array(at.widths) >= at.from_width
    counts, values = by_width(run)
    record(run, "deen/parameter_exponent", slopes(counts[wide], values[wide]))


def draw(run):
    at = run.settings
    figure, axes = panels(1, 2, 4.4)
    left, right = axes[0]
    d = np.array(at.dimensions)
    for k, (M, (_, label)) in enumerate(MODELS.items()):
        plotting.median_and_range(
            left, d, times(run, M), fmt="os^"[k] + "-", label=label
        )
    guide = np.median(times(run, "deen"), axis=1)
    left.plot(d, d * guide, "k:", label="d times DEEN's")
    left.set(xlabel="dimension d", title=f"hidden layers {HIDDEN_UNITS}")
    left.set_xscale("log", base=2)
    left.set_xticks(d, list(map(str, d)))
    counts, values = by_width(run)
    plotting.median_and_range(right, counts, values, fmt="o-", label=MODELS["deen"][1])
    guide = counts * np.median(values[-1]) / counts[-1]
    right.plot(counts, guide, "k:", label="in proportion to the parameters")
    for width, count, ms in zip(at.widths, counts, values, strict=True):
        below = {"xytext": (0, -13), "textcoords": "offset points", "fontsize": 7}
        right.annotate(str(width), (count, np.median(ms)), **below)
    right.set(xscale="log", xlabel="number of parameters")
    right.set_title("d = 2, three hidden layers of the width written below")
    right.margins(x=0.1)
    for ax in (left, right):
        ax.set(yscale="log", ylabel="processor time of a step, ms")
        ax.grid(alpha=0.4)
        ax.legend()
    figure.suptitle(
        f"A training step, batch {at.batch}, one thread; median and range of "
        f"{len(run.seeds)} repetitions"
    )
    run.figure(figure, run.name)


if __name__ == "__main__":
    main(args)

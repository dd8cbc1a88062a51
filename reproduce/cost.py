"""What a training step costs: against the dimension, and against the number of parameters.

Claims (Sec. 3): "the computations are scalable, unlike a straight-forward application of the
original score matching", whose Hessian diagonal takes d backward passes where DEEN takes
one; and the cost of a step is linear in the number of parameters.

    python reproduce/cost.py --seeds 7                  # the committed run

The data are standard normal: the cost of a step does not depend on them. A seed is a
repetition of the measurement, an epoch of it. Seconds are processor time in one thread, so
that other work on the machine does not count. An interrupted run takes up at the case where
it stopped.
"""

import hashlib
import json
import os
import shutil
import time

from outputs import Run, guarded, options, versions, write_json

BATCH = 128
# Against d: the network of the 2-D experiments, whose parameters grow by 32 for each
# dimension; the d copies of a point that exact score matching needs are the rest.
HIDDEN_UNITS = (32, 32, 32)
DIMENSIONS = (2, 4, 8, 16, 32, 64, 128, 256)
FROM_D = 16  # slopes: from here on exact score matching makes one batch of its d passes
# Against the parameters: two dimensions, three layers of one width.
WIDTHS = (16, 32, 64, 128, 256, 512, 1024)
FROM_WIDTH = 128  # slopes: below, tanh and dispatch, linear in the width, count as well

MODELS = {
    "deen": "DEEN (Eq. 19)",
    "sm": "score matching (Eq. 9)",
    "rsm": "regularised score matching (Eq. 10)",
}
MS = ("ms", "processor time of one training step in a compiled loop, one thread")
RATIO = ("1", "time of a step over DEEN's median at the same dimension")
EXPONENT = ("1", f"slope of log time against log d from d = {FROM_D} on, least squares")
RATIO_EXPONENT = ("1", f"slope of log ratio to DEEN against log d from d = {FROM_D} on")
PARAMETERS = ("1", "trainable parameters")
PARAMETER_EXPONENT = (
    "1",
    f"slope of log time against log number of parameters from width {FROM_WIDTH} on",
)


def main(argv=None):
    args = options(__doc__).parse_args(argv)
    settings = {
        "hidden_units": HIDDEN_UNITS,
        "batch": BATCH,
        "dimensions": DIMENSIONS if not args.quick else (8, 16, 32),
        "widths": WIDTHS if not args.quick else (32, 128, 256),
    }
    run = Run("cost", args, settings)

    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    import tensorflow as tf
    from tqdm import tqdm

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    dimensions, widths = settings["dimensions"], settings["widths"]
    cases = [(model, d, HIDDEN_UNITS) for model in MODELS for d in dimensions]
    cases += [("deen", 2, (width,) * 3) for width in widths]
    times, parameters = [], []
    for case in tqdm(cases, unit="case", dynamic_ncols=True):
        with run.stage("measure"):
            count, values = remembered(run, case)
        times.append(values)
        parameters.append(count)
    across = len(MODELS) * len(dimensions)
    by_width, parameters = np.array(times[across:]), parameters[across:]
    times = np.array(times[:across]).reshape(len(MODELS), len(dimensions), -1)
    by_dimension = dict(zip(MODELS, times, strict=True))
    record(run, dimensions, by_dimension, widths, parameters, by_width)
    draw(run, dimensions, by_dimension, widths, parameters, by_width)
    run.json()
    shutil.rmtree(checkpoints(run), ignore_errors=True)
    run.finish_training()
    run.table()


def checkpoints(run):
    return run.path("checkpoints", run.name)


def remembered(run, case):
    """Return the `milliseconds` of a case, measured now or by an interrupted run."""
    known = json.dumps([case, len(run.seeds), versions()])
    digest = hashlib.sha256(known.encode()).hexdigest()[:16]
    path = os.path.join(checkpoints(run), f"{digest}.json")
    if not os.path.exists(path):
        os.makedirs(checkpoints(run), exist_ok=True)
        write_json(path, milliseconds(*case, len(run.seeds)))
    with open(path) as stream:
        return json.load(stream)


def milliseconds(name, d, hidden_units, repetitions):
    """Return the number of parameters, and the time of a step, `repetitions` times."""
    import keras
    import numpy as np

    import deen_tf as deen

    cls = {
        "deen": deen.DEEN,
        "sm": deen.ScoreMatching,
        "rsm": deen.RegularizedScoreMatching,
    }[name]
    model = cls(hidden_units)
    model.build((None, d))
    # An epoch takes a few tenths of a second: enough for the clock, and for Keras' few
    # milliseconds an epoch not to count.
    passes = 1 if name == "deen" else d
    steps = int(np.clip(1e7 / (model.count_params() * passes), 5, 1000))
    model.compile(steps_per_execution=steps)
    x = np.random.default_rng(0).normal(size=(steps * BATCH, d)).astype("float32")
    ends = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(time.process_time())
    )
    # The first epoch compiles, and ends where the first repetition begins.
    model.fit(x, batch_size=BATCH, epochs=1 + repetitions, verbose=0, callbacks=[clock])
    return model.count_params(), (1000 * np.diff(ends) / steps).tolist()


def record(run, dimensions, by_dimension, widths, parameters, by_width):
    import numpy as np

    baseline = np.median(by_dimension["deen"], axis=1, keepdims=True)
    large = [i for i, d in enumerate(dimensions) if d >= FROM_D]

    def each(name, values, what):
        for value in values:
            run.metric(name, value, *what)

    def slopes(abscissae, values):
        """Return the slope of each repetition in the logarithms."""
        return np.polyfit(np.log(abscissae), np.log(values), 1)[0]

    for model, values in by_dimension.items():
        for d, ms, ratio in zip(dimensions, values, values / baseline, strict=True):
            each(f"{model}/ms@d={d}", ms, MS)
            if model != "deen":
                each(f"{model}/ratio@d={d}", ratio, RATIO)
        ds = [dimensions[i] for i in large]
        each(f"{model}/exponent", slopes(ds, values[large]), EXPONENT)
        if model != "deen":
            ratios = (values / baseline)[large]
            each(f"{model}/ratio_exponent", slopes(ds, ratios), RATIO_EXPONENT)
    for width, count, ms in zip(widths, parameters, by_width, strict=True):
        run.metric(f"deen/parameters@width={width}", count, *PARAMETERS)
        each(f"deen/ms@width={width}", ms, MS)
    wide = [i for i, width in enumerate(widths) if width >= FROM_WIDTH]
    counts = [parameters[i] for i in wide]
    each("deen/parameter_exponent", slopes(counts, by_width[wide]), PARAMETER_EXPONENT)


def draw(run, dimensions, by_dimension, widths, parameters, by_width):
    import matplotlib.pyplot as plt
    import numpy as np

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    for k, (model, values) in enumerate(by_dimension.items()):
        curve(left, dimensions, values, f"C{k}", MODELS[model], "os^"[k])
    d, guide = np.array(dimensions), np.median(by_dimension["deen"], axis=1)
    left.plot(d, d * guide, "k:", lw=1, label="d times DEEN's")
    left.set(xlabel="dimension d", title=f"hidden layers {HIDDEN_UNITS}")
    left.set_xscale("log", base=2)
    left.set_xticks(dimensions, [str(d) for d in dimensions])
    curve(right, parameters, by_width, "C0", MODELS["deen"], "o")
    guide = np.array(parameters) * np.median(by_width[-1]) / parameters[-1]
    right.plot(parameters, guide, "k:", lw=1, label="in proportion to the parameters")
    for width, count, ms in zip(widths, parameters, by_width, strict=True):
        right.annotate(
            str(width),
            (count, np.median(ms)),
            xytext=(0, -13),
            textcoords="offset points",
            fontsize=8,
        )
    right.set(
        xscale="log",
        xlabel="number of parameters",
        title="d = 2, three hidden layers of the width written below",
    )
    right.margins(x=0.1)
    for ax in (left, right):
        ax.set(yscale="log", ylabel="processor time of a step [ms]")
        ax.grid(alpha=0.4)
        ax.legend()
    figure.suptitle(
        f"A training step, batch {BATCH}, one thread; median and range of "
        f"{len(run.seeds)} repetitions"
    )
    run.figure(figure, "cost")
    plt.close(figure)


def curve(ax, abscissae, values, color, label, marker):
    import numpy as np

    median = np.median(values, axis=1)
    ax.plot(abscissae, median, marker + "-", color=color, label=label, ms=5)
    ax.fill_between(abscissae, values.min(1), values.max(1), color=color, alpha=0.25)


if __name__ == "__main__":
    guarded(main)

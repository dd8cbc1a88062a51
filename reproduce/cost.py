"""What a training step costs against the dimension: DEEN and exact score matching.

Claim (Sec. 3): "the computations are scalable, unlike a straight-forward application of the
original score matching", whose Hessian diagonal takes d backward passes.

    python reproduce/cost.py --seeds 5                  # the committed run

The network is that of the 2-D experiments, the data are standard normal: the cost of a step
depends on neither. A seed is a repetition of the measurement.
"""

import time

from outputs import Run, guarded, options

HIDDEN_UNITS = (32, 32, 32)
BATCH = 128
DIMENSIONS = (2, 4, 8, 16, 32, 64, 128)
STEPS = 200  # in one compiled program; fewer in high dimension, where a step is long

MODELS = {
    "deen": "DEEN (Eq. 19)",
    "sm": "score matching (Eq. 9)",
}
MS = ("ms", "wall time of one training step in a compiled loop, without compilation")
EXPONENT = ("1", "slope of log time against log d from d = 16 on, least squares")
RATIO = ("1", "time of a step over DEEN's at the same dimension")


def main(argv=None):
    args = options(__doc__).parse_args(argv)
    settings = {
        "hidden_units": HIDDEN_UNITS,
        "batch": BATCH,
        "dimensions": DIMENSIONS if not args.quick else DIMENSIONS[:5],
        "steps": STEPS if not args.quick else 20,
    }
    run = Run("cost", args, settings)

    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from tqdm import tqdm

    dimensions, large = settings["dimensions"], [d for d in DIMENSIONS if d >= 16]
    times = {model: [] for model in MODELS}  # of each dimension, (repetitions,)
    cases = [(model, d) for model in MODELS for d in dimensions]
    for model, d in tqdm(cases, unit="case", dynamic_ncols=True):
        with run.stage("measure"):
            steps = settings["steps"]
            if model == "sm":
                steps = min(steps, max(10, 8 * steps // d))
            times[model].append(milliseconds(model, d, steps, len(run.seeds)))
    times = {model: np.array(values) for model, values in times.items()}
    for model, values in times.items():
        for d, repetitions in zip(dimensions, values, strict=True):
            for value in repetitions:
                run.metric(f"{model}/ms@d={d}", value, *MS)
            for value in (
                repetitions / np.median(times["deen"], axis=1)[dimensions.index(d)]
            ):
                run.metric(f"{model}/ratio@d={d}", value, *RATIO)
        at = [dimensions.index(d) for d in large if d in dimensions]
        for column in values[at].T:
            slope = np.polyfit(np.log([dimensions[i] for i in at]), np.log(column), 1)
            run.metric(f"{model}/exponent", slope[0], *EXPONENT)
    draw(run, dimensions, times)
    run.json()
    run.table()


def milliseconds(name, d, steps, repetitions):
    """Return the time of a step, `repetitions` times over."""
    import numpy as np

    import deen_tf as deen
    from deen_tf.score_matching import ScoreMatching

    model = {"deen": deen.DEEN, "sm": ScoreMatching}[name](HIDDEN_UNITS)
    model.compile(steps_per_execution=steps)
    x = np.random.default_rng(0).normal(size=(steps * BATCH, d)).astype("float32")

    def seconds(epochs):
        start = time.perf_counter()
        model.fit(x, batch_size=BATCH, epochs=epochs, verbose=0)
        return time.perf_counter() - start

    seconds(1)  # compiles
    # The difference of two fits is free of what every fit costs once.
    return [
        1000 * max(seconds(4) - seconds(1), 1e-9) / (3 * steps)
        for _ in range(repetitions)
    ]


def draw(run, dimensions, times):
    import matplotlib.pyplot as plt
    import numpy as np

    figure, ax = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    for k, (model, values) in enumerate(times.items()):
        median = np.median(values, axis=1)
        ax.plot(dimensions, median, "o-", color=f"C{k}", label=MODELS[model])
        ax.fill_between(
            dimensions, values.min(1), values.max(1), color=f"C{k}", alpha=0.2
        )
    ax.set(xscale="log", yscale="log", xlabel="dimension d", ylabel="ms per step")
    ax.set_xticks(dimensions, [str(d) for d in dimensions])
    ax.minorticks_off()
    ax.grid(alpha=0.4)
    ax.legend()
    ax.set_title(
        f"A training step, batch {BATCH}, hidden {HIDDEN_UNITS};\nmedian and range of "
        f"{len(run.seeds)} repetitions",
        fontsize=10,
    )
    run.figure(figure, "cost")
    plt.close(figure)


if __name__ == "__main__":
    guarded(main)

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
"""

from outputs import Run, guarded, options

# As in fig1.py: network, optimizer, batch, iterations to an epoch.
HIDDEN_UNITS = (32, 32, 32)
ITERATIONS = (1000, 10_000)
BATCH = 1024
STEPS_PER_EPOCH = 25
SIGMA = 0.1  # the paper's step
STEPS = (0.01, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2)
STARTS = {"glorot": "Glorot's weights", "gaussian": "Gaussian energy"}
TEST_POINTS = 10_000  # of the data; fresh
GRID = 200

DEFINITIONS = {
    "relative_score_error": (
        "1",
        "E|psi - psi*|^2 / E|psi*|^2 over fresh points of the data's exact density",
    ),
    "grid_kl": (
        "nats",
        "KL(exact density of the data || model normalised on the grid), by quadrature",
    ),
    "smallest_mode_ratio": (
        "1",
        "smallest ratio over the data's parts of the model's probability to the exact one "
        + "(1: all there, 0: one is missing)",
    ),
}
LARGEST_STEP = ("1", "w / sqrt 2: no fixed point for Gaussian data of width w beyond")


def main(argv=None):
    args = options(__doc__).parse_args(argv)
    steps, iterations = STEPS, ITERATIONS
    if args.quick:
        steps, iterations = (0.05, 0.2), (2 * STEPS_PER_EPOCH, 4 * STEPS_PER_EPOCH)
    settings = {
        "hidden_units": HIDDEN_UNITS,
        "steps": steps,
        "iterations": iterations,
        "batch": BATCH,
        "steps per epoch": STEPS_PER_EPOCH,
        "optimizer": "Adam(1e-3)",
        "starts": STARTS,
        "test_points": TEST_POINTS,
        "grid": GRID,
    }
    run = Run("contrastive", args, settings)

    import matplotlib

    matplotlib.use("Agg")
    import keras
    from tqdm import tqdm

    import deen_tf as deen

    truths = {
        "mixture": Truth(
            deen.datasets.GaussianMixture.ring(modes=8, std=0.15), width=0.15, across=2
        ),
        "spiral": Truth(deen.datasets.Spiral(std=0.1), width=0.1, across=1),
    }
    for D, truth in truths.items():
        run.data[D] = {"law": repr(truth.law), "sampled with seed": "the run's"}
        run.metric(f"{D}/largest_step", truth.width / 2**0.5, *LARGEST_STEP)
    fits = [
        (seed, D, start, s)
        for seed in run.seeds
        for D in truths
        for start in STARTS
        for s in steps
    ]
    with tqdm(total=len(fits) * iterations[-1], unit="it", dynamic_ncols=True) as bar:
        for seed, D, start, s in fits:
            bar.set_description(f"seed {seed} {D} {start} {s}")
            model = deen.ContrastiveDivergence(
                HIDDEN_UNITS, sigma=SIGMA, step=s, seed=seed
            )
            model.compile(keras.optimizers.Adam(1e-3))
            x = truths[D].law.sample(BATCH * STEPS_PER_EPOCH, seed=seed)
            if start == "glorot":
                model.build(x.shape)
            for end in iterations:
                with run.stage("train"):
                    run.train(
                        model,
                        x,
                        name=f"{D}-{start}-{s}-{seed}-{end}",
                        batch_size=BATCH,
                        epochs=(end - int(model.optimizer.iterations))
                        // STEPS_PER_EPOCH,
                        bar=bar,
                        start=start,
                    )
                with run.stage("measure"):
                    for metric, value in truths[D].measure(model).items():
                        name = f"{D}/{start}/{metric}/s={s}@{end}"
                        run.metric(name, value, *DEFINITIONS[metric])
    with run.stage("draw"):
        draw(run, truths)
    run.json()
    run.finish_training()
    run.table()


class Truth:
    """One law, Gaussian of some width in the `across` dimensions, and its metrics."""

    def __init__(self, law, width, across):
        self.law, self.truth = law, law.smoothed(0.0)
        self.width, self.across = width, across
        self.box = law.box()
        # Seeds of training count up from 0: the test set never shares one.
        self.x = law.sample(TEST_POINTS, seed=10**6)
        self.score = self.truth.score(self.x)
        self.grid_energy = None

    def energy(self, x):
        if self.grid_energy is None:  # asked on one grid only
            self.grid_energy = self.truth.energy(x)
        return self.grid_energy

    def measure(self, model):
        from deen_tf import metrics

        return {
            "relative_score_error": metrics.relative_score_error(
                model.score(self.x), self.score
            ),
            "grid_kl": metrics.grid_kl(self.energy, model.energy, self.box, GRID),
            "smallest_mode_ratio": metrics.smallest_mode_ratio(
                self.energy, model.energy, self.law.centers(8), self.box, GRID
            ),
        }


def divergence(s, width, across):
    """Return the divergence at the fixed point, in nats; NaN where there is none."""
    import numpy as np

    r = s**2 / width**2
    with np.errstate(invalid="ignore"):
        steepness = (1 - np.sqrt(1 - 2 * r)) / r  # k w^2
    return across / 2 * (steepness - 1 - np.log(steepness))


def draw(run, truths):
    import matplotlib.pyplot as plt
    import numpy as np

    metrics, steps = run.metrics(), run.settings["steps"]
    figure, axes = plt.subplots(
        2, 2, figsize=(11, 8), sharex=True, sharey="row", layout="constrained"
    )
    for column, (D, truth) in enumerate(truths.items()):
        for ax, metric in zip(
            axes[:, column], ("grid_kl", "smallest_mode_ratio"), strict=True
        ):
            for k, (start, label) in enumerate(STARTS.items()):
                for end in run.settings["iterations"]:
                    of = [metrics[f"{D}/{start}/{metric}/s={s}@{end}"] for s in steps]
                    median = np.array([m["median"] for m in of])
                    low, high = (
                        np.array([m[edge] for m in of]) for edge in ("min", "max")
                    )
                    last = end == run.settings["iterations"][-1]
                    ax.errorbar(
                        np.array(steps) * (0.97, 1.03)[k],  # side by side
                        median,
                        yerr=(median - low, high - median),
                        fmt="o-" if last else "o:",
                        mfc=f"C{k}" if last else "white",
                        color=f"C{k}",
                        ms=5,
                        lw=1,
                        label=f"{label}, {end} iterations",
                    )
            edge = truth.width / 2**0.5
            ax.axvline(edge, color="k", lw=1, ls="--", label=r"$w/\sqrt{2}$")
            ax.axvline(SIGMA, color="0.6", lw=1, label="the paper's step")
            ax.grid(alpha=0.4)
        fine = np.geomspace(steps[0], edge, 200)
        axes[0, column].plot(
            fine,
            divergence(fine, truth.width, truth.across),
            "k",
            lw=1,
            label="closed form",
        )
        axes[0, column].set(title=f"{D}, w = {truth.width:.3g}")
        axes[0, column].set(xscale="log", yscale="log", ylim=(1e-3, None))
        axes[1, column].set(ylim=(-0.03, 1.03), xlabel="step s of Eq. 26")
        axes[1, column].set_xticks(steps, [str(s) for s in steps])
        axes[1, column].minorticks_off()
    axes[0, 0].set_ylabel("KL(data || model) [nats]")
    axes[1, 0].set_ylabel("poorest mode's share of its mass")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(
        "Contrastive divergence, one Langevin step, Adam 1e-3; median and range of "
        f"{len(run.seeds)} seeds"
    )
    run.figure(figure, "contrastive")
    plt.close(figure)


if __name__ == "__main__":
    guarded(main)

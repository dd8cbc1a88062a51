"""The denoising autoencoder and Eq. 25: (r(x) - x) / sigma^2 -> grad log p(x), sigma -> 0.

At every sigma the best r is the posterior mean, and (r(x) - x) / sigma^2 then IS the score
psi_sigma of the smoothed density (Eq. 11); Eq. 25 adds psi_sigma -> psi_0, the score of the
data. Two errors work against each other. Both are measured at the points of the data, in
parts of E|psi_0|^2:

    smoothing   E|psi_sigma - psi_0|^2                        = O(sigma^4), known exactly
    learning    E|(r(x) - x) / sigma^2 - psi_sigma|^2         = E|r - r*|^2 / sigma^4

An autoencoder holds the identity in a tanh network, and what the network misses of it is
divided by sigma^4. DSM (Eq. 17) has the same objective and learns psi itself, with x beside
it: what is left there is the noise of the samples, sigma nu, a part 1 / sigma^2 of psi.

    python reproduce/autoencoder.py --seeds 3           # the committed run
"""

from outputs import Run, guarded, options

HIDDEN_UNITS = (32, 32, 32)  # as in fig1.py
SIGMAS = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
# Adam at 1e-3, by a cosine to zero at the end: what stays is not the noise of the last
# steps. Two lengths of the autoencoder tell what more steps would mend.
RATE = 1e-3
ITERATIONS = (2000, 10_000)
BATCH = 1024
STEPS_PER_EPOCH = 100
TEST_POINTS = 20_000  # of the data; fresh
SMALL = 0.05  # sigma up to here: slopes

MODELS = {"dae": "denoising autoencoder (Eq. 25)", "dsm": "DSM (Eq. 17)"}
TO_DATA, TO_SMOOTHED = "error_to_data_score", "error_to_smoothed_score"
DEFINITIONS = {
    TO_DATA: (
        "1",
        "E|psi - psi_0|^2 / E|psi_0|^2 over points of the data, psi_0 their exact score",
    ),
    TO_SMOOTHED: (
        "1",
        "E|psi - psi_sigma|^2 / E|psi_0|^2, same points, psi_sigma the exact smoothed score",
    ),
}
EXPONENT = (
    "1",
    f"slope of the logarithm against log sigma, sigma <= {SMALL}, least squares",
)
BEST = ("units of x", "sigma of the range with the least error to the data's score")


def main(argv=None):
    args = options(__doc__).parse_args(argv)
    sigmas, iterations = SIGMAS, ITERATIONS
    if args.quick:
        sigmas, iterations = (0.05, 0.1, 0.3), (STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH)
    settings = {
        "hidden_units": HIDDEN_UNITS,
        "sigmas": sigmas,
        "iterations": iterations,
        "batch": BATCH,
        "steps per epoch": STEPS_PER_EPOCH,
        "optimizer": f"Adam, {RATE} by a cosine to zero",
        "test_points": TEST_POINTS,
    }
    run = Run("autoencoder", args, settings)

    import matplotlib

    matplotlib.use("Agg")
    import keras
    from tqdm import tqdm

    import deen_tf as deen
    from deen_tf import metrics

    law = deen.datasets.GaussianMixture.ring(modes=8)
    run.data["mixture"] = {"law": repr(law), "sampled with seed": "the run's"}
    # Seeds of training count up from 0: the test set never shares one.
    x_test = law.sample(TEST_POINTS, seed=10**6)
    psi_0 = law.score(x_test)
    power = metrics.fisher_divergence(0 * psi_0, psi_0)
    psi_sigma = {sigma: law.score(x_test, sigma) for sigma in sigmas}

    def record(name, metric, sigma, psi, true):
        value = metrics.fisher_divergence(psi, true) / power
        run.metric(f"mixture/{name}/{metric}/{sigma}", value, *DEFINITIONS[metric])

    for sigma in sigmas:
        record("exact", TO_DATA, f"sigma={sigma}", psi_sigma[sigma], psi_0)
    fits = [
        (seed, M, sigma, end)
        for seed in run.seeds
        for M in MODELS
        for sigma in sigmas
        for end in lengths(M, iterations)
    ]
    total = sum(end for *_, end in fits)
    with tqdm(total=total, unit="it", dynamic_ncols=True) as bar:
        for seed, M, sigma, end in fits:
            bar.set_description(f"seed {seed} {M} {sigma}")
            cls = {"dae": deen.DenoisingAutoencoder, "dsm": deen.DSM}[M]
            model = cls(HIDDEN_UNITS, sigma=sigma, seed=seed)
            schedule = keras.optimizers.schedules.CosineDecay(RATE, end)
            model.compile(keras.optimizers.Adam(schedule))
            with run.stage("train"):
                run.train(
                    model,
                    law.sample(BATCH * STEPS_PER_EPOCH, seed=seed),
                    name=f"{M}-{sigma}-{end}-{seed}",
                    batch_size=BATCH,
                    epochs=end // STEPS_PER_EPOCH,
                    bar=bar,
                )
            with run.stage("measure"):
                psi = model.score(x_test)
                at = f"sigma={sigma}@{end}"
                record(M, TO_DATA, at, psi, psi_0)
                record(M, TO_SMOOTHED, at, psi, psi_sigma[sigma])
    summarise(run, sigmas, iterations)
    with run.stage("draw"):
        draw(run, sigmas, iterations)
    run.json()
    run.finish_training()
    run.table()


def lengths(model, iterations):
    return iterations if model == "dae" else iterations[-1:]


def summarise(run, sigmas, iterations):
    """Record the powers of sigma, and the sigma that comes nearest to the data's score."""
    import numpy as np

    curves = errors(run)
    small = [i for i, sigma in enumerate(sigmas) if sigma <= SMALL]

    def slope(values):
        logs = np.log(np.array(sigmas)[small]), np.log(values[small])
        return np.polyfit(*logs, 1)[0]

    bias = curves("exact", TO_DATA, sigmas)
    run.metric("mixture/exact/exponent", slope(bias[:, 0]), *EXPONENT)
    for M in MODELS:
        for end in lengths(M, iterations):
            for to_smoothed, to_data in zip(
                curves(M, TO_SMOOTHED, sigmas, end).T,
                curves(M, TO_DATA, sigmas, end).T,
                strict=True,
            ):
                run.metric(f"mixture/{M}/exponent@{end}", slope(to_smoothed), *EXPONENT)
                best = sigmas[int(to_data.argmin())]
                run.metric(f"mixture/{M}/best_sigma@{end}", best, *BEST)


def errors(run):
    """Return a function that looks up an error at every sigma, (sigmas, seeds)."""
    import numpy as np

    metrics = run.metrics()

    def curve(name, metric, sigmas, end=None):
        tag = "" if end is None else f"@{end}"
        names = [f"mixture/{name}/{metric}/sigma={sigma}{tag}" for sigma in sigmas]
        return np.array([metrics[name]["values"] for name in names])

    return curve


def draw(run, sigmas, iterations):
    import matplotlib.pyplot as plt
    import numpy as np

    curves = errors(run)
    bias = curves("exact", TO_DATA, sigmas)[:, 0]
    figure, axes = plt.subplots(
        1, 2, figsize=(11, 5), sharex=True, sharey=True, layout="constrained"
    )
    for ax, metric, title in (
        (axes[0], TO_SMOOTHED, r"learning: to the smoothed score $\psi_\sigma$"),
        (axes[1], TO_DATA, r"Eq. 25: to the score of the data $\psi_0$"),
    ):
        for k, (M, label) in enumerate(MODELS.items()):
            for end in lengths(M, iterations):
                values = curves(M, metric, sigmas, end)
                median, last = np.median(values, axis=1), end == iterations[-1]
                ax.errorbar(
                    sigmas,
                    median,
                    yerr=(median - values.min(1), values.max(1) - median),
                    fmt="o-" if last else "o:",
                    color=f"C{k}",
                    mfc=f"C{k}" if last else "white",
                    ms=5,
                    lw=1,
                    label=f"{label}, {end} iterations",
                )
        ax.set(xscale="log", yscale="log", xlabel=r"$\sigma$", title=title)
        ax.set_xticks(sigmas, [str(sigma) for sigma in sigmas])
        ax.minorticks_off()
        ax.grid(alpha=0.4)
    axes[1].plot(
        sigmas, bias, "k--", lw=1, label=r"smoothing alone: $\psi_\sigma$, exact"
    )
    axes[1].axhline(1, color="0.6", lw=1, label="a score of zero")
    axes[0].set_ylabel(r"$E|\psi-\cdot|^2\,/\,E|\psi_0|^2$ at points of the data")
    axes[1].legend(fontsize=8)
    figure.suptitle(
        "The limit of Eq. 25 on the mixture: median and range of "
        f"{len(run.seeds)} seeds"
    )
    run.figure(figure, "autoencoder")
    plt.close(figure)


if __name__ == "__main__":
    guarded(main)

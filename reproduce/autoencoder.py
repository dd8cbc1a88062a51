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

What to see: right, the exact smoothed score comes to the data's as sigma^4, but what is
learned departs from it below sigma = 0.1, the autoencoder's first.
"""

from command import options

if __name__ == "__main__":
    args = options(__doc__)

import keras
import numpy as np
from experiment import Run
from plots import panels
from truth import HIDDEN_UNITS, LAWS

import deen_tf as deen
from deen_tf import metrics, plotting

SETTINGS = {
    "hidden_units": HIDDEN_UNITS,
    "sigmas": (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5),
    # Adam at 1e-3, by a cosine to zero at the end: what stays is not the noise of the last
    # steps. Two lengths of the autoencoder tell what more steps would mend.
    "rate": 1e-3,
    "iterations": (2000, 10_000),
    "batch": 1024,
    "steps_per_epoch": 100,
    "test_points": 20_000,  # of the data; fresh
    "small": 0.05,  # sigma up to here: slopes
}
QUICK = {"sigmas": (0.03, 0.05, 0.3), "iterations": (100, 200)}
MODELS = {
    "dae": (deen.DenoisingAutoencoder, "denoising autoencoder (Eq. 25)"),
    "dsm": (deen.DSM, "DSM (Eq. 17)"),
}
TO_DATA, TO_SMOOTHED = "error_to_data_score", "error_to_smoothed_score"


def main(args):
    run = Run(__file__, args, SETTINGS, QUICK)
    at, law = run.settings, LAWS["mixture"]
    run.data["mixture"] = repr(law)
    # Seeds of training count up from 0: the test set never shares one.
    x_test = law.sample(at.test_points, seed=10**6)
    psi_0 = law.score(x_test)
    power = metrics.fisher_divergence(0 * psi_0, psi_0)
    exact = {sigma: law.score(x_test, sigma) for sigma in at.sigmas}
    for sigma, psi in exact.items():
        error = metrics.fisher_divergence(psi, psi_0) / power
        run.metric(f"mixture/exact/{TO_DATA}/sigma={sigma}", error)
    fits = [
        (seed, M, sigma, end)
        for seed in run.seeds
        for M in MODELS
        for sigma in at.sigmas
        for end in lengths(M, at)
    ]
    for seed, M, sigma, end in run.each(fits):
        model = MODELS[M][0](hidden_units=HIDDEN_UNITS, sigma=sigma, seed=seed)
        cosine = keras.optimizers.schedules.CosineDecay(at.rate, end)
        model.compile(keras.optimizers.Adam(cosine))
        x, epochs = (
            law.sample(at.batch * at.steps_per_epoch, seed=seed),
            end // at.steps_per_epoch,
        )
        run.fit(model, x, batch_size=at.batch, epochs=epochs, name=f"{M} {sigma}")
        psi = model.score(x_test)
        for metric, true in ((TO_DATA, psi_0), (TO_SMOOTHED, exact[sigma])):
            error = metrics.fisher_divergence(psi, true) / power
            run.metric(f"mixture/{M}/{metric}/sigma={sigma}@{end}", error)
    summarise(run)
    draw(run)
    run.finish(name for name in run.recorded if "exponent" in name or "best" in name)


def lengths(M, at):
    return at.iterations if M == "dae" else at.iterations[-1:]


def curve(run, name, metric, end=None):
    """Return an error at every sigma, (sigmas, seeds)."""
    tag = "" if end is None else f"@{end}"
    sigmas = run.settings.sigmas
    return np.array(
        [run.values(f"mixture/{name}/{metric}/sigma={s}{tag}") for s in sigmas]
    )


def summarise(run):
    """Record the powers of sigma, and the sigma that comes nearest to the data's score."""
    at = run.settings
    sigmas = np.array(at.sigmas)
    small = sigmas <= at.small

    def slope(values):
        return np.polyfit(np.log(sigmas[small]), np.log(values[small]), 1)[0]

    run.metric("mixture/exact/exponent", slope(curve(run, "exact", TO_DATA)[:, 0]))
    for M in MODELS:
        for end in lengths(M, at):
            for errors in curve(run, M, TO_SMOOTHED, end).T:
                run.metric(f"mixture/{M}/exponent@{end}", slope(errors))
            for best in curve(run, M, TO_DATA, end).argmin(0):
                run.metric(f"mixture/{M}/best_sigma@{end}", sigmas[best])


def draw(run):
    at = run.settings
    figure, axes = panels(1, 2, 4.6, sharex=True, sharey=True)
    for ax, metric, title in (
        (axes[0, 0], TO_SMOOTHED, r"learning: to the smoothed score $\psi_\sigma$"),
        (axes[0, 1], TO_DATA, r"Eq. 25: to the score of the data $\psi_0$"),
    ):
        for k, (M, (_, label)) in enumerate(MODELS.items()):
            for end in lengths(M, at):
                last = end == at.iterations[-1]
                plotting.median_and_range(
                    ax,
                    at.sigmas,
                    curve(run, M, metric, end),
                    fmt="o-" if last else "o:",
                    color=f"C{k}",
                    mfc=f"C{k}" if last else "white",
                    label=f"{label}, {end} iterations",
                )
        ax.set(xscale="log", yscale="log", xlabel=r"$\sigma$", title=title)
        ax.set_xticks(at.sigmas, list(map(str, at.sigmas)))
        ax.minorticks_off()
        ax.grid(alpha=0.4)
    smoothing = curve(run, "exact", TO_DATA)[:, 0]
    label = r"smoothing alone: $\psi_\sigma$, exact"
    ax.plot(at.sigmas, smoothing, "k--", label=label)
    ax.axhline(1, color="0.6", label="a score of zero")
    axes[0, 0].set_ylabel(r"$E|\psi-\cdot|^2\,/\,E|\psi_0|^2$ at points of the data")
    ax.legend()
    figure.suptitle(
        f"The limit of Eq. 25 on the mixture: median and range of {len(run.seeds)} seeds"
    )
    run.figure(figure, run.name)


if __name__ == "__main__":
    main(args)

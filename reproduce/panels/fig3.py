"""The panels of Figure 3, drawn from what `fig3.py` measured."""

import matplotlib.pyplot as plt
import numpy as np

from deen_tf import plotting

SIZE, NOISE = 32, 0.5  # of the patches; of the noise, over their standard deviation
SHOWN = (3, 4)  # rows and columns of patches in a panel


def patches(run, stem, hidden_units, methods, score):
    """(a) noisy (b) median + Gaussian (c) one step of DEEN, in both readings."""
    shown = chosen(score)
    figure, axes = plt.subplots(2, 2, figsize=(12, 11.5), layout="constrained")
    metrics = run.metrics()
    contrast, fixed = methods
    panels = {
        "noisy": "(a) noisy, 0.5 std(x)",
        "median+gaussian": "(b) median 3 x 3, then Gaussian of 1 pixel",
        contrast: "(c) one step of DEEN, contrast-normalised patches",
        fixed: "(c') one step of DEEN, one scale and one sigma for all patches",
    }
    std = score.test.x.std(1, keepdims=True)  # each patch is shown in its own contrast
    for ax, (method, text) in zip(axes.flat, panels.items(), strict=True):
        error = metrics[f"{method}/err_per_pixel"]["values"][0]
        plotting.patch_grid(
            ax,
            (score.x_hat[method] / std)[shown],
            (SIZE, SIZE),
            SHOWN[0],
            f"{text}\nerr/pixel over all test patches {error:.4f}",
            [f"err/pixel {e:.4f}" for e in score.error[method][shown]],
            limits=(-2.5, 2.5),
        )
    widths = "-".join(map(str, hidden_units))
    where = "1024 pixels" if stem == "fig3" else "every 8 x 8 window"
    figure.suptitle(
        f"Figure 3 with hidden layers {widths} on {where}, seed {run.first}"
        + announcement(run)
    )
    run.figure(figure, stem)
    plt.close(figure)


def chosen(score):
    """Return which test patches are shown, evenly over the test images."""
    return np.linspace(0, len(score.test.x) - 1, np.prod(SHOWN)).round().astype(int)


def announcement(run):
    if not run.data["patches"]["stand-in"]:
        return ""
    return f"\nNOT van Hateren's images: {run.data['patches']['source']} stand in"


def photograph(run, pictures):
    """A whole picture beside the baselines, and a part of it enlarged."""
    clean = pictures["clean"]
    height, width = clean.shape
    top, left = height // 2 - height // 12, width // 2 - width // 12
    part = slice(top, top + height // 6), slice(left, left + width // 6)
    figure, axes = plt.subplots(
        4, 3, figsize=(15, 4 * 5 * height / width + 1), layout="constrained"
    )
    metrics = run.metrics()
    for k, (method, picture) in enumerate(pictures.items()):
        row, column = divmod(k, 3)
        title = method
        if method != "clean":
            error = metrics[f"photograph/{method}/err_per_pixel"]["values"][0]
            title += f"\nerr/pixel {error:.4f}"
        whole, enlarged = axes[2 * row, column], axes[2 * row + 1, column]
        limits = {"vmin": clean.min(), "vmax": clean.max(), "cmap": "gray"}
        whole.imshow(picture, **limits)
        whole.set_title(title)
        whole.add_patch(
            plt.Rectangle((left, top), width // 6, height // 6, fill=False, ec="red")
        )
        limits |= {"vmin": clean[part].min(), "vmax": clean[part].max()}
        enlarged.imshow(picture[part], **limits)
        for ax in (whole, enlarged):
            ax.axis("off")
    figure.suptitle(
        f"{run.data['photograph']['name']}, noise {NOISE} of the patches' overall "
        "standard deviation; below each, the part in the red box" + announcement(run)
    )
    run.figure(figure, "fig3-photograph")
    plt.close(figure)


def training(run, losses, curve):
    """Running losses with their bounds, and the likelihood that chose sigma."""
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    metrics = run.metrics()
    groups = {
        "paper's network, one scale, Parzen sigma": ("deen",),
        "paper's network, contrast-normalised, sigma = 0.5": ("deen-contrast",),
        "without the bottleneck, sigma = 0.5": (
            "deen-dense",
            "dsm-dense",
            "deen-wide",
            "deen-wide-fixed",
        ),
    }
    for ax, (title, names) in zip(axes.flat, groups.items(), strict=False):
        running = {}
        for name in names:
            iterations, loss = map(np.array, losses[name])
            window = max(1, len(loss) // 60)
            mean = np.convolve(loss, np.ones(window) / window, "valid")
            running[name] = iterations[window - 1 :], mean
        bound = metrics[f"{names[0]}/loss_bound"]["median"] * SIZE**2
        noise = (
            bound / (1 - metrics[f"{names[0]}/removed_noise_ceiling"]["median"])
            if bound
            else NOISE**2 * SIZE**2
        )
        lines = {rf"$\sigma^2 d$ = {noise:.0f}: nothing removed": noise}
        if bound:
            lines[rf"$\sigma^2 (d - r)$ = {bound:.0f}: rank bound"] = bound
        if not bound:
            wiener = metrics["wiener-contrast/loss"]["median"]
            lines[f"Wiener filter, contrast-normalised: {wiener:.0f}"] = wiener
        plotting.loss_curves(ax, running, title, bound=lines)
    ax = axes.flat[-1]
    sigma = metrics["sigma"]["median"]
    ax.plot(curve.sigmas, curve.log_likelihoods)
    ax.axvline(sigma, color="black", ls="--", lw=1, label=f"maximum at {sigma:.3f}")
    ax.axvline(NOISE, color="black", ls=":", lw=1, label=f"mean noise {NOISE}")
    ax.set(
        title="Parzen density of the training patches",
        xlabel=r"$\sigma$ / overall std of the patches",
        ylabel="validation log-likelihood, nats per patch",
    )
    ax.legend(fontsize=7)
    figure.suptitle(f"Training for Figure 3, seed {run.first}" + announcement(run))
    run.figure(figure, "fig3-training")
    plt.close(figure)


def arrays(run, score, losses, curve):
    shown = chosen(score)  # no more pixels than the figure shows
    unit = {"unit": "overall std of the training patches, mean removed"}
    groups = {"clean": ({"patches": score.test.x[shown]}, unit)}
    letters = {"noisy": "a", "median+gaussian": "b"}
    for method, x_hat in score.x_hat.items():
        groups[f"{letters.get(method, 'c')}/{method}"] = (
            {"patches": x_hat[shown], "err_per_pixel": score.error[method]},
            unit | {"axes": "(patch, pixel), 32 x 32 row by row"},
        )
    for name, (iterations, loss) in losses.items():
        groups[f"training/{name}"] = (
            {"iterations": iterations, "loss": loss},
            {"equation": "Eq. 19 (17)", "unit": "sum over pixels"},
        )
    groups["parzen"] = (
        {"sigma": curve.sigmas, "log_likelihood": curve.log_likelihoods},
        {"unit": "nats per patch", "equation": "Eqs. 12, 16"},
    )
    run.arrays(groups)

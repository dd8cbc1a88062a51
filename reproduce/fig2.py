"""Figure 2: DEEN on MNIST, the choice of sigma, and what a single step can remove.

Claims (Sec. 4): sigma = 0.14 maximises the test likelihood of the Parzen density; the
running loss falls (a); one step of Eq. 11 denoises test digits, also at sigma' != sigma
(b)(c).

Read beside them the bound of `deen_tf.models.energy`: the score of an MLP energy lies in the row
space of its first layer, so the paper's network (128 units on 784 pixels) can remove at
most 128/784 of the noise. A second network has two units to a pixel in its first layer,
a third a small MLP shared by all 8 x 8 windows; everything is shown for all of them.

    python reproduce/fig2.py                    # with MNIST in Keras' cache, or downloaded
    python reproduce/fig2.py --data DIR         # mnist.npz, or the four idx files, in DIR
"""

from outputs import Run, guarded, options

SIGMA, OTHER_SIGMA = 0.14, 0.3  # the paper's, for training and for the second test
CENTRES = (9_000, 50_000, 60_000)  # of the Parzen density

# The paper's network: its widths, Adam at 1e-3, Glorot's initial weights; batch and length
# are ours.
PAPER = {"hidden_units": (128, 128, 256), "batch": 128, "epochs": 13, "rate": 1e-3}
# The wide network: two units to a pixel, and a start at the Gaussian energy of the digits
# (deen_tf.training.start). The field: a small MLP on 8 x 8 windows, the same everywhere
# (deen_tf.networks.field_of_experts). Both were chosen on digits held out of the training set; see
# the README for what was tried.
WIDE = {"hidden_units": (1568, 256), "batch": 128, "epochs": 13, "rate": 1e-3}
FIELD = {"hidden_units": (64, 32), "batch": 32, "epochs": 2, "rate": 0.015}
WARMUP, CLIP = 300, 1.0  # steps, gradient norm; a cosine to zero follows

FITS = {
    # name: (class, network, sigma)
    "deen": ("DEEN", PAPER, SIGMA),
    "deen-wide": ("DEEN", WIDE, SIGMA),
    "deen-field": ("FieldOfExperts", FIELD, SIGMA),
    "deen-field-0.3": ("FieldOfExperts", FIELD, OTHER_SIGMA),
    "dsm-wide": ("DSM", WIDE, SIGMA),
    "dae-wide": ("DenoisingAutoencoder", WIDE, SIGMA),
    "dae-wide-0.3": ("DenoisingAutoencoder", WIDE, OTHER_SIGMA),
}
FIGURES = {"deen": "fig2", "deen-wide": "fig2-wide", "deen-field": "fig2-field"}
SHOWN = 10  # digits in a row


def main(argv=None):
    parser = options(
        __doc__, data={"help": "folder or file of MNIST (default: Keras' cache)"}
    )
    args = parser.parse_args(argv)
    fits, centres = FITS, CENTRES
    if args.quick:
        fits = {k: (c, n | {"epochs": 1}, s) for k, (c, n, s) in FITS.items()}
        centres = tuple(n // 20 for n in CENTRES)
    settings = {
        "sigma": [SIGMA, OTHER_SIGMA],
        "warm-up steps, gradient norm clipped at": [WARMUP, CLIP],
        "fits": fits,
        "parzen centres": centres,
    }
    run = Run("fig2", args, settings)

    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from tqdm import tqdm

    from deen_tf import baselines
    from deen_tf.datasets import mnist
    from deen_tf.laws.parzen import Parzen

    with run.stage("import and load"):
        digits = mnist.load(args.data)
        run.data["mnist"] = digits.identity
    x, test = digits.x_train, digits.x_test
    if args.quick:
        x, test = x[: centres[-1]], test[:500]
    curves = choose_sigma(run, x, test, centres)

    # Noise of the test, once for all methods: nu, scaled to either level.
    nu = np.random.default_rng([run.first, 2018]).normal(size=test.shape)
    noisy = {s: (test + s * nu).astype("float32") for s in (SIGMA, OTHER_SIGMA)}
    score = Scores(run, test, noisy)
    score.add("noisy", noisy)

    losses = {}
    total = sum(steps(network, x) for _, network, _ in fits.values()) * len(run.seeds)
    with tqdm(total=total, unit="it", desc="training", dynamic_ncols=True) as bar:
        for seed in run.seeds:
            for name, (cls, network, sigma) in fits.items():
                bar.set_description(f"seed {seed} {name}")
                model, curve, seconds = fit(
                    run, name, cls, network, sigma, seed, x, bar
                )
                with run.stage("measure"):
                    assess(run, name, model, test, noisy, curve, seconds, score)
                if seed == run.first:
                    losses[name] = curve
                    if not args.no_export:
                        with run.stage("export"):
                            model.export(run.path("models", f"fig2-{name}"))
                    if name in FIGURES:  # now, and again with all seeds
                        draw(run, FIGURES[name], name, losses, score)
    with run.stage("baselines"):
        wiener = baselines.Wiener(x)
        score.add("wiener", {s: wiener.denoise(noisy[s], s) for s in noisy})
        held_out = x[-2000:]
        noise = np.random.default_rng(1).normal(size=held_out.shape)
        filtered = {}
        for s, xi in noisy.items():
            sizes, _ = baselines.tune_median_gaussian(held_out, held_out + s * noise)
            filtered[s] = baselines.median_gaussian(xi, **sizes)
            run.settings[f"median + Gaussian at {s}"] = sizes
        score.add("median+gaussian", filtered)
    with run.stage("parzen posterior mean"):
        score.add(
            "parzen", {s: Parzen(x, s).denoise(noisy[s], progress=True) for s in noisy}
        )
    with run.stage("draw"):
        for name, stem in FIGURES.items():
            draw(run, stem, name, losses, score)
        draw_comparison(run, curves, score)
        save_arrays(run, losses, curves, score)
    run.json()
    run.finish_training()
    run.table()


def choose_sigma(run, x, test, numbers):
    """The held-out Parzen likelihood against sigma, for several numbers of centres."""
    import numpy as np

    from deen_tf.laws.parzen import select_sigma

    curves = {}
    with run.stage("choose sigma"):
        for centres in numbers:
            sigma, curve = select_sigma(
                x[:centres], test, sigmas=[SIGMA], return_curve=True, progress=True
            )
            run.metric(
                f"parzen/sigma_best/{centres}",
                sigma,
                "pixel value",
                "bandwidth that maximises the mean test log-likelihood, with so many of "
                "the training digits as centres",
            )
            run.metric(
                f"parzen/log_likelihood_at_0.14/{centres}",
                curve.log_likelihoods[np.searchsorted(curve.sigmas, SIGMA)],
                "nats per digit",
                "mean test log-likelihood at the paper's sigma",
            )
            run.metric(
                f"parzen/log_likelihood_best/{centres}",
                curve.log_likelihoods.max(),
                "nats per digit",
                "the same at the best of the curve's sigmas",
            )
            curves[centres] = curve
    return curves


def steps(network, x):
    return network["epochs"] * -(-len(x) // network["batch"])


def fit(run, name, cls, network, sigma, seed, x, bar):
    """Train one network; returns it, its running loss and the seconds it took."""
    import keras

    import deen_tf as deen

    model = getattr(deen, cls)(network["hidden_units"], sigma=sigma, seed=seed)
    if name == "deen":  # as in the paper: Keras' usual initial weights
        model.build((None, x.shape[1]))
        model.compile()
    else:
        rate = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, steps(network, x) - WARMUP),
            warmup_target=network["rate"],
            warmup_steps=WARMUP,
        )
        model.compile(keras.optimizers.Adam(rate, global_clipnorm=CLIP))
    with run.stage(f"train {name}"):
        *curve, seconds = run.train(
            model,
            x,
            name=f"{name}-{seed}",
            batch_size=network["batch"],
            epochs=network["epochs"],
            bar=bar,
        )
    return model, curve, seconds


class Scores:
    """Every method's errors on the test digits, at both noise levels."""

    def __init__(self, run, test, noisy):
        self.run, self.test, self.noisy = run, test, noisy
        self.images = {}
        self.mse = {}

    def add(self, method, denoised, keep=True):
        from deen_tf import metrics

        for s, images in denoised.items():
            error, _ = metrics.mean_and_standard_error(
                metrics.err_per_pixel(self.test, images)
            )
            self.mse.setdefault((method, s), []).append(error)
            self.run.metric(
                f"{method}/mse@{s:.2f}",
                error,
                "pixel value^2",
                f"|x - x_hat|^2 / 784, mean over the test digits, noise level {s}",
            )
            self.run.metric(
                f"{method}/psnr@{s:.2f}",
                float(metrics.psnr(self.test, images, 1.0).mean()),
                "dB",
                "peak signal-to-noise ratio for a peak of 1, mean over the test digits",
            )
            self.run.metric(
                f"{method}/noise_left@{s:.2f}",
                1 - metrics.removed_noise_fraction(self.test, self.noisy[s], images),
                "1",
                "E|x - x_hat|^2 / E|x - xi|^2 over the test digits",
            )
            if keep and (method, s) not in self.images:
                self.images[method, s] = images[:100]


def assess(run, name, model, test, noisy, curve, seconds, score):
    """Loss on the test digits, its bound, and single-step denoising in both readings."""
    xi = noisy[model.sigma]
    loss = float(((test - model.denoise(xi)) ** 2).sum(1).mean())
    run.metric(
        f"{name}/loss_start", curve[1][0], "pixel value^2", "mean of the first steps"
    )
    run.metric(
        f"{name}/loss_end", loss, "pixel value^2", "Eq. 19 (17) on the test digits"
    )
    run.metric(f"{name}/seconds", seconds, "s", "wall time of the fit")
    if hasattr(model, "loss_bound"):
        run.metric(
            f"{name}/loss_bound",
            model.loss_bound(),
            "pixel value^2",
            "sigma^2 (d - r): no training goes below it (deen_tf.models.energy)",
        )
        removed = 1 - loss / float(((test - xi) ** 2).sum(1).mean())
        run.metric(
            f"{name}/removed_noise_fraction",
            removed,
            "1",
            "1 - E|x - x_hat|^2 / E|x - xi|^2 on the test digits, at sigma",
        )
        run.metric(
            f"{name}/removed_noise_ceiling",
            1 - model.loss_bound() / (model.sigma**2 * model.dimension),
            "1",
            "r / d: the most that the first layer lets a single step remove",
        )
    score.add(name, {s: model.denoise(noisy[s]) for s in noisy})
    if not hasattr(model, "energy"):
        return
    # At sigma' != sigma Eq. 11 can be read with the model's sigma^2 or the actual one.
    others = [s for s in noisy if s != model.sigma]
    score.add(
        f"{name}, step sigma'^2",
        {s: noisy[s] + s**2 * model.score(noisy[s]) for s in others},
    )


def draw(run, stem, name, losses, score):
    """(a) the running loss; (b)(c) clean, noisy, denoised at sigma and at sigma'."""
    import matplotlib.pyplot as plt
    import numpy as np

    from deen_tf import plotting

    figure, axes = plt.subplots(
        1, 3, figsize=(17, 4.4), layout="constrained", width_ratios=(1, 1.5, 1.5)
    )
    metrics = run.metrics()
    start, bound = SIGMA**2 * 784, metrics[f"{name}/loss_bound"]["median"]
    iterations, loss = map(np.array, losses[name])
    window = max(1, len(loss) // 60)
    running = np.convolve(loss, np.ones(window) / window, "valid")
    plotting.loss_curves(
        axes[0],
        {"running average of the loss": (iterations[window - 1 :], running)},
        f"(a) $L_{{DEEN}}$, sigma = {SIGMA}",
        bound={
            rf"$\sigma^2 d$ = {start:.2f}: nothing removed": start,
            rf"$\sigma^2 (d - r)$ = {bound:.2f}: rank bound": bound,
        },
    )
    axes[0].set_ylim(bottom=0.97 * bound)
    for ax, letter, s, method in (
        (axes[1], "b", SIGMA, name),
        (axes[2], "c", OTHER_SIGMA, name),
    ):
        rows = [score.test, score.images["noisy", s], score.images[method, s]]
        titles = "clean / noisy / denoised"
        if s != SIGMA:
            rows.append(score.images[f"{name}, step sigma'^2", s])
            titles += r" with $\sigma^2$ / denoised with $\sigma'^2$"
        left = f"{metrics[f'{name}/noise_left@{s:.2f}']['median']:.0%}"
        if s != SIGMA:
            other = metrics[f"{name}, step sigma'^2/noise_left@{s:.2f}"]["median"]
            left += rf" with $\sigma^2$, {other:.0%} with $\sigma'^2$"
        which = "=" if s == SIGMA else r"\neq"
        plotting.patch_grid(
            ax,
            np.concatenate([r[:SHOWN] for r in rows]),
            (28, 28),
            len(rows),
            rf"({letter}) $\sigma' = {s} {which} \sigma$: {titles}"
            + f"\nnoise power left {left}",
        )
    cls, network, _ = FITS[name]
    widths = "-".join(map(str, network["hidden_units"]))
    where = "every 8 x 8 window" if cls == "FieldOfExperts" else "784 pixels"
    figure.suptitle(
        f"Figure 2 with hidden layers {widths} on {where}, seed {run.first}"
    )
    run.figure(figure, stem)
    plt.close(figure)


def draw_comparison(run, curves, score):
    """The likelihood against sigma, and every method on the same digits."""
    import matplotlib.pyplot as plt
    import numpy as np

    from deen_tf import plotting

    figure, axes = plt.subplots(
        1, 3, figsize=(18, 8.5), layout="constrained", width_ratios=(1, 1.2, 1.2)
    )
    for centres, curve in curves.items():
        best = run.metrics()[f"parzen/sigma_best/{centres}"]["median"]
        axes[0].plot(
            curve.sigmas, curve.log_likelihoods, label=f"{centres} centres: {best:.3f}"
        )
    axes[0].axvline(SIGMA, color="black", ls="--", lw=1, label="the paper's 0.14")
    top = max(c.log_likelihoods.max() for c in curves.values())
    axes[0].set(
        title="Parzen density of MNIST: test log-likelihood",
        xlabel=r"$\sigma$",
        ylabel="nats per digit",
        xlim=(0.1, 0.25),
        ylim=(top - 150, top + 15),
    )
    axes[0].legend()
    for ax, s in zip(axes[1:], (SIGMA, OTHER_SIGMA), strict=True):
        methods = [m for m, level in score.images if level == s]
        left = [run.metrics()[f"{m}/noise_left@{s:.2f}"]["median"] for m in methods]
        rows = [score.test[:SHOWN], *(score.images[m, s][:SHOWN] for m in methods)]
        plotting.patch_grid(
            ax, np.concatenate(rows), (28, 28), len(rows), f"noise level {s}"
        )
        for row, text in enumerate(
            ["clean", *(f"{m}\n{v:.3f}" for m, v in zip(methods, left, strict=True))]
        ):
            ax.text(-0.1, -row * 1.12 - 0.5, text, ha="right", va="center", fontsize=8)
        ax.set_xlim(-3.2, SHOWN * 1.08)
    figure.suptitle(
        "Single-step denoising of test digits; below each method, the part of the noise "
        "power it leaves"
    )
    run.figure(figure, "fig2-comparison")
    plt.close(figure)


def save_arrays(run, losses, curves, score):
    groups = {}
    for name, (iterations, loss) in losses.items():
        groups[f"a/{name}"] = (
            {"iterations": iterations, "loss": loss},
            {"equation": "Eq. 19 (17)", "unit": "pixel value^2, sum over pixels"},
        )
    for (method, s), images in score.images.items():
        letter = "b" if s == SIGMA else "c"
        groups[f"{letter}/{method}"] = (
            {"images": images[:SHOWN]},
            {"noise level": s, "axes": "(digit, pixel), 28 x 28 row by row"},
        )
    groups["clean"] = (
        {"images": score.test[:SHOWN]},
        {"unit": "pixel value in [0, 1]"},
    )
    for centres, curve in curves.items():
        groups[f"parzen/{centres}"] = (
            {"sigma": curve.sigmas, "log_likelihood": curve.log_likelihoods},
            {"unit": "nats per digit", "equation": "Eqs. 12, 16"},
        )
    run.arrays(groups)


if __name__ == "__main__":
    guarded(main)

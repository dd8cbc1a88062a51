"""One energy of digits at every noise level: samples from white noise, likelihood, denoising.

The paper's energy has one sigma. It is of little use at another, its constant is unknown, and
walks on it draw no digits (`sampling.py`). Here one network gives E(x, sigma) for all sigma
from 0.05 to 5 (`deen_tf.models.deen`: dual score matching): a small convolutional network and
the energy of N(m, C + sigma^2 I), m and C those of the digits (`networks.Levels`).

Samples. Annealed Langevin from white noise down the levels, and walk-jump at a level at which
it mixes. They are judged as the field does (`generators.py`): a classifier's shares of the ten
classes, its confidence, the Frechet distance in its last hidden layer to the 10,000 test
digits; and the distance to the nearest training digit, as a sample must not be a copy. The same
for as many of: training digits (the floor), Parzen samples, a mixture of Gaussians, Keras'
variational autoencoder, and walk-jump on an energy of one level (Figure 2's field of experts).

Likelihood. -log p_sigma of noisy test digits, xi = x + sigma nu, in nats and in bits per pixel
(over 784 log 2; a density of pixels in [0, 1], so that it may be negative): nothing is
dequantised, what is smoothed are the digits as points, by N(0, sigma^2 I), and every method is
asked for the density of these same noisy digits. The model's energy is normalised as it was
trained; beside it log Z by annealed importance sampling, from both sides.

Denoising. The noise that a single step leaves at every sigma' from 0.05 to 1.

    python reproduce/digits.py --data DIR      # mnist.npz, or the idx files, in DIR

The committed energy was trained by this script in 222 s on a GPU (an H100 that other trainings
shared), and the rest was done on two cores, by `--model FILE`: there the training alone takes
hours. With "epochs": 16 it takes 50 minutes and leaves 0.075 of the noise at 0.14.

What to see: (a) digits of all classes, from noise alone, some broken; (c) chains
that turn from one digit into another; (d) below Figure 2's networks, each at its own level.
"""

from command import options

if __name__ == "__main__":
    args = options(
        __doc__,
        data={"help": "folder or file of MNIST (default: Keras' cache)"},
        model={
            "metavar": "FILE",
            "help": "an energy that this script has trained, on a GPU, say (digits.keras of "
            "its models); all the rest is done here",
        },
    )

import hashlib
import json
import pathlib
import warnings

import keras
import numpy as np
from experiment import Run
from generators import Autoencoder, Judge, PrincipalMixture, frechet, set_weights
from plots import image_rows, panels
from provenance import ROOT
from walks import Nearest, noisy

import deen_tf as deen
from deen_tf import networks, plotting
from deen_tf.annealing import log_z
from deen_tf.datasets import mnist
from deen_tf.diagnostics import ChainsWarning
from deen_tf.laws.gaussian import Gaussian
from deen_tf.laws.mixtures import GaussianMixture
from deen_tf.laws.parzen import Parzen
from deen_tf.metrics import removed_noise_fraction
from deen_tf.sampling import annealed_langevin, langevin, walk_jump

SETTINGS = {
    "sigma": (0.05, 5.0),
    # After 750 steps a rate of 1e-3 leaves 0.113 of the noise at 0.14 on digits held out of the
    # training set, 2e-3 leaves 0.096.
    "network": {"channels": (48, 64, 96, 96), "units": 128},
    "batch": 256,
    "epochs": 80,
    "rate": 2e-3,
    "warmup": 300,
    "train_digits": 60_000,
    "test_digits": 10_000,
    "judge": {"units": 64, "epochs": 8},
    "vae_epochs": 30,
    "mixture": {"coordinates": 100, "components": 30},
    "parzen_sigma": 0.157,  # the best on test digits: Figure 2
    "one_level": "mnist-0.3",  # a preset: Figure 2's field of experts
    "samples": 10_000,  # of every row
    "block": 1000,  # chains side by side
    # Levels evenly spaced in log sigma; step sizes as ratios to sigma^2. Of 300 samples, against
    # training digits: 60 levels of 4 steps are no better (Frechet distance 18.6) than 40 of 2
    # (17.9), nor is the ratio 0.2 (17.9, more broken ones); jumps from sigma = 1 are blurred (140).
    "annealed": {"levels": 40, "steps": 2, "ratio": 0.1},
    "walk": {"sigma": 0.6, "ratio": 0.5, "warmup": 100, "steps": 200, "kept": 10},
    "one_level_walk": {"ratio": 0.1, "warmup": 0, "steps": 200, "kept": 10},
    "denoise": (0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0),
    "levels": (0.14, 0.3, 1.0),  # of the likelihood
    "widths": (0.06, 0.1, 0.15, 0.2, 0.25, 0.3),  # Parzen's, beside sigma
    "held_out": 2000,  # training digits that Parzen's width is chosen on
    "ais": {"sigma": 0.3, "chains": 64, "steps": 500, "leapfrogs": 4, "settle": 200},
}
QUICK = {
    "batch": 128,
    "network": {"channels": (8, 8), "units": 8},
    "epochs": 1,
    "train_digits": 1000,
    "test_digits": 400,
    "warmup": 2,
    "judge": {"units": 16, "epochs": 1},
    "vae_epochs": 1,
    "mixture": {"coordinates": 8, "components": 3},
    "samples": 100,
    "block": 100,
    "denoise": (0.14, 0.3),
    "annealed": {"levels": 10, "steps": 1, "ratio": 0.1},
    "walk": {"sigma": 0.6, "ratio": 0.5, "warmup": 2, "steps": 10, "kept": 2},
    "one_level_walk": {"ratio": 0.1, "warmup": 0, "steps": 10, "kept": 2},
    "levels": (0.3,),
    "widths": (0.0, 0.1),
    "held_out": 100,
    "ais": {"sigma": 0.3, "chains": 8, "steps": 5, "leapfrogs": 2, "settle": 2},
}
ROWS = ("annealed", "walk-jump", "one-level", "vae", "mixture", "parzen", "training")

warnings.simplefilter("ignore", ChainsWarning)


def main(args):
    run = Run(__file__, args, SETTINGS, QUICK)
    digits = mnist.load(args.data)
    run.data["mnist"] = digits.identity
    at = run.settings
    x = digits.x_train[: at.train_digits]
    labels = digits.y_train[: at.train_digits]
    test, truth = (a[: at.test_digits] for a in (digits.x_test, digits.y_test))
    model = trained(run, x)
    run.metric("all-levels/parameters", parameters(model))
    denoise(run, model, x, test)
    judge = trained_judge(run, x, labels, test, truth)
    samples = generate(run, model, x)
    measure(run, samples, judge, Nearest(x, labels), test)
    likelihood(run, model, x, test)
    draw(run, samples)
    show = [f"{row}/{m}" for m in ("frechet", "confidence") for row in ROWS]
    run.finish([*show, *(f"all-levels/noise_left@{s:.2f}" for s in (0.14, 0.3))])


def trained(run, x):
    """Return the energy at all levels."""
    at, file = run.settings, run.args.model
    if file:
        digest = hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()
        run.data["model"] = {"trained": "before", "sha256": digest}
        return keras.saving.load_model(file)
    model = make(at, run.first, len(x))
    with run.stage("train"):
        fit = {"batch_size": at.batch, "epochs": at.epochs, "name": "all levels"}
        _, seconds = run.fit(model, x, **fit)
    run.metric("all-levels/seconds", seconds)
    run.export(model, "all-levels")
    if not run.args.no_export:
        run.path("models").mkdir(exist_ok=True)
        model.save(run.path("models", "digits.keras"))
    say(f"trained in {seconds:.0f} s")
    return model


def say(words):
    """Print a line at once: the log of a long run shows where it is."""
    print(words, flush=True)


def make(at, seed, n):
    """Return the energy at all levels, compiled for n digits; see `images.train`."""
    network = networks.ConvNet(**at.network, seed=seed)
    network = networks.Levels(network, "full")
    model = deen.DEEN(network=network, sigma=at.sigma, seed=seed)
    steps = at.epochs * -(-n // at.batch)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - at.warmup, warmup_target=at.rate, warmup_steps=at.warmup
    )
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0))
    return model


def parameters(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


# ---- denoising ---------------------------------------------------------------------------


def denoise(run, model, x, test):
    """Record the noise that one step leaves at every level, and of others beside it."""
    at, wiener = run.settings, Gaussian.fit(x)
    nu = np.random.default_rng([run.first, 2018]).normal(size=test.shape)
    with run.stage("denoise"):
        for s in at.denoise:
            xi = (test + s * nu).astype("float32")
            steps = {
                "all-levels": model.denoise(xi, s),
                "wiener": wiener.denoise(xi, s),
            }
            for name, x_hat in steps.items():
                left = 1 - removed_noise_fraction(test, xi, x_hat)
                run.metric(f"{name}/noise_left@{s:.2f}", left)
    own = trained_there()
    ratios = [run.median(f"all-levels/noise_left@{s:.2f}") / own[s] for s in own]
    if ratios:
        run.metric("denoise/worst_ratio", max(ratios))


def trained_there():
    """Return the least noise left by a DEEN of Figure 2 at the level it was trained at."""
    path = ROOT / "figures" / "fig2.json"
    if not path.is_file():
        return {}
    metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    networks = {0.14: ("deen", "deen-gaussian", "deen-wide", "deen-field")}
    networks |= {0.3: ("deen-field-0.3",)}
    found = {
        s: [
            metrics[k]["median"]
            for n in names
            if (k := f"{n}/noise_left@{s:.2f}") in metrics
        ]
        for s, names in networks.items()
    }
    return {s: min(values) for s, values in found.items() if values}


# ---- samples -----------------------------------------------------------------------------


def generate(run, model, x):
    """Return {row: samples (n, 784)}, and chains that are shown."""
    at, seed = run.settings, run.first
    rng = np.random.default_rng([seed, 2020])
    found = {}
    with run.stage("sample: annealed"):
        parts = in_blocks(run, "annealed", lambda k: descended(model, x, k, at))
        found["annealed"] = np.concatenate([p["samples"] for p in parts])
        found["chains"] = parts[0]["way"]
    with run.stage("sample: walk-jump"):
        one = model.smoothed(at.walk["sigma"])
        start = noisy(
            np.broadcast_to(x.mean(0), (walkers(at, at.walk), 784)), one.sigma, rng
        )
        jumps = run.once(
            "walk-jump", lambda: walked(one, start, at.walk, seed), run.data
        )
        found["walk-jump"], found["jumps"] = (
            np.concatenate(jumps["jumps"]),
            jumps["jumps"],
        )
    say("walked")
    single = deen.DEEN.from_preset(at.one_level)
    with run.stage("sample: one level"):
        n = walkers(at, at.one_level_walk)
        start = noisy(rng.uniform(size=(n, 784)), single.sigma, rng)
        jumps = run.once(
            "one-level",
            lambda: walked(single, start, at.one_level_walk, seed),
            run.data,
        )
        found["one-level"] = np.concatenate(jumps["jumps"])
    with run.stage("train vae"):
        vae = Autoencoder(seed=seed)
        vae.build((None, 784))
        weights = run.once("vae", lambda: vae.train(x, at.vae_epochs), run.data)
        set_weights(vae, weights)
        for epoch in {at.vae_epochs, max(1, at.vae_epochs * 2 // 3)}:
            run.metric(f"vae/loss@{epoch}", weights["losses"][epoch - 1], "vae/loss")
    say(f"vae in {run.stages['train vae']:.0f} s")
    n = at.samples
    found["vae"] = vae.sample(n, seed)
    found["mixture"] = mixture(run, x).sample(n, seed)
    rows = rng.choice(len(x), size=(2, n))
    found["parzen"] = noisy(x[rows[0]], at.parzen_sigma, rng)
    found["training"] = x[rows[1]]
    return found


def in_blocks(run, name, compute):
    """Return the results of compute(k) of as many blocks of chains as make the samples."""
    at, parts = run.settings, []
    for k in run.each(range(-(-at.samples // at.block)), unit="block"):
        parts.append(run.once(f"{name}-{k}", lambda k=k: compute(k), run.data))
        say(f"{name}: block {k + 1}")
    return parts


def descended(model, x, k, at):
    """Return a block of samples by annealed Langevin, and the way of the first ten."""
    how, rng = at.annealed, np.random.default_rng([k, 2021])
    sigmas = noise_levels(at)
    n = min(at.block, at.samples - k * at.block)
    start = noisy(np.broadcast_to(x.mean(0), (n, 784)), sigmas[0], rng)
    chains = annealed_langevin(
        model,
        start,
        sigmas,
        how["steps"],
        ratio=how["ratio"],
        seed=k,
        kept=10,
        ancestral=True,
    )
    # (Of the last level the samples are the denoised ones.)
    way = [
        model.denoise(states[:10], s)
        for states, s in zip(chains.states[:-1], shown_levels(at))
    ]
    way.append(chains.states[-1, :10])
    return {"samples": chains.states[-1], "way": np.stack(way)}


def noise_levels(at):
    """Return the levels that chains go down."""
    return np.geomspace(*at.sigma[::-1], at.annealed["levels"])


def shown_levels(at):
    """Return the ten of them at whose ends chains are shown."""
    return noise_levels(at).reshape(10, -1)[:, -1]


def walkers(at, how):
    """Return how many chains make the samples, each with the jumps it keeps."""
    return -(-at.samples // how["kept"])


def walked(density, start, how, seed):
    """Return the jumps of walks on the density at one level, (kept, n, 784)."""
    jumps, _ = walk_jump(
        density,
        start,
        step=how["ratio"] * density.sigma**2,
        warmup=how["warmup"],
        steps=how["steps"],
        kept=how["kept"],
        seed=seed,
    )
    return {"jumps": jumps.astype("float32")}


def mixture(run, x):
    """Return the mixture of Gaussians in principal coordinates, fitted to the digits."""
    how = run.settings.mixture
    with run.stage("fit the mixture"):
        found = run.once(
            "mixture",
            lambda: PrincipalMixture.fit(x, seed=run.first, **how).arrays(),
            run.data,
        )
    law = GaussianMixture(found["means"], found["covariances"], found["weights"])
    return PrincipalMixture(Gaussian.fit(x), law)


# ---- what they are worth -----------------------------------------------------------------


def trained_judge(run, x, labels, test, truth):
    at = run.settings
    with run.stage("train the judge"):
        judge = Judge(at.judge["units"], run.first)
        fit = run.once(
            "judge", lambda: judge.fit(x, labels, at.judge["epochs"]), run.data
        )
        set_weights(judge.network, fit)
    right = judge(test)[1].argmax(1) == truth
    run.metric("judge/accuracy", right.mean())
    say(f"judge: {right.mean():.4f} right in {run.stages['train the judge']:.0f} s")
    return judge


def measure(run, samples, judge, nearest, test):
    """Record what the judge and the training digits say of every row."""
    n = run.settings.samples
    features, p = judge(test)
    run.record(
        "test", of_classes(p) | {"nearest_distance": np.median(nearest(test[:n])[0])}
    )
    with run.stage("measure"):
        for row in ROWS:
            images = np.clip(samples[row][:n], 0, 1)
            h, p = judge(images)
            values = of_classes(p) | {"frechet": frechet(h, features)}
            if row != "training":
                values["nearest_distance"] = np.median(nearest(images)[0])
            run.record(row, values)
    classes = judge(np.concatenate(samples["jumps"]))[1].argmax(1)
    classes = classes.reshape(samples["jumps"].shape[:2])  # (kept, n)
    run.metric("walk-jump/class_changes", np.mean(classes[1:] != classes[:-1]))


def of_classes(p):
    """Return shares and confidence of probabilities p (n, 10)."""
    shares = np.bincount(p.argmax(1), minlength=10) / len(p)
    return {
        "share_min": shares.min(),
        "share_max": shares.max(),
        "confidence": p.max(1).mean(),
        "unsure": np.mean(p.max(1) < 0.5),
    }


# ---- likelihood --------------------------------------------------------------------------


def likelihood(run, model, x, test):
    """Record the log-likelihood of noisy test digits at some levels, by every method."""
    at, law = run.settings, mixture(run, x)
    gaussian = Gaussian.fit(x)
    nu = np.random.default_rng([run.first, 2022]).normal(size=test.shape)
    for s in at.levels:
        xi = (test + s * nu).astype("float32")

        def log_p(s=s, xi=xi):
            width = parzen_width(x, s, at, run.first)
            centres = Parzen(x, np.hypot(s, width))
            return {
                "dual": model.log_density(xi, s).mean(dtype="float64"),
                "parzen": centres.log_density(xi).mean(),
                "mixture": law.log_density(xi, s).mean(),
                "gaussian": -gaussian.energy(xi, s).mean(),
                "width": width,
            }

        with run.stage("likelihood"):
            found = run.once(f"likelihood-{s}", log_p, run.data)
        run.metric(f"parzen/width@{s:.2f}", found.pop("width"))
        for name, nats in found.items():
            run.metric(f"{name}/log_likelihood@{s:.2f}", nats)
            run.metric(f"{name}/bits_per_dimension@{s:.2f}", bits(nats))
        say(f"likelihood at {s}: {found}")
    how = at.ais
    with run.stage("log Z"):
        found = run.once("log-z", lambda: annealed(model, x, how, run.first), run.data)
    run.record("ais", {f"log_z_{k}": v for k, v in found.items()})
    s = how["sigma"]
    middle = (found["forward"] + found["reverse"]) / 2
    nats = run.median(f"dual/log_likelihood@{s:.2f}") - middle
    run.metric(f"ais/log_likelihood@{s:.2f}", nats)
    run.metric(f"ais/bits_per_dimension@{s:.2f}", bits(nats))
    say(f"log Z: {found}")


def bits(nats, d=784):
    """Return -log_2 p per coordinate."""
    return -nats / (d * np.log(2))


def parzen_width(x, sigma, at, seed):
    """Return Parzen's own width beside sigma: the best for noisy digits it does not hold."""
    centres, held_out = x[: -at.held_out], x[-at.held_out :]
    xi = noisy(held_out, sigma, np.random.default_rng([seed, 2023]))
    values = [
        Parzen(centres, np.hypot(sigma, w)).log_density(xi).mean() for w in at.widths
    ]
    return at.widths[int(np.argmax(values))]


def annealed(model, x, how, seed):
    """Return log Z of the energy at one level from both sides (`deen_tf.annealing`).

    The start is the Gaussian of the noisy digits. The points of the reverse way are noisy
    training digits after adjusted Langevin steps on the energy itself.
    """
    s, rng = how["sigma"], np.random.default_rng([seed, 2024])
    density, wide = model.smoothed(s), Gaussian.fit(x)
    start = Gaussian.from_axes(wide.mean, wide.variances + s**2, wide.directions)
    chosen = noisy(x[rng.choice(len(x), how["chains"])], s, rng)
    settled = langevin(
        density, chosen, step=0.1 * s**2, steps=how["settle"], seed=seed, adjusted=True
    )
    found = log_z(
        density,
        start,
        settled.states[-1],
        chains=how["chains"],
        steps=how["steps"],
        leapfrogs=how["leapfrogs"],
        seed=seed,
    )
    return found._asdict() | {"acceptance": settled.acceptance.mean()}


# ---- figure ------------------------------------------------------------------------------


def draw(run, samples):
    """(a) samples; (b) their way down the levels; (c) a walk's jumps; (d) denoising."""
    at = run.settings
    figure, axes = panels(2, 2, 10.8)
    (a, b), (c, d) = axes
    frechet, sure = (run.median(f"annealed/{m}") for m in ("frechet", "confidence"))
    vae = run.median("vae/frechet")
    plotting.patch_grid(
        a,
        samples["annealed"][:100],
        (28, 28),
        10,
        "(a) 100 samples, unchosen: annealed Langevin from white noise\n"
        f"Fréchet distance {frechet:.1f} (autoencoder {vae:.1f}), mean confidence {sure:.3f}",
    )
    way = np.clip(samples["chains"], 0, 1)  # (10 levels, 10 chains, 784)
    rows = [(f"{s:.2f}", x) for s, x in zip(shown_levels(at), way, strict=True)]
    image_rows(
        b,
        rows,
        28,
        r"(b) the way of the first ten of them: $\hat x$ of one step"
        "\nfrom where they are at noise level $\\sigma$ (left)",
    )
    every = at.walk["steps"] // at.walk["kept"]
    jumps = np.clip(samples["jumps"][:, :10].transpose(1, 0, 2), 0, 1)
    changes = run.median("walk-jump/class_changes")
    plotting.patch_grid(
        c,
        jumps.reshape(-1, 784),
        (28, 28),
        len(jumps),
        f"(c) walk-jump at $\\sigma$ = {at.walk['sigma']:g}, a chain a row, {every} steps from jump "
        f"to jump;\n{changes:.0%} of these change the class",
    )
    draw_denoising(d, run)
    run.figure(figure, run.name)


def draw_denoising(ax, run):
    at = run.settings
    for name, style, label in (
        ("wiener", "--", "Wiener filter"),
        ("all-levels", "o-", "one energy of all levels"),
    ):
        left = [run.median(f"{name}/noise_left@{s:.2f}") for s in at.denoise]
        ax.loglog(at.denoise, left, style, label=label)
    own = trained_there()
    ax.loglog(
        list(own),
        list(own.values()),
        "k*",
        ms=9,
        label="Figure 2's best, trained there",
    )
    ax.set(xlabel=r"$\sigma'$, pixel values", ylabel="part of the noise power left")
    ax.set_xticks(at.denoise, [f"{s:g}" for s in at.denoise])
    ax.set_yticks(ticks := (0.02, 0.05, 0.1, 0.2, 0.5), [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set_title("(d) one step on noisy test digits")
    ax.legend()
    ax.grid(alpha=0.3)


if __name__ == "__main__":
    main(args)

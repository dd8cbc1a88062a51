"""Whole photographs: one small energy, one gradient, and the field's table.

Sec. 4 denoises patches of 32 x 32. People who denoise have photographs, and compare methods on
grayscale BSD68 and Set12 with white noise of 5 to 50 / 255, not clipped, which the method is
told; the number is the mean over images of 10 log10(1 / MSE), pixels in [0, 1], answers clipped
to that. Beside methods' published numbers stands here

  deen      `networks.DeepField`, at most 14,000 weights, at all noise levels from 5 to 50
  deen-25   the same trained on at one level alone (and deen-15, ...): what a level costs

trained by Eq. 19 on the 400 photographs of the field; a step of Eq. 11 is one gradient of the
energy of the whole picture. A second use of it is as a prior (`deen_tf.inverse`): x_hat the
minimiser of |A x - y|^2 / 2 s^2 + strength E(x), E at the level of the noise, or down a
schedule of levels; A = I, or a mask that leaves out most pixels. The strength is chosen on
training photographs.

    python reproduce/photographs.py --data DIR    # bsds/train, bsds/bsd68, bsds/set12 in DIR
    python reproduce/photographs.py               # $DEEN_DATA, else scikit-image's stand in

The network was chosen on 16 of the training photographs, held out, noise 25, by short trainings
on the others (2,500 steps of 8 x 48 x 48 pixels; * 4,000). BM3D has 27.45 dB there.

    plain      layers (8, 2, 32), (3, 1, 32)               11,488 weights   27.19 dB *
    plain      (8, 2, 24), (3, 1, 24), (3, 2, 24)          12,144           27.25 *
    plain, r   (8, 2, 32), (3, 1, 32), E = |r|^2 / 2       12,480           27.31 *
    symmetric  (8, 2, 64), (3, 1, 64), E = |r|^2 / 2        5,688           27.44
    symmetric  (8, 2, 64), (3, 1, 64), (4, 2, 64)          13,392           27.44
    symmetric  (8, 2, 64), (3, 1, 64), (3, 1, 64)           9,808           27.57

The eight symmetries of the square are worth more than all else. Taken is the last, with r.

Pictures of the Berkeley set may not be passed on: all that is shown are scikit-image's. BM3D
is an optional package (`pip install bm3d`), for the comparison.

What to see: in one step the energy passes the regularisers of its size, which are minimised,
and BM3D; one energy for all levels is nearly as good as one for each; and a step is the better
denoiser: minimised, an energy is asked about images that its noisy data are not like. It fills
in missing pixels all the same.
"""

from command import options

if __name__ == "__main__":
    args = options(__doc__, data={"help": "folder of the photographs, see above"})

import json
import time
import warnings

import keras
import numpy as np
from block_matching import bm3d
from experiment import Run, content, write
from plots import WIDTH, plt
from tables import PUBLISHED

import deen_tf as deen
from deen_tf import inverse, metrics, networks
from deen_tf.datasets import photographs
from deen_tf.images import denoise_image

SETTINGS = {  # noise levels in 1/255
    "layers": ((8, 2, 64), (3, 1, 64), (3, 1, 64)),
    "levels": (5, 50),
    "residual": 6,
    "crop": 64,
    "crops": 4096,
    "batch": 4,
    "rate": 2e-3,
    "warmup": 100,  # steps
    "epochs": 7,
    "on": {25: 3, 7.65: 1},  # further epochs at one level alone
    "rate_on": 1e-3,
    "tested": {"bsd68": (5, 15, 25, 50), "set12": (15, 25, 50), "bsd17": (7.65, 25)},
    "noise_seed": 2018,
    "patches": {"side": 48, "stride": 16},  # for overlapping patches
    "map": {"set": "bsd17-centre", "level": 25, "centre": 128},
    "schedules": {"map": (25,), "map-schedule": (25, 15, 10)},
    "strengths": (0.3, 0.6, 1.0),
    "tuned": 2,  # parts of training photographs
    "iterations": 100,  # of L-BFGS at a level, at most
    "inpainting": {"missing": 0.7, "noise": 5, "schedule": (50, 25, 15, 10)},
    "shown": ("camera", (60, 180), 160),  # name, top left corner, side
}
QUICK = {
    "layers": ((8, 2, 16), (3, 1, 16)),
    "crop": 32,
    "crops": 64,
    "epochs": 2,
    "on": {25: 1},
    "tested": {"bsd68": (25,), "bsd17": (25,)},
    "strengths": (0.5, 1.0),
    "tuned": 1,
    "iterations": 3,
}
SEVENTEEN = slice(None, None, 4)  # of BSD68


def main(args):
    run = Run(__file__, args, SETTINGS, QUICK)
    at = run.settings
    sets = load(run, args)
    rng = np.random.default_rng([run.first, 4])
    x = photographs.patches(sets.pop("train"), at.crop, at.crops, rng)
    for seed in run.seeds:
        models = train_all(run, x, seed)
        measure(run, sets, models)
    deen_all = models["deen"]
    with run.stage("as a prior"):
        strengths = tune_strength(run, deen_all, x)
        as_prior(run, sets, deen_all, strengths)
        pictures = draw_from(run, models, strengths)
    for name, model in models.items():
        run.export(model, name)
    preset(run, deen_all, len(x))
    draw(run, models, pictures)
    shown = ("deen", *models, "bm3d", "deen-patches", "noisy")
    names = [
        f"{s}/psnr@{v}/{m}" for s in at.tested for v in at.tested[s] for m in shown
    ]
    run.finish(dict.fromkeys(names))
    if run.data["train"]["stand-in"]:
        print("no photographs of the Berkeley set: scikit-image's stand in")
        print(photographs.WHERE)


def load(run, args):
    """Return {set: images}; what they are goes to run.data."""
    sets = {}
    for name in ("train", "bsd68", "set12"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `main` says so itself
            found = photographs.load(name, args.data, stand_in=True)
        run.data[name] = {
            "source": found.source,
            "stand-in": found.source == photographs.STAND_IN,
            "sha256": found.sha256,
            "images": len(found.images),
        }
        sets[name] = found.images
        if run.quick:
            sets[name] = [image[:96, :80] for image in found.images]
    return sets


# ---- training ------------------------------------------------------------------------


def train_all(run, x, seed):
    """Return {name: model}: one for all levels, then each of a level alone, from there on."""
    at = run.settings
    low, high = (level / 255 for level in at.levels)
    models = {"deen": train(run, x, seed, "deen", (low, high), at.epochs, at.rate)}
    for level, epochs in at.on.items():
        name, start = f"deen-{level}", models["deen"]
        models[name] = train(run, x, seed, name, level / 255, epochs, at.rate_on, start)
    return models


def train(run, x, seed, name, sigma, epochs, rate, start=None):
    at = run.settings
    network = networks.DeepField(at.layers, at.residual, seed=seed)
    model = deen.DEEN(network=network, sigma=sigma, seed=seed)
    model.adapt(x)
    if start is not None:
        pairs = zip(model.trainable_variables, start.trainable_variables, strict=True)
        for weight, value in pairs:
            weight.assign(value)
    steps = epochs * -(-len(x) // at.batch)
    warmup = min(at.warmup, steps // 4)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, warmup_target=rate, warmup_steps=warmup
    )
    adam = keras.optimizers.Adam(schedule, beta_2=0.99)
    model.compile(adam, jit_compile=False)  # convolutions: the plain graph is faster
    with run.stage(f"train {name}"):
        losses, seconds = run.fit(
            model, x, batch_size=at.batch, epochs=epochs, name=f"{name}, seed {seed}"
        )
    run.metric(f"{name}/weights", count(model))
    run.metric(f"{name}/seconds", seconds)
    run.arrays(f"training/{name}", {"loss": losses}, equation="Eq. 19", unit="1")
    return model


def count(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)


# ---- one step ------------------------------------------------------------------------


def measure(run, sets, models):
    """PSNR and SSIM of every method on every set at every level, and time."""
    at = run.settings
    for name, levels in at.tested.items():
        for level in levels:
            methods = {"noisy": lambda xi, s: xi} | {
                model: one_step(models[model])
                for model in models
                if model in ("deen", f"deen-{level}")
            }
            if name == "bsd17" and level == 25:
                side, stride = at.patches["side"], at.patches["stride"]
                methods["deen-patches"] = by_patches(models["deen"], side, stride)
            for method, denoise in methods.items():
                model = models.get(method.removesuffix("-patches"))
                record(run, sets, name, level, method, denoise, model)


def one_step(model):
    return lambda xi, sigma: denoise_image(model, xi, sigma)


def by_patches(model, side, stride):
    """The same energy, of patches: their denoisings are averaged."""

    class Patches:
        point_shape = (side, side, 1)

        def __init__(self, sigma):
            self.sigma = sigma

        def denoise(self, xi):
            return model.denoise(xi, self.sigma)

    return lambda xi, sigma: denoise_image(Patches(sigma), xi, stride=stride)


def noisy(run, image, index, level):
    rng = np.random.default_rng([run.settings.noise_seed, index, round(100 * level)])
    return (image + level / 255 * rng.normal(size=image.shape)).astype("float32")


def images_of(run, sets, name):
    """Return [(index, image)] of a set, or of every fourth image of BSD68."""
    if name in sets:
        return list(enumerate(sets[name]))
    images = list(enumerate(sets["bsd68"]))[SEVENTEEN]
    if name == "bsd17":
        return images
    side = run.settings.map["centre"]
    return [(k, centre(image, side)) for k, image in images]


def centre(image, side):
    top, left = (max(0, (n - side) // 2) for n in image.shape)
    return image[top : top + side, left : left + side]


def record(run, sets, name, level, method, denoise, model=None):
    """Record PSNR and SSIM of a method, made of a model or not, and its time."""

    def compute():
        psnr, ssim, seconds = [], [], np.inf
        images = images_of(run, sets, name)
        for index, image in run.each(images, unit="photograph"):
            xi = noisy(run, image, index, level)
            if not psnr:
                denoise(xi, level / 255)  # compiles
            start = time.perf_counter()
            x_hat = denoise(xi, level / 255)
            spent = time.perf_counter() - start
            seconds = min(seconds, spent / image.size * 1e6)
            quality = judge(image, x_hat)
            psnr.append(quality[0]), ssim.append(quality[1])
        return {"psnr": np.array(psnr), "ssim": np.array(ssim), "seconds": seconds}

    decided = (method, run.data, model and weights_of(model))
    with run.stage(f"test {method}"):
        result = run.once(f"{name}-{level}-{method}", compute, *decided)
    run.metric(f"{name}/psnr@{level}/{method}", result["psnr"].mean())
    run.metric(f"{name}/ssim@{level}/{method}", result["ssim"].mean())
    if (
        level == 25
        and method != "noisy"
        and f"{method}/seconds_a_megapixel" not in (run.recorded)
    ):
        run.metric(f"{method}/seconds_a_megapixel", result["seconds"])


def judge(image, x_hat):
    """Return PSNR and SSIM of an answer, clipped to [0, 1]."""
    pair = image.reshape(1, -1), np.clip(x_hat, 0, 1).reshape(1, -1)
    psnr, ssim = metrics.psnr(*pair, 1.0), metrics.ssim(*pair, image.shape, 1.0)
    return psnr[0], ssim[0]


def weights_of(model):
    return content(*(weight.numpy() for weight in model.weights))


# ---- as a prior ----------------------------------------------------------------------


def minimise(run, model, y, level, levels, strength, **operator):
    return inverse.minimise(
        model,
        y,
        level / 255,
        sigmas=[v / 255 for v in levels],
        strength=strength,
        iterations=run.settings.iterations,
        **operator,
    )


def tune_strength(run, model, x):
    """Return the strength of the prior that has the best PSNR on training photographs."""
    at, best, level = run.settings, {}, run.settings.map["level"]
    images = x[: at.tuned, ..., 0]
    pairs = [(y, noisy(run, y, 1000 + i, level)) for i, y in enumerate(images)]
    for name, levels in run.settings.schedules.items():

        def quality(strength, levels=levels):
            answers = [
                minimise(run, model, xi, level, levels, strength) for _, xi in pairs
            ]
            return np.mean(
                [
                    judge(y, x_hat)[0]
                    for (y, _), x_hat in zip(pairs, answers, strict=True)
                ]
            )

        def compute(quality=quality):
            return {"psnr": np.array([quality(strength) for strength in at.strengths])}

        result = run.once(f"strength-{name}", compute, weights_of(model), run.data)
        best[name] = at.strengths[int(np.argmax(result["psnr"]))]
        run.metric(f"deen-{name}/strength", best[name])
    return best


def as_prior(run, sets, model, strengths):
    """Minimisers on a part of BSD68, beside one step."""
    name, level = run.settings.map["set"], run.settings.map["level"]
    record(run, sets, name, level, "deen", one_step(model), model)
    if bm3d():
        record(run, sets, name, level, "bm3d", bm3d())
    for method, levels in run.settings.schedules.items():

        def denoise(xi, sigma, levels=levels, strength=strengths[method]):
            return minimise(run, model, xi, 255 * sigma, levels, strength)

        record(run, sets, name, level, f"deen-{method}", denoise, model)


def draw_from(run, models, strengths):
    """Return the pictures of scikit-image's photograph, with their PSNR recorded."""
    at, model = run.settings, models["deen"]
    name, (top, left), side = at.shown
    image = photographs.scikit_image(name).astype("float32") / 255
    image = image[top : top + side, left : left + side]
    run.data["shown"] = {"photograph": name, "source": photographs.STAND_IN}
    level = at.map["level"]
    xi = noisy(run, image, 0, level)
    special = models.get(f"deen-{level}", model)

    def denoised():
        answers = {"noisy": xi, "deen": denoise_image(model, xi, level / 255)}
        answers[f"deen-{level}"] = denoise_image(special, xi, level / 255)
        for method, levels in run.settings.schedules.items():
            strength = strengths[method]
            answers[f"deen-{method}"] = minimise(
                run, model, xi, level, levels, strength
            )
        if bm3d():
            answers["bm3d"] = bm3d()(xi, level / 255)
        return answers

    def inpainted():
        holes = at.inpainting
        rng = np.random.default_rng([at.noise_seed, 7])
        known = rng.random(image.shape) >= holes["missing"]
        y = noisy(run, image, 1, holes["noise"])[known]

        def adjoint(r):
            x = np.zeros(image.shape)
            x[known] = r
            return x

        from skimage.restoration import inpaint_biharmonic

        start = inpaint_biharmonic(adjoint(y), ~known)
        x_hat = minimise(
            run,
            model,
            y,
            holes["noise"],
            holes["schedule"],
            1.0,
            forward=lambda x: x[known],
            adjoint=adjoint,
            start=start,
        )
        measured = np.where(known, adjoint(y), 1.0)
        return {"measured": measured, "biharmonic": start, "inpainted": x_hat}

    decided = (strengths, *map(weights_of, models.values()))
    pictures = {"clean": image}
    pictures |= run.once("shown", denoised, *decided)
    pictures |= run.once("inpainting", inpainted, *decided)
    for method, picture in pictures.items():
        if method not in ("clean", "measured"):
            run.metric(f"shown/psnr/{method}", judge(image, picture)[0])
    run.arrays("pictures", pictures, unit="pixels in [0, 1]")
    return pictures


def preset(run, model, crops):
    """Keep the energy of all levels as `reproduce/presets.py` takes it."""
    folder = run.path("models")
    folder.mkdir(exist_ok=True)
    model.save(folder / "photographs.keras")
    at, source = run.settings, run.data["train"]["source"]
    kept = ("layers", "residual", "levels", "crop", "batch", "rate", "epochs")
    card = {
        "about": "whole photographs, of any size, at noise levels from 5 to 50 / 255",
        "points": "images (n, height, width, 1) of pixels in [0, 1]",
        "data": f"{source}, {crops:,} parts of {at.crop} x {at.crop}",
        "licence": "for research and education"
        if source == photographs.BERKELEY
        else "public domain and free licences, see scikit-image",
        "settings": {name: getattr(at, name) for name in kept} | {"seed": run.first},
        "numbers": {
            name: run.median(name)
            for name in run.recorded
            if name.startswith("bsd68/psnr") and name.endswith("/deen")
        },
    }
    write(folder / "photographs.json", json.dumps(card, indent=1) + "\n")


# ---- figure --------------------------------------------------------------------------


def draw(run, models, pictures):
    figure = plt.figure(figsize=(WIDTH, 8.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3.3, 4.9))
    by_weights, by_level = above.subplots(1, 2, width_ratios=(3, 2))
    draw_weights(run, models, by_weights)
    draw_levels(run, models, by_level)
    draw_pictures(run, pictures, below.subplots(2, 4))
    said = (
        "" if not run.data["train"]["stand-in"] else "\nNOT the field's photographs: "
    )
    said += "scikit-image's stand in" if said else ""
    weights = run.median("deen/weights")
    figure.suptitle(
        f"Whole photographs by one energy of {weights:,.0f} weights, seed {run.first}{said}"
    )
    run.figure(figure, run.name)


def draw_weights(run, models, ax):
    """PSNR on BSD68 at 25 against the number of weights."""
    for method, (weights, psnr) in PUBLISHED.items():
        if weights is None:
            ax.axhline(psnr[25], color="0.75", lw=0.8, zorder=0)
            va = "top" if method == "BM3D" else "bottom"
            ax.text(1.9e6, psnr[25], method, ha="right", va=va, color="0.4", fontsize=7)
            continue
        ax.plot(weights, psnr[25], "o", mfc="white", color="k")
        left = method == "TDV"
        ax.annotate(
            method,
            (weights, psnr[25]),
            (-6 if left else 6, -5.3 if method == "WCRR, minimised" else 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
        )
    for k, name in enumerate(n for n in ("deen", "deen-25") if n in models):
        value = run.median(f"bsd68/psnr@25/{name}")
        words = {"deen": "one energy for 5 to 50", "deen-25": "that, trained on at 25"}[
            name
        ]
        ax.plot(run.median(f"{name}/weights"), value, "s", color=f"C{k}", label=words)
    ax.set(xscale="log", xlabel="weights", ylabel="PSNR on BSD68, dB", xlim=(3e3, 2e6))
    ax.set_title("(a) noise 25 / 255: ours filled, published open")
    ax.legend(loc="lower right", title="DEEN, one step, measured here")


def draw_levels(run, models, ax):
    """PSNR on BSD68 over that of BM3D, level by level."""
    base = PUBLISHED["BM3D"][1]
    for k, method in enumerate(("WCRR, minimised", "TNRD", "DnCNN")):
        at = [v for v in PUBLISHED[method][1] if v in base]
        values = [PUBLISHED[method][1][v] - base[v] for v in at]
        ax.plot(at, values, "o:", mfc="white", color=f"{0.25 * k}", label=method)
    at = [v for v in run.settings.tested["bsd68"] if v in base]
    values = [run.median(f"bsd68/psnr@{v}/deen") - base[v] for v in at]
    ax.plot(at, values, "s-", label="DEEN, all levels")
    at = [v for v in at if f"deen-{v}" in models]
    values = [run.median(f"bsd68/psnr@{v}/deen-{v}") - base[v] for v in at]
    ax.plot(at, values, "s", label="DEEN, trained on at one")
    ax.axhline(0, color="k", lw=0.6)
    ax.set(xlabel="noise level, 1/255", ylabel="dB above BM3D (published), BSD68")
    ax.set_xticks(list(base))
    ax.set_title("(b) one energy for all levels")
    ax.set_ylim(top=max(1.0, ax.get_ylim()[1]))  # room for the legend
    ax.legend(loc="upper center", ncols=2)


def draw_pictures(run, pictures, axes):
    level, at = run.settings.map["level"], run.settings.inpainting
    special = f"deen-{level}"
    titles = {
        "clean": f"(c) {run.settings.shown[0]}",
        "noisy": f"noise {level} / 255",
        special if special in pictures else "deen": f"DEEN, one step ({special})"
        if special in pictures
        else "DEEN, one step",
        "bm3d" if "bm3d" in pictures else "deen-map": "BM3D"
        if "bm3d" in pictures
        else "DEEN, minimised",
        "deen-map-schedule": "DEEN, minimised down the levels",
        "measured": f"(d) {at['missing']:.0%} missing, noise {at['noise']} / 255",
        "biharmonic": "biharmonic inpainting",
        "inpainted": "minimiser with DEEN's energy",
    }
    for ax, (name, title) in zip(axes.flat, titles.items(), strict=True):
        if f"shown/psnr/{name}" in run.recorded:
            title += f"\n{run.median(f'shown/psnr/{name}'):.2f} dB"
        ax.imshow(pictures[name], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(title)
        ax.axis("off")


if __name__ == "__main__":
    main(args)

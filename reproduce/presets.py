"""The presets: trained energies that come with the package, each with its card.

Networks of Figures 1 to 3 from seed 0, trained and measured as there: where one of those
scripts has kept its fits in the same folder (`--keep`) they are taken from there. Models of
other scripts are taken from --models: <name>.keras, and <name>.json with what its card has to
say (about, points, data, licence, settings, numbers; of digits: what digits.py wrote).

    python reproduce/presets.py --data DIR                          # into out/presets
    python reproduce/presets.py --only fig1-mixture fig1-spiral     # these need no data
    python reproduce/presets.py --out figures --data DIR            # into the package itself

What to see: the numbers of the cards are those of the figures' jsons for seed 0, to the third
digit; another number of cores rounds sums otherwise.
"""

from command import options

NAMES = ("fig1-mixture", "fig1-spiral", "mnist-0.14", "mnist-0.3", "natural-patches")
GIVEN = ("digits", "photographs")  # by other scripts

if __name__ == "__main__":
    args = options(
        __doc__,
        data={"help": "folder with MNIST and van Hateren's images"},
        only={
            "nargs": "+",
            "choices": (*NAMES, *GIVEN),
            "metavar": "NAME",
            "help": f"of {', '.join((*NAMES, *GIVEN))}",
        },
        models={"metavar": "DIR", "help": f"folder with {' and '.join(GIVEN)}.keras"},
    )

import io
import json
import os
import pathlib
import tempfile
import zipfile

import fig1
import fig2
import fig3
import h5py
import keras
import numpy as np
from experiment import Run, write
from images import train
from provenance import ROOT
from truth import LAWS, SIGMA, Truth

from deen_tf import metrics, presets
from deen_tf.datasets import mnist, van_hateren

SETTINGS = {
    "fig1": {k: fig1.SETTINGS[k] for k in ("hidden_units", "iterations", "batch")},
    "mnist-0.14": fig2.FITS["deen-field"],
    "mnist-0.3": fig2.FITS["deen-field-0.3"],
    "natural-patches": fig3.FITS["deen-wide"],
    "train_digits": fig2.SETTINGS["train_digits"],
    "patches_per_image": fig3.SETTINGS["patches_per_image"],
}
QUICK = {
    "fig1": SETTINGS["fig1"] | {"iterations": 25, "batch": {"to 1000": 256}},
    "train_digits": 640,
    "patches_per_image": 20,
}
LARGE = 1e6  # bytes: all presets together have to stay below three times that
BITS = 9  # of the weights of a large file
MADE_BY = ("commit", "clean", "command", "versions", "device")
MNIST = "MNIST (LeCun, Cortes and Burges; Keras' mnist.npz)", "CC BY-SA 3.0"
VAN_HATEREN = (
    "natural images of van Hateren and van der Schaaf (1998)",
    "free for scientific, non-commercial use with that citation",
)


def main(args):
    run = Run(__file__, args, SETTINGS, QUICK)
    committed = run.out.resolve() == ROOT / "figures" and not args.quick
    into = presets.FOLDER if committed else run.path("presets")
    into.mkdir(exist_ok=True)
    models = pathlib.Path(args.models or run.path("models"))
    wanted = args.only or (*NAMES, *GIVEN)
    given = [n for n in GIVEN if n in wanted and (models / f"{n}.keras").exists()]
    if missing := set(args.only or ()) & set(GIVEN) - set(given):
        raise FileNotFoundError(f"no {', '.join(sorted(missing))}.keras in {models}")
    for name in run.each([n for n in wanted if n in NAMES], unit="preset"):
        maker = plane if "fig1" in name else digits if "mnist" in name else patches
        model, card = maker(run, name)
        run.record(name, card["numbers"])
        keep(run, into, name, model, card)
    for name in given:
        model = keras.saving.load_model(models / f"{name}.keras", compile=False)
        keep(run, into, name, model, given_card(run, name, models / f"{name}.json"))
    run.finish(run.recorded, part=bool(args.only))


def plane(run, name):
    """DEEN of Figure 1: the paper's network, 1000 iterations."""
    law, at = LAWS[name.removeprefix("fig1-")], run.settings.fig1
    steps, batch = fig1.SETTINGS["steps_per_epoch"], at["batch"]["to 1000"]
    model = fig1.build("deen", run.first)
    x = law.sample(batch * steps, seed=run.first)
    epochs = at["iterations"] // steps
    run.fit(model, x, batch_size=batch, epochs=epochs, name=name)
    truth = Truth(law, SIGMA, fig1.SETTINGS["test_points"])
    truth.draw(run.first)
    return model, {
        "about": f"Figure 1, the {name.removeprefix('fig1-')} in the plane",
        "points": "rows (n, 2)",
        "data": f"sampled from {law!r}",
        "licence": "none needed",
        "settings": at | {"batch": batch, "seed": run.first},
        "numbers": truth.measure(model, "relative_score_error", "grid_kl"),
    }


def digits(run, name):
    """The field of experts of Figure 2."""
    network, data = getattr(run.settings, name), mnist.load(run.args.data)
    run.data["mnist"] = data.identity
    x = data.x_train[: run.settings.train_digits]
    model, _, _ = train(run, network, run.first, x, name)
    nu = np.random.default_rng([run.first, 2018]).normal(size=data.x_test.shape)
    sigma = network["sigma"]
    xi = (data.x_test + sigma * nu).astype("float32")
    removed = metrics.removed_noise_fraction(data.x_test, xi, model.denoise(xi))
    return model, {
        "about": f"Figure 2, digits at noise level {sigma}",
        "points": "rows (n, 784) of pixels in [0, 1]",
        "data": f"{MNIST[0]}, {len(x):,} training digits",
        "licence": MNIST[1],
        "settings": network | {"seed": run.first},
        "numbers": {f"noise_left@{sigma:.2f}": 1 - removed},
    }


def patches(run, name):
    """The contrast-normalised field of experts of Figure 3."""
    network, first = getattr(run.settings, name), run.first
    many = run.settings.patches_per_image
    data = van_hateren.patches(
        run.args.data,
        fig3.SIZE,
        many,
        seed=first,
        splits=fig3.SETTINGS["splits"],
        progress=run.watched,
    )
    if data.source != van_hateren.VAN_HATEREN and not run.quick:
        raise FileNotFoundError(f"{name} needs van Hateren's images: see --data")
    run.data["patches"] = {"source": data.source, "sha256": data.sha256}
    scale = van_hateren.overall_std(data.train)
    x = fig3.contrast_patches(data.train, first)
    model, _, _ = train(run, network, first, x, name)
    tested = min(fig3.SETTINGS["tested"], many)
    test = fig3.Noisy(data, "test", scale, tested, first)
    x_hat = test.denoise(lambda z, level: model.denoise(z), fig3.NOISE)
    error = metrics.err_per_pixel(test.x, x_hat)
    error, standard = metrics.mean_and_standard_error(error, test.image_of)
    return model, {
        "about": "Figure 3, 32 x 32 patches of natural images, noise half their contrast",
        "points": "rows (n, 1024), each less its mean and over its standard deviation",
        "data": f"{VAN_HATEREN[0]}, {len(x):,} patches",
        "licence": VAN_HATEREN[1],
        "settings": network | {"seed": first},
        "numbers": {"err_per_pixel": error, "standard_error": standard},
    }


def given_card(run, name, path):
    """Return what the card of another script's model has to say."""
    if path.exists() or name != "digits":
        return json.loads(path.read_text(encoding="utf-8"))
    record = json.loads(run.path("digits.json").read_text(encoding="utf-8"))
    settings, numbers = record["settings"], record["metrics"]
    kept = ("sigma", "network", "batch", "epochs", "rate", "warmup", "seeds")
    low, high = settings["sigma"]
    return {
        "about": f"digits at every noise level from {low:g} to {high:g}, normalised",
        "points": "rows (n, 784) of pixels in [0, 1]",
        "data": f"{MNIST[0]}, {settings['train_digits']:,} training digits",
        "licence": MNIST[1],
        "settings": {k: settings[k] for k in kept},
        "numbers": {
            metric: numbers[f"all-levels/{metric}"]["median"]
            for metric in ("noise_left@0.14", "noise_left@0.30")
        },
    }


def keep(run, into, name, model, card):
    """Write the weights of a preset, without an optimizer's, and its card."""
    with tempfile.TemporaryDirectory() as folder:
        whole = os.path.join(folder, "whole.keras")
        model.save(whole)
        keras.saving.load_model(whole, compile=False).save(into / f"{name}.keras")
    packed = pack(into / f"{name}.keras")
    model = keras.saving.load_model(into / f"{name}.keras", compile=False)
    path = into / "cards.json"
    cards = presets.read(into) if path.exists() else {}
    cards[name] = {
        "class": type(model).__name__,
        "about": card["about"],
        "points": card["points"],
        "sigma": model.levels or model.sigma,
        "weights": sum(int(np.prod(w.shape)) for w in model.trainable_weights),
        "stored": f"rounded to {BITS} bits of precision" if packed else "as trained",
        "data": card["data"],
        "licence": card["licence"],
        "settings": card["settings"],
        "numbers": {k: float(f"{v:.4g}") for k, v in card["numbers"].items()},
        "score_rms": score_rms(model),
        "quick": run.quick,
        "made_by": {k: run.origin[k] for k in MADE_BY},
    }
    order = [n for n in (*NAMES, *GIVEN) if n in cards]
    text = json.dumps({n: cards[n] for n in order}, indent=1, default=str)
    write(path, text + "\n")


def pack(path):
    """Round the weights of a large file to BITS of precision, and compress them well."""
    if path.stat().st_size < LARGE:
        return False
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    packed, name = io.BytesIO(), "model.weights.h5"
    with h5py.File(io.BytesIO(parts[name]), "r") as old, h5py.File(packed, "w") as new:

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                large = {"compression": 9, "shuffle": True} if item.ndim else {}
                to = new.create_dataset(name, data=rounded(item[()]), **large)
            else:
                to = new.require_group(name)
            to.attrs.update(item.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy)
    parts[name] = packed.getvalue()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return True


def rounded(array):
    """Round float32 to BITS significant bits: a relative error of 2^-BITS at most."""
    if np.ndim(array) == 0 or array.dtype != "float32":
        return array
    fraction, exponent = np.frexp(array)
    return np.ldexp(np.round(fraction * 2**BITS) / 2**BITS, exponent)


def score_rms(model):
    """The root of the mean square of the score at 64 standard normal points, seed 0."""
    shape = [side or 32 for side in model.point_shape]  # of images of any size
    x = np.random.default_rng(0).normal(size=(64, *shape))
    density = model.smoothed(model.levels[0]) if model.several_levels else model
    return float(np.sqrt(np.mean(np.square(density.score(x.astype("float32"))))))


if __name__ == "__main__":
    main(args)

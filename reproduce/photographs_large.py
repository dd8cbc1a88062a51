"""Photographs with a larger energy: how far an hour of a processor carries.

`photographs.py` denoises whole photographs by one step on `networks.DeepField` of 10,280
weights. Here the same kind of energy with four layers of 128 channels, 57,568 weights, at all
noise levels from 5 to 50. Beside it stand DnCNN (556,000 weights, one level each: 29.23 dB on
BSD68 at 25) and the TDV energy (400,000: 29.36; 35.34 on the seventeen images at 7.65). What
limits it is time, not weights: each of its weights is used by eight turned filters, so a step
costs what one of 460,000 weights would.

    python reproduce/photographs_large.py --data DIR    # bsds/train, bsds/bsd68, bsds/set12

Three quarters of an hour on one core; one seed. The settings are those of the small energy, not
tuned: on the 16 photographs held out of its training set it ends at 28.88 dB, the small one, which
has seen them, has 29.00. Its layers are twice as wide, and a step of the same rate moves each of
their weights as far: a lower rate is the first thing to try.

What to see: the curve of the error on photographs held out of the training set, which tells
whether it still rose, and the table.
"""

from command import options

if __name__ == "__main__":
    args = options(
        __doc__,
        data={"help": "folder with bsds/train, bsds/bsd68, bsds/set12"},
    )

import json

import keras
import numpy as np
from experiment import Run
from photographs import count, judge, load, noisy, one_step, record
from plots import panels
from provenance import ROOT
from tables import PUBLISHED

import deen_tf as deen
from deen_tf import networks
from deen_tf.datasets import photographs

SETTINGS = {  # noise levels in 1/255
    "layers": ((8, 2, 128), *[(3, 1, 128)] * 3),
    "levels": (5, 50),
    "residual": 6,
    "crop": 64,
    "crops": 8192,
    "batch": 4,
    "rate": 2e-3,
    "warmup": 100,  # steps
    "epochs": 6,
    "parts": 6,  # of the training, after each of which it is tried
    "held_out": 16,  # training photographs
    "level": 25,  # at which it is tried
    "tested": {"bsd68": (5, 15, 25, 50), "set12": (15, 25, 50), "bsd17": (7.65, 25)},
    "noise_seed": 2018,
}
QUICK = {
    "layers": ((8, 2, 16), (3, 1, 16)),
    "crop": 32,
    "crops": 64,
    "epochs": 2,
    "parts": 2,
    "warmup": 2,
    "held_out": 2,
    "tested": {"bsd68": (25,), "bsd17": (25,)},
}
NAME = "deen-large"


def main(args):
    run = Run(__file__, args, SETTINGS, QUICK)
    at, sets = run.settings, load(run, args)
    images = sets.pop("train")
    every = len(images) // at.held_out
    held_out = images[::every][: at.held_out]
    images = [image for k, image in enumerate(images) if k % every]
    rng = np.random.default_rng([run.first, 4])
    x = photographs.patches(images, at.crop, at.crops, rng)
    for seed in run.seeds:
        model = make(at, x, seed)
        rising = train(run, model, x, held_out)
        for name, levels in at.tested.items():
            for level in levels:
                record(run, sets, name, level, NAME, one_step(model), model)
    run.export(model, NAME)
    draw(run, rising)
    names = [f"{s}/psnr@{v}/{NAME}" for s in at.tested for v in at.tested[s]]
    run.finish([*names, f"{NAME}/weights"])


def make(at, x, seed):
    """Return the energy, compiled for as many steps as it gets."""
    network = networks.DeepField(at.layers, at.residual, seed=seed)
    low, high = (level / 255 for level in at.levels)
    model = deen.DEEN(network=network, sigma=(low, high), seed=seed)
    model.adapt(x)
    steps = at.epochs * -(-len(x) // at.batch)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - at.warmup, warmup_target=at.rate, warmup_steps=at.warmup
    )
    model.compile(keras.optimizers.Adam(rate, beta_2=0.99), jit_compile=False)
    return model


def train(run, model, x, held_out):
    """Train in parts; return steps and PSNR on held-out photographs after each."""
    at, losses, total, rising = run.settings, [], 0.0, []
    for part in range(1, at.parts + 1):
        how = {"batch_size": at.batch, "epochs": at.epochs // at.parts}
        with run.stage("train"):
            curve, seconds = run.fit(model, x, **how, name=f"part {part}")
        total, losses = total + seconds, np.append(losses, curve)
        rising.append((len(losses), tried(run, model, held_out)))
        print("after {} steps {:.2f} dB".format(*rising[-1]), flush=True)
    run.metric(f"{NAME}/weights", count(model))
    run.metric(f"{NAME}/seconds", total)
    run.metric(f"held-out/psnr@{at.level}/{NAME}", rising[-1][1])
    run.arrays("training", {"loss": losses, "tried": rising}, equation="Eq. 19")
    return np.array(rising)


def tried(run, model, held_out):
    """Return the PSNR on photographs held out of the training set."""
    level = run.settings.level
    answers = (
        one_step(model)(noisy(run, y, 2000 + i, level), level / 255)
        for i, y in enumerate(held_out)
    )
    return np.mean([judge(y, x)[0] for y, x in zip(held_out, answers, strict=True)])


def draw(run, rising):
    """PSNR on held-out photographs against steps, and on BSD68 against weights."""
    at = run.settings
    figure, ((curve, table),) = panels(1, 2, 3.6)
    curve.plot(*rising.T, "o-")
    curve.set(
        xlabel="steps",
        ylabel="PSNR, dB",
        title=f"(a) {at.held_out} photographs held out, noise {at.level}/255",
    )
    weights, level = run.median(f"{NAME}/weights"), at.level
    points = {"this energy": (weights, run.median(f"bsd68/psnr@{level}/{NAME}"))}
    small = figures("photographs").get(f"bsd68/psnr@{level}/deen")
    if small:
        points["the small energy"] = (10_280, small["median"])
    points |= {k: (w, p[level]) for k, (w, p) in PUBLISHED.items() if w and level in p}
    for name, (w, psnr) in points.items():
        ours = "energy" in name
        table.semilogx(w, psnr, "k*" if ours else "C0o", ms=11 if ours else 6)
        how = {"ha": "right", "xytext": (-8, 4)} if "small" in name else {}
        how = {"xytext": (6, 6 if ours else -8 if "WCRR" in name else -4)} | how
        table.annotate(name, (w, psnr), textcoords="offset points", **how)
    table.set(
        xlabel="weights",
        ylabel="PSNR, dB",
        xlim=(1e3, 4e6),
        title=f"(b) BSD68, noise {level}/255; the others as published",
    )
    run.figure(figure, run.name)


def figures(name):
    """Return the metrics of another script's committed result, {} without it."""
    path = ROOT / "figures" / f"{name}.json"
    return json.loads(path.read_text("utf-8"))["metrics"] if path.is_file() else {}


if __name__ == "__main__":
    main(args)

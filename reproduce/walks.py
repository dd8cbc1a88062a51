"""The second part of `sampling.py`: walk-jump on MNIST.

The wide network and the field of experts of Figure 2, each at two noise levels; walks from
noisy test digits and from white noise. The model's own law cannot be sampled exactly, but
noisy test digits are exact samples of what it is a model of: beside the walks stand the
same numbers for them and for jumps from them. That a jump lies near a training digit means
little by itself, as an empty picture lies near every thin 1: look at the ink too.
"""

import time

import numpy as np
from fig2 import FIELD, OTHER, WIDE
from images import train
from plots import panels
from scipy.spatial.distance import cdist, pdist

from deen_tf import plotting
from deen_tf.datasets import mnist
from deen_tf.sampling import langevin, walk_jump

MODELS = {
    "wide-0.14": WIDE,
    "wide-0.3": WIDE | {"sigma": OTHER},
    "field-0.14": FIELD,
    "field-0.3": FIELD | {"sigma": OTHER},
}
SETTINGS = {
    "models": MODELS,
    "train_digits": 60_000,
    "chains": 24,  # from each start
    "steps": 500,
    "kept": 10,
    "adjusted_steps": 20,  # at the end, to measure acceptance
    "test_digits": 4000,  # noisy: a quarter to compare with, the others for the null range
    # Off the data's manifold the smoothed density has variance sigma^2, where a step of
    # sigma^2 settles at twice that, and a tenth of it at 5% more. Of Metropolis-adjusted
    # steps from noisy training digits the wide network at 0.3 accepts 0.96 at 0.03 sigma^2,
    # 0.76 at 0.1, 0.41 at 0.2, 0.03 at 0.4, none at 1.
    "step": 0.1,  # h / sigma^2
}
QUICK = {
    "models": {n: MODELS[n] | {"epochs": 1} for n in ("wide-0.3", "field-0.3")},
    "train_digits": 1600,
    "chains": 8,
    "steps": 10,
    "adjusted_steps": 5,
    "test_digits": 100,
}
STARTS = {"digits": "noisy test digits", "noise": "white noise"}
SHOWN = 4  # chains of each walk


def walk(run, data):
    """Train every network, walk and jump, record and draw."""
    at = run.settings.walks
    digits = mnist.load(data)
    run.data["mnist"] = digits.identity
    x, n = digits.x_train[: at["train_digits"]], at["chains"]
    shuffled = np.random.default_rng([run.first, 2019]).permutation(len(digits.x_test))
    test = digits.x_test[shuffled]
    start, others = test[:n], test[n : n + at["test_digits"]]
    report = Report(run, Nearest(x, digits.y_train[: len(x)]), start, others)
    shown = {}
    for seed, name in run.each((s, name) for s in run.seeds for name in at["models"]):
        network = at["models"][name]
        sigma, rng = network["sigma"], np.random.default_rng([seed, 2019])
        model, *_ = train(run, network, seed, x, name)
        clean = {"digits": start, "noise": rng.uniform(size=start.shape)}
        xi = {k: noisy(v, sigma, rng) for k, v in clean.items()}
        ideal = noisy(others, sigma, rng)

        def chains(model=model, xi=xi, seed=seed):
            return walk_and_jump(model, xi, seed, at)

        with run.stage("walk on MNIST"):
            found = run.once(f"{name}-{seed}", chains, run.data["mnist"])
        with run.stage("measure on MNIST"):
            answer = report(name, model, xi, found, ideal)
        shown.setdefault(name, answer)
    draw(run, shown)


def noisy(x, sigma, rng):
    return (x + sigma * rng.normal(size=x.shape)).astype("float32")


def walk_and_jump(model, xi, seed, at):
    """Return the jumps and the states they were made from, and what adjustment accepts."""
    clock, step = time.perf_counter(), at["step"] * model.sigma**2
    starts, many = (
        np.concatenate(list(xi.values())),
        {"steps": at["steps"], "kept": at["kept"]},
    )
    jumps, chains = walk_jump(model, starts, step=step, seed=seed, **many)
    seconds, last = time.perf_counter() - clock, chains.states[-1]
    more = {"steps": at["adjusted_steps"], "seed": seed + 10**6}
    adjusted = langevin(model, last, step=step, adjusted=True, **more)
    acceptance = adjusted.acceptance
    return {"jumps": jumps, "last": last, "acceptance": acceptance, "seconds": seconds}


class Nearest:
    """The nearest training digit of an image."""

    def __init__(self, x, labels):
        self.x, self.labels = x, labels
        self.squares = (x**2).sum(1)

    def __call__(self, images):
        """Return its distance, its label, and which it is; each (n,)."""
        images = np.asarray(images, "float32")
        # Up to |image|^2, which does not matter for which is the least.
        which = (self.squares - 2 * images @ self.x.T).argmin(1)
        distance = np.linalg.norm(images - self.x[which], axis=1)
        return distance, self.labels[which], which


class Report:
    """Where the walks went, by the model's energy and by the training digits."""

    def __init__(self, run, nearest, start, others):
        self.run, self.nearest, self.start = run, nearest, start
        self.compared = max(len(start), len(others) // 4)
        self.apart = np.median(pdist(others[:500]))
        self.ink = np.median(others.sum(1))
        run.record("mnist/test", self.distances(others[: self.compared])[0])

    def distances(self, images):
        """Return the metrics of the distance to the training digits, labels, which."""
        distance, label, which = self.nearest(images)
        values = {
            "nearest_distance": np.median(distance),
            "nearest_distance_min": distance.min(),
            "nearest_distance_max": distance.max(),
        }
        return values, label, which

    def __call__(self, name, model, xi, chains, ideal):
        """Record the numbers of one model; return what is shown of it."""
        n, record = len(self.start), self.run.record
        energy, longest = model.energy(ideal), (ideal**2).sum(1).max()
        x_hat = model.denoise(ideal)
        reference, rest = x_hat[: self.compared], x_hat[self.compared :]
        within = pdist(reference).mean()

        def energy_distance(x):
            return 2 * cdist(x, reference).mean() - pdist(x).mean() - within

        null = [
            energy_distance(rest[i : i + n]) for i in range(0, len(rest) - n + 1, n)
        ]
        values = {"null_95": np.quantile(null, 0.95), "energy_spread": energy.std()}
        record(f"mnist/{name}", values | {"seconds": chains["seconds"]})
        rng = np.random.default_rng(self.run.first)
        again = self.nearest(model.denoise(noisy(self.start, model.sigma, rng)))[1]
        first = self.nearest(model.denoise(xi["digits"]))[1]
        values = self.distances(reference)[0]
        record(
            f"mnist/{name}/jump", values | {"class_changed": np.mean(again != first)}
        )
        shown = {}
        for k, start in enumerate(STARTS):
            part = slice(k * n, (k + 1) * n)
            jumps = np.stack([model.denoise(xi[start]), *chains["jumps"][:, part]])
            values, label, which = self.distances(jumps[-1])
            if start == "digits":
                values["class_changed"] = np.mean(label != first)
            last = chains["last"][part]
            travelled = np.linalg.norm(jumps[-1] - jumps[0], axis=1)
            values |= {
                "energy_gap": model.energy(last).mean() - energy.mean(),
                "escaped": np.mean((last**2).sum(1) > longest),
                "acceptance": chains["acceptance"][part].mean(),
                "energy_distance": energy_distance(jumps[-1]),
                "ink": np.median(jumps[-1].sum(1)) / self.ink,
                "travelled": np.median(travelled) / self.apart,
                "commonest_class": np.bincount(label).max() / n,
            }
            record(f"mnist/{name}/{start}", values)
            nearest = self.nearest.x[which]
            shown[start] = {"start": xi[start], "jumps": jumps, "nearest": nearest}
        return shown


def draw(run, shown):
    """Chains row by row: start, first jump, jumps on the way, nearest training digit."""
    at = run.settings.walks
    every = at["steps"] // at["kept"]
    figure, axes = panels(len(shown), len(STARTS), 2.3 * len(shown))
    for row, (name, of_model) in zip(axes, shown.items(), strict=True):
        for ax, start in zip(row, STARTS, strict=True):
            answer, here = of_model[start], f"mnist/{name}/{start}"
            chosen = range(min(SHOWN, at["chains"]))
            images = [
                np.stack(
                    [answer["start"][i], *answer["jumps"][:, i], answer["nearest"][i]]
                )
                for i in chosen
            ]
            gap, ink, escaped, distance = (
                run.median(f"{here}/{metric}")
                for metric in ("energy_gap", "ink", "escaped", "nearest_distance")
            )
            ideal = run.median(f"mnist/{name}/jump/nearest_distance")
            title = (
                f"{name}, from {STARTS[start]}: energy {gap:+.0f} nats,\nink {ink:.2f} times "
                f"noisy digits', {escaped:.0%} escaped,\ndistance to a training digit "
                f"{distance:.1f} (jumps from noisy digits {ideal:.1f})"
            )
            if start == "digits":
                changed = run.median(f"{here}/class_changed")
                title += f", {changed:.0%} changed class"
            plotting.patch_grid(
                ax, np.concatenate(images), (28, 28), len(images), title
            )
            for k, text in enumerate(
                ["start", *every * np.arange(at["kept"] + 1), "nearest"]
            ):
                style = {"ha": "center", "va": "bottom", "fontsize": 5.5}
                ax.text(k * 1.08 + 0.5, 0.06, text, **style)
            ax.set_ylim(top=0.4)
    figure.suptitle(
        "Walk-jump on MNIST: where the walk starts, its jumps after so many steps, and the "
        "training digit nearest to the last"
    )
    run.figure(figure, "sampling-mnist")

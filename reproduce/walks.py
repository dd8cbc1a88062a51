"""The second part of `sampling.py`: walk-jump on MNIST.

The wide network and the field of experts of Figure 2, each at two noise levels; walks from
noisy test digits and from white noise. The model's own law cannot be sampled exactly, but
noisy test digits are exact samples of what it is a model of: beside the walks stand the
same numbers for them and for jumps from them. That a jump lies near a training digit means
little by itself, as an empty picture lies near every thin 1: look at the ink too.
"""

import time

from chains import Sample, resumed
from fig2 import FIELD, WIDE, fit, steps

MODELS = {
    "wide-0.14": ("DEEN", WIDE, 0.14),
    "wide-0.3": ("DEEN", WIDE, 0.3),
    "field-0.14": ("FieldOfExperts", FIELD, 0.14),
    "field-0.3": ("FieldOfExperts", FIELD, 0.3),
}
STARTS = {"digits": "noisy test digits", "noise": "white noise"}
# Off the data's manifold the smoothed density has variance sigma^2, where a step of sigma^2
# settles at twice that, and a tenth of it at 5% more. Of Metropolis-adjusted steps from noisy
# training digits the wide network at 0.3 accepts 0.96 at 0.03 sigma^2, 0.76 at 0.1, 0.41 at
# 0.2, 0.03 at 0.4, none at 1.
STEP = 0.1  # h / sigma^2
WALKS = {
    "chains": 24,  # from each start
    "steps": 500,
    "kept": 10,
    "adjusted steps": 20,  # at the end, to measure acceptance
    "test digits": 4000,  # noisy: a quarter to compare with, the others for the null range
}
QUICK = WALKS | {"chains": 8, "steps": 10, "adjusted steps": 5, "test digits": 100}

DEFINITIONS = {
    "energy_gap": (
        "nats",
        "mean of the model's energy over the last states, less that over noisy test "
        + "digits",
    ),
    "energy_spread": ("nats", "its standard deviation over noisy test digits"),
    "escaped": (
        "1",
        "fraction of the last states that are longer, |xi|, than every noisy test digit",
    ),
    "acceptance": (
        "1",
        "fraction of Metropolis-adjusted steps of the walk's size that are accepted, from "
        + "the last states on",
    ),
    "energy_distance": (
        "pixel values",
        "energy distance between the last jumps and jumps from noisy test digits",
    ),
    "null_95": (
        "pixel values",
        "95% quantile of the same for jumps from as many other noisy test digits",
    ),
    "ink": (
        "1",
        "sum of the pixels of the last jumps over that of clean test digits, medians",
    ),
    "nearest_distance": (
        "pixel values",
        "distance to the nearest training digit: median over the points",
    ),
    "nearest_distance_min": ("pixel values", "the least of these distances"),
    "nearest_distance_max": ("pixel values", "the largest of these distances"),
    "travelled": (
        "1",
        "distance from a chain's first jump to its last over that between two test digits, "
        + "medians",
    ),
    "class_changed": (
        "1",
        "fraction of chains whose last jump is nearest to a training digit of another "
        + "label than their first; under jump/: of pairs of noisy copies of one digit",
    ),
    "commonest_class": (
        "1",
        "fraction of last jumps whose nearest training digit has the commonest label",
    ),
    "seconds": ("s", "wall time of the walk and its jumps, compilation included"),
}


def settings(quick):
    models = MODELS
    if quick:
        models = {
            name: (cls, network | {"epochs": 1}, sigma)
            for name, (cls, network, sigma) in MODELS.items()
            if sigma == 0.3
        }
    return {
        "models": models,
        "training digits": 1600 if quick else 60_000,
        "step / sigma^2": STEP,
    } | (QUICK if quick else WALKS)


def walk(run, digits, bar):
    """Train every network once, walk and jump; return what is shown of each."""
    import numpy as np

    settings = run.settings["mnist"]
    n = settings["chains"]
    x = digits.x_train[: settings["training digits"]]
    bar.reset(sum(steps(network, x) for _, network, _ in settings["models"].values()))
    rng = np.random.default_rng([run.first, 2019])
    test = digits.x_test[rng.permutation(len(digits.x_test))]
    start, others = test[:n], test[n : n + settings["test digits"]]
    report = Report(run, Nearest(x, digits.y_train[: len(x)]), start, others)
    shown = {}
    for name, (cls, network, sigma) in settings["models"].items():
        bar.set_description(f"MNIST, {name}")
        model, _, _ = fit(run, name, cls, network, sigma, run.first, x, bar)
        clean = {"digits": start, "noise": rng.uniform(size=start.shape)}
        xi = {k: noisy(v, sigma, rng) for k, v in clean.items()}
        ideal = noisy(others, sigma, rng)
        with run.stage("walk on MNIST"):
            chains = resumed(
                run,
                "mnist",
                name,
                lambda m=model, xi=xi: walk_and_jump(m, xi, run.first, settings),
            )
        with run.stage("measure on MNIST"):
            shown[name] = report(name, model, xi, chains, ideal)
    return shown


def noisy(x, sigma, rng):
    return (x + sigma * rng.normal(size=x.shape)).astype("float32")


def walk_and_jump(model, xi, seed, settings):
    """Return the jumps and the states they were made from, and what adjustment accepts."""
    import numpy as np

    from deen_tf.sampling import langevin, walk_jump

    clock = time.perf_counter()
    common = {"step": settings["step / sigma^2"] * model.sigma**2, "seed": seed}
    jumps, chains = walk_jump(
        model,
        np.concatenate(list(xi.values())),
        steps=settings["steps"],
        kept=settings["kept"],
        **common,
    )
    seconds = time.perf_counter() - clock
    adjusted = langevin(
        model,
        chains.states[-1],
        steps=settings["adjusted steps"],
        adjusted=True,
        **common | {"seed": seed + 10**6},
    )
    return {
        "jumps": jumps,
        "last": chains.states[-1],
        "acceptance": adjusted.acceptance,
        "seconds": seconds,
    }


class Nearest:
    """The nearest training digit of an image."""

    def __init__(self, x, labels):
        self.x, self.labels = x, labels
        self.squares = (x**2).sum(1)

    def __call__(self, images):
        """Return its distance, its label, and which it is; each (n,)."""
        import numpy as np

        images = np.asarray(images, "float32")
        # Up to |image|^2, which does not matter for which is the least.
        which = (self.squares - 2 * images @ self.x.T).argmin(1)
        distance = np.linalg.norm(images - self.x[which], axis=1)
        return distance, self.labels[which], which


class Report:
    """Where the walks went, by the model's energy and by the training digits."""

    def __init__(self, run, nearest, start, others):
        import numpy as np
        from scipy.spatial.distance import pdist

        self.run, self.nearest, self.start = run, nearest, start
        self.compared = max(len(start), len(others) // 4)
        self.apart = np.median(pdist(others[:500]))
        self.ink = np.median(others.sum(1))
        self.record("test", self.distances(others[: self.compared])[0])

    def record(self, name, values):
        for metric, value in values.items():
            self.run.metric(f"mnist/{name}/{metric}", value, *DEFINITIONS[metric])

    def distances(self, images):
        """Return the metrics of the distance to the training digits, labels, which."""
        import numpy as np

        distance, label, which = self.nearest(images)
        values = {
            "nearest_distance": np.median(distance),
            "nearest_distance_min": distance.min(),
            "nearest_distance_max": distance.max(),
        }
        return values, label, which

    def __call__(self, name, model, xi, chains, ideal):
        """Record the numbers of one model; return what is shown of it."""
        import numpy as np

        n = len(self.start)
        energy, longest = model.energy(ideal), (ideal**2).sum(1).max()
        x_hat = model.denoise(ideal)
        reference = Sample(x_hat[: self.compared])
        null = [
            reference.energy_distance(x_hat[i : i + n])
            for i in range(self.compared, len(x_hat) - n + 1, n)
        ]
        self.record(
            name,
            {
                "null_95": np.quantile(null, 0.95),
                "energy_spread": energy.std(),
                "seconds": chains["seconds"],
            },
        )
        copies = noisy(self.start, model.sigma, np.random.default_rng(self.run.first))
        again = self.nearest(model.denoise(copies))[1]
        first = self.nearest(model.denoise(xi["digits"]))[1]
        self.record(
            f"{name}/jump",
            self.distances(reference.points)[0]
            | {"class_changed": np.mean(again != first)},
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
                "energy_distance": reference.energy_distance(jumps[-1]),
                "ink": np.median(jumps[-1].sum(1)) / self.ink,
                "travelled": np.median(travelled) / self.apart,
                "commonest_class": np.bincount(label).max() / n,
            }
            self.record(f"{name}/{start}", values)
            shown[start] = {
                "start": xi[start],
                "jumps": jumps,
                "nearest": self.nearest.x[which],
            }
        return shown

"""Chains of `sampling.py`: what they are compared with, and how they are kept."""

import hashlib
import json
import os
import shutil

from outputs import versions


class Sample:
    """A sample, and the energy distance of others to it (Szekely and Rizzo 2004).

    2 E|X - Y| - E|X - X'| - E|Y - Y'|: zero if and only if the laws are equal. With means
    over pairs of different points its mean is right for independent samples of any size.
    """

    def __init__(self, points):
        from scipy.spatial.distance import pdist

        self.points, self.within = points, pdist(points).mean()

    def energy_distance(self, x):
        from scipy.spatial.distance import cdist, pdist

        return 2 * cdist(x, self.points).mean() - pdist(x).mean() - self.within


class Exact:
    """A law's smoothed density, exact samples, and what the statistics are for them."""

    def __init__(self, law, settings):
        import numpy as np

        sigma = settings["sigma"]
        self.density, self.box = exact_density(law, sigma), law.box(sigma)
        # Seeds of training count up from 0: the exact samples share none.
        points, n = settings["exact points"], settings["chains"]
        self.noisy = Sample(law.sample_smoothed(points, sigma, seed=10**6))
        self.clean = Sample(law.sample(points, seed=10**6 + 1))
        many = law.sample_smoothed(40 * points, sigma, seed=10**6 + 2)
        self.mean_energy = self.density.energy(many).mean()
        null = [
            law.sample_smoothed(n, sigma, seed=2 * 10**6 + i)
            for i in range(settings["samples for the null ranges"])
        ]
        pairs = zip(null[::2], null[1::2], strict=True)
        statistics = {
            "null_95": [self.noisy.energy_distance(x) for x in null],
            "null_95_two_samples": [Sample(x).energy_distance(y) for x, y in pairs],
            "excess_energy_null_95": [abs(self.excess_energy(x)) for x in null],
        }
        self.metrics = {k: np.quantile(v, 0.95) for k, v in statistics.items()}
        jumps = self.density.denoise(null[0])
        self.metrics["best_jump"] = self.clean.energy_distance(jumps)

    def escaped(self, x):
        """Return which points are outside the square that holds all but 1e-6 of p_sigma."""
        return (abs(x) > self.box[1]).any(axis=1)

    def excess_energy(self, x):
        """Return the excess of the points that have not escaped: one that has may count
        for more than all the others.
        """
        return self.density.energy(x[~self.escaped(x)]).mean() - self.mean_energy


def exact_density(law, sigma):
    """Return p_sigma with `.energy`, `.score` and `.denoise`, soon evaluated."""
    import numpy as np

    from deen_tf.laws.parzen import Parzen

    exact = law.smoothed(sigma)
    # Round modes make a Parzen density of their centres; a curve does of points along it,
    # to 1e-8 of the power of its score.
    if hasattr(law, "covariances"):
        std = law.covariances[0, 0, 0] ** 0.5
    elif hasattr(law, "length"):
        std = law.std
    else:
        return exact
    parzen = Parzen(law.centers(400), np.hypot(std, sigma))
    exact.energy, exact.score = parzen.energy, parzen.score
    return exact


def drawn_on_grid(density, box, n, seed, cells=400):
    """Draw n points of exp(-E) on the box, E taken as constant in a cell of a grid."""
    import numpy as np
    from scipy.special import softmax

    low, high = box
    cell = (high - low) / cells
    side = low + cell * (np.arange(cells) + 0.5)
    centres = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    mass = softmax(-density.energy(centres).astype("float64"))
    rng = np.random.default_rng(seed)
    at = centres[rng.choice(len(centres), size=n, p=mass)]
    return at + cell * (rng.random((n, 2)) - 0.5)


def resumed(run, part, name, compute):
    """Return the arrays of `compute()`, or those that an interrupted run left.

    Parameters
    ----------
    run : Run
    part : str
        Of the script: its settings, its data and the first seed decide the chains.
    name : str
        Of these chains, unique in the part.
    compute : callable
        Returns {name: array}.
    """
    import numpy as np

    from deen_tf.atomic import replacing

    path = os.path.join(_folder(run, part), name + ".npz")
    if not os.path.exists(path):
        with replacing(path) as temporary:
            np.savez(temporary, **compute())
    with np.load(path) as file:
        return dict(file)


def forget(run, part):
    """Remove what `resumed` keeps of a part: the outputs are written."""
    shutil.rmtree(_folder(run, part), ignore_errors=True)


def _folder(run, part):
    """A folder of the chains, named by all that decides them."""
    decided_by = [run.settings[part], run.data[part], run.first, versions()]
    key = json.dumps(decided_by, default=str)
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return run.path("checkpoints", f"{run.name}-{part}-chains-{digest}")

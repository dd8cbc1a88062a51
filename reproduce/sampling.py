"""Sampling from a learned energy: Langevin, Hamiltonian Monte Carlo, walk-jump.

Claim (Sec. 5): "the energy function could be directly plugged-in in various MCMC methods".
A DEEN is trained on two-dimensional data and sampled with each method, all with the same
number of score evaluations. All chains start at ONE data point: they must find the rest of
the density for themselves. Each sample is compared with an exact one by the energy
distance, beside the range of that statistic for two exact samples. The same chains on the
exact density tell what is the sampler's fault and what the model's.

The walks aim at the smoothed density; the jumps of walk-jump (Eq. 11) are compared with
clean data, which they aim at, and with jumps from exact noisy points by the exact denoiser,
which is the best they can do: a posterior mean is less spread than the data.

    python reproduce/sampling.py --seeds 3              # the committed run
"""

import time

from outputs import Run, guarded, options

HIDDEN_UNITS = (32, 32, 32)
SIGMA = 0.1
BATCH = 2048
STEPS_PER_EPOCH = 100
ITERATIONS = 5000

CHAINS = 1000  # and points in each exact sample
EVALUATIONS = 2000  # of the score, to a chain
KEPT = 10  # states on the way
# On the exact mixture, tried: h = 0.002, 0.005, 0.01, 0.02; e = 0.05, 0.1, 0.15, 0.2 with
# L = 5, 10, 20. h = sigma^2, the step of Eq. 26, and this leapfrog are within a factor of two
# of the soonest there, and accept 0.93 and 0.97 of their proposals.
LANGEVIN_STEP = SIGMA**2
LEAPFROG_STEP, LEAPFROGS = 0.1, 10
NULL_PAIRS = 200

METHODS = {
    "langevin": "Langevin",
    "mala": "Langevin, adjusted",
    "hmc": "Hamiltonian",
    "walk-jump": "walk-jump",
}
SETS = ("mixture", "spiral", "rings")
EXACT_TOO = ("mixture", "rings")  # the spiral's exact score is a slow quadrature

DEFINITIONS = {
    "energy_distance": (
        "units of x",
        "2 E|X - Y| - E|X - X'| - E|Y - Y'| between the last states and an exact sample of "
        + "the smoothed density, U-statistics: 0 in the mean for equal laws",
    ),
    "energy_distance_to_clean": (
        "units of x",
        "the same between jumps and clean data",
    ),
    "null_95": ("units of x", "95% quantile of the statistic for two exact samples"),
    "best_jump": (
        "units of x",
        "the statistic for jumps from exact noisy points by the exact denoiser",
    ),
    "acceptance": ("1", "fraction of proposals accepted"),
    "escaped": ("1", "fraction of the chains that end outside the data's box"),
    "seconds": ("s", "wall time of all chains, compilation included"),
}


def main(argv=None):
    args = options(__doc__).parse_args(argv)
    settings = {
        "hidden_units": HIDDEN_UNITS,
        "sigma": SIGMA,
        "batch": BATCH,
        "iterations": ITERATIONS if not args.quick else STEPS_PER_EPOCH,
        "chains": CHAINS if not args.quick else 200,
        "evaluations": EVALUATIONS if not args.quick else 200,
        "null_pairs": NULL_PAIRS if not args.quick else 20,
        "langevin_step": LANGEVIN_STEP,
        "leapfrog": {"step": LEAPFROG_STEP, "steps": LEAPFROGS},
        "start": "all chains at one data point",
    }
    run = Run("sampling", args, settings)

    import matplotlib

    matplotlib.use("Agg")
    from tqdm import tqdm

    with run.stage("import"):
        import deen_tf as deen

    laws = {
        "mixture": deen.datasets.GaussianMixture.ring(modes=8),
        "spiral": deen.datasets.Spiral(),
        "rings": deen.datasets.Rings(),
    }
    for D, law in laws.items():
        run.data[D] = {"law": repr(law), "sampled with seed": "the run's"}
    shown = {}
    total = len(laws) * len(run.seeds) * settings["iterations"]
    with tqdm(total=total, unit="it", desc="training", dynamic_ncols=True) as bar:
        for D, law in laws.items():
            test = Exact(law, settings)
            for metric in ("null_95", "best_jump"):
                run.metric(f"{D}/{metric}", getattr(test, metric), *DEFINITIONS[metric])
            for seed in run.seeds:
                model = train(run, law, D, seed, bar)
                densities = {"deen": model} | (
                    {"exact": test.smoothed} if D in EXACT_TOO else {}
                )
                for name, density in densities.items():
                    for method in METHODS:
                        with run.stage("sample"):
                            start = law.sample(1, seed=seed)
                            answer = sample(density, start, method, seed, settings)
                        measure(run, f"{D}/{name}/{method}", answer, test)
                        if seed == run.first:
                            shown[D, name, method] = answer
            shown[D] = test
    with run.stage("draw"):
        draw(run, laws, shown)
    run.json()
    run.finish_training()
    run.table()


def train(run, law, D, seed, bar):
    import deen_tf as deen

    x = law.sample(BATCH * STEPS_PER_EPOCH, seed=seed)
    model = deen.DEEN(HIDDEN_UNITS, sigma=SIGMA, seed=seed)
    model.compile()
    epochs = run.settings["iterations"] // STEPS_PER_EPOCH
    with run.stage("train"):
        run.train(
            model, x, name=f"{D}-{seed}", batch_size=BATCH, epochs=epochs, bar=bar
        )
    return model


def sample(density, start, method, seed, settings):
    """Return the chains of one method, and the jumps if it has any."""
    import numpy as np

    from deen_tf.sampling import hamiltonian, langevin, walk_jump

    start = np.repeat(start, settings["chains"], axis=0)
    steps = settings["evaluations"]
    common = {"seed": seed, "kept": KEPT, "steps": steps, "step": LANGEVIN_STEP}
    clock = time.perf_counter()
    jumps = None
    if method == "hmc":
        common |= {"step": LEAPFROG_STEP, "steps": steps // LEAPFROGS}
        chains = hamiltonian(density, start, leapfrogs=LEAPFROGS, **common)
    elif method == "walk-jump":
        jumps, chains = walk_jump(density, start, **common)
    else:
        chains = langevin(density, start, adjusted=method == "mala", **common)
    return {
        "states": chains.states,
        "jumps": jumps,
        "acceptance": chains.acceptance.mean(),
        "seconds": time.perf_counter() - clock,
    }


class Exact:
    """Exact samples of a law, clean and smoothed, and the null range of the statistic."""

    def __init__(self, law, settings):
        import numpy as np

        n = settings["chains"]
        self.smoothed, self.box = law.smoothed(SIGMA), law.box(SIGMA)
        # Seeds of training count up from 0: the exact samples share none.
        self.noisy = law.sample_smoothed(n, SIGMA, seed=10**6)
        self.clean = law.sample(n, seed=10**6 + 1)
        pairs = range(settings["null_pairs"])
        null = [
            energy_distance(
                law.sample_smoothed(n, SIGMA, seed=2 * 10**6 + i),
                law.sample_smoothed(n, SIGMA, seed=3 * 10**6 + i),
            )
            for i in pairs
        ]
        self.null_95 = float(np.quantile(null, 0.95))
        other = law.sample_smoothed(n, SIGMA, seed=10**6 + 2)
        self.best_jump = energy_distance(self.smoothed.denoise(other), self.clean)


def energy_distance(x, y):
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely and Rizzo 2004), unbiased."""
    from scipy.spatial.distance import cdist, pdist

    return 2 * cdist(x, y).mean() - pdist(x).mean() - pdist(y).mean()


def measure(run, name, answer, test):
    import numpy as np

    last = answer["states"][-1]
    values = {"seconds": answer["seconds"]}
    if answer["jumps"] is not None:  # its walk is that of unadjusted Langevin
        jumps = answer["jumps"][-1]
        values["energy_distance_to_clean"] = energy_distance(jumps, test.clean)
    else:
        values["energy_distance"] = energy_distance(last, test.noisy)
        values["acceptance"] = answer["acceptance"]
        values["escaped"] = np.mean((np.abs(last) > test.box[1]).any(axis=1))
    for metric, value in values.items():
        run.metric(f"{name}/{metric}", value, *DEFINITIONS[metric])


def draw(run, laws, shown):
    """Exact points and each method's, and the way of the statistic."""
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(
        len(laws),
        6,
        figsize=(20, 3.7 * len(laws)),
        squeeze=False,
        layout="constrained",
    )
    for row, D in zip(axes, laws, strict=True):
        test = shown[D]
        points = {f"{D}: exact, smoothed": test.noisy}
        for method, title in METHODS.items():
            answer = shown[D, "deen", method]
            if method == "walk-jump":
                points["walk-jump: jumps (grey: data)"] = answer["jumps"][-1]
            else:
                points[title] = answer["states"][-1]
        low, high = test.box
        for ax, (title, x) in zip(row, points.items(), strict=False):
            if "jumps" in title:
                ax.plot(*test.clean.T, ".", ms=1.5, color="0.6")
            ax.plot(*x.T, ".", ms=2)
            outside = np.mean((np.abs(x) > high).any(axis=1))
            title += f", {outside:.1%} outside" if outside else ""
            ax.set_title(title, fontsize=10)
            ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            ax.set(xlabel="$x_1$", ylabel="$x_2$")
        ax = row[-1]
        at = np.arange(1, KEPT + 1) * run.settings["evaluations"] / KEPT
        for k, method in enumerate(("langevin", "mala", "hmc")):
            for name, style in (("deen", "-"), ("exact", ":")):
                if (D, name, method) not in shown:
                    continue
                states = shown[D, name, method]["states"]
                way = [energy_distance(x, test.noisy) for x in states]
                label = f"{METHODS[method]} on {name}"
                ax.plot(at, way, style, color=f"C{k}", label=label)
        ax.axhspan(-test.null_95, test.null_95, color="0.85", label="null, 95%")
        ax.set_yscale("symlog", linthresh=2 * test.null_95)
        ax.set_ylim(-2 * test.null_95, 1)
        ax.set(xlabel="score evaluations")
        ax.set_title("energy distance to exact", fontsize=10)
        ax.legend(fontsize=7)
    figure.suptitle(
        f"Samples of DEEN's energy after {run.settings['iterations']} iterations, sigma = "
        f"{SIGMA}, seed {run.first}: {run.settings['chains']} chains, all from one data point"
    )
    run.figure(figure, "sampling")
    plt.close(figure)


if __name__ == "__main__":
    guarded(main)

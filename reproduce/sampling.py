"""Sampling from a learned energy: Langevin, Hamiltonian Monte Carlo, walk-jump.

Claim (Sec. 5): "the energy function could be directly plugged-in in various MCMC methods".

The plane. A DEEN is trained and sampled with each method, at the same number of score
evaluations. All chains start at ONE data point: they must find the rest of the density for
themselves. Two statistics of where they end, each beside its range for exact points:

- the energy distance to an exact sample: has the whole density been found?
- the excess of the exact energy, its mean over the chains less that under p_sigma: are the
  widths right? (An error of a tenth in them does not show in the energy distance.)

Langevin without Metropolis is off by its step h: where the variance is s^2 it settles at
s^2 / (1 - h / 2 s^2), in the plane an excess of about h / 2 s^2 nats. The same chains on
the exact energy have that error and no other; what lies between the two is the model's.

The walks aim at the smoothed density; the jumps of walk-jump (Eq. 11) are compared with
clean data, which they aim at, and with jumps from exact noisy points by the exact denoiser,
which is the best they can do: a posterior mean is less spread than the data.

MNIST: walk-jump from the wide network and the field of experts of Figure 2 (`walks.py`).

    python reproduce/sampling.py --seeds 3              # the committed run
    python reproduce/sampling.py --parts plane          # needs no data
"""

import time

import walks
from chains import Exact, Sample, drawn_on_grid, forget, resumed
from outputs import Run, guarded, options

PARTS = ("plane", "mnist")
HIDDEN_UNITS = (32, 32, 32)
SIGMA = 0.1
BATCH = 2048
STEPS_PER_EPOCH = 100
ITERATIONS = 5000

CHAINS = 1000
EXACT_POINTS = 5000  # of the sample that the chains are compared with
EVALUATIONS = 2000  # to a chain: points at which it needs the score
KEPT = 20  # states on the way
# On the exact mixture, tried: h = 0.002, 0.005, 0.01, 0.02; e = 0.05, 0.1, 0.15, 0.2 with
# L = 5, 10, 20. h = sigma^2, the step of Eq. 26, and this leapfrog are within a factor of two
# of the soonest there, and accept 0.93 and 0.97 of their proposals.
LANGEVIN_STEP = SIGMA**2
LEAPFROG_STEP, LEAPFROGS = 0.1, 10
NULL_SAMPLES = 200

METHODS = {
    "langevin": "Langevin",
    "mala": "Langevin, adjusted",
    "hmc": "Hamiltonian",
}

OF_EXACT = "95% quantile for as many exact points as there are chains"
DEFINITIONS = {
    "energy_distance": (
        "units of x",
        "2 E|X - Y| - E|X - X'| - E|Y - Y'| between the last states and an exact sample of "
        + "the smoothed density, U-statistics: 0 in the mean for equal laws",
    ),
    "null_95": ("units of x", f"energy distance: {OF_EXACT}"),
    "energy_distance_to_model": (
        "units of x",
        "the same between the last states within the data's box and points drawn from DEEN's "
        + "own density there, cell by cell of a grid: the sampler's error without the model's",
    ),
    "grid_kl": (
        "nats",
        "KL(p_sigma || DEEN's density on the data's box): the model's error",
    ),
    "energy_distance_to_sampler_on_exact": (
        "units of x",
        "energy distance between the last states on DEEN's energy and those of the same "
        + "sampler on the exact energy, with other noise: the model's error without the step's",
    ),
    "null_95_two_samples": (
        "units of x",
        "95% quantile of the same for two exact samples of that size",
    ),
    "excess_energy": (
        "nats",
        "mean of the exact energy -log p_sigma over the states kept of the second half of the "
        + "way, within the data's box, less its mean under p_sigma",
    ),
    "excess_energy_null_95": ("nats", f"|excess energy|: {OF_EXACT}"),
    "energy_distance_to_clean": (
        "units of x",
        "energy distance between the last jumps and clean data",
    ),
    "best_jump": (
        "units of x",
        "the same for jumps from exact noisy points by the exact denoiser",
    ),
    "acceptance": ("1", "fraction of proposals accepted"),
    "escaped": ("1", "fraction of the chains that end outside the data's box"),
    "evaluations": (
        "1",
        "score evaluations to a chain until the energy distance is within null_95, if it "
        + f"comes there, looked at {KEPT} times",
    ),
    "seconds": ("s", "wall time of all chains, compilation included"),
}


def main(argv=None):
    parser = options(
        __doc__,
        parts={
            "nargs": "+",
            "choices": PARTS,
            "default": PARTS,
            "help": "what to run (default: both)",
        },
        data={"help": "folder or file of MNIST (default: Keras' cache)"},
    )
    args = parser.parse_args(argv)
    available = {
        "plane": plane_settings(args.quick),
        "mnist": walks.settings(args.quick),
    }
    run = Run("sampling", args, {part: available[part] for part in args.parts})

    import matplotlib

    matplotlib.use("Agg")
    from panels import sampling as panels
    from tqdm import tqdm

    if "mnist" in args.parts:
        from deen_tf.datasets import mnist

        with run.stage("load"):
            digits = mnist.load(args.data)
            run.data["mnist"] = digits.identity
    with tqdm(unit="it", dynamic_ncols=True) as bar:
        if "plane" in args.parts:
            exact, shown = plane(run, bar)
            with run.stage("draw"):
                panels.plane(run, METHODS, exact, shown)
        if "mnist" in args.parts:
            shown = walks.walk(run, digits, bar)
            with run.stage("draw"):
                panels.digits(run, walks.STARTS, shown)
    run.json()
    for part in args.parts:
        forget(run, part)
    run.finish_training()
    run.table()


def plane_settings(quick):
    return {
        "hidden_units": HIDDEN_UNITS,
        "sigma": SIGMA,
        "batch": BATCH,
        "iterations": STEPS_PER_EPOCH if quick else ITERATIONS,
        "chains": 200 if quick else CHAINS,
        "exact points": 500 if quick else EXACT_POINTS,
        "evaluations": 200 if quick else EVALUATIONS,
        "samples for the null ranges": 20 if quick else NULL_SAMPLES,
        "langevin_step": LANGEVIN_STEP,
        "leapfrog": {"step": LEAPFROG_STEP, "steps": LEAPFROGS},
        "start": "all chains at one data point",
    }


def plane(run, bar):
    """Train, sample and measure on every law; return what is exact, and the chains."""
    from deen_tf.laws.plane import GaussianMixture, Rings, Spiral

    settings = run.settings["plane"]
    laws = {
        "mixture": GaussianMixture.ring(modes=8),
        "spiral": Spiral(),
        "rings": Rings(),
    }
    if run.quick:
        laws = {"mixture": laws["mixture"]}
    run.data["plane"] = {D: repr(law) for D, law in laws.items()}
    bar.reset(len(laws) * len(run.seeds) * settings["iterations"])
    references, shown = {}, {}
    for k, (D, law) in enumerate(laws.items()):
        with run.stage("null ranges"):
            exact = references[D] = Exact(law, settings)
        record(run, D, exact.metrics)
        # Every law, and the exact energy beside DEEN's, has noise of its own.
        start = law.sample(1, seed=run.first)
        on_exact = all_methods(run, f"{D}-exact", exact.density, start, 10**6 + k)
        measure(run, f"{D}/exact", on_exact, exact)
        for seed in run.seeds:
            model = train(run, law, D, seed, bar)
            start = law.sample(1, seed=seed)
            on_deen = all_methods(run, f"{D}-{seed}", model, start, 1000 * k + seed)
            measure(run, f"{D}/deen", on_deen, exact)
            with run.stage("measure"):
                compare(run, f"{D}/deen", model, on_deen, on_exact, exact, seed)
            shown.setdefault(D, {"deen": on_deen, "exact": on_exact})
    return references, shown


def compare(run, name, model, on_deen, on_exact, exact, seed):
    """Tell the model's error from the sampler's."""
    from deen_tf import metrics

    kl = metrics.grid_kl(exact.density, model, exact.box)
    record(run, name, {"grid_kl": kl})
    n = run.settings["plane"]["exact points"]
    own = Sample(drawn_on_grid(model, exact.box, n, seed))
    for method in METHODS:
        last, other = (c[method]["states"][-1] for c in (on_deen, on_exact))
        inside = last[~exact.escaped(last)]
        values = {
            "energy_distance_to_model": own.energy_distance(inside),
            "energy_distance_to_sampler_on_exact": Sample(other).energy_distance(last),
        }
        record(run, f"{name}/{method}", values)


def record(run, name, values):
    for metric, value in values.items():
        run.metric(f"{name}/{metric}", value, *DEFINITIONS[metric])


def train(run, law, D, seed, bar):
    import deen_tf as deen

    x = law.sample(BATCH * STEPS_PER_EPOCH, seed=seed)
    model = deen.DEEN(HIDDEN_UNITS, sigma=SIGMA, seed=seed)
    model.compile()
    epochs = run.settings["plane"]["iterations"] // STEPS_PER_EPOCH
    bar.set_description(f"{D}, seed {seed}")
    with run.stage("train"):
        run.train(
            model, x, name=f"{D}-{seed}", batch_size=BATCH, epochs=epochs, bar=bar
        )
    return model


def all_methods(run, name, density, start, seed):
    """Return each method's chains, {method: {"states": ..., ...}}."""
    settings = run.settings["plane"]
    with run.stage("sample"):
        return {
            method: resumed(
                run,
                "plane",
                f"{name}-{method}",
                lambda m=method: sample(density, start, m, seed, settings),
            )
            for method in METHODS
        }


def sample(density, start, method, seed, settings):
    """Return the chains of one method; those of plain Langevin with their jumps."""
    import numpy as np

    from deen_tf.sampling import hamiltonian, langevin, walk_jump

    start = np.repeat(start, settings["chains"], axis=0)
    steps = settings["evaluations"]
    common = {"step": LANGEVIN_STEP, "steps": steps, "seed": seed, "kept": KEPT}
    clock = time.perf_counter()
    jumps = {}
    if method == "hmc":
        common |= {"step": LEAPFROG_STEP, "steps": steps // LEAPFROGS}
        chains = hamiltonian(density, start, leapfrogs=LEAPFROGS, **common)
    elif method == "mala":
        chains = langevin(density, start, adjusted=True, **common)
    else:
        jumps["jumps"], chains = walk_jump(density, start, **common)
    return jumps | {
        "states": chains.states,
        "acceptance": chains.acceptance.mean(),
        "seconds": time.perf_counter() - clock,
    }


def measure(run, name, chains, exact):
    """Record the numbers of each method; keep the energy distance on the way."""
    import numpy as np

    for method, answer in chains.items():
        last, null = answer["states"][-1], exact.metrics["null_95"]
        way = np.array([exact.noisy.energy_distance(x) for x in answer["states"]])
        answer["way"], late = way, answer["states"][len(way) // 2 :]
        values = {
            "energy_distance": way[-1],
            "excess_energy": exact.excess_energy(np.concatenate(late)),
            "escaped": exact.escaped(last).mean(),
            "seconds": answer["seconds"],
        }
        if method != "langevin":
            values["acceptance"] = answer["acceptance"]
        if (way <= null).any():
            part = (np.argmax(way <= null) + 1) / len(way)
            values["evaluations"] = part * run.settings["plane"]["evaluations"]
        record(run, f"{name}/{method}", values)
    jumps = chains["langevin"]["jumps"][-1]
    values = {"energy_distance_to_clean": exact.clean.energy_distance(jumps)}
    record(run, f"{name}/walk-jump", values)


if __name__ == "__main__":
    guarded(main)

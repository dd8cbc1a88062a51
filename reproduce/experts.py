"""The products of experts that DEEN learns on Figure 1's data, taken apart (Sec. 3, Eq. 24).

    E(x) = sum_alpha eps_alpha(x),   eps_alpha = w_alpha h_alpha^(L),   q = prod exp(-eps_alpha)

Sec. 5 calls "understanding the PoE underlying DEEN" an important next step. Asked here, of
networks trained as those of Figure 1: what does an expert look like, how many matter, what
does removing one do? With coefficients c_alpha on the experts (1 as trained, 0 removed),

    psi_c = -sum_alpha c_alpha grad eps_alpha,   E|psi_c - psi*|^2 = c.Gc - 2 b.c + E|psi*|^2,
    G = E grad eps_alpha . grad eps_beta,        b = -E grad eps_alpha . psi*,

so that one matrix answers for every subset of experts; E is over the exact smoothed density,
psi* its score. An expert's share is s_alpha = G_alpha,alpha: with psi = psi*, removing it
makes a Fisher divergence of just s_alpha. Refitted, the others' coefficients are those of
least score error, G_SS c_S = b_S: what is lost then was in no other expert.

The end of that section averages M networks. As members of a `MixtureOfDEENs`, trained
together, each network is one expert MLP / M; DEENs trained apart, by seed, can be averaged
too. Both averages are held against their members.

    python reproduce/experts.py --seeds 5               # the committed run
"""

from fig1 import (
    BATCHES,
    HIDDEN_UNITS,
    ITERATIONS,
    SIGMA,
    STEPS_PER_EPOCH,
    TestPoints,
    remembered,
)
from outputs import Run, guarded, options

# Four networks of width 16 have nearly as many parameters (2432) as one of 32 (2240).
DEENS = {"hidden_units": (16, 16, 16), "networks": 4}
ENOUGH = 0.1  # nats of divergence that experts left out may cost
CELLS = 200  # along a side, of the quadrature
MAP = 81  # nodes along a side, of an expert's map

DEFINITIONS = {
    "relative_score_error": (
        "1",
        "E|psi - psi*|^2 / E|psi*|^2 over fresh points of the exact smoothed density",
    ),
    "grid_kl": (
        "nats",
        "KL(exact smoothed density || model normalised on the grid), by quadrature",
    ),
    "participation_ratio": (
        "experts",
        "(sum s)^2 / sum s^2 of the shares s_alpha = E|grad eps_alpha|^2",
    ),
    "agreement": (
        "1",
        "E|psi|^2 / sum_alpha s_alpha: 0 if the experts cancel, 1 if their slopes are "
        + "unrelated, their number if all push alike",
    ),
    "needed": (
        "experts",
        f"so many, largest share first, and any more, keep the KL within {ENOUGH} nats of "
        + "that of all; as trained",
    ),
    "needed_refitted": (
        "experts",
        "the same, the coefficients of those kept refitted to the least score error",
    ),
}


def main(argv=None):
    args = options(__doc__).parse_args(argv)
    settings = {
        "deen": {"hidden_units": HIDDEN_UNITS},
        "deens": DEENS,
        "sigma": SIGMA,
        "iterations": ITERATIONS if not args.quick else STEPS_PER_EPOCH,
        "batch": BATCHES["to 1000"] if not args.quick else 256,
        "steps per epoch": STEPS_PER_EPOCH,
        "optimizer": "Adam(1e-3)",
        "grid": CELLS,
        "enough": ENOUGH,
    }
    run = Run("experts", args, settings)

    import matplotlib

    matplotlib.use("Agg")
    from tqdm import tqdm

    with run.stage("import"):
        import deen_tf as deen
    from panels import experts as panels

    laws = {
        "mixture": deen.datasets.GaussianMixture.ring(modes=8),
        "spiral": deen.datasets.Spiral(),
    }
    kinds = {"deen": deen.DEEN, "deens": deen.MixtureOfDEENs}
    shown = {}
    total = len(laws) * len(run.seeds) * len(kinds) * settings["iterations"]
    with tqdm(total=total, unit="it", desc="training", dynamic_ncols=True) as bar:
        for D, law in laws.items():
            run.data[D] = {"law": repr(law), "sampled with seed": "the run's"}
            test, apart = TestPoints(law), []
            for seed in run.seeds:
                test.draw(seed)
                for kind, cls in kinds.items():
                    bar.set_description(f"seed {seed} {D} {kind}")
                    model = train(run, cls, kind, law, D, seed, bar)
                    with run.stage("measure"):
                        experts = Experts(model.experts, gradients(model), test)
                        if kind == "deens":
                            against_members(run, f"{D}/deens", experts)
                            continue
                        curves = take_apart(run, D, experts)
                        shown.setdefault((D, "curves"), []).append(curves)
                        shown.setdefault(D, maps(experts, test))  # of the first seed
                        apart.append(model)
            if len(apart) > 1:
                with run.stage("measure"):
                    against_members(
                        run, f"{D}/average", Experts(*averaged(apart), test)
                    )
    with run.stage("draw"):
        panels.draw(run, laws, shown)
        panels.arrays(run, laws, shown)
    run.json()
    run.finish_training()
    run.table()


def train(run, cls, kind, law, D, seed, bar):
    """Train as Figure 1 does."""
    batch, steps = run.settings["batch"], STEPS_PER_EPOCH
    model = cls(**run.settings[kind], sigma=SIGMA, seed=seed)
    model.compile()
    with run.stage(f"train {kind}"):
        run.train(
            model,
            law.sample(batch * steps, seed=seed),
            name=f"{D}-{kind}-{seed}",
            batch_size=batch,
            epochs=run.settings["iterations"] // steps,
            bar=bar,
        )
    return model


def gradients(model):
    """Return the function x (n, d) -> grad eps_alpha(x), (n, experts, d)."""
    import numpy as np
    import tensorflow as tf

    @tf.function
    def compiled(x):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            eps = model.experts(x)
        return tape.batch_jacobian(eps, x)

    return lambda x: compiled(tf.constant(np.asarray(x, "float32"))).numpy()


def averaged(models):
    """Return experts and gradients of the average of DEENs trained apart: E_m / M."""
    import numpy as np

    M = len(models)
    return (
        lambda x: np.stack([model.energy(x) for model in models], axis=1) / M,
        lambda x: -np.stack([model.score(x) for model in models], axis=1) / M,
    )


class Experts:
    """A product of experts beside the truth, for any coefficients c.

    Parameters
    ----------
    values : callable
        x (n, 2) -> eps_alpha(x), (n, experts).
    gradients : callable
        x (n, 2) -> grad eps_alpha(x), (n, experts, 2).
    test : TestPoints
        `xi` (n, 2) and `score` (n, 2), exact; `energy` and `box` of the quadrature.
    """

    def __init__(self, values, gradients, test):
        import numpy as np

        self.test, self.values = test, remembered(values)
        slopes = gradients(test.xi).astype("float64")
        n, self.count, _ = slopes.shape
        self.G = np.einsum("nad,nbd->ab", slopes, slopes, optimize=True) / n
        self.b = -np.einsum("nad,nd->a", slopes, test.score) / n
        self.power = np.sum(test.score**2) / n
        self.shares = np.diag(self.G)
        self.order = np.argsort(-self.shares)

    def score_error(self, c):
        return float((c @ self.G @ c - 2 * self.b @ c) / self.power + 1)

    def kl(self, c):
        from deen_tf import metrics

        def energy(x):
            return self.values(x) @ c

        return metrics.grid_kl(self.test.energy, energy, self.test.box, CELLS)

    def keep(self, some, refit=False):
        """Return the coefficients that keep some experts and remove the others."""
        import numpy as np

        c = np.zeros(self.count)
        c[some] = 1
        if refit:
            c[some] = np.linalg.lstsq(self.G[np.ix_(some, some)], self.b[some])[0]
        return c


def take_apart(run, D, experts):
    """Record the metrics of one DEEN; return its curves, largest share first."""
    import numpy as np

    def record(name, value, definition, over=""):
        unit, text = DEFINITIONS[definition]
        run.metric(f"{D}/{name}", value, unit, text + over)

    every = np.ones(experts.count)
    record(
        "deen/relative_score_error", experts.score_error(every), "relative_score_error"
    )
    record("deen/grid_kl", experts.kl(every), "grid_kl")
    s, order = experts.shares, experts.order
    record("experts/participation_ratio", s.sum() ** 2 / (s @ s), "participation_ratio")
    record("experts/agreement", experts.G.sum() / s.sum(), "agreement")
    curves = {"share": s[order] / experts.power}
    for refit, tag in ((False, ""), (True, "_refitted")):
        first = [experts.keep(order[:k], refit) for k in range(1, len(order) + 1)]
        kls = np.array([experts.kl(c) for c in first])
        short = np.flatnonzero(kls > kls[-1] + ENOUGH)
        needed = short[-1] + 2 if len(short) else 1  # one more than the last too few
        record(f"experts/needed{tag}", needed, f"needed{tag}")
        without = [experts.keep(np.delete(order, k), refit) for k in range(len(order))]
        damage = {
            "relative_score_error": [experts.score_error(c) for c in without],
            "grid_kl": [experts.kl(c) for c in without],
        }
        then = "; one expert removed, the others " + ("refitted" if refit else "kept")
        for metric, values in damage.items():
            for which in ("min", "median", "max"):
                record(
                    f"removal{tag}/{metric}_{which}",
                    getattr(np, which)(values),
                    metric,
                    f"{then}; {which} over the experts",
                )
        curves |= {f"kl of the first{tag}": kls}
        curves |= {f"{m} without one{tag}": np.array(v) for m, v in damage.items()}
    return curves


def against_members(run, name, experts):
    """Record an average of M networks, its members alone, and the average less one."""
    import numpy as np

    M = experts.count
    alone = M * np.eye(M)  # the experts are MLP / M
    less_one = (1 - np.eye(M)) * M / (M - 1)
    for metric, f in (
        ("relative_score_error", experts.score_error),
        ("grid_kl", experts.kl),
    ):
        unit, text = DEFINITIONS[metric]
        run.metric(f"{name}/{metric}", f(np.ones(M)), unit, text)
        for tag, coefficients, what in (
            ("-members", alone, "each network alone"),
            ("-less-one", less_one, "the average of all networks but one"),
        ):
            value = np.median([f(c) for c in coefficients])
            run.metric(
                f"{name}{tag}/{metric}_median", value, unit, f"{text}; {what}: median"
            )


def maps(experts, test):
    """Return each expert on a grid, and the densities of the first few, largest share first."""
    import numpy as np

    from deen_tf import plotting

    nodes = plotting.grid(test.view, MAP)
    eps = experts.values(nodes)
    densities = {}
    for k in (experts.count // 4, experts.count // 2, experts.count):
        energy = eps @ experts.keep(experts.order[:k])
        densities[k] = np.exp(energy.min() - energy)
    eps = (eps - experts.values(test.xi).mean(0))[:, experts.order]
    return {
        "eps": eps.T.reshape(-1, MAP, MAP),
        "q": densities,
        "box": test.view,
    }


if __name__ == "__main__":
    guarded(main)

"""Claims, conjectures and open questions of Section 5."""

from functools import partial

from claims.evidence import of, or_never, over, pick, size
from claims.records import Claim, above, at_least, at_most, below, on
from claims.records import Condition as C

table1, cost = partial(of, "table1"), partial(of, "cost")
sampling, features = partial(of, "sampling"), partial(of, "features")
SETS = ("mixture", "spiral")
ALL_SETS = (*SETS, "rings", "checkerboard")
NOISES = ("uniform", "gaussian", "smoothed")
SAMPLERS = ("langevin", "mala", "hmc")


def nce_kl(D, choose):
    """KL of noise contrast with the best (min) or worst (max) of its noises."""
    return pick(choose, {n: table1(f"{D}/nce-{n}/grid_kl@10000") for n in NOISES})


def error_over_baselines(network, labels):
    """Test error of the hidden layer over that of the best baseline."""
    baselines = ("pixels", "pca", f"{network}-random")
    return over(
        features(f"{network}-deen/test_error@{labels}"),
        pick(min, {b: features(f"{b}/test_error@{labels}") for b in baselines}),
    )


def furthest(D, statistic, null, samplers, energy="deen"):
    """The worst sampler's statistic over the 95% quantile of exact samples."""
    return over(
        pick(
            max, {m: size(sampling(f"{D}/{energy}/{m}/{statistic}")) for m in samplers}
        ),
        sampling(f"{D}/{null}"),
    )


def arrival(D, sampler):
    return or_never(
        sampling(f"{D}/deen/{sampler}/evaluations"), sampling(f"{D}/null_95")
    )


def from_digits(network, start):
    """How far the chains' jumps are from those of real digits, over the null."""
    return over(
        sampling(f"mnist/{network}/{start}/energy_distance"),
        sampling(f"mnist/{network}/null_95"),
    )


SAMPLED = ("mixture", "spiral", "rings")
DISCUSSION = (
    Claim(
        "Training has linear complexity in the number of dimensions and parameters",
        "Sec. 5",
        (
            C("power of d in the time of a step", cost("deen/exponent"), at_most(1.15)),
            C(
                "power of the number of parameters",
                cost("deen/parameter_exponent"),
                at_most(1.15),
            ),
        ),
        "Linear is 1 at most; 0.15 for the error of timing.",
        "1",
    ),
    Claim(
        "Presumably the last hidden layer enables very efficient supervised learning",
        "Sec. 5",
        tuple(
            C(
                f"test error over the best of pixels, PCA, untrained network; {labels} "
                f"labels, {label}",
                error_over_baselines(network, labels),
                below(1),
            )
            for network, label in (("paper", "128-128-256"), ("wide", "1568-256"))
            for labels in (100, 1000)
        )
        + tuple(
            C(
                f"test error with 100 labels over that of pixels with 1000, {label}",
                over(
                    features(f"{network}-deen/test_error@100"),
                    features("pixels/test_error@1000"),
                ),
                at_most(1),
            )
            for network, label in (("paper", "128-128-256"), ("wide", "1568-256"))
        ),
        "Efficient: fewer errors than every baseline with the same labels, in every draw of "
        "labels; very: a tenth of the labels do. Linear classifiers on MNIST.",
    ),
    Claim(
        "The energy can be plugged in various MCMC methods",
        "Sec. 5",
        on(
            SAMPLED,
            "energy distance to exact samples over its 95% null, worst of Langevin, "
            "adjusted Langevin, HMC",
            lambda D: furthest(D, "energy_distance", "null_95", SAMPLERS),
            at_most(2),
        )
        + on(
            SAMPLED,
            "excess energy over its 95% null, worse of the two exact samplers",
            lambda D: furthest(
                D, "excess_energy", "excess_energy_null_95", SAMPLERS[1:]
            ),
            at_most(2),
        )
        + on(
            ("mixture", "rings"),
            "energy distance over its null, the same samplers on the exact energy",
            lambda D: furthest(D, "energy_distance", "null_95", SAMPLERS, "exact"),
        ),
        "Chains from one point end like exact samples of the smoothed density. Twice the "
        "null, since tests are many.",
    ),
    Claim(
        "Generative modelling is an application of energy estimators",
        "Sec. 5",
        tuple(
            C(f"{measure}, {label}", source(network), limit)
            for network, label in (
                ("wide-0.14", "1568-256"),
                ("field-0.14", "field of experts"),
            )
            for measure, source, limit in (
                (
                    "jumps' energy distance to those of real digits over its 95% null, from digits",
                    lambda n: from_digits(n, "digits"),
                    at_most(2),
                ),
                (
                    "the same, from noise",
                    lambda n: from_digits(n, "noise"),
                    at_most(2),
                ),
                (
                    "chains from digits that change class",
                    lambda n: sampling(f"mnist/{n}/digits/class_changed"),
                    at_least(0.5),
                ),
            )
        ),
        "A generator's samples are like the data wherever it starts, and move between "
        "modes. MNIST, walk-jump, the networks trained at the paper's σ.",
    ),
    Claim(
        "Hamiltonian Monte Carlo is typically quite slow",
        "Sec. 5",
        on(
            SAMPLED,
            "score evaluations until as exact, HMC over Langevin",
            lambda D: over(arrival(D, "hmc"), arrival(D, "langevin")),
            above(1),
        ),
        "Slow: slower than the simplest alternative. In the plane only.",
    ),
    Claim(
        "Does noise-contrastive estimation give energies of the same quality?",
        "Sec. 5",
        on(
            ALL_SETS,
            "KL over DEEN's, best of three noises, 10,000 iterations",
            lambda D: over(nce_kl(D, min), table1(f"{D}/deen/grid_kl@10000")),
            at_most(2),
        ),
        "The same: within a factor of two, with the noise that suits it best.",
        question=True,
    ),
    Claim(
        "Presumably the choice of NCE's noise distribution is important",
        "Sec. 5",
        on(
            ALL_SETS,
            "KL, worst noise over best",
            lambda D: over(nce_kl(D, max), nce_kl(D, min)),
            at_least(2),
        ),
        "Important: a factor of two in KL between uniform, Gaussian and smoothed data.",
    ),
    Claim(
        "Is Stein contrastive divergence as good and as efficient?",
        "Sec. 5",
        on(
            ALL_SETS,
            "KL over DEEN's, 10,000 iterations",
            lambda D: over(
                table1(f"{D}/stein/grid_kl@10000"), table1(f"{D}/deen/grid_kl@10000")
            ),
            at_most(2),
        )
        + (
            C(
                "seconds over DEEN's, mixture",
                over(
                    table1("mixture/stein/seconds@10000"),
                    table1("mixture/deen/seconds@10000"),
                ),
                at_most(2),
            ),
        ),
        "Within a factor of two in both.",
        question=True,
    ),
)

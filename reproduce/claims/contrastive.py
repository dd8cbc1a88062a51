"""Claims of Section 4 on contrastive divergence (Eqs. 26-27)."""

from functools import partial

from claims import identities
from claims.evidence import computed, of, over, pick
from claims.records import Claim, above, at_least, at_most, on
from claims.records import Condition as C

fig1, contrastive = partial(of, "fig1"), partial(of, "contrastive")
SETS = ("mixture", "spiral")
STEPS = ("0.01", "0.03", "0.05", "0.07", "0.1", "0.14", "0.2")


def swept(D, start, metric, choose, end=1000):
    """Contrastive divergence at the best of its steps s."""
    names = {f"s = {s}": f"{D}/{start}/{metric}/s={s}@{end}" for s in STEPS}
    return pick(choose, {s: contrastive(name) for s, name in names.items()})


CONTRASTIVE = (
    Claim(
        "Contrastive divergence fails to estimate the energy in 2-D",
        "Sec. 4; Fig. 1(i)(j)",
        on(
            SETS,
            "KL over DEEN's, Keras' usual weights, 1000 iterations",
            lambda D: over(fig1(f"{D}/cd/grid_kl"), fig1(f"{D}/deen-glorot/grid_kl")),
            at_least(10),
        )
        + on(
            SETS,
            "start suited to the data, 1000 iterations",
            lambda D: over(fig1(f"{D}/cd-gaussian/grid_kl"), fig1(f"{D}/deen/grid_kl")),
            at_least(10),
        )
        + on(
            SETS,
            "usual weights, 10,000 iterations",
            lambda D: over(
                fig1(f"{D}/cd@10k/grid_kl"), fig1(f"{D}/deen-glorot@10k/grid_kl")
            ),
            at_least(10),
        )
        + on(
            SETS,
            "its KL in nats, usual weights, 1000 iterations",
            lambda D: fig1(f"{D}/cd/grid_kl"),
        ),
        "An order of magnitude worse than DEEN from the same start on the same data. With "
        "Adam: the plain steps of Eq. 27 do not move the energy in 1000 iterations.",
        "pictures",
    ),
    Claim(
        "Contrastive divergence showed severe mode collapse on both sets",
        "Sec. 4; Fig. 1(i)(j)",
        on(
            SETS,
            "smallest share that a part of the data keeps, usual weights, 1000 iterations",
            lambda D: fig1(f"{D}/cd/mass_in_modes"),
            at_most(0.1),
        )
        + on(
            SETS,
            "after 10,000",
            lambda D: fig1(f"{D}/cd@10k/mass_in_modes"),
            at_most(0.1),
        )
        + on(
            SETS,
            "start suited to the data, 1000 iterations",
            lambda D: fig1(f"{D}/cd-gaussian/mass_in_modes"),
        )
        + on(
            SETS,
            "DEEN from the usual weights, 1000 iterations",
            lambda D: fig1(f"{D}/deen-glorot/mass_in_modes"),
        ),
        "Collapse: a mode (a piece of the spiral) keeps less than a tenth of its "
        "probability; 1: all there. The paper does not say after how many iterations.",
        "pictures",
    ),
    Claim(
        "Other values of σ do not cure it ('some experimentations')",
        "Sec. 4",
        on(
            SETS,
            "smallest share at the best of seven steps, 1000 iterations",
            lambda D: swept(D, "glorot", "smallest_mode_ratio", max),
            at_most(0.1),
        )
        + on(
            SETS,
            "the same from the Gaussian energy",
            lambda D: swept(D, "gaussian", "smallest_mode_ratio", max),
            at_most(0.1),
        )
        + on(
            SETS,
            "KL at the best of seven steps, nats, 10,000 iterations",
            lambda D: swept(D, "glorot", "grid_kl", min, 10_000),
        ),
        "Collapse as above at every step from 0.01 to 0.2; one without refutes it.",
    ),
    Claim(
        "The dynamics of contrastive divergence does not optimise a well-defined objective",
        "Sec. 4, Eqs. 26-27",
        (
            C(
                "asymmetry of the Jacobian of the mean update, E = a x²/2 + b x⁴/4, data "
                "N(0, 1), σ = 0.5",
                computed(identities.contrastive_asymmetry, 0.5),
                above(1e-3),
            ),
            C(
                "the same, σ = 0.01",
                computed(identities.contrastive_asymmetry, 0.01),
            ),
        ),
        "The derivatives ∂u₁/∂b and ∂u₂/∂a of an update that descends a function are equal; "
        "their difference over their sum, beyond rounding.",
    ),
    Claim(
        "The equivalence of Langevin contrastive divergence and score matching is exact in "
        "the asymptotic regime only",
        "Sec. 4, Eqs. 26-27",
        (
            C(
                "relative error of a Gaussian's curvature, σ = width / 100",
                computed(identities.contrastive_bias, 0.01),
                at_most(1e-3),
            ),
            C(
                "the same, σ = 0.1 and width 0.15 (our mixture's modes)",
                computed(identities.contrastive_bias, 0.1 / 0.15),
                at_least(0.1),
            ),
        ),
        "Where Eq. 27 stands still: right in the limit, and wrong by a tenth or more at the "
        "paper's σ.",
    ),
)

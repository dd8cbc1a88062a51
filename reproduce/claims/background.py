"""Claims of the introduction and of Section 2: score matching, Parzen, denoising."""

from functools import partial

from claims import identities
from claims.evidence import computed, of, over, size
from claims.records import Claim, above, at_most, below, between, on
from claims.records import Condition as C

fig2, study = partial(of, "fig2"), partial(of, "fig1-study")
SETS = ("mixture", "spiral")

BACKGROUND = (
    Claim(
        "Kernel density estimates are subject to the curse of dimensionality; a deep "
        "network overcomes it",
        "Sec. 1",
        (
            C(
                "noise left by DEEN over Parzen's, MNIST, σ 0.14, paper's network",
                over(fig2("deen/noise_left@0.14"), fig2("parzen/noise_left@0.14")),
                below(1),
            ),
            C(
                "the same, 1568-256",
                over(fig2("deen-wide/noise_left@0.14"), fig2("parzen/noise_left@0.14")),
                below(1),
            ),
            C(
                "the same at σ 0.3, field of experts",
                over(
                    fig2("deen-field-0.3/noise_left@0.30"),
                    fig2("parzen/noise_left@0.30"),
                ),
                below(1),
            ),
            C("noise left by Parzen, σ 0.14", fig2("parzen/noise_left@0.14"), above(1)),
        ),
        "Single-step denoising of test digits: both have the same training digits, and the "
        "error of a step is that of its score. A kernel estimate that adds to the noise "
        "(above 1) knows nothing of new digits.",
    ),
    Claim(
        "The data score is not needed: integration by parts takes Eq. 4 to Eq. 5",
        "Sec. 2, Eqs. 4-5",
        (
            C(
                "|Eq. 5 / Eq. 4 - 1|, five fields ψ on a mixture",
                size(computed(identities.integration_by_parts)),
                at_most(1e-6),
            ),
        ),
        "An identity: only rounding and quadrature may be left.",
    ),
    Claim(
        "Score matching is consistent",
        "Sec. 2; Sec. 5",
        on(
            SETS,
            "DEEN's score error with 1,000,000 points over that with 1000",
            lambda D: over(
                *(
                    study(f"{D}/deen/relative_score_error/batch 8192, {n} points")
                    for n in (1_000_000, 1000)
                )
            ),
            at_most(0.5),
        ),
        "A consistent estimator's error falls with n; by half at least over a factor of a "
        "thousand, or what is left is not the sample's.",
    ),
    Claim(
        "The Fisher divergence is the derivative of the KL divergence with respect to the "
        "scale t (Lyu 2009)",
        "Sec. 2",
        (
            C(
                "|(dKL/dt) / Fisher + 1/2| at t = 0.1, 0.5, 1: Gaussians in 3-D, mixtures",
                computed(identities.lyu),
                at_most(1e-6),
            ),
        ),
        "An identity, up to the factor -1/2, which the sentence leaves out: KL falls.",
    ),
    Claim(
        "Score matching is more robust than maximum likelihood: its parameters are more "
        "stable to small noise on the data (Lyu 2009)",
        "Sec. 2",
        untestable="an interpretation without a measure; no model here has a likelihood",
    ),
    Claim(
        "Gaussian noise on the data adds λ Σ ∂²E/∂x² to the objective (Kingma & LeCun)",
        "Sec. 2, Eq. 10",
        (
            C(
                "power of the curvature in what noise adds; E quadratic",
                computed(identities.power_of_curvature),
                between(0.99, 1.01),
            ),
        ),
        "As printed the power is 1. Kingma and LeCun (2010) have the square.",
        "1",
    ),
    Claim(
        "Backpropagation of the full Hessian scales like O(N²), N the number of parameters",
        "Sec. 2",
        untestable="Eq. 9 needs the diagonal only, which takes d passes of O(N) (next "
        "section); the full Hessian in the parameters is formed nowhere here",
    ),
    Claim(
        "x̂(ξ) = ξ + σ² ψ(ξ) is the Bayes least-squares estimate at any level of noise",
        "Sec. 2, Eq. 11",
        (
            C(
                "largest deviation from E[x|ξ] by quadrature, σ 0.01 to 100, data of "
                "width 1",
                computed(identities.posterior_mean),
                at_most(1e-6),
            ),
        ),
        "An identity: only rounding and quadrature may be left.",
    ),
    Claim(
        "The Parzen objective and the denoising objective are equivalent, for any kernel",
        "Sec. 2, Eqs. 13-14",
        tuple(
            C(
                f"spread of (Eq. 14 - Eq. 13) over ψ, relative; {kernel} kernel",
                computed(identities.objectives_apart, kernel),
                at_most(1e-5),
            )
            for kernel in identities.KERNELS
        ),
        "Equivalent: they differ by a number that does not depend on ψ. The package's "
        "Parzen score (float32) enters with the Gaussian kernel, hence 1e-5.",
    ),
)

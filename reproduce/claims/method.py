"""Claims of Section 3: the network, its cost, sigma, products of experts, autoencoders."""

from functools import partial

from claims import identities
from claims.evidence import computed, of, over
from claims.records import Claim, above, at_least, at_most, below, on
from claims.records import Condition as C

fig1, fig2, fig3 = (partial(of, name) for name in ("fig1", "fig2", "fig3"))
table1, cost = partial(of, "table1"), partial(of, "cost")
autoencoder, experts = partial(of, "autoencoder"), partial(of, "experts")
SETS = ("mixture", "spiral")
ALL_SETS = (*SETS, "rings", "checkerboard")
MNIST_STD = 0.308  # of all pixels of the training digits

METHOD = (
    Claim(
        "A general-purpose estimator: E closely approximates the true energy of any data "
        "distribution, up to a constant",
        "Sec. 3, Eq. 18",
        on(
            ALL_SETS,
            "KL after 10,000 iterations of batch 256",
            lambda D: table1(f"{D}/deen/grid_kl@10000"),
            at_most(0.02, "nats"),
        )
        + on(
            SETS,
            "KL after 10,000 iterations of batch 16,384",
            lambda D: fig1(f"{D}/deen@10k/grid_kl"),
        ),
        "0.02 nats bound the total variation by 0.1 (Pinsker). 'Any' cannot be shown; a "
        "set on which it fails would refute it.",
    ),
    Claim(
        "Parzen score matching needs no Hessian, and regularises by itself",
        "Sec. 3, Eq. 19",
        on(
            SETS,
            "score error after 10,000 iterations, DEEN over exact score matching",
            lambda D: over(
                table1(f"{D}/deen/relative_score_error@10000"),
                table1(f"{D}/sm/relative_score_error@10000"),
            ),
            at_most(2),
        ),
        "Doing without second derivatives must not cost the estimate: within a factor of "
        "two of exact score matching on the same points.",
    ),
    Claim(
        "The computations are scalable, unlike the original score matching",
        "Sec. 3",
        (
            C(
                "power of d in the time of a step, score matching's over DEEN's",
                cost("sm/ratio_exponent"),
                at_least(0.5),
            ),
            C(
                "time of a step at d = 128, score matching's over DEEN's",
                cost("sm/ratio@d=128"),
                at_least(10),
            ),
            C(
                "at d = 128, regularised (Eq. 10)",
                cost("rsm/ratio@d=128"),
                at_least(10),
            ),
        ),
        "'Unlike' means a ratio that grows with d, and matters: an order of magnitude.",
    ),
    Claim(
        "σ decreases as the data set grows",
        "Sec. 3",
        (
            C(
                "σ(50,000) / σ(9000), MNIST",
                over(fig2("parzen/sigma_best/50000"), fig2("parzen/sigma_best/9000")),
                below(1),
            ),
            C(
                "σ(60,000) / σ(50,000), MNIST",
                over(fig2("parzen/sigma_best/60000"), fig2("parzen/sigma_best/50000")),
                below(1),
            ),
            C(
                "σ(4000) / σ(500), N(0, I) in 2-D",
                computed(identities.shrinkage, 2),
                below(1),
            ),
        ),
        "The sentence itself.",
    ),
    Claim(
        "σ is smaller for data sets of lower entropy",
        "Sec. 3",
        (
            C(
                "Kendall's τ of entropy and σ, seven laws of the plane, n = 1000",
                computed(identities.entropy_order),
                above(0),
            ),
            C(
                "no pair in the other order: τ",
                computed(identities.entropy_order),
                at_least(1),
            ),
        ),
        "As a tendency τ is positive; as a rule every pair is in order, τ = 1.",
    ),
    Claim(
        "σ → 0 is out of reach: n has to grow exponentially in d",
        "Sec. 3",
        tuple(
            C(
                f"doublings of n that halve σ, more for each dimension, d = {a} to {b}",
                computed(identities.doublings_per_dimension, a, b),
                at_least(0.5),
            )
            for a, b in ((2, 4), (4, 8))
        )
        + (
            C(
                "doublings of n that halve σ, MNIST, from 9000 to 60,000",
                computed(
                    identities.doublings_between,
                    (9000, fig2("parzen/sigma_best/9000")),
                    (60_000, fig2("parzen/sigma_best/60000")),
                ),
            ),
        ),
        "Exponential: every dimension more multiplies n by a constant factor; by theory the "
        "slope is 1, half of it is asked. N(0, I), n = 500 and 4000.",
    ),
    Claim(
        "The optimal σ will not be small for any complex data set",
        "Sec. 2; Sec. 3",
        (
            C(
                "best σ over overall std, MNIST",
                lambda evidence: [
                    s / MNIST_STD for s in fig2("parzen/sigma_best/60000")(evidence)
                ],
                at_least(0.1),
            ),
            C("best σ over overall std, natural patches", fig3("sigma"), at_least(0.1)),
        ),
        "Small: below a tenth of the data's own spread.",
    ),
    Claim(
        "Products of experts represent in a distributed way, unlike mixtures with one "
        "region per expert",
        "Sec. 3, Eq. 24",
        on(
            SETS,
            "participation ratio of 32 experts",
            lambda D: experts(f"{D}/experts/participation_ratio"),
            at_least(8),
        )
        + on(
            SETS,
            "experts needed for KL ≤ 0.1 nats",
            lambda D: experts(f"{D}/experts/needed"),
            at_least(8),
        )
        + on(
            SETS,
            "KL without one expert, median over experts",
            lambda D: experts(f"{D}/removal/grid_kl_median"),
        ),
        "Distributed: at least a quarter of the experts carry the energy.",
    ),
    Claim(
        "Mixtures of DEENs, the average of M networks, estimate the energy as well",
        "Sec. 3",
        on(
            SETS,
            "KL, four networks",
            lambda D: experts(f"{D}/deens/grid_kl"),
            at_most(0.02, "nats"),
        )
        + on(
            SETS,
            "KL of one of the four alone",
            lambda D: experts(f"{D}/deens-members/grid_kl_median"),
        ),
        "As for one network (total variation below 0.1).",
    ),
    Claim(
        "(r*(x) - x) / σ² → ∇ log p(x) as σ → 0",
        "Sec. 3, Eq. 25",
        (
            C(
                "error of the best r at σ = 0.01, width 1, by quadrature",
                computed(identities.reconstruction, 0.01),
                at_most(1e-4),
            ),
            C(
                "power of σ in that error, mixture",
                autoencoder("mixture/exact/exponent"),
                above(0),
            ),
        ),
        "A limit: the error vanishes with σ (it is E|ψ_σ - ψ|² / E|ψ|², of order σ⁴).",
    ),
    Claim(
        "Denoising autoencoders have stability issues in learning the score",
        "Sec. 3",
        on(
            SETS,
            "relative curl after 10,000 iterations",
            lambda D: table1(f"{D}/dae/relative_curl@10000"),
            at_least(0.1),
        )
        + on(
            SETS,
            "score error over DEEN's, 10,000 iterations",
            lambda D: over(
                table1(f"{D}/dae/relative_score_error@10000"),
                table1(f"{D}/deen/relative_score_error@10000"),
            ),
            at_least(2),
        )
        + (
            C(
                "error of the learned score at σ = 0.02, mixture",
                autoencoder("mixture/dae/error_to_smoothed_score/sigma=0.02@10000"),
                at_least(1),
            ),
        ),
        "Unstable if the score keeps a curl (see the curl of DSM), is twice as wrong as "
        "DEEN's, or at small σ, where Eq. 25 holds, is wrong by its own size.",
    ),
    Claim(
        "Estimating the score directly with an MLP is not robust: DSM does not learn the "
        "right score",
        "Sec. 3; Fig. 1(g)(h)",
        on(
            SETS,
            "score error over DEEN's, 1000 iterations",
            lambda D: over(
                fig1(f"{D}/dsm/relative_score_error"),
                fig1(f"{D}/deen/relative_score_error"),
            ),
            at_least(2),
        )
        + on(
            SETS,
            "the same, 10,000",
            lambda D: over(
                fig1(f"{D}/dsm@10k/relative_score_error"),
                fig1(f"{D}/deen@10k/relative_score_error"),
            ),
            at_least(2),
        ),
        "A failure to learn is at least twice DEEN's error, and more training does not "
        "cure it.",
    ),
)

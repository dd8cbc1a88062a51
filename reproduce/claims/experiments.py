"""Claims of Section 4 and the figures: the plane, MNIST, natural images."""

from functools import partial

from claims.evidence import less, of, over, rise
from claims.records import Claim, at_least, at_most, below, between, on
from claims.records import Condition as C

fig1, fig2, fig3 = (partial(of, name) for name in ("fig1", "fig2", "fig3"))
study, table1 = partial(of, "fig1-study"), partial(of, "table1")
SETS = ("mixture", "spiral")


def err_over(method, baseline):
    return over(fig3(f"{method}/err_per_pixel"), fig3(f"{baseline}/err_per_pixel"))


PLANE = (
    Claim(
        "DEEN estimated the energy accurately",
        "Sec. 4; Fig. 1(a)(c)",
        on(
            SETS,
            "KL after 1000 iterations",
            lambda D: fig1(f"{D}/deen/grid_kl"),
            at_most(0.02, "nats"),
        )
        + on(
            SETS,
            "from Keras' usual weights",
            lambda D: fig1(f"{D}/deen-glorot/grid_kl"),
            at_most(0.02, "nats"),
        )
        + on(
            SETS,
            "from these after 10,000",
            lambda D: fig1(f"{D}/deen-glorot@10k/grid_kl"),
        )
        + on(
            SETS,
            "score error with batch 128 (ours: 8192)",
            lambda D: study(f"{D}/deen/relative_score_error/batch 128, 1000000 points"),
        ),
        "0.02 nats bound the total variation by 0.1 (Pinsker). The paper states neither "
        "start nor batch: our own start is suited to the data (ScoreModel.adapt), our batch "
        "chosen for 1000 iterations to suffice.",
    ),
    Claim(
        "DEEN learns the score function",
        "Abstract; Fig. 1(b)(d)",
        on(
            SETS,
            "relative score error after 1000 iterations",
            lambda D: fig1(f"{D}/deen/relative_score_error"),
            at_most(0.05),
        )
        + on(
            SETS,
            "from Keras' usual weights",
            lambda D: fig1(f"{D}/deen-glorot/relative_score_error"),
            at_most(0.05),
        ),
        "E|ψ - ψ*|² / E|ψ*|²: 95% of the exact score's power is explained.",
    ),
    Claim(
        "Training curves are well-behaved",
        "Sec. 4",
        on(
            SETS,
            "largest rise above the lowest loss so far, over the whole fall, first seed",
            lambda D: rise("fig1", f"curves/{D}/deen/losses"),
            at_most(0.05),
        )
        + on(
            SETS,
            "(L - L*) / L* at the end",
            lambda D: fig1(f"{D}/deen/excess_loss"),
            at_most(0.05),
        )
        + on(
            SETS,
            "from Keras' usual weights",
            lambda D: fig1(f"{D}/deen-glorot/excess_loss"),
            at_most(0.05),
        ),
        "Without spikes (the sampling error of one mean loss is about 0.7% of the fall), and down "
        "to the exact floor L*.",
    ),
    Claim(
        "The score of DEEN has no curl, by construction",
        "Sec. 3; Sec. 4",
        on(
            SETS,
            "relative curl",
            lambda D: fig1(f"{D}/deen/relative_curl"),
            at_most(1e-5),
        ),
        "rms(∂₁ψ₂ - ∂₂ψ₁) / rms of the Jacobian: zero up to a hundred roundings of float32.",
        "0",
    ),
    Claim(
        "The curl of the score that DSM learns is far from zero",
        "Sec. 4; Fig. 1(g)(h)",
        on(
            SETS,
            "relative curl over DEEN's, 1000 iterations",
            lambda D: over(
                fig1(f"{D}/dsm/relative_curl"), fig1(f"{D}/deen/relative_curl")
            ),
            at_least(1000),
        )
        + on(
            SETS,
            "relative curl, 1000 iterations",
            lambda D: fig1(f"{D}/dsm/relative_curl"),
            at_least(0.1),
        )
        + on(
            SETS,
            "the same after 10,000",
            lambda D: fig1(f"{D}/dsm@10k/relative_curl"),
        )
        + on(
            SETS,
            "with batch 256, 1000 iterations",
            lambda D: table1(f"{D}/dsm/relative_curl@1000"),
        ),
        "Not rounding, and far: a tenth of the Jacobian (a pure rotation has 1.41).",
        "a map with its colorbar",
    ),
)

IMAGES = (
    Claim(
        "σ = 0.14 maximises the test likelihood of the Parzen estimator on MNIST",
        "Sec. 4",
        tuple(
            C(
                f"best σ with {n} centres",
                fig2(f"parzen/sigma_best/{n}"),
                between(0.135, 0.145),
            )
            for n in (50_000, 60_000)
        )
        + (
            C(
                "nats per digit lost at 0.14, 60,000 centres",
                less(
                    fig2("parzen/log_likelihood_best/60000"),
                    fig2("parzen/log_likelihood_at_0.14/60000"),
                ),
            ),
        ),
        "Rounds to 0.14, with all training digits or with 10,000 of them held out.",
        "0.14",
    ),
    Claim(
        "The running average of the loss on MNIST falls",
        "Sec. 4; Fig. 2(a)",
        (
            C(
                "largest rise above the lowest loss so far, over the whole fall",
                rise("fig2", "a/deen/loss"),
                at_most(0.05),
            ),
            C(
                "part of σ² d that is gone at the end, test digits",
                fig2("deen/removed_noise_fraction"),
                at_least(0.1),
            ),
            C(
                "the most that 128 units allow (rank bound)",
                fig2("deen/removed_noise_ceiling"),
            ),
        ),
        "σ² d is the loss of a score of zero; a tenth below is a fall.",
        "a curve",
    ),
    Claim(
        "Single-step denoising of MNIST, at σ and at σ' = 0.3 ≠ σ: network 128-128-256",
        "Sec. 4; Fig. 2(b)(c)",
        (
            C("noise left, σ = 0.14", fig2("deen/noise_left@0.14"), at_most(0.5)),
            C("noise left, σ' = 0.3", fig2("deen/noise_left@0.30"), at_most(0.5)),
        ),
        "E|x - x̂|² / E|x - ξ|², test digits: half of the noise's power (3 dB) is the "
        "least that one would call denoising.",
        "pictures",
    ),
    Claim(
        "Single-step denoising of MNIST as a method: networks whose first layer does not "
        "bound it, at σ and σ'",
        "Abstract; Fig. 2(b)(c)",
        tuple(
            C(
                f"noise left, {label}, {level}",
                fig2(f"{fit}/noise_left@{s}"),
                at_most(0.5),
            )
            for fit, label in (
                ("deen-wide", "1568-256"),
                ("deen-field", "field of experts"),
            )
            for s, level in (("0.14", "σ = 0.14"), ("0.30", "σ' = 0.3"))
        ),
        "As above. Both trained at 0.14.",
    ),
    Claim(
        "Theoretically, single-step denoising should be done with the σ of training",
        "Sec. 4",
        (
            C(
                "error at 0.14, trained there over trained at 0.3, field of experts",
                over(fig2("deen-field/mse@0.14"), fig2("deen-field-0.3/mse@0.14")),
                below(1),
            ),
            C(
                "error at 0.3, trained there over trained at 0.14",
                over(fig2("deen-field-0.3/mse@0.30"), fig2("deen-field/mse@0.30")),
                below(1),
            ),
        ),
        "The sentence itself.",
    ),
    Claim(
        "On natural images a single step of DEEN denoises better than median + Gaussian: "
        "network 256-256-256-512-512",
        "Sec. 4; Fig. 3(b)(c)",
        tuple(
            C(
                f"err/pixel over {filtered}, {reading}",
                err_over(fit, baseline),
                below(1),
            )
            for fit, reading in (
                ("deen", "one scale"),
                ("deen-contrast", "contrast-normalised"),
            )
            for baseline, filtered in (
                ("median+gaussian", "median + Gaussian"),
                ("median+gaussian-tuned", "the same, tuned"),
            )
        ),
        "The text compares the two without a word on which is better; a figure that sets "
        "(c) beside a baseline (b) says so. Ratio of the means over test patches.",
        "err/pixel beside each patch, in the figure only",
    ),
    Claim(
        "DEEN denoises natural images better as a method: networks whose first layer does "
        "not bound it",
        "Abstract; Fig. 3(b)(c)",
        tuple(
            C(
                f"err/pixel over median + Gaussian, tuned; {label}",
                err_over(fit, "median+gaussian-tuned"),
                below(1),
            )
            for fit, label in (
                ("deen-dense", "2048-512"),
                ("deen-wide", "field of experts"),
            )
        )
        + (
            C(
                "margin in standard errors over images, field of experts",
                over(
                    fig3("deen-wide/margin_over_median+gaussian-tuned"),
                    fig3("deen-wide/margin_over_median+gaussian-tuned_standard_error"),
                ),
                at_least(2),
            ),
            C(
                "err/pixel over the best classical method's, field of experts",
                fig3("deen-wide/ratio_to_best"),
            ),
        ),
        "As above, and beyond chance of the test images.",
    ),
    Claim(
        "The err/pixel printed in Fig. 3",
        "Sec. 4; Fig. 3",
        untestable="the numbers are in the figure only, for patches that cannot be known; "
        "their units (pixel scale) are not stated",
    ),
)

EXPERIMENTS = PLANE + IMAGES

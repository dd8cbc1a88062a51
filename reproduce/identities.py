"""The paper's statements that need no network: each recomputed in float64, in seconds.

    Eqs. 4, 5    E_p |psi - psi_x|^2 = E_p [|psi|^2 + 2 div psi + |psi_x|^2]
    Eq. 10       L_0 under Gaussian noise, second order: which power of the curvature enters
    Sec. 2       d/dt KL(p_t || q_t) = -1/2 Fisher(p_t, q_t) for p, q smoothed by N(0, t I)
    Eq. 11       E[x | xi] = xi + sigma^2 psi(xi), psi the score of the noisy data
    Eqs. 13, 14  the two objectives differ by a number that does not depend on psi
    Eq. 25       (r*(x) - x) / sigma^2 -> grad log p(x) as sigma -> 0
    Eqs. 26, 27  where contrastive divergence with a Langevin step stands still
    Sec. 3       the best bandwidth of a Parzen density against n, d and the entropy

The laws and the Parzen density are the package's; what they are compared with is computed
here from the definitions, by quadrature: on the line the trapezoid rule, whose error for a
smooth density falls faster than any power of the step.
"""

import functools
import math

import numpy as np

LINE = np.linspace(-12, 12, 12_001)  # a fifth of the least sigma apart
STEP = LINE[1] - LINE[0]
SIGMAS = (0.01, 0.1, 1.0, 10.0, 100.0)


@functools.cache
def laws():
    """Two laws of the line, of width about 1: neither is Gaussian nor symmetric."""
    from deen_tf.laws.mixtures import GaussianMixture

    p = GaussianMixture([[-1.2], [0.3], [1.1]], 0.4, [0.5, 0.2, 0.3])
    q = GaussianMixture([[-0.8], [0.9]], 0.7, [0.3, 0.7])
    return p, q


def density(law, sigma=0.0):
    return np.exp(-law.energy(LINE[:, None], sigma))


def integral(values):
    return STEP * values.sum(-1)


def trial_scores(count=5):
    """Smooth fields psi and their derivatives on the line, no scores of anything."""
    rng = np.random.default_rng(0)
    for a, b, c in rng.normal(size=(count, 3)):
        t = np.tanh(a * LINE + b)
        yield c * t - LINE / 2, c * a * (1 - t**2) - 0.5


def integration_by_parts():
    """Eq. 5 over Eq. 4, less 1, for each trial psi: 0 if they are the same."""
    p, _ = laws()
    weight, psi_x = density(p), p.score(LINE[:, None])[:, 0]
    return [
        integral(weight * (psi**2 + 2 * slope + psi_x**2))
        / integral(weight * (psi - psi_x) ** 2)
        - 1
        for psi, slope in trial_scores()
    ]


def power_of_curvature():
    """The power of k in what N(0, s^2) noise on x adds to L_0 of E = k x^2 / 2 (Eq. 10).

    Eq. 10 adds lambda d2E/dx2 = lambda k, power 1. E is quadratic, so that second order is
    exact, and one-dimensional, so that its Hessian is diagonal.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    x, noise = 0.7, 0.3 * nodes

    def added(k):
        at = lambda x: (k * x) ** 2 - 2 * k
        return weights @ at(x + noise) / weights.sum() - at(x)

    return [math.log2(added(2.0) / added(1.0))]


def lyu(h=1e-3):
    """|dKL/dt over the Fisher divergence + 1/2| at several t: 0 by Lyu (2009).

    First of Gaussians in three dimensions, in closed form; then of two mixtures.
    """
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(2, 3, 3))
    A, B = roots @ roots.transpose(0, 2, 1)
    m, identity = rng.normal(size=3), np.eye(3)

    def gaussians(t):
        P, Q = A + t * identity, B + t * identity
        R = np.linalg.solve(Q, P)
        kl = np.trace(R) + m @ np.linalg.solve(Q, m) - 3 - np.linalg.slogdet(R)[1]
        D = np.linalg.inv(Q) - np.linalg.inv(P)
        fisher = np.trace(D @ P @ D) + np.sum(np.linalg.solve(Q, m) ** 2)
        return kl / 2, fisher

    def mixtures(t):
        x, s = LINE[:, None], math.sqrt(t)
        (p, q), weight = laws(), density(laws()[0], s)
        kl = integral(weight * (q.energy(x, s) - p.energy(x, s)))
        return kl, integral(weight * (p.score(x, s) - q.score(x, s))[:, 0] ** 2)

    def ratio(pair, t):
        far, near = (pair(t + k * h)[0] - pair(t - k * h)[0] for k in (2, 1))
        return (8 * near - far) / (12 * h) / pair(t)[1]

    return [
        abs(ratio(pair, t) + 0.5)
        for pair in (gaussians, mixtures)
        for t in (0.1, 0.5, 1.0)
    ]


def posterior_mean():
    """|E[x | xi] - (xi + sigma^2 psi(xi))| at each sigma, the largest over points xi."""
    p, _ = laws()
    clean, answers = density(p), []
    for sigma in SIGMAS:
        xi = p.sample_smoothed(50, sigma, seed=0).astype("float64")
        log_kernel = -0.5 * ((xi - LINE) / sigma) ** 2  # (50, grid); Eq. 16
        kernel = np.exp(log_kernel - log_kernel.max(1, keepdims=True)) * clean
        mean = (kernel @ LINE) / kernel.sum(1)
        answers.append(np.abs(mean - p.denoise(xi, sigma)[:, 0]).max())
    return answers


KERNELS = {  # d log S(xi|x) / dxi and log S, of u = xi - x
    "Gaussian": lambda u: (-u / 0.09, -(u**2) / 0.18),
    "logistic": lambda u: (-np.tanh(u / 0.4) / 0.2, -2 * np.logaddexp(u, -u) / 0.4),
    "skewed": lambda u: (1 - np.exp(u), u - np.exp(u)),
}


def objectives_apart(kernel):
    """Spread of (Eq. 14 - Eq. 13) over trial psi, relative to Eq. 13's: 0 if equivalent.

    The Parzen score of the Gaussian kernel is the package's.
    """
    from deen_tf.laws.parzen import Parzen

    x = np.random.default_rng(2).normal(size=5)
    slope, log_kernel = KERNELS[kernel](LINE - x[:, None])  # (5, grid)
    S = np.exp(log_kernel)
    S /= integral(S)[:, None]
    P = S.mean(0)
    psi_P = (S * slope).mean(0) / np.maximum(P, 1e-300)
    if kernel == "Gaussian":
        psi_P = Parzen(x[:, None], 0.3).score(LINE[:, None])[:, 0]
    parzen, denoising = [], []
    for psi, _ in trial_scores():
        parzen.append(integral(P * (psi - psi_P) ** 2))
        denoising.append(integral(S * (psi - slope) ** 2).mean())
    return [np.ptp(np.subtract(denoising, parzen)) / np.ptp(parzen)]


def reconstruction(sigma):
    """E |(r*(x) - x) / sigma^2 - psi_x|^2 / E |psi_x|^2 of the best reconstruction r*."""
    p, _ = laws()
    weight, psi_x = density(p), p.score(LINE[:, None])[:, 0]
    implied = (p.denoise(LINE[:, None], sigma)[:, 0] - LINE) / sigma**2
    return [integral(weight * (implied - psi_x) ** 2) / integral(weight * psi_x**2)]


def contrastive_bias(step):
    """k w^2 - 1 where Eq. 27 stands still; data N(0, w^2), E = k x^2 / 2, step = sigma / w."""
    from scipy.optimize import brentq

    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    x, nu = nodes[:, None], nodes
    weights = np.outer(weights, weights) / weights.sum() ** 2

    def update(k):  # Eq. 27: dE/dk at x^- less dE/dk at x; w = 1
        negative = x - step**2 * k * x + math.sqrt(2) * step * nu  # Eq. 26
        return np.sum(weights * (negative**2 - x**2)) / 2

    return [brentq(update, 1e-3, 1 / step**2) - 1]


def contrastive_asymmetry(sigma, a=0.5, b=0.5):
    """Of the mean update u(a, b) of Eq. 27: (du1/db - du2/da) / (du1/db + du2/da).

    E = a x^2 / 2 + b x^4 / 4 and data N(0, 1); 0 if u is the gradient of any function.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    x, nu = nodes[:, None], nodes
    weights = np.outer(weights, weights) / weights.sum() ** 2
    negative = x - sigma**2 * (a * x + b * x**3) + math.sqrt(2) * sigma * nu  # Eq. 26
    # u1 = E[x-^2 - x^2] / 2, u2 = E[x-^4 - x^4] / 4; dx-/da = -sigma^2 x, dx-/db = ... x^3
    first = np.sum(weights * negative * -(sigma**2) * x**3)
    second = np.sum(weights * negative**3 * -(sigma**2) * x)
    return [abs(first - second) / abs(first + second)]


def best_sigma(draw, n, m=1000, seed=0):
    """The Parzen bandwidth that n points choose on m others."""
    from deen_tf.laws.bandwidth import select_sigma

    return select_sigma(draw(n, seed), draw(m, seed + 10**6))


@functools.cache
def doublings(d, n=500, factor=8, draws=5):
    """How often n must double for sigma to halve, N(0, I_d); in theory d + 4 times."""

    def draw(n, seed):
        return np.random.default_rng([seed, d]).normal(size=(n, d)).astype("float32")

    return [
        -math.log2(factor)
        / math.log2(best_sigma(draw, n * factor, seed=s) / best_sigma(draw, n, seed=s))
        for s in range(draws)
    ]


def doublings_per_dimension(low, high):
    """How much `doublings` grows with one dimension more, from medians."""
    return [(np.median(doublings(high)) - np.median(doublings(low))) / (high - low)]


@functools.cache
def entropy_order(n=1000, draws=5):
    """Kendall's tau between entropy and best sigma over laws of the plane, for each draw."""
    from scipy.stats import kendalltau

    from deen_tf import datasets

    board = datasets.Checkerboard()
    planar = [
        datasets.GaussianMixture.ring(8),
        datasets.GaussianMixture.grid(),
        datasets.Spiral(),
        datasets.Spiral(arms=2),
        datasets.Moons(),
        datasets.Rings(),
    ]
    entropies = [law.energy(law.sample(5000, seed=10**7)).mean() for law in planar]
    entropies.append(math.log(board.side**2 / 2))  # uniform on half of the board
    return [
        kendalltau(
            entropies, [best_sigma(law.sample, n, seed=s) for law in (*planar, board)]
        ).statistic
        for s in range(draws)
    ]


def shrinkage(d, n=500, factor=8, draws=5):
    """Best sigma of factor n points of N(0, I_d) over that of n, for each draw."""
    return [2 ** (-math.log2(factor) / v) for v in doublings(d, n, factor, draws)]


def doublings_on_mnist(n, m, values):
    """How often n must double for the best sigma on MNIST to halve, from n to m digits."""
    (ratio,) = values(f"fig2 parzen/sigma_best/{n} over fig2 parzen/sigma_best/{m}")
    return [math.log2(m / n) / math.log2(ratio) if ratio != 1 else math.inf]

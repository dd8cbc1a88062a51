"""The Parzen density at the size of MNIST: answer, rate, memory and rounding.

    python -m tests.benchmarks.parzen [--quick] [--out DIR=figures] [--data PATH]

1. `select_sigma` against scikit-learn's KernelDensity in a GridSearchCV over the same folds,
   on a size that both can do: the same curve, the same best bandwidth, and the times.
2. `Parzen.log_density` of 10,000 points with 60,000 centres in 784 dimensions, as a rate
   (2 n m d operations) beside that of NumPy's sgemm; and the bandwidth for all of them.
3. Peak memory of that above the data.
4. The error of log-density and posterior mean against float64, down to tiny sigma.

With --data or DEEN_DATA the points are MNIST's, else random ones of that shape. Writes
benchmark-parzen.json and benchmark-parzen.md.
"""

import argparse
import os
import statistics
import time

import numpy as np
from scipy import special
from tqdm.auto import tqdm

from deen_tf.datasets import mnist
from deen_tf.laws import parzen
from tests.benchmarks import memory, report

SIGMA = 0.155  # near MNIST's best
SIGMAS = (1e-4, 1e-3, 0.01, 0.05, 0.155, 0.3, 1.0)
GRID = 25  # bandwidths of the grid search, two octaves: as many as select_sigma's curve
BLOCK = (2048, 784, 4096)  # of the matrix product that is the machine's rate


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="figures", metavar="DIR")
    parser.add_argument("--data", metavar="PATH", help="MNIST; see deen_tf.datasets")
    parser.add_argument("--quick", action="store_true", help="a fifth of the points")
    options = parser.parse_args()
    data, train, test = points(options.data)
    if options.quick:
        train, test = train[::5].copy(), test[::5].copy()
    result = {
        "quick": options.quick,
        "machine": report.machine(),
        "versions": report.versions("deen-tf", "numpy", "scipy", "scikit-learn"),
        "data": data,
    }
    result["scale"] = scale(train, test, 3 if options.quick else 5)
    result["rounding"] = rounding(train[:5000], test[:100])
    result["scikit-learn"] = against_scikit_learn(
        train[: 500 if options.quick else 1500]
    )
    text = markdown(result)
    report.write(options.out, "benchmark-parzen", result, text)
    print(text)


def points(path):
    """Return their name, 60,000 centres and 10,000 points."""
    if path or os.environ.get("DEEN_DATA"):
        digits = mnist.load(path)
        return "MNIST", digits.x_train, digits.x_test
    # A curved sheet of 20 dimensions in the unit cube, not far from what digits are.
    random = np.random.default_rng(0)
    directions = random.normal(size=(20, 784)).astype("float32")
    z = random.standard_normal((70_000, 20), "float32")
    x = special.expit(z @ directions)
    return "random points of MNIST's shape", x[:60_000], x[60_000:]


def scale(train, test, repeats):
    """Rate, time and memory at full size; the products take turns with the density."""
    a = np.ones(BLOCK[:2], "float32")
    b, c = np.ones(BLOCK[1:], "float32"), np.empty(BLOCK[::2], "float32")
    flops = 2.0 * len(train) * len(test) * train.shape[1]
    rates, sgemm = [], []
    before = memory.now()
    memory.restart_peak()
    for _ in tqdm(range(repeats), "log-density"):
        for _ in range(10):
            seconds = timed(np.matmul, a, b, out=c)
            sgemm.append(2.0 * np.prod(BLOCK) / seconds)
        seconds = timed(lambda: parzen.Parzen(train, SIGMA).log_density(test))
        rates.append(flops / seconds)
    seconds = timed(parzen.select_sigma, train, test, progress=True)
    return {
        "centres": len(train),
        "points": len(test),
        "dimensions": train.shape[1],
        "log_density GFLOP/s": statistics.median(rates) / 1e9,
        "sgemm GFLOP/s": statistics.median(sgemm) / 1e9,
        "part of sgemm": statistics.median(rates) / statistics.median(sgemm),
        "log_density seconds": flops / statistics.median(rates),
        "select_sigma seconds": seconds,
        "peak memory above the data, bytes": memory.peak() - before,
    }


def rounding(centres, xi):
    """Return the largest errors against float64 for each sigma."""
    squares = np.empty((len(xi), len(centres)))
    for row, point in zip(squares, xi.astype("float64"), strict=True):
        row[:] = np.square(point - centres).sum(1)
    answer = []
    for sigma in tqdm(SIGMAS, "rounding"):
        exponents = -squares / (2 * sigma**2)
        total = special.logsumexp(exponents, axis=1)
        d = xi.shape[1]
        log_p = total - np.log(len(centres)) - d / 2 * np.log(2 * np.pi * sigma**2)
        mean = np.exp(exponents - total[:, None]) @ centres.astype("float64")
        density = parzen.Parzen(centres, sigma)
        error = np.abs(density.log_density(xi) - log_p)
        answer.append(
            {
                "sigma": sigma,
                "log-density, nats": float(error.max()),
                "log-density, relative": float((error / np.abs(log_p)).max()),
                "posterior mean": float(np.abs(density.denoise(xi) - mean).max()),
            }
        )
    return answer


def against_scikit_learn(x, folds=5, seed=0):
    """Return times, bandwidths and the largest difference of the two curves."""
    try:
        from sklearn.model_selection import GridSearchCV, PredefinedSplit
        from sklearn.neighbors import KernelDensity
    except ImportError:
        return None
    best = parzen.select_sigma(x, folds=folds, seed=seed)
    grid = best * 2.0 ** np.linspace(-1, 1, GRID)
    fold_of = np.random.default_rng(seed).permutation(len(x)) % folds
    search = GridSearchCV(
        # One leaf: a split tree prunes nothing in 784 dimensions, and loses the sum in the
        # rounding of its bounds (a mean log-likelihood is then wrong by 800 nats).
        KernelDensity(leaf_size=len(x)),
        {"bandwidth": grid},
        cv=PredefinedSplit(fold_of),
        refit=False,
    )
    theirs = timed(search.fit, x)
    ours = statistics.median(
        timed(parzen.select_sigma, x, folds=folds, seed=seed) for _ in range(5)
    )
    _, curve = parzen.select_sigma(
        x, folds=folds, seed=seed, sigmas=grid, return_curve=True
    )
    likelihoods = dict(zip(*curve, strict=True))
    # A fold's score is the sum over its points.
    total = sum(search.cv_results_[f"split{k}_test_score"] for k in range(folds))
    difference = total / len(x) - [likelihoods[sigma] for sigma in grid]
    return {
        "points": len(x),
        "folds": folds,
        "bandwidths": GRID,
        "scikit-learn seconds": theirs,
        "ours seconds": ours,
        "ratio": theirs / ours,
        "scikit-learn sigma": float(search.best_params_["bandwidth"]),
        "grid step": float(grid[1] / grid[0]),
        "ours sigma": best,
        "largest difference of the curves, nats": float(np.abs(difference).max()),
    }


def timed(function, *arguments, **keywords):
    start = time.perf_counter()
    function(*arguments, **keywords)
    return time.perf_counter() - start


def markdown(result):
    scale, other = result["scale"], result["scikit-learn"]
    text = f"# Parzen density\n\n{report.where(result)} Data: {result['data']}.\n\n"
    text += report.table(
        ["", "measured", "wanted"],
        [
            ["log-density, GFLOP/s", f"{scale['log_density GFLOP/s']:.0f}", ""],
            ["NumPy sgemm, GFLOP/s", f"{scale['sgemm GFLOP/s']:.0f}", ""],
            ["part of sgemm's rate", f"{scale['part of sgemm']:.0%}", "70%"],
            ["log-density, s", f"{scale['log_density seconds']:.1f}", ""],
            ["select_sigma, s", f"{scale['select_sigma seconds']:.1f}", ""],
            [
                "peak memory above the data, GiB",
                f"{scale['peak memory above the data, bytes'] / 2**30:.2f}",
                "2",
            ],
        ],
    )
    text += (
        f"\n{scale['centres']} centres, {scale['points']} points, "
        f"{scale['dimensions']} dimensions.\n\n"
    )
    if other is None:
        text += "scikit-learn is not installed: not compared.\n\n"
    else:
        text += report.table(
            ["", "scikit-learn", "deen_tf"],
            [
                [
                    "time, s",
                    f"{other['scikit-learn seconds']:.2f}",
                    f"{other['ours seconds']:.3f} ({other['ratio']:.0f} x faster)",
                ],
                [
                    "best sigma",
                    f"{other['scikit-learn sigma']:.4f}, on the grid",
                    f"{other['ours sigma']:.4f}",
                ],
            ],
        )
        text += (
            f"\nA step of the grid is {other['grid step'] - 1:.1%}. "
            f"{other['folds']}-fold cross-validation of {other['points']} points, "
            f"{other['bandwidths']} bandwidths; the curves differ by at most "
            f"{other['largest difference of the curves, nats']:.1g} nats.\n\n"
        )
    text += report.table(
        ["sigma", "log-density, nats", "relative", "posterior mean"],
        [
            [row["sigma"], *(f"{v:.1g}" for k, v in row.items() if k != "sigma")]
            for row in result["rounding"]
        ],
    )
    return text + "\nLargest error against float64, 5000 centres, 100 points.\n"


if __name__ == "__main__":
    main()

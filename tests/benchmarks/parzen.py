"""The Parzen density's bandwidth and likelihood: speed, memory and error.

    python -m tests.benchmarks.parzen [--quick] [--out DIR=figures]

- against scikit-learn: `select_sigma` beside GridSearchCV over KernelDensity on the same
  grid of bandwidths, same centres, same held-out points. Its tree is one leaf: split, it
  prunes nothing in 784 dimensions, and loses the sum in the rounding of its bounds (a mean
  log-likelihood is then wrong by hundreds of nats);
- against the machine: 10,000 points over 60,000 centres in 784 dimensions, beside nothing
  but the matrix product of that size in blocks (float32, NumPy's BLAS);
- memory above the data, while it runs;
- error of log P against float64 differences, at bandwidths down to a thousandth.

The data are MNIST where DEEN_DATA names it, else random points of its shape. Writes
benchmark-parzen.json and prints it.
"""

import argparse
import json
import os
import statistics
import time

import numpy as np

from deen_tf.atomic import replacing
from deen_tf.parzen import Parzen, select_sigma
from tests.benchmarks import memory

REPEATS = 3


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="figures", metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes")
    options = parser.parse_args()
    source, x, points = data()
    scale = 10 if options.quick else 1
    result = {
        "quick": options.quick,
        "data": source,
        "against scikit-learn": against_scikit_learn(
            x[: 5000 // scale], points[: 1000 // scale]
        ),
        "likelihood": likelihood(x[: 60_000 // scale], points[: 10_000 // scale]),
        "error in nats": errors(x[:2000], points[:200]),
    }
    with (
        replacing(os.path.join(options.out, "benchmark-parzen.json")) as temporary,
        open(temporary, "w") as stream,
    ):
        json.dump(result, stream, indent=1)
        stream.write("\n")
    print(json.dumps(result, indent=1))


def data():
    """Return the name of the data, centres (60000, 784) and points (10000, 784)."""
    if os.environ.get("DEEN_DATA"):
        from deen_tf.datasets import mnist

        digits = mnist.load()
        return "MNIST", digits.x_train, digits.x_test
    rng = np.random.default_rng(0)
    x = rng.random((70_000, 784), "float32")
    return "uniform random points", x[:60_000], x[60_000:]


def against_scikit_learn(x, held_out):
    """Choose among the same bandwidths; ours refines the best one besides."""
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.neighbors import KernelDensity

    start = time.perf_counter()
    sigma, curve = select_sigma(x, held_out, return_curve=True)
    ours = time.perf_counter() - start
    both = np.concatenate([x, held_out])
    fold = np.repeat([-1, 0], [len(x), len(held_out)])
    search = GridSearchCV(
        KernelDensity(leaf_size=len(x)),
        {"bandwidth": list(curve.sigmas)},
        cv=PredefinedSplit(fold),
        refit=False,
    )
    start = time.perf_counter()
    search.fit(both)
    theirs = time.perf_counter() - start
    likelihoods = search.cv_results_["mean_test_score"] / len(held_out)
    return {
        "centres": len(x),
        "points": len(held_out),
        "bandwidths": len(curve.sigmas),
        "seconds, ours": ours,
        "seconds, scikit-learn": theirs,
        "ratio": theirs / ours,
        "best sigma, ours": sigma,
        "best sigma, scikit-learn (of the grid)": search.best_params_["bandwidth"],
        "largest difference of a mean log-likelihood, nats": float(
            np.abs(likelihoods - curve.log_likelihoods).max()
        ),
    }


def likelihood(x, points):
    """One bandwidth over all pairs, beside the matrix products alone, in turns."""
    density, seconds, products, above = Parzen(x, 0.15), [], [], []
    for _ in range(REPEATS):
        before = memory.now()
        memory.restart_peak()
        start = time.perf_counter()
        density.log_density(points)
        seconds.append(time.perf_counter() - start)
        above.append(memory.peak() - before)
        start = time.perf_counter()
        multiply(x, points)
        products.append(time.perf_counter() - start)
    flops = 2 * len(x) * len(points) * x.shape[1]
    return {
        "centres": len(x),
        "points": len(points),
        "seconds": statistics.median(seconds),
        "seconds of the matrix products alone": statistics.median(products),
        "GFLOP/s": flops / statistics.median(seconds) / 1e9,
        "part of the matrix products' rate": statistics.median(
            p / s for p, s in zip(products, seconds, strict=True)
        ),
        "peak memory above the data, MB": max(above) / 1e6,
    }


def multiply(x, points, block=2048):
    out = np.empty((block, block), "float32")
    for i in range(0, len(points), block):
        for j in range(0, len(x), block):
            a, b = points[i : i + block], x[j : j + block]
            np.matmul(a, b.T, out=out[: len(a), : len(b)])


def errors(x, points):
    """Largest error of log P against differences in float64."""
    from scipy.special import logsumexp

    X, P = x.astype("float64"), points.astype("float64")
    squares = np.stack([((X - p) ** 2).sum(1) for p in P])
    answer = {}
    for sigma in (1e-3, 1e-2, 0.14, 1.0, 30.0):
        exact = logsumexp(-squares / (2 * sigma**2), axis=1) - np.log(len(X))
        exact -= X.shape[1] / 2 * np.log(2 * np.pi * sigma**2)
        error = np.abs(Parzen(x, sigma).log_density(points) - exact)
        answer[f"sigma {sigma:g}"] = {
            "largest": float(error.max()),
            "relative": float((error / np.abs(exact)).max()),
        }
    return answer


if __name__ == "__main__":
    main()

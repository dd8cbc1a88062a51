"""Whether the last hidden layer of a DEEN helps to learn digits from few labels (Sec. 5).

Claim: "Presumably, the network has learned a useful representation of the data in the last
hidden layer(s), and such a hidden representation would enable very efficient supervised
learning."

DEENs trained on MNIST without labels, those of Figure 2, give each digit x its features
f(x) = h^(L)(x); a linear classifier learns from few labels,

    p(c | x) = softmax_c(f(x) W + b)        (reproduce/classifier.py).

The same is done with what costs no training: raw pixels, as many principal components, and
the same network before it was trained (the paper's network starts at Glorot's weights, the
wide one at the Gaussian energy of the digits) or with Glorot's weights. Further rows: the
experts eps = w h (Eq. 24; standardised they are h again, up to sign), and all hidden layers
side by side.

Labels are drawn class by class from the first 50,000 training digits, the same draws for all
representations. The features' scale and the penalty on W are chosen for each representation
and number of labels on the last 10,000 training digits. The test digits are seen once.

    python reproduce/features.py                # with MNIST in Keras' cache, or downloaded
    python reproduce/features.py --data DIR     # mnist.npz, or the four idx files, in DIR
"""

import hashlib
import json
import os
import shutil

from fig2 import PAPER, SIGMA, WIDE, fit, steps
from outputs import Run, guarded, options, versions, write_json

LABELS = (100, 1000, 50_000)
DRAWS = 10  # of the labels, where not all are used
VALIDATION = 10_000  # the last of the training digits
NETWORKS = {"paper": ("deen", PAPER), "wide": ("deen-wide", WIDE)}
ROWS = {
    "pixels": "raw pixels",
    "pca": "principal components",
    "paper-random": "128-128-256, untrained (Glorot)",
    "paper-random-layers": "128-128-256, untrained (Glorot): all layers",
    "paper-deen": r"128-128-256, DEEN: $h^{(L)}$",
    "paper-experts": r"128-128-256, DEEN: experts $\varepsilon_\alpha$",
    "paper-layers": "128-128-256, DEEN: all layers",
    "wide-random": "1568-256, untrained (Glorot)",
    "wide-random-layers": "1568-256, untrained (Glorot): all layers",
    "wide-start": "1568-256, untrained (Gaussian energy)",
    "wide-deen": r"1568-256, DEEN: $h^{(L)}$",
    "wide-experts": r"1568-256, DEEN: experts $\varepsilon_\alpha$",
    "wide-layers": "1568-256, DEEN: all layers",
}


def main(argv=None):
    parser = options(
        __doc__, data={"help": "folder or file of MNIST (default: Keras' cache)"}
    )
    args = parser.parse_args(argv)

    import classifier

    networks, labels, validation = NETWORKS, LABELS, VALIDATION
    if args.quick:
        networks = {k: (f, n | {"epochs": 1}) for k, (f, n) in NETWORKS.items()}
        labels, validation = (100, 1000), 1000
    settings = {
        "sigma": SIGMA,
        "networks": networks,
        "labels": labels,
        "label draws": DRAWS if not args.quick else 2,
        "validation digits": validation,
        "strengths": classifier.STRENGTHS,
        "scales": classifier.SCALES,
        "largest slope, L-BFGS steps": [classifier.TOLERANCE, classifier.ITERATIONS],
    }
    run = Run("features", args, settings)

    import matplotlib

    matplotlib.use("Agg")
    from panels import features as panels
    from tqdm import tqdm

    from deen_tf.datasets import mnist

    with run.stage("import and load"):
        digits = mnist.load(args.data)
        run.data["mnist"] = digits.identity
    x = digits.x_train[:5000] if args.quick else digits.x_train
    task = classifier.FewLabels(
        digits, len(x), labels, settings["label draws"], validation, seed=run.first
    )
    kept = Kept(run)
    total = len(run.seeds) * sum(steps(network, x) for _, network in networks.values())
    with tqdm(total=total, unit="it", desc="training", dynamic_ncols=True) as bar:
        models = {
            (name, seed): fit(run, figure, "DEEN", network, SIGMA, seed, x, bar)[0]
            for name, (figure, network) in networks.items()
            for seed in run.seeds
        }
    for (name, _), model in models.items():
        with run.stage("measure"):
            describe(run, name, model, digits.x_test)
    cases = [
        (row, seed)
        for row in ROWS
        for seed in (run.seeds if "-" in row else run.seeds[:1])
    ]
    for row, seed in tqdm(cases, "representations", unit="row", dynamic_ncols=True):
        with run.stage("classify"):
            answer = kept.get(
                row,
                seed,
                lambda row=row, seed=seed: task.solve(features(row, seed, models, x)),
            )
        record(run, row, answer)
    with run.stage("draw"):
        panels.draw(run, ROWS)
    run.json(rows=ROWS)
    kept.forget()
    run.finish_training()
    run.table()


# ---- the representations -------------------------------------------------------------


def features(row, seed, models, unlabelled):
    """Return the function x (n, 784) -> f(x), (n, features), of a row.

    Parameters
    ----------
    row : str
        Of ROWS.
    seed : int
        Of the network.
    models : dict
        (network, seed) -> trained DEEN.
    unlabelled : ndarray, shape (n, 784)
        What is learned without labels is learned from these.
    """
    import numpy as np

    from deen_tf import baselines

    network, _, kind = row.partition("-")
    if row == "pixels":
        return lambda x: x
    if row == "pca":
        wiener = baselines.Wiener(unlabelled)  # it has the covariance's eigenvectors
        components = PAPER["hidden_units"][-1]
        axes = wiener.directions[:, ::-1][:, :components].astype("float32")
        return lambda x: (x - wiener.mean.astype("float32")) @ axes
    model = models[network, seed]
    if kind == "experts":
        return model.experts
    if kind in ("random", "random-layers", "start"):
        model = untrained(model, unlabelled if kind == "start" else None)
    if kind.endswith("layers"):
        return lambda x: np.concatenate(layers(model, x), axis=1)
    return lambda x: layers(model, x)[-1]


def layers(model, x):
    """Return h^(1)(x), ..., h^(L)(x), each (n, dim h^(l)), in batches."""
    import numpy as np

    parts = []
    for first in range(0, len(x), 5000):
        h, part = x[first : first + 5000], []
        for layer in model.hidden:
            h = layer(h)
            part.append(h.numpy())
        parts.append(part)
    return [np.concatenate(layer) for layer in zip(*parts, strict=True)]


def untrained(model, start=None):
    """Return the model's like with Glorot's weights, or with those that suit `start`."""
    import deen_tf as deen

    like = deen.DEEN(model.hidden_units, sigma=model.sigma, seed=model.seed)
    like.build((None, model.dimension))
    if start is not None:
        like.adapt(start)
    return like


def describe(run, name, model, x):
    """Record whether the DEEN is trained, and what of the digits its first layer sees."""
    import numpy as np

    from deen_tf import metrics

    nu = np.random.default_rng([run.first, 2018]).normal(size=x.shape)
    xi = (x + SIGMA * nu).astype("float32")
    run.metric(
        f"{name}/noise_left",
        1 - metrics.removed_noise_fraction(x, xi, model.denoise(xi)),
        "1",
        f"E|x - x_hat|^2 / E|x - xi|^2 over the test digits, at sigma = {SIGMA}",
    )
    for when, network in (("", model), ("_at_random", untrained(model))):
        row_space = np.linalg.qr(np.asarray(network.hidden[0].kernel))[0]  # (784, r)
        run.metric(
            f"{name}/variance_seen{when}",
            (x @ row_space).var(0).sum() / x.var(0).sum(),
            "1",
            "part of the test digits' variance in the row space of the first layer's weights"
            + (", Glorot's" if when else ""),
        )


# ---- rows that survive an interruption, and what is recorded --------------------------


class Kept:
    """The answers of finished rows, in `<out>/checkpoints` until the script has ended."""

    def __init__(self, run):
        identity = json.dumps([run.settings, run.data, versions()], default=str)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.folder = run.path("checkpoints", f"{run.name}-rows-{digest}")

    def get(self, row, seed, solve):
        """Return the answer of a row, from an interrupted run or computed now."""
        path = os.path.join(self.folder, f"{row}-{seed}.json")
        if not os.path.exists(path):
            write_json(path, solve())
        with open(path) as stream:
            return json.load(stream)

    def forget(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def record(run, row, answer):
    """Record a row's test errors, one value to a draw of the labels."""
    for labels, result in answer["labels"].items():
        for value in result["test_error"]:
            run.metric(
                f"{row}/test_error@{labels}",
                value,
                "1",
                f"fraction of the test digits misclassified from {labels} labels; its range "
                "is over draws of the labels",
            )
        run.metric(
            f"{row}/strength@{labels}",
            result["strength"],
            "1",
            f"chosen on validation digits, features scaled by {result['scale']!r}",
        )
    run.metric(f"{row}/dimensions", answer["dimensions"], "1", "number of features")


if __name__ == "__main__":
    guarded(main)

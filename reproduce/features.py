"""Whether the last hidden layer of a DEEN helps to learn digits from few labels (Sec. 5).

Claim: "Presumably, the network has learned a useful representation of the data in the last
hidden layer(s), and such a hidden representation would enable very efficient supervised
learning."

DEENs trained on MNIST without labels, those of Figure 2, give each digit x its features
f(x) = h^(L)(x); a linear classifier, p(c | x) = softmax_c(f(x) W + b), learns from few labels.

The same is done with what costs no training: raw pixels, as many principal components, and
the same network before it was trained (the paper's network starts at Glorot's weights, the
wide one at the Gaussian energy of the digits) or with Glorot's weights. Further rows: the
experts eps = w h (Eq. 24; standardised they are h again, up to sign), and all hidden layers
side by side. And the experts of the energy of all noise levels (`digits.py`, a preset, one
seed): sums over the picture of the channels of a convolutional network, and its dense layer,
at a low, a middle and a high level; beside it the same network untrained.

Labels are drawn class by class from the first 50,000 training digits, the same draws for all
representations. The features' scale and the penalty on W are chosen for each representation
and number of labels on the last 10,000 training digits. The test digits are seen once.

    python reproduce/features.py --seeds 3                # MNIST in Keras' cache, or downloaded
    python reproduce/features.py --seeds 3 --data DIR     # mnist.npz, or the idx files, in DIR

What to see: (b) of the energies at one level nothing that was learned is left of the line with
100 labels; what helps with all labels are many random features. The energy of all levels is far
left of it: with 100 labels its experts err as often as pixels do with 1000.
"""

from command import options

if __name__ == "__main__":
    args = options(
        __doc__, data={"help": "folder or file of MNIST (default: Keras' cache)"}
    )

import hashlib
import warnings

import numpy as np
from experiment import Run
from fig2 import PAPER, SIGMA, WIDE
from images import train
from plots import panels
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from tables import seeds

import deen_tf as deen
from deen_tf import metrics, plotting, presets
from deen_tf.datasets import mnist
from deen_tf.laws.gaussian import Gaussian

SETTINGS = {
    "sigma": SIGMA,
    "networks": {"paper": PAPER, "wide": WIDE},
    "all_levels": "digits",  # a preset
    "digits": 60_000,  # of the training set
    "labels": (100, 1000, 50_000),
    "draws": 10,  # of the labels, where not all are used
    "validation": 10_000,  # the last of the training digits
    # With 50,000 labels some representations choose the weakest. For the last hidden layer
    # of the DEEN with the paper's widths, 1e-7 gives 38.4% wrong instead of 38.9%.
    "strengths": tuple(10.0**k for k in range(1, -6, -1)),  # of |W|^2 / 2
    # Features less their mean, divided by their own standard deviation ("each") or by the
    # root mean square of all of these ("common"). Neither serves all: to whiten principal
    # components makes noise of the last ones (100 labels: 56% wrong instead of 22%).
    "scales": ("each", "common"),
    "tolerance": 1e-4,  # of L-BFGS: largest slope at the end
    "most_steps": 200,  # of L-BFGS
}
QUICK = {
    "networks": {k: SETTINGS["networks"][k] | {"epochs": 1} for k in ("paper", "wide")},
    "digits": 3000,
    "labels": (100, 1000),
    "draws": 2,
    "validation": 1000,
    "strengths": (1.0, 0.01),
    "most_steps": 20,
}
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
    "levels-random@0.50": "convolutional, untrained (He), level 0.5",
    "levels@0.14": "convolutional, all levels: experts at 0.14",
    "levels@0.50": "convolutional, all levels: experts at 0.5",
    "levels@1.00": "convolutional, all levels: experts at 1",
}


def main(args):
    run = Run(__file__, args, SETTINGS, QUICK)
    at = run.settings
    digits = mnist.load(args.data)
    run.data["mnist"] = digits.identity
    x = digits.x_train[: at.digits]
    models = {}
    for name, seed in run.each((n, s) for n in at.networks for s in run.seeds):
        models[name, seed], *_ = train(run, at.networks[name], seed, x, name)
        describe(run, name, models[name, seed], digits.x_test)
    task = FewLabels(digits, at, run.first)
    of_each_seed = {R: R.split("-")[0] in at.networks for R in ROWS}
    rows = [
        (R, s) for R in ROWS for s in (run.seeds if of_each_seed[R] else run.seeds[:1])
    ]
    models["levels", run.first] = deen.DEEN.from_preset(at.all_levels)
    weights = (presets.FOLDER / f"{at.all_levels}.keras").read_bytes()
    run.data["preset"] = {at.all_levels: hashlib.sha256(weights).hexdigest()}
    for row, seed in run.each(rows, unit="row"):

        def solve(row=row, seed=seed):
            return task.solve(representation(row, seed, models, x))

        with run.stage("classify"):
            answer = run.once(f"{row}-{seed}", solve, run.data)
        for name, value in answer.items():
            for error in np.atleast_1d(value):
                run.metric(f"{row}/{name}", error)
    draw(run)
    shown = ("pixels", "pca", "paper-random", "paper-deen", "wide-random", "wide-deen")
    run.finish(f"{R}/test_error@{n}" for n in at.labels[:2] for R in shown)


# ---- the representations -------------------------------------------------------------


def representation(row, seed, models, unlabelled):
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
    name, _, level = row.partition("@")
    network, _, kind = name.partition("-")
    if row == "pixels":
        return lambda x: x
    if row == "pca":
        law = Gaussian.fit(unlabelled)  # it has the covariance's eigenvectors
        components = PAPER["hidden_units"][-1]
        axes = law.directions[:, ::-1][:, :components].astype("float32")
        return lambda x: (x - law.mean.astype("float32")) @ axes
    model = models[network, seed]
    if level:
        model = untrained_convolutions(model) if kind else model
        return lambda x: in_batches(lambda x: model.experts(x, float(level)), x)
    if kind == "experts":
        return model.experts
    if kind in ("random", "random-layers", "start"):
        model = untrained(model, unlabelled if kind == "start" else None)
    if kind.endswith("layers"):
        return lambda x: np.concatenate(layers(model, x), axis=1)
    return lambda x: layers(model, x)[-1]


def in_batches(f, x):
    """Return f of 5000 points at a time, (n, ...)."""
    return np.concatenate([f(x[k : k + 5000]) for k in range(0, len(x), 5000)])


def layers(model, x):
    """Return h^(1)(x), ..., h^(L)(x), each (n, dim h^(l))."""
    every = in_batches(lambda x: np.concatenate(hidden(model, x), axis=1), x)
    return np.split(every, np.cumsum([layer.units for layer in model.hidden])[:-1], 1)


def hidden(model, x):
    h, found = model.to_network(x), []
    for layer in model.hidden:
        h = layer(h)
        found.append(h.numpy())
    return found


def untrained(model, start=None):
    """Return the model's like with Glorot's weights, or with those that suit `start`."""
    like = deen.DEEN(
        hidden_units=model.hidden_units, sigma=model.sigma, seed=model.seed
    )
    like.build((None, model.dimension))
    if start is not None:
        like.adapt(start)
    like.center.assign(model.center)  # the same units
    like.scale.assign(model.scale)
    return like


def untrained_convolutions(model):
    """Return the like of an energy of all levels, its convolutions as they were drawn."""
    config = model.network.get_config()
    like = deen.DEEN(
        network=type(model.network).from_config(config), sigma=model.levels, seed=0
    )
    like.build((None, model.dimension))
    drawn = [v.numpy() for v in like.network.network.trainable_variables]
    for v, value in zip(like.variables, model.variables, strict=True):
        v.assign(value)  # the same units, the same Gaussian
    for v, value in zip(like.network.network.trainable_variables, drawn, strict=True):
        v.assign(value)
    experts = like.network.network.weights_of_experts
    experts.assign(np.ones(experts.shape))
    return like


def describe(run, name, model, x):
    """Record whether the DEEN is trained, and what of the digits its first layer sees."""
    nu = np.random.default_rng([run.first, 2018]).normal(size=x.shape)
    xi = (x + SIGMA * nu).astype("float32")
    removed = metrics.removed_noise_fraction(x, xi, model.denoise(xi))
    run.metric(f"{name}/noise_left", 1 - removed)
    for when, network in (("", model), ("_at_random", untrained(model))):
        row_space = np.linalg.qr(np.asarray(network.hidden[0].kernel))[0]  # (784, r)
        seen = (x @ row_space).var(0).sum() / x.var(0).sum()
        run.metric(f"{name}/variance_seen{when}", seen)


# ---- a linear classifier from few labels ---------------------------------------------


class FewLabels:
    """Digits of which few are labelled, many to choose by, and the test.

    Parameters
    ----------
    digits : Digits
    at : namespace
        The settings.
    seed : int
        Of the draws of the labels.
    """

    def __init__(self, digits, at, seed):
        self.at, self.labelled = at, at.digits - at.validation
        self.x, self.y = digits.x_train[: at.digits], digits.y_train[: at.digits]
        self.x_test, self.y_test = digits.x_test, digits.y_test
        self.draws = {
            k: [self.draw(k, [seed, i]) for i in range(at.draws)]
            if k < self.labelled
            else [slice(self.labelled)]
            for k in at.labels
        }

    def draw(self, labels, seed):
        """Return the indices of as many digits of each class, (labels,)."""
        rng = np.random.default_rng(seed)
        of_class = [np.flatnonzero(self.y[: self.labelled] == c) for c in range(10)]
        return np.concatenate([rng.permutation(k)[: labels // 10] for k in of_class])

    def solve(self, f):
        """Return the test errors of one representation f.

        Parameters
        ----------
        f : callable
            x (n, d) -> (n, features).

        Returns
        -------
        dict
            "dimensions", the number of features, and for each number of labels
            "test_error@labels" of each draw, and the "strength@" and "common_scale@"
            that were chosen, with their "validation_error@".
        """
        train, test = f(self.x), f(self.x_test)
        known = train[: self.labelled]
        spread = known.std(0)
        divisors = {
            "each": np.where(spread > 0, spread, 1),
            "common": np.sqrt(np.mean(spread**2)),
        }
        answer, least = (
            {"dimensions": train.shape[1]},
            dict.fromkeys(self.draws, np.inf),
        )
        for scale in self.at.scales:
            z, z_test = ((x - known.mean(0)) / divisors[scale] for x in (train, test))
            for labels, draws in self.draws.items():
                errors = [self.errors(z, z_test, some) for some in draws]
                validation, tested = np.moveaxis(errors, 2, 0)  # (draws, strengths)
                best = int(np.argmin(validation.mean(0)))
                if validation.mean(0)[best] < least[labels]:
                    least[labels] = validation.mean(0)[best]
                    answer |= {
                        f"test_error@{labels}": tested[:, best],
                        f"strength@{labels}": self.at.strengths[best],
                        f"common_scale@{labels}": float(scale == "common"),
                        f"validation_error@{labels}": least[labels],
                    }
        return answer

    def errors(self, z, z_test, some):
        """Return the errors on validation and test digits, (strengths, 2).

        Of classifiers that learn from the points `some`: they minimise mean cross-entropy
        + strength / 2 |W|^2; the offsets b go free. Each starts where the last one ended.
        """
        at, held_out = self.at, slice(self.labelled, None)
        model = LogisticRegression(
            warm_start=True, tol=at.tolerance, max_iter=at.most_steps
        )
        errors = []
        for strength in at.strengths:  # from strong to weak, which is the quick way
            model.set_params(C=1 / (strength * len(z[some])))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(z[some], self.y[some])
            scores = (
                model.score(z[held_out], self.y[held_out]),
                model.score(z_test, self.y_test),
            )
            errors.append([1 - score for score in scores])
        return errors


def draw(run):
    """(a) test errors; (b) the same less those of raw pixels from the same labels."""
    at = run.settings
    figure, axes = panels(1, 2, 4.8, sharey=True)
    left, right = axes[0]
    places = -np.arange(len(ROWS), dtype=float)
    for k, n in enumerate(at.labels):
        shift = 0.25 * ((len(at.labels) - 1) / 2 - k)
        values = [100 * run.values(f"{row}/test_error@{n}") for row in ROWS]
        # With several networks, each meets the same draws of the labels.
        less = [v - np.resize(values[0], v.shape) for v in values]
        style = {"fmt": "o", "label": f"{n:,} labels"}
        plotting.median_and_range(
            left, places + shift, values, horizontal=True, **style
        )
        plotting.median_and_range(right, places + shift, less, horizontal=True, **style)
    names = [
        f"{text} ({run.median(f'{row}/dimensions'):.0f})" for row, text in ROWS.items()
    ]
    left.set_yticks(places, names)
    left.set(xlabel="digits misclassified, %", xscale="log")
    left.set_title("(a) test error: median and range over draws")
    left.set_xticks(ticks := (1, 2, 5, 10, 20, 50), [str(v) for v in ticks])
    left.xaxis.minorticks_off()
    right.axvline(0, color="black")
    right.set(xlabel="percentage points")
    right.set_title("(b) the same less that of raw pixels (left: better)")
    for ax in (left, right):
        ax.grid(alpha=0.3)
    right.legend()
    figure.suptitle(
        "Linear classifiers of MNIST on representations learned without labels (number of "
        f"features); DEENs at sigma = {SIGMA}, {seeds(len(run.seeds))}"
    )
    run.figure(figure, run.name)


if __name__ == "__main__":
    main(args)

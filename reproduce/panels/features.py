"""The panels of features.py: errors of all representations, and what they gain by draw."""

import matplotlib.pyplot as plt
import numpy as np

REFERENCE = "pixels"


def draw(run, rows):
    """(a) test errors; (b) the same less those of raw pixels from the same labels."""
    metrics, labels = run.metrics(), run.settings["labels"]
    figure, axes = plt.subplots(
        1, 2, figsize=(16, 6.5), sharey=True, layout="constrained"
    )
    at = -np.arange(len(rows), dtype=float)
    for k, n in enumerate(labels):
        shift = 0.25 * ((len(labels) - 1) / 2 - k)
        for ax, reference in zip(axes, (None, REFERENCE), strict=True):
            values = [
                100 * np.array(metrics[f"{row}/test_error@{n}"]["values"])
                for row in rows
            ]
            if reference:
                base = 100 * np.array(metrics[f"{reference}/test_error@{n}"]["values"])
                # With several networks, each meets the same draws of the labels.
                values = [v - np.resize(base, v.shape) for v in values]
            middle = np.array([np.median(v) for v in values])
            reach = [
                middle - [v.min() for v in values],
                [v.max() for v in values] - middle,
            ]
            ax.errorbar(
                middle, at + shift, xerr=reach, fmt="o", ms=5, label=f"{n:,} labels"
            )
    names = [
        f"{text} ({metrics[f'{row}/dimensions']['median']:.0f})"
        for row, text in rows.items()
    ]
    axes[0].set_yticks(at, names)
    axes[0].set(
        title="(a) test error: median and range over draws of the labels",
        xlabel="digits misclassified, %",
        xscale="log",
    )
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].xaxis.set_minor_formatter("{x:g}")
    axes[1].axvline(0, color="black", lw=1)
    axes[1].set(
        title="(b) the same less that of raw pixels, draw by draw (left: better)",
        xlabel="percentage points",
    )
    for ax in axes:
        ax.grid(alpha=0.3)
    axes[1].legend()
    figure.suptitle(
        "Linear classifiers of MNIST on representations learned without labels (number of "
        f"features); DEENs at sigma = {run.settings['sigma']}"
    )
    run.figure(figure, "features")
    plt.close(figure)

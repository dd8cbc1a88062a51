"""The figures of `sampling.py`: points in the plane, and walks on MNIST."""

import matplotlib.pyplot as plt
import numpy as np

from deen_tf import plotting

ROWS = 5  # chains shown of each walk
COLOURS = {"langevin": "C0", "mala": "C1", "hmc": "C2"}


def plane(run, methods, references, shown):
    """Exact points, where each method's chains ended, and both statistics."""
    settings = run.settings["plane"]
    figure, axes = plt.subplots(
        len(references),
        7,
        figsize=(24, 3.9 * len(references)),
        squeeze=False,
        layout="constrained",
    )
    for row, D in zip(axes, references, strict=True):
        exact, chains = references[D], shown[D]["deen"]
        points = {f"{D}: exact, smoothed": exact.noisy.points[: settings["chains"]]}
        points |= {methods[m]: chains[m]["states"][-1] for m in methods}
        points["jumps (grey: data)"] = chains["langevin"]["jumps"][-1]
        low, high = exact.box
        for ax, (title, x) in zip(row, points.items(), strict=False):
            if "jumps" in title:
                ax.plot(
                    *exact.clean.points[: settings["chains"]].T,
                    ".",
                    ms=1.5,
                    color="0.6",
                )
            ax.plot(*x.T, ".", ms=2)
            outside = exact.escaped(x).mean()
            title += f", {outside:.1%} outside" if outside else ""
            ax.set_title(title, fontsize=11)
            ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            ax.set(xlabel="$x_1$", ylabel="$x_2$")
        ways(row[-2], methods, exact, shown[D], settings["evaluations"])
        excess(row[-1], methods, run.metrics(), D)
    figure.suptitle(
        f"Samples of DEEN's energy after {settings['iterations']} iterations, sigma = "
        f"{settings['sigma']}, seed {run.first}: {settings['chains']} chains, all from one "
        "data point"
    )
    run.figure(figure, "sampling")
    plt.close(figure)


def ways(ax, methods, exact, shown, evaluations):
    """Draw the energy distance on the way."""
    null = exact.metrics["null_95"]
    for method in methods:
        for density, style in (("deen", "-"), ("exact", ":")):
            way = shown[density][method]["way"]
            at = np.arange(1, len(way) + 1) * evaluations / len(way)
            label = methods[method] if density == "deen" else None
            ax.plot(at, way, style, color=COLOURS[method], label=label)
    ax.plot([], [], ":", color="0.4", label="on the exact energy")
    ax.axhspan(-null, null, color="0.85", label="exact points, 95%")
    ax.set_yscale("symlog", linthresh=2 * null)
    ax.set_ylim(-2 * null, 1)
    ax.set(xlabel="score evaluations to a chain", ylabel="units of x")
    ax.set_title("energy distance to exact points", fontsize=11)
    ax.legend(fontsize=7)


def excess(ax, methods, metrics, D):
    """Draw the excess of the exact energy at the end, for all seeds."""
    null = metrics[f"{D}/excess_energy_null_95"]["median"]
    for k, method in enumerate(methods):
        for shift, density, marker in ((-0.12, "deen", "o"), (0.12, "exact", "x")):
            values = metrics[f"{D}/{density}/{method}/excess_energy"]["values"]
            label = {"deen": "DEEN, each seed", "exact": "exact energy"}[density]
            ax.plot(
                np.full(len(values), k + shift),
                values,
                marker,
                color=COLOURS[method],
                label=label if k == 0 else None,
            )
    ax.axhspan(-null, null, color="0.85", label="exact points, 95%")
    ax.axhline(0, color="0.5", lw=0.8)
    names = [name.replace(", ", ",\n") for name in methods.values()]
    ax.set_xticks(range(len(methods)), names, fontsize=8)
    ax.set(xlim=(-0.5, len(methods) - 0.5), ylabel="nats")
    ax.set_title("excess of the exact energy", fontsize=11)
    ax.legend(fontsize=7)


def digits(run, starts, shown):
    """Chains row by row: start, first jump, jumps on the way, nearest training digit."""
    metrics = run.metrics()
    walks = run.settings["mnist"]
    every = walks["steps"] // walks["kept"]
    figure, axes = plt.subplots(
        len(shown), len(starts), figsize=(22, 4.6 * len(shown)), layout="constrained"
    )
    for row, (name, of_model) in zip(axes, shown.items(), strict=True):
        for ax, start in zip(row, starts, strict=True):
            answer = of_model[start]
            rows = [
                np.stack([answer["start"][i], *answer["jumps"][:, i], nearest])
                for i, nearest in enumerate(answer["nearest"][:ROWS])
            ]
            here = f"mnist/{name}/{start}"
            gap = metrics[f"{here}/energy_gap"]["median"]
            distance = metrics[f"{here}/nearest_distance"]["median"]
            ideal = metrics[f"mnist/{name}/jump/nearest_distance"]["median"]
            ink, escaped = (
                metrics[f"{here}/{metric}"]["median"] for metric in ("ink", "escaped")
            )
            title = (
                f"{name}, from {starts[start]}: energy {gap:+.0f} nats and ink {ink:.2f} "
                f"times against noisy digits, {escaped:.0%} escaped,\ndistance to the "
                f"nearest training digit {distance:.1f} (jumps from noisy digits {ideal:.1f})"
            )
            if start == "digits":
                changed = metrics[f"{here}/class_changed"]["median"]
                title += f", {changed:.0%} changed class"
            plotting.patch_grid(ax, np.concatenate(rows), (28, 28), len(rows), title)
            columns = ["start", *every * np.arange(walks["kept"] + 1), "nearest"]
            for k, text in enumerate(columns):
                ax.text(
                    k * 1.08 + 0.5, 0.06, text, ha="center", va="bottom", fontsize=8
                )
            ax.set_ylim(top=0.35)
    figure.suptitle(
        "Walk-jump on MNIST: where the walk starts, its jumps after so many steps, and the "
        "training digit nearest to the last"
    )
    run.figure(figure, "sampling-mnist")
    plt.close(figure)

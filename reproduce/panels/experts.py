"""The panels of experts.py: every expert's map, what its removal does, how many it takes."""

import matplotlib.pyplot as plt
import numpy as np

from deen_tf import plotting


def draw(run, laws, shown):
    """Every expert's map, what its removal does, how many it takes."""
    experts = run.settings["deen"]["hidden_units"][-1]
    figure = plt.figure(figsize=(21, 9.4 * len(laws)), layout="constrained")
    figure.suptitle(
        f"The {experts} experts of DEEN after {run.settings['iterations']} iterations, sigma = "
        f"{run.settings['sigma']}; pictures of seed {run.first}, lines: median and range of "
        f"{len(run.seeds)} seeds"
    )
    halves = figure.subfigures(len(laws), 1, squeeze=False)[:, 0]
    for half, D in zip(halves, laws, strict=True):
        left, right = half.subfigures(1, 2, width_ratios=(1.45, 1))
        _maps(left, shown[D], shown[D, "curves"][0], D)
        _curves(run, right, shown[D], shown[D, "curves"], D)
    run.figure(figure, "experts")
    plt.close(figure)


def _maps(figure, answer, curves, D):
    axes = figure.subplots(4, len(answer["eps"]) // 4)
    low, high = answer["box"]
    limit = np.abs(answer["eps"]).max()
    for k, ax in enumerate(axes.flat):
        image = ax.imshow(
            answer["eps"][k],
            origin="lower",
            extent=(low, high, low, high),
            cmap=plotting.DIVERGING,
            vmin=-limit,
            vmax=limit,
        )
        ax.set_title(f"{curves['share'][k]:.2g}", fontsize=10)
        ax.set(xticks=[], yticks=[])
    figure.colorbar(
        image,
        ax=axes,
        orientation="horizontal",
        fraction=0.03,
        aspect=50,
        label=r"$\varepsilon_\alpha$ less its mean over the data, nats",
    )
    figure.suptitle(
        rf"{D}: the experts $\varepsilon_\alpha$, above each its share "
        r"$E|\nabla\varepsilon_\alpha|^2 / E|\psi^*|^2$"
        + f"; box {low:.2f} to {high:.2f}"
    )


def _curves(run, figure, answer, curves, D):
    axes = figure.subplot_mosaic([list("aaabbb"), list("cccddd"), list("eeffgg")])
    metrics = run.metrics()
    for letter, name, title, whole in (
        (
            "a",
            "relative_score_error without one",
            "one removed",
            "relative_score_error",
        ),
        ("b", "grid_kl without one", "one removed", "grid_kl"),
        ("c", "kl of the first", "only the first $k$", "grid_kl"),
    ):
        ax = axes[letter]
        for tag, text in (("", "as trained"), ("_refitted", "those kept refitted")):
            values = np.array([c[name + tag] for c in curves])  # (seeds, experts)
            at = np.arange(1, values.shape[1] + 1)
            (line,) = ax.plot(at, np.median(values, 0), "o-", ms=3, label=text)
            ax.fill_between(
                at, values.min(0), values.max(0), color=line.get_color(), alpha=0.2
            )
        value = metrics[f"{D}/deen/{whole}"]["median"]
        ax.axhline(value, color="black", ls="--", lw=1, label="all experts")
        unit = "KL, nats" if whole == "grid_kl" else "relative score error"
        ax.set(title=f"({letter}) {title}", ylabel=unit, yscale="log")
        ax.set_xlabel("$k$" if letter == "c" else "rank of the expert by its share")
        ax.legend(fontsize=8)
    networks = {
        "one DEEN": "deen/relative_score_error",
        "4 DEENs,\ntogether": "deens/relative_score_error",
        "one of\nthe 4": "deens-members/relative_score_error_median",
        "3 of\nthe 4": "deens-less-one/relative_score_error_median",
        "all seeds'\nDEENs": "average/relative_score_error",
    }
    networks = {k: v for k, v in networks.items() if f"{D}/{v}" in metrics}
    for x, name in enumerate(networks.values()):
        values = metrics[f"{D}/{name}"]["values"]
        axes["d"].plot([x] * len(values), values, "o", color="C2", alpha=0.7)
    axes["d"].set_xticks(range(len(networks)), networks, fontsize=8)
    axes["d"].set(title="(d) averages of networks", yscale="log", xlim=(-0.5, 4.5))
    axes["d"].set_ylabel("relative score error")
    for letter, (k, q) in zip("efg", answer["q"].items(), strict=True):
        title = f"({letter}) $q$ of the first {k}"
        plotting.value_map(axes[letter], q, answer["box"], title)


def arrays(run, laws, shown):
    """The curves of every seed, the maps of the first."""
    groups = {}
    for D in laws:
        for seed, curves in zip(run.seeds, shown[D, "curves"], strict=True):
            groups[f"{D}/seed {seed}"] = (
                curves,
                {"axes": "experts, largest share first", "equation": "Eq. 24"},
            )
        groups[f"{D}/maps"] = (
            {"eps": shown[D]["eps"]},
            {
                "axes": "(expert, x2, x1), largest share first",
                "box": shown[D]["box"],
                "unit": "nats, less the mean over the data",
            },
        )
    run.arrays(groups)

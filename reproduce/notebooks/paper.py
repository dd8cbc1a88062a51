# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The paper's claims in pictures
#
# "Deep Energy Estimator Networks" (arXiv:1805.08306), from the committed results alone:
# figures/fig1.h5, fig2.h5, fig3.h5 hold the arrays behind every panel, the jsons the numbers.
# Nothing is trained. As a notebook: `jupytext --to notebook reproduce/notebooks/paper.py`.

# %%
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import matplotlib.pyplot as plt
import numpy as np

from deen_tf import plotting

here = pathlib.Path(__file__).parent if "__file__" in globals() else pathlib.Path.cwd()
root = next(p for p in (here, *here.parents) if (p / "figures" / "fig1.h5").exists())
figures = root / "figures"


def numbers(name):
    """Return {metric: median over seeds} of a result."""
    record = json.loads((figures / f"{name}.json").read_text(encoding="utf-8"))
    return {metric: m["median"] for metric, m in record["metrics"].items()}


def arrays(name, group):
    """Return the arrays of a panel, and what its attributes say."""
    with h5py.File(figures / f"{name}.h5") as file:
        found = {
            k: v[()] for k, v in file[group].items() if isinstance(v, h5py.Dataset)
        }
        return found, dict(file[group].attrs)


fig1, fig2, fig3 = map(numbers, ("fig1", "fig2", "fig3"))

# %% [markdown]
# ## DEEN learns the energy (Fig. 1 (a)-(d))
#
# Left the exact smoothed density, right exp(-E) after 1000 iterations.

# %%
figure, axes = plt.subplots(2, 2, figsize=(8, 8), layout="constrained")
for row, law, letter in zip(axes, ("mixture", "spiral"), "ac", strict=True):
    truth, about = arrays("fig1", f"truth/{law}")
    learned, _ = arrays("fig1", letter)
    box, p = tuple(about["box"]), truth["p"]
    plotting.value_map(row[0], p / p.max(), box, f"{law}: exact")
    kl = fig1[f"{law}/deen/grid_kl"]
    plotting.value_map(row[1], learned["values"], box, f"DEEN, KL {kl:.2g} nats")

# %% [markdown]
# ## A score learned directly has a curl, an energy's has none (Fig. 1 (e)-(h))
#
# The curl over the Jacobian (rms over fresh points); a pure rotation has 1.41.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 4.5), layout="constrained")
for ax, law, letter in zip(axes, ("mixture", "spiral"), "gh", strict=True):
    values, about = arrays("fig1", letter)
    truth, _ = arrays("fig1", f"truth/{law}")
    curls = [fig1[f"{law}/{m}/relative_curl"] for m in ("dsm", "deen")]
    title = f"{law}: DSM {curls[0]:.2g}, DEEN {curls[1]:.0e}"
    more = {"signed": True, "label": "curl of DSM, nats per unit$^2$"}
    box = tuple(about["box"])
    plotting.value_map(ax, values["values"], box, title, density=truth["p"], **more)

# %% [markdown]
# ## Contrastive divergence loses modes (Fig. 1 (i)(j))

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 4.5), layout="constrained")
for ax, law, letter in zip(axes, ("mixture", "spiral"), "ij", strict=True):
    values, about = arrays("fig1", letter)
    kept = fig1[f"{law}/cd/smallest_mode_ratio"]
    title = f"{law}: its poorest part keeps {kept:.2g} of its share"
    plotting.value_map(ax, values["values"], tuple(about["box"]), title)

# %% [markdown]
# ## Sigma = 0.14 maximises the likelihood of MNIST (Sec. 4)
#
# It does not: with all 60,000 training digits the maximum lies higher.

# %%
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for n in (9_000, 50_000, 60_000):
    curve, _ = arrays("fig2", f"parzen/{n}")
    best = fig2[f"parzen/sigma_best/{n}"]
    ax.plot(curve["sigma"], curve["log_likelihood"], label=f"{n:,} digits: {best:.3f}")
ax.axvline(0.14, color="black", ls="--", lw=1, label="the paper's 0.14")
ax.set(xlabel="sigma", ylabel="test log-likelihood, nats per digit")
ax.legend()

# %% [markdown]
# ## One step denoises (Figs. 2 and 3)
#
# Part of the noise power that a step leaves on test digits. The paper's network cannot go below
# its bound: its score lies in the row space of 128 filters.

# %%
names = {
    "noisy": "noisy",
    "deen": "DEEN, 128-128-256",
    "deen-wide": "DEEN, 1568-256",
    "deen-field": "DEEN, field of experts",
    "wiener": "Wiener filter",
}
clean, _ = arrays("fig2", "clean")
rows = [("clean", clean["images"])]
for method, label in names.items():
    images, _ = arrays("fig2", f"b/{method}")
    left = fig2[f"{method}/noise_left@0.14"]
    rows.append((f"{label}: {left:.3f}", images["images"]))
figure, axes = plt.subplots(len(rows), 1, figsize=(8, len(rows)), layout="constrained")
for ax, (label, images) in zip(axes, rows, strict=True):
    plotting.patch_grid(ax, images[:8], (28, 28), 1, label)
bound = 1 - fig2["deen/removed_noise_ceiling"]
print(f"bound of the paper's network: {bound:.3f}")

# %% [markdown]
# Natural images, err/pixel over all test patches: DEEN does better than median + Gaussian as a
# method, not with the paper's widths.

# %%
methods = (
    "noisy",
    "median+gaussian",
    "wiener",
    "wavelet",
    "deen-contrast",
    "deen-wide",
)
values = [fig3[f"{m}/err_per_pixel"] for m in methods]
errors = [fig3[f"{m}/standard_error"] for m in methods]
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.barh(range(len(methods)), values, xerr=errors)
labels = ("noisy", "median + Gaussian", "Wiener filter", "wavelets")
labels += ("DEEN, paper's widths", "DEEN, field of experts")
ax.set_yticks(range(len(methods)), labels)
ax.invert_yaxis()
ax.set_xlabel("err/pixel, of the patches' overall variance (bars: standard error)")

# %% [markdown]
# ## All the others
#
# Every claim with its criterion and verdict:

# %%
report = (figures / "REPORT.md").read_text(encoding="utf-8")
print(next(line for line in report.splitlines() if line.startswith("Of ")))
assert np.isfinite([*fig1.values()]).any()

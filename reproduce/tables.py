"""The README's tables, written from the jsons between `<!-- table: name -->` and `<!-- end -->`.

python reproduce/tables.py --out figures           # into README.md
"""

from command import options

if __name__ == "__main__":
    args = options(__doc__)

import json
import math
import os
import re
import statistics

from provenance import ROOT

FIG1 = {
    "deen": "DEEN",
    "deen-glorot": "DEEN from Glorot's weights",
    "dsm": "DSM",
    "cd": "CD, Adam, Glorot's weights",
    "cd-gaussian": "CD, Adam",
}
FIG2 = {
    "deen": "DEEN, paper's 128-128-256",
    "deen-gaussian": "the same with a Gaussian part",
    "deen-wide": "DEEN, 1568-256",
    "deen-field": "DEEN, field of experts",
    "deen-field-0.3": "the same, trained at 0.3",
    "dsm-wide": "DSM, 1568-256 (bound 0.673)",
    "dae-wide": "denoising autoencoder, 1568-256",
    "dae-wide-0.3": "the same, trained at 0.3",
    "wiener": "Wiener filter",
    "median+gaussian": "median + Gaussian, tuned",
    "parzen": "Parzen posterior mean",
}
FIG3 = {
    "noisy": "noisy",
    "median+gaussian": "median 3 x 3 + Gaussian 1",
    "median+gaussian-tuned": "median + Gaussian, tuned",
    "gaussian": "Gaussian, tuned",
    "total-variation": "total variation, tuned",
    "non-local-means": "non-local means, tuned",
    "wiener": "Wiener filter",
    "wiener-contrast": "Wiener filter, contrast-normalised",
    "wavelet": "wavelet shrinkage, translation-invariant",
    "deen": "DEEN, paper's network, one scale",
    "deen-contrast": "DEEN, paper's network, contrast-normalised",
    "deen-gaussian": "the same with a Gaussian part",
    "dsm-dense": "DSM, 2048, contrast-normalised",
    "deen-dense": "DEEN, 2048-512, contrast-normalised",
    "deen-wide-fixed": "DEEN, field of experts, one scale",
    "deen-wide": "DEEN, field of experts, contrast-normalised",
}


def main(args):
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(filled(text, args.out), encoding="utf-8")


def filled(text, folder):
    """Return the text with its tables made anew from the jsons in the folder."""

    def table(match):
        name = match[1]
        with open(os.path.join(folder, f"{name}.json")) as stream:
            record = json.load(stream)
        values = {k: m["values"] for k, m in record["metrics"].items()}
        lines = TABLES[name](values)
        return "\n".join([f"<!-- table: {name} -->", "", *lines, "", "<!-- end -->"])

    return re.sub(r"<!-- table: (\w+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)


def in_words(values, digits=3):
    """Return "median (smallest – largest)" of the values, or the one there is."""
    parts = [statistics.median(values), min(values), max(values)]
    median, low, high = (f"{v:.{digits}g}" for v in parts)
    if len(values) == 1 or low == high or math.isnan(parts[1]):
        return median
    return f"{median} ({low} – {high})"


def table(heads, rows):
    """Return a Markdown table's lines; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)]


def seeds(n):
    return f"{n} seed" + "s" * (n > 1)


def fig1(values):
    rows = []
    for D in ("mixture", "spiral"):
        for M, label in FIG1.items():
            for tag, iterations in (("", "1000"), ("@10k", "10,000")):
                name = f"{D}/{M}{tag}"
                if f"{name}/relative_curl" not in values:
                    continue
                error, kl = (
                    in_words(values[metric], 2) if metric in values else "—"
                    for metric in (f"{name}/relative_score_error", f"{name}/grid_kl")
                )
                curl = f"{statistics.median(values[f'{name}/relative_curl']):.1g}"
                rows.append([f"{D}, {label}", iterations, error, kl, curl])
    heads = ["", "iterations", "score error", "KL", "relative curl"]
    name = "mixture/deen{}/grid_kl"
    long = len(values.get(name.format("@10k"), []))
    said = f", at 10,000 iterations of {long}" if long else ""
    said = f"Medians of {seeds(len(values[name.format('')]))}{said} (range)."
    return [said, "", *table(heads, rows)]


def fig2(values):
    rows = []
    for method, label in FIG2.items():
        if f"{method}/noise_left@0.14" not in values:
            continue
        if (bound := f"{method}/removed_noise_ceiling") in values and values[bound][
            0
        ] < 1:
            label += f" (bound {1 - values[bound][0]:.3f})"
        left = (in_words(values[f"{method}/noise_left@{s}"]) for s in ("0.14", "0.30"))
        rows.append([label, *left])
    best = [
        f"{values[f'parzen/sigma_best/{n}'][0]:.3f} with {n:,} centres"
        for n in (9000, 50_000, 60_000)
    ]
    at, top = (
        values[f"parzen/log_likelihood_{x}/60000"][0] for x in ("at_0.14", "best")
    )
    likelihood = (
        f"Parzen likelihood of the test digits: best sigma {', '.join(best)}; at the "
        f"paper's 0.14 it is {top - at:.0f} nats lower than there (60,000 centres)."
    )
    return [
        f"{seeds(len(values['deen/loss_end']))}: median (range).".capitalize(),
        "",
        *table(["", "sigma = 0.14", "sigma = 0.3"], rows),
        "",
        likelihood,
    ]


def fig3(values):
    rows = []
    for method, label in FIG3.items():
        if f"{method}/ssim" not in values:
            continue
        error, standard, psnr, ssim = (
            values[f"{method}/{metric}"]
            for metric in ("err_per_pixel", "standard_error", "psnr", "ssim")
        )
        error = f"{in_words(error)} ± {statistics.median(standard):.3g}"
        decibel = f"{statistics.median(psnr):.2f}"
        rows.append([label, error, decibel, f"{statistics.median(ssim):.3f}"])
    heads = ["", "err/pixel ± standard error", "PSNR, dB", "SSIM"]
    counts = {
        len(values[f"{m}/err_per_pixel"]) for m in ("deen", "deen-wide", "dsm-dense")
    }
    said = f"Networks of {' to '.join(map(str, sorted(counts)))} seeds: median (range)."
    return [said, "", *table(heads, rows)]


TABLES = {"fig1": fig1, "fig2": fig2, "fig3": fig3}

if __name__ == "__main__":
    main(args)

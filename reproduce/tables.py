"""Tables of Markdown files, written from the jsons between `<!-- table: name -->` and `<!-- end -->`.

    python reproduce/tables.py --out figures           # that of README.md

Those of REPORT.md, whose text is findings.md, are filled by compare.py.
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

# The README's ten rows: what; DEEN's number; what stands beside it, and its number.
RESULTS_OF = ("fig1", "fig2", "fig3", "digits")
RESULTS = [
    ("mixture of 8 Gaussians, score error", "fig1 mixture/deen/relative_score_error")
    + ("DSM", "fig1 mixture/dsm/relative_score_error"),
    ("the same, KL in nats", "fig1 mixture/deen/grid_kl")
    + ("contrastive divergence, better start", "fig1 mixture/cd/grid_kl"),
    ("the same, relative curl of the score", "fig1 mixture/deen/relative_curl")
    + ("DSM", "fig1 mixture/dsm/relative_curl"),
    ("spiral, score error", "fig1 spiral/deen/relative_score_error")
    + ("DSM", "fig1 spiral/dsm/relative_score_error"),
    ("digits at 0.14, noise left: paper's network", "fig2 deen/noise_left@0.14")
    + ("Wiener filter", "fig2 wiener/noise_left@0.14"),
    ("the same, field of experts", "fig2 deen-field/noise_left@0.14")
    + ("denoising autoencoder", "fig2 dae-wide/noise_left@0.14"),
    ("digits at 0.3, one energy of all levels", "digits all-levels/noise_left@0.30")
    + ("field of experts, trained there", "fig2 deen-field-0.3/noise_left@0.30"),
    ("digits drawn from white noise, Fréchet distance", "digits annealed/frechet")
    + ("Parzen samples", "digits parzen/frechet"),
    ("natural patches, err/pixel: paper's network", "fig3 deen-contrast/err_per_pixel")
    + ("median + Gaussian", "fig3 median+gaussian/err_per_pixel"),
    ("the same, field of experts", "fig3 deen-wide/err_per_pixel")
    + ("BM3D", "fig3 bm3d/err_per_pixel"),
]

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
    "deen-levels": "DEEN of all levels, convolutional",
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
    "bm3d": "BM3D",
    "deen": "DEEN, paper's network, one scale",
    "deen-contrast": "DEEN, paper's network, contrast-normalised",
    "deen-gaussian": "the same with a Gaussian part",
    "dsm-dense": "DSM, 2048, contrast-normalised",
    "deen-dense": "DEEN, 2048-512, contrast-normalised",
    "deen-wide-fixed": "DEEN, field of experts, one scale",
    "deen-wide": "DEEN, field of experts, contrast-normalised",
    "deen-photographs": "DEEN of other photographs, all levels",
}

# From the repositories of the methods: weights (None: not learned, or no network), PSNR on
# BSD68; "minimised" where x_hat is a minimiser and not one step or one pass.
PUBLISHED = {
    "PoGMDM, one step": (5_376, {5: 36.21, 15: 29.70, 25: 27.26}),
    "CRR, minimised": (13_763, {5: 36.96, 15: 30.54, 25: 28.10}),
    "WCRR, minimised": (13_763, {5: 37.65, 15: 31.21, 25: 28.68}),
    "BM3D": (None, {15: 31.07, 25: 28.57, 50: 25.62}),
    "EPLL": (None, {15: 31.21, 25: 28.68, 50: 25.67}),
    "WNNM": (None, {15: 31.37, 25: 28.83, 50: 25.87}),
    "TNRD": (27_000, {15: 31.42, 25: 28.92, 50: 25.97}),
    "DnCNN": (556_000, {15: 31.73, 25: 29.23, 50: 26.23}),
    "TDV": (400_000, {15: 31.82, 25: 29.36, 50: 26.43}),
}
OURS = {  # files, name there, words
    "deen": ("photographs", "DEEN, one energy for 5 to 50, one step"),
    "deen-25": ("photographs", "DEEN, trained on at 25, one step"),
    "deen-large": (
        "photographs_large",
        "DEEN, larger, one energy for 5 to 50, one step",
    ),
}


def main(args):
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(filled(text, args.out), encoding="utf-8")


def filled(text, folder):
    """Return the text with its tables made anew from the jsons in the folder."""

    def values(name):
        with open(os.path.join(folder, f"{name}.json")) as stream:
            record = json.load(stream)
        return {k: m["values"] for k, m in record["metrics"].items()}

    def table(match):
        try:
            lines = TABLES[match[1]](values)
        except FileNotFoundError as error:
            lines = [f"Lacks {os.path.basename(error.filename)}."]
        except KeyError as error:  # of another version, or a part of the work
            lines = [f"Lacks {error}."]
        return "\n".join(
            [f"<!-- table: {match[1]} -->", "", *lines, "", "<!-- end -->"]
        )

    return re.sub(r"<!-- table: (\w+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)


def in_words(values, digits=3):
    """Return "median (smallest – largest)" of the values, or the one there is."""
    parts = [statistics.median(values), min(values), max(values)]
    median, low, high = (f"{v:.{digits}g}" for v in parts)
    if len(values) == 1 or low == high or math.isnan(parts[1]):
        return median
    return f"{median} ({low} – {high})"


def table(heads, rows, words=1):
    """Return a Markdown table's lines; all columns but the first, `words`, are numbers."""
    rule = ["---"] * words + ["---:"] * (len(heads) - words)
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)]


def seeds(n):
    return f"{n} seed" + "s" * (n > 1)


def results(read):
    rows, found = [], {name: read(name) for name in RESULTS_OF}
    for what, ours, beside, theirs in RESULTS:
        ours, theirs = (
            in_words(found[file][metric], 2)
            for file, metric in (ours.split(" "), theirs.split(" "))
        )
        rows.append([what, ours, f"{beside}: {theirs}"])
    return table(["", "DEEN", "beside it"], rows)


def study(read):
    values, cases = read("fig1-study"), {}
    for name, errors in values.items():
        D, _, _, case = name.split("/")
        cases.setdefault(case, {})[D] = in_words(errors, 2)
    laws = list(dict.fromkeys(name.split("/")[0] for name in values))
    rows = [[case, *(errors[D] for D in laws)] for case, errors in cases.items()]
    return table(["batch, data set", *laws], rows)


def presets(read):
    text = (ROOT / "deen_tf" / "presets" / "cards.json").read_text(encoding="utf-8")
    rows = []
    for name, card in json.loads(text).items():
        numbers = "; ".join(f"{k} {v:g}" for k, v in card["numbers"].items())
        what = f"{card['about']}; {card['points']}"
        data = f"{card['data']} ({card['licence']})"
        rows.append([name, what, data, numbers, f"{card['weights']:,}"])
    return table(["preset", "what", "data (licence)", "numbers", "weights"], rows, 4)


def photographs(read):
    levels, rows = (5, 15, 25, 50), []
    for method, (weights, psnr) in PUBLISHED.items():
        cells = [f"{psnr[v]:.2f}" if v in psnr else "" for v in levels]
        rows.append(
            [f"{method} (published)", f"{weights:,}" if weights else "", *cells, "", ""]
        )
    for method, (file, label) in OURS.items():
        values = read(file)

        def cell(place, level, values=values, method=method):
            pair = [
                values.get(f"{place}/{m}@{level}/{method}") for m in ("psnr", "ssim")
            ]
            return f"{pair[0][0]:.2f}, {pair[1][0]:.3f}" if pair[0] else ""

        weights = f"{values[f'{method}/weights'][0]:,.0f}"
        cells = [cell("bsd68", v) for v in levels]
        cells += [cell("set12", 25), cell("bsd17", 7.65)]
        rows.append([label, weights, *cells])
    sets = [*(f"BSD68, {v}" for v in levels), "Set12, 25", "every fourth, 7.65"]
    return table(["PSNR in dB, SSIM", "weights", *sets], rows)


def fig1(read):
    rows, values = [], read("fig1")
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


def fig2(read):
    rows, values = [], read("fig2")
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


def fig3(read):
    rows, values = [], read("fig3")
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


TABLES = {
    f.__name__: f for f in (results, study, presets, fig1, fig2, fig3, photographs)
}

if __name__ == "__main__":
    main(args)

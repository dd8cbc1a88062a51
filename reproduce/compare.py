"""The verdicts: every claim of the paper against what the other scripts measured.

Reads the results in figures/, recomputes the identities (`claims.identities`), and writes
figures/REPORT.md, which it also prints: for each claim its place, the measures, the
criteria, the paper's value, ours, and the verdict. Criteria stand in claims/, one module
for each section of the paper; `claims.records` says how they are judged.

What is missing is named with the command that makes it, and the rest is judged. Quick runs
and runs on stand-in data are no evidence.

    python reproduce/compare.py
    python reproduce/compare.py --paper DIR     # your crops of the paper's figures beside ours
"""

import argparse
import math
import os
import statistics

from claims import CLAIMS
from claims.evidence import COMMANDS, Evidence
from claims.records import ANSWERS, VERDICTS, judge
from outputs import guarded

FIGURES = ("fig1", "fig2", "fig3")
LABEL = 64  # pixels of the line above a figure
TALLEST, WIDEST = 1600, 2400  # pixels of one figure in a comparison

HEADER = """\
# Verdicts on "Deep Energy Estimator Networks" (arXiv:1805.08306)

{count}

Numbers are the median (smallest – largest; how many seeds, repetitions or cases). A
condition holds (✓) if every one of them keeps the limit, in part (~) if at least half do,
and fails (✗) otherwise. A claim is reproduced if all its conditions hold, not reproduced if
all fail, else in part. Lines marked · are shown and decide nothing. The criteria stand in
reproduce/claims/, their reasons below; they were not registered before the experiments.
"""


def main(argv=None, claims=CLAIMS):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        default="figures",
        help="folder of the results, and of the report (default: figures)",
    )
    parser.add_argument(
        "--paper",
        metavar="DIR",
        help="folder with your crops of the paper's figures: fig1.png, fig2.png, fig3.png",
    )
    args = parser.parse_args(argv)

    from tqdm import tqdm

    from deen_tf.atomic import replacing
    from deen_tf.checks import output_folder

    out = output_folder(args.out)
    evidence = Evidence(out)
    bar = tqdm(claims, unit="claim", leave=False, dynamic_ncols=True)
    judged = [(claim, *judge(claim, evidence)) for claim in bar]
    text = report(judged, evidence)
    with (
        replacing(os.path.join(out, "REPORT.md")) as temporary,
        open(temporary, "w", encoding="utf-8") as stream,
    ):
        stream.write(text)
    print(text)
    if args.paper:
        for line in beside_paper(args.paper, out):
            print(line)


# ---- the report ----------------------------------------------------------------------


def report(judged, evidence):
    """Return the report as Markdown, from triples (claim, verdict, findings)."""
    lines = [
        HEADER.format(count=count(judged)),
        *sources(evidence),
        "",
        "## Claims",
        "",
    ]
    lines += table_row("", "claim", "measure and criterion", "paper", "ours", "verdict")
    lines.append("|---" * 6 + "|")
    for number, (claim, verdict, findings) in enumerate(judged, 1):
        lines += table_row(
            str(number),
            f"{claim.sentence} ({claim.place})",
            lettered(criterion(f.condition) for f in findings) or "–",
            claim.paper or "–",
            lettered(map(ours, findings)) or claim.untestable,
            f"**{verdict}**",
        )
    lines += ["", "## Why these criteria", ""]
    for number, (claim, *_) in enumerate(judged, 1):
        lines += [f"- {number}: {claim.because}"] if claim.because else []
    return "\n".join(lines) + "\n"


def count(judged):
    """Return the opening sentences: how many claims have which verdict, and their rows."""

    def numbers(words, question):
        rows = {word: [] for word in words}
        for row, (claim, verdict, _) in enumerate(judged, 1):
            if claim.question == question:
                rows[verdict].append(str(row))
        parts = [
            f"{len(found)} {word}" + (f" ({', '.join(found)})" if found else "")
            for word, found in rows.items()
        ]
        return sum(map(len, rows.values())), "; ".join(parts)

    text = "Of {} claims, with their rows: {}.".format(*numbers(VERDICTS, False))
    if any(claim.question for claim, *_ in judged):
        text += " Of {} open questions: {}.".format(*numbers(ANSWERS, True))
    waiting = sum(any(f.missing for f in findings) for *_, findings in judged)
    if waiting:
        text += f" Rows that lack a result: {waiting} (see Evidence)."
    return text


def sources(evidence):
    """Return the table of results: what was used, and how to make what was not."""
    lines = [
        "## Evidence",
        "",
        *table_row("result", "state", "made by"),
        "|---" * 3 + "|",
    ]
    for name, command in COMMANDS.items():
        state = evidence.refused.get(name)
        if state is None:
            seeds = len(evidence.records[name]["settings"].get("seeds", [])) or 1
            state = f"used, {seeds} seed" + "s" * (seeds > 1)
        else:
            state = f"**{state}**"
        lines += table_row(f"{name}.json", state, f"`{command}`")
    return lines


def lettered(lines):
    """Return the lines as (a), (b), ...: those of two cells find each other."""
    lines = list(lines)
    if len(lines) < 2:
        return "".join(lines)
    return "\n".join(f"({chr(97 + k)}) {line}" for k, line in enumerate(lines))


def criterion(condition):
    return f"{condition.measure} {condition.limit.text if condition.limit else '·'}"


def ours(finding):
    """Return one condition's values, and whether it holds."""
    if finding.missing:
        return f"? {finding.missing}"
    values, mark = finding.values, "·"
    text = number(statistics.median(values))
    if len(values) > 1:
        text += f" ({number(min(values))} – {number(max(values))}; {len(values)})"
    if note := getattr(values, "note", ""):
        text += f", {note}"
    if finding.condition.limit:
        mark = "✓" if finding.share == 1 else "~" if finding.share >= 0.5 else "✗"
        if 0 < finding.share < 1:
            text += f", {finding.kept} of {len(values)} keep it"
    return f"{mark} {text}"


def number(value):
    """Three digits, plain where they can be read, else in powers of ten."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    return f"{value:.1e}"


def table_row(*cells):
    """Return one row of a Markdown table; lines within a cell stay apart."""
    cells = [c.replace("|", "\\|").replace("\n", "<br>") for c in cells]
    return ["| " + " | ".join(cells) + " |"]


# ---- the paper's figures beside ours -------------------------------------------------


def beside_paper(folder, out):
    """Lay each crop fig1.png, ... beside our figure; return what was done."""
    from deen_tf.atomic import replacing

    crops = {f: os.path.join(folder, f"{f}.png") for f in FIGURES}
    present = {f: path for f, path in crops.items() if os.path.exists(path)}
    if not present:
        raise FileNotFoundError(
            f"no fig1.png, fig2.png or fig3.png in {folder}: crop them from the paper"
        )
    done = []
    for figure, crop in crops.items():
        mine = os.path.join(out, f"{figure}.png")
        if figure not in present:
            done.append(f"{figure}: no crop {crop}")
        elif not os.path.exists(mine):
            done.append(f"{figure}: no {mine}; it is made by {COMMANDS[figure]}")
        else:
            target = os.path.join(out, f"compare-{figure}.png")
            with replacing(target) as temporary:
                pair(crop, mine, f"Figure {figure[-1]}").save(temporary)
            done.append(f"{figure}: {target}")
    return done


def pair(paper, ours, title):
    """Return both images as one, scaled alike: to one height, or to one width if both are wide."""
    from PIL import Image, ImageDraw, ImageFont

    images = [on_white(path) for path in (paper, ours)]
    stacked = sum(image.width / image.height for image in images) > 3
    if stacked:
        width = min(WIDEST, max(image.width for image in images))
        sizes = [(width, round(width * i.height / i.width)) for i in images]
    else:
        height = min(TALLEST, max(image.height for image in images))
        sizes = [(round(height * i.width / i.height), height) for i in images]
    widths, heights = zip(*((max(w, 1), max(h, 1)) for w, h in sizes), strict=True)
    total = (
        (max(widths), sum(heights) + 2 * LABEL)
        if stacked
        else (sum(widths) + LABEL, max(heights) + LABEL)
    )
    canvas = Image.new("RGB", total, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(0.6 * LABEL)
    x = y = 0
    for image, width, height, label in zip(
        images, widths, heights, (f"paper, {title}", f"here, {title}"), strict=True
    ):
        draw.text((x + 8, y + LABEL / 2), label, "black", font, anchor="lm")
        resized = image.resize((width, height), Image.Resampling.LANCZOS)
        canvas.paste(resized, (x, y + LABEL))
        x, y = (0, y + LABEL + height) if stacked else (x + width + LABEL, 0)
    return canvas


def on_white(path):
    from PIL import Image

    with Image.open(path) as image:
        image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


if __name__ == "__main__":
    guarded(main)

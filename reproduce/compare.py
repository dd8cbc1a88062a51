"""The verdicts: every claim of the paper against what the other scripts measured.

Reads the results in a folder, recomputes the identities (`identities.py`), and writes
<out>/REPORT.md, which it also prints: for each claim its place, the measures, the criteria,
the paper's value, ours, and the verdict. The criteria stand in claims.md. Then what was
found besides: the text of findings.md, with its tables made of the results.

What is missing is named with the command that makes it, and the rest is judged. Quick runs
and runs on stand-in data are no evidence.

    python reproduce/compare.py --out figures                  # the committed results
    python reproduce/compare.py --out figures --paper DIR      # your crops of the paper's figures beside ours
"""

from command import options

if __name__ == "__main__":
    args = options(
        __doc__,
        paper={
            "metavar": "DIR",
            "help": "folder with your crops of the paper's figures: fig1.png, ...",
        },
    )

import math
import os
import statistics

import claims
from evidence import Evidence
from experiment import write
from provenance import COMMANDS, ROOT
from tables import filled

from deen_tf.atomic import replacing
from deen_tf.checks import output_folder

FIGURES = ("fig1", "fig2", "fig3")
FINDINGS = ROOT / "reproduce" / "findings.md"

HEADER = """\
# Verdicts on "Deep Energy Estimator Networks" (arXiv:1805.08306)

{count}

Numbers are the median (smallest – largest; how many seeds, repetitions or cases). A
condition holds (✓) if every one of them keeps the limit, in part (~) if at least half do,
and fails (✗) otherwise. A claim is reproduced if all its conditions hold, not reproduced if
all fail, else in part. Lines marked · are shown and decide nothing. The criteria stand in
reproduce/claims.md, their reasons below; they were not registered before the experiments.
"""


def main(args):
    out = output_folder(args.out)
    text = report(Evidence(out))
    write(os.path.join(out, "REPORT.md"), text)
    print(text)
    if args.paper:
        print("\n".join(beside_paper(args.paper, out)))


def report(evidence, of=None):
    """Return the report as Markdown, on the claims `of`, by default the paper's."""
    claimed = claims.read() if of is None else of
    judged = [(claim, *claims.judge(claim, evidence)) for claim in claimed]
    lines = [
        HEADER.format(count=count(judged)),
        *sources(evidence),
        "",
        "## Claims",
        "",
    ]
    lines += row("", "claim", "measure and criterion", "paper", "ours", "verdict")
    lines.append("|---" * 6 + "|")
    for number, (claim, verdict, findings) in enumerate(judged, 1):
        criteria = [
            f"{f.condition.measure} {f.condition.limit or '·'}" for f in findings
        ]
        lines += row(
            str(number),
            f"{claim.sentence} ({claim.place})",
            lettered(criteria) or "–",
            claim.paper or "–",
            lettered(map(ours, findings)) or claim.untestable,
            f"**{verdict}**",
        )
    lines += ["", "## Why these criteria", ""]
    reasons = enumerate((claim.why for claim, *_ in judged), 1)
    lines += [f"- {k}: {why}" for k, why in reasons if why]
    found = filled(FINDINGS.read_text(encoding="utf-8"), evidence.folder)
    return "\n".join([*lines, "", found])


def count(judged):
    """Return the opening sentences: how many claims have which verdict, and their rows."""

    def numbers(words, question):
        rows = {word: [] for word in words}
        for k, (claim, verdict, _) in enumerate(judged, 1):
            if claim.question == question:
                rows[verdict].append(str(k))
        parts = [
            f"{len(found)} {word}" + (f" ({', '.join(found)})" if found else "")
            for word, found in rows.items()
        ]
        return sum(map(len, rows.values())), "; ".join(parts)

    text = "Of {} claims, with their rows: {}.".format(*numbers(claims.VERDICTS, False))
    if any(claim.question for claim, *_ in judged):
        text += " Of {} open questions: {}.".format(*numbers(claims.ANSWERS, True))
    waiting = sum(any(f.missing for f in findings) for *_, findings in judged)
    if waiting:
        text += f" Rows that lack a result: {waiting} (see Evidence)."
    return text


def sources(evidence):
    """Return the table of results: what was used, and how it was and would be made."""
    heads = row("result", "state", "written by", "the whole run")
    lines = ["## Evidence", "", *heads, "|---" * 4 + "|"]
    for name, command in COMMANDS.items():
        state = f"**{evidence.refused.get(name)}**"
        if name in evidence.records:
            seeds = evidence.seeds(name)
            state = f"used, {seeds} seed" + "s" * (seeds > 1)
        lines += row(f"{name}.json", state, writer(evidence, name), f"`{command}`")
    return lines


def writer(evidence, name):
    """Return which command, of which commit, wrote a result."""
    record = evidence.records.get(name)
    if record is None:
        return "–"
    if "commit" not in record:
        return "version 0.1"
    text = f"`{record['command']}`, commit {record['commit'][:7]}"
    if record["clean"] is not True:
        text += " and changes that were committed later"
    if same := record.get("same"):
        text += f"; {same['commit'][:7]} moves none of {same['numbers']} numbers of a quick run"
    return f"{text} ({record['note']})" if "note" in record else text


def lettered(lines):
    """Return the lines as (a), (b), ...: those of two cells find each other."""
    lines = list(lines)
    if len(lines) < 2:
        return "".join(lines)
    return "\n".join(f"({chr(97 + k)}) {line}" for k, line in enumerate(lines))


def ours(finding):
    """Return one condition's values, and whether it holds."""
    if finding.missing:
        return f"? {finding.missing}"
    values, mark = finding.values, "·"
    text = number(statistics.median(values))
    if len(values) > 1:
        text += f" ({number(min(values))} – {number(max(values))}; {len(values)})"
    if values.note:
        text += f", {values.note}"
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


def row(*cells):
    """Return one row of a Markdown table; lines within a cell stay apart."""
    cells = [c.replace("|", "\\|").replace("\n", "<br>") for c in cells]
    return ["| " + " | ".join(cells) + " |"]


def beside_paper(folder, out):
    """Lay each crop fig1.png, ... beside our figure; return what was done."""
    crops = {f: os.path.join(folder, f"{f}.png") for f in FIGURES}
    if not any(map(os.path.exists, crops.values())):
        raise FileNotFoundError(
            f"no fig1.png, fig2.png or fig3.png in {folder}: crop them from the paper"
        )
    for figure, crop in crops.items():
        mine = os.path.join(out, f"{figure}.png")
        if not os.path.exists(crop):
            yield f"{figure}: no crop {crop}"
        elif not os.path.exists(mine):
            yield f"{figure}: no {mine}; it is made by {COMMANDS[figure]}"
        else:
            target = os.path.join(out, f"compare-{figure}.png")
            with replacing(target) as temporary:
                pair(crop, mine, f"Figure {figure[-1]}").savefig(temporary, dpi=200)
            yield f"{figure}: {target}"


def pair(paper, ours, title):
    """Return a figure with both images scaled alike: of one height, or of one width if wide."""
    import matplotlib.figure
    from PIL import Image

    images = [Image.open(path).convert("RGBA") for path in (paper, ours)]
    aspects = [image.width / image.height for image in images]
    stacked = sum(aspects) > 3
    size = (9, sum(9 / a for a in aspects)) if stacked else (9, 9 / sum(aspects))
    figure = matplotlib.figure.Figure(figsize=(size[0], size[1] + 0.8))
    ratios = (
        {"height_ratios": [1 / a for a in aspects]}
        if stacked
        else {"width_ratios": aspects}
    )
    axes = figure.subplots(*((2, 1) if stacked else (1, 2)), gridspec_kw=ratios)
    for ax, image, whose in zip(axes, images, ("paper", "here"), strict=True):
        ax.imshow(image)
        ax.set_title(f"{whose}, {title}")
        ax.axis("off")
    return figure


if __name__ == "__main__":
    main(args)

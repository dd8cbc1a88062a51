"""The verdicts: claims read and judged, what counts as evidence, the report and the tables."""

import json
import math
import pathlib
import re
import statistics
import sys

import h5py
import matplotlib.image
import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "reproduce"))
try:
    import claims
    import command
    import compare
    import evidence as sources
    import identities
    import provenance
    import tables
finally:
    sys.path.pop(0)

FIGURES = ROOT / "figures"


def write(folder, name, metrics, settings=None, **more):
    record = {
        "settings": {"quick": False, "seeds": [0, 1]} | (settings or {}),
        "data": {},
        "metrics": {k: {"values": v} for k, v in metrics.items()},
    }
    (folder / f"{name}.json").write_text(json.dumps(record | more))


class Given(sources.Evidence):
    """Evidence that knows the values of some sources and lacks all others."""

    def __init__(self, **known):
        self.known, self.records, self.refused = known, {}, {}

    def values(self, source):
        if source not in self.known:
            raise sources.Missing("cost.json: missing")
        return sources.Values(self.known[source])


def verdict(*limits, sentence="sentence", **known):
    """Of a claim whose conditions are "source limit"."""
    conditions = [claims.Condition("m", *limit.partition(" ")[::2]) for limit in limits]
    return claims.judge(claims.Claim(sentence, conditions=conditions), Given(**known))[
        0
    ]


# ---- judging -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limit, kept, broken",
    [
        ("≤ 0.02 nats", [0.02, 0.0199, -1], [0.0201, 1e9]),
        ("≥ 0.1", [0.1, 5], [0.0999, -5]),
        ("< 1", [0.999], [1, 1.001]),
        ("> 0", [1e-9], [0, -1]),
        ("from 0.135 to 0.145", [0.135, 0.14, 0.145], [0.1349, 0.1451]),
    ],
)
def test_limits_at_and_across(limit, kept, broken):
    for value in kept:
        assert verdict(f"a {limit}", a=[value]) == "reproduced"
    for value in [*broken, float("nan")]:
        assert verdict(f"a {limit}", a=[value]) == "not reproduced"


@pytest.mark.parametrize(
    "kept, of, expected",
    [
        (10, 10, "reproduced"),
        (9, 10, "in part"),
        (5, 10, "in part"),
        (4, 10, "not reproduced"),
        (0, 10, "not reproduced"),
    ],
)
def test_seeds(kept, of, expected):
    assert verdict("a ≤ 2", a=[1.0] * kept + [3.0] * (of - kept)) == expected


def test_several_conditions():
    known = {"holds": [1.0], "partly": [1.0, 3.0], "fails": [3.0], "beside": [99.0]}
    assert verdict("holds ≤ 2", "holds ≤ 2", "beside", **known) == "reproduced"
    assert verdict("fails ≤ 2", "fails ≤ 2", "beside", **known) == "not reproduced"
    assert verdict("holds ≤ 2", "fails ≤ 2", **known) == "in part"
    assert verdict("fails ≤ 2", "partly ≤ 2", **known) == "in part"
    assert verdict("holds ≤ 2", sentence="good?", **known) == "yes"
    assert verdict("fails ≤ 2", sentence="good?", **known) == "no"


def test_a_missing_number_is_no_failure():
    known = {"holds": [1.0], "fails": [3.0]}
    assert verdict("holds ≤ 2", "lost ≤ 2", **known) == "cannot be tested"
    assert verdict("fails ≤ 2", "lost ≤ 2", **known) == "cannot be tested"
    assert verdict("holds ≤ 2", "lost", **known) == "reproduced"
    assert verdict() == "cannot be tested"


# ---- evidence ------------------------------------------------------------------------


def test_what_is_no_evidence(tmp_path):
    write(tmp_path, "fig1", {"a": [1.0]}, {"quick": True})
    write(tmp_path, "fig3", {"a": [1.0]}, data={"patches": {"stand-in": True}})
    (tmp_path / "fig2.json").write_text('{"settings": ')
    (tmp_path / "cost.json").write_text("[]")
    write(tmp_path, "table1", {"a": [1.0, 2.0]})
    evidence = sources.Evidence(tmp_path)
    assert evidence.metric("table1", "a") == [1.0, 2.0]
    for name, reason in {
        "fig1": "quick",
        "fig3": "stand-in",
        "fig2": "not a result",
        "cost": "not a result",
        "sampling": "missing",
    }.items():
        with pytest.raises(sources.Missing, match=reason):
            evidence.metric(name, "a")
        with pytest.raises(sources.Missing, match=reason):
            evidence.values(f"{name} a or never")
    for source, reason in {
        "table1 b": "no b",
        "rise fig1 curve": "quick",
        "rise table1 curve": "table1.h5",
    }.items():
        with pytest.raises(sources.Missing, match=reason):
            evidence.values(source)


def test_the_words_of_a_source(tmp_path):
    metrics = {"a": [2.0, 6.0], "b/x y": [1.0, 2.0], "c": [1.0, 4.0, 9.0]}
    write(tmp_path, "fig1", metrics | {"d": [-3.0, 2.0], "zero": [0.0, 0.0]})
    write(tmp_path, "fig2", {"a": [5.0]}, {"seeds": [0]})
    with h5py.File(tmp_path / "fig1.h5", "w") as file:
        file["loss"] = [5.0, 3.0, 4.0, 1.0]
    of = sources.Evidence(tmp_path).values
    assert of("fig1 a over fig1 b/x y") == [2.0, 3.0]  # the same seeds
    assert of("fig1 a over fig1 c") == [0.5, 1.5]  # others: their median
    assert of("fig1 b/x y less fig1 a") == [-1.0, -4.0]
    assert of("fig1 a over 0.5") == [4.0, 12.0]
    assert of("|fig1 d|") == [3.0, 2.0]
    assert of("least fig1 {a,d}") == [-3.0, 2.0] and of("least fig1 {a,d}").note == "d"
    assert of("greatest |fig1 {a,d}| over fig1 b/x y") == [2.0, 3.0]
    assert of("greatest |fig1 {a,d}| over fig1 b/x y").note == "a"
    assert of("rise fig1 loss") == [0.25]  # of 4: from 3 to 4
    assert of("fig1 e or never") == [math.inf] and of("fig1 a or never") == [2.0, 6.0]
    assert of("identity shrinkage(2)") == identities.shrinkage(2)
    assert of("fig2 a").note == "one seed" and of("fig1 a").note == ""
    assert of("fig1 a over fig2 a").note == "one seed"


@pytest.mark.parametrize("limit", ("≤ 1", "≥ 1", "< 1", "> 1"))
def test_a_quotient_by_zero_keeps_no_limit(limit, tmp_path):
    write(tmp_path, "fig1", {"a": [1.0], "zero": [0.0]})
    condition = claims.Condition("m", "fig1 a over fig1 zero", limit)
    claim = claims.Claim("sentence", conditions=[condition])
    assert claims.judge(claim, sources.Evidence(tmp_path))[0] == "not reproduced"


# ---- the table of claims -------------------------------------------------------------


class Everything(sources.Evidence):
    """Has every number, and notes which were asked for."""

    def __init__(self):
        self.records = {n: {"settings": {}} for n in provenance.COMMANDS}
        self.refused, self.asked = {}, set()

    def metric(self, name, metric):
        self.asked.add((name, metric))
        return sources.Values([1.0])

    def array(self, name, path):
        self.asked.add((name + ".h5", path))
        return [1.0, 0.5]


@pytest.fixture
def quick_identities(monkeypatch):
    """Without the choices of sigma, which take seconds."""
    cached = identities.doublings, identities.entropy_order
    monkeypatch.setattr(identities, "best_sigma", lambda draw, n, seed=0: 1 / n)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def test_every_claim_can_be_judged(quick_identities):
    evidence, read = Everything(), claims.read()
    assert len(read) == 54
    for claim in read:
        _, findings = claims.judge(claim, evidence)
        assert not any(f.missing for f in findings)
        assert all(len(f.values) for f in findings)
        assert bool(findings) != bool(claim.untestable)
        assert claim.why or claim.untestable
        assert any(f.condition.limit for f in findings) or claim.untestable
        assert len(findings) <= 26  # letters
        assert len({(c.measure, c.source) for c in claim.conditions}) == len(findings)


def test_conditions_are_read_as_they_are_written(tmp_path):
    text = """
# Head: `{D}` is explained here
## Section
### It falls?
Place: Sec. 4
Paper: 0.14
Why: it must
- |a|, in words: `fig1 {D}/x over fig1 y` ≤ 2 nats on rings, spiral
- shown: `fig1 {D}/z`
- one: `|identity lyu()|` from 1 to 2
### Nobody knows
Untestable: no measure
"""
    path = tmp_path / "claims.md"
    path.write_text(text, encoding="utf-8")
    first, second = claims.read(path)
    assert first.question and not second.question
    assert (first.place, first.paper, first.why) == ("Sec. 4", "0.14", "it must")
    assert [(c.measure, c.source, c.limit) for c in first.conditions] == [
        ("|a|, in words, rings", "fig1 rings/x over fig1 y", "≤ 2 nats"),
        ("the same, spiral", "fig1 spiral/x over fig1 y", "≤ 2 nats"),
        ("shown, mixture", "fig1 mixture/z", ""),
        ("the same, spiral", "fig1 spiral/z", ""),
        ("one", "|identity lyu()|", "from 1 to 2"),
    ]
    assert second.untestable == "no measure" and not second.conditions
    path.write_text(text + "- no source ≤ 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not a part of a claim: - no source"):
        claims.read(path)


def test_every_metric_asked_for_is_in_the_committed_results(quick_identities):
    evidence = Everything()
    for claim in claims.read():
        claims.judge(claim, evidence)
    committed = sources.Evidence(FIGURES)
    optional = ("evaluations",)  # of chains that arrive
    for name, metric in sorted(evidence.asked):
        if name in committed.records and not any(o in metric for o in optional):
            assert committed.metric(name, metric)


def test_every_place_is_in_the_paper():
    letters = {"1": "abcdefghij", "2": "abc", "3": "abc"}
    sections = ("Abstract", *(f"Sec. {k}" for k in range(1, 6)))
    read = claims.read()
    for claim in read:
        assert re.split("[;,]", claim.place)[0] in sections, claim.place
        for part in re.split("[;,] ", claim.place):
            if equations := re.fullmatch(r"Eqs?\. (\d+)(?:-(\d+))?", part):
                assert all(1 <= int(k) <= 27 for k in equations.groups() if k)
            elif figure := re.fullmatch(r"Fig\. (\d)((?:\([a-j]\))*)", part):
                assert set(figure[2]) <= {*letters[figure[1]], "(", ")"}
            else:
                assert part in sections, part
    assert len({claim.sentence for claim in read}) == len(read)


def test_every_command_runs_a_script_that_is_there():
    for name, words in provenance.COMMANDS.items():
        script = words.split()[1]
        assert name.startswith(pathlib.Path(script).stem)
        assert (ROOT / script).exists()


# ---- the identities, against closed forms that the module does not use ----------------


def test_identities_hold():
    assert np.abs(identities.integration_by_parts()).max() < 1e-9
    assert max(identities.lyu()) < 1e-6
    assert max(identities.posterior_mean()) < 1e-9
    for kernel in identities.KERNELS:
        assert identities.objectives_apart(kernel)[0] < 1e-5
    # The score moves by sigma^2 / 2 times a fixed field: the squared error as sigma^4.
    fine, coarse = (identities.reconstruction(s)[0] for s in (0.01, 0.02))
    assert coarse / fine == pytest.approx(16, rel=0.02)
    assert fine < 1e-5
    # E = k x^2 / 2: noise of variance s^2 adds k^2 s^2 to (k x)^2 - 2 k.
    assert identities.power_of_curvature()[0] == pytest.approx(2)


def test_identities_notice_errors(monkeypatch):
    from deen_tf.laws.mixtures import GaussianMixture
    from deen_tf.laws.parzen import Parzen

    score, parzen = GaussianMixture.score, Parzen.score
    monkeypatch.setattr(Parzen, "score", lambda self, x: 1.01 * parzen(self, x))
    assert identities.objectives_apart("Gaussian")[0] > 1e-3
    for wrong in (-1, 1.01):
        with monkeypatch.context() as patch:
            patch.setattr(
                GaussianMixture,
                "score",
                lambda self, x, s=0.0, wrong=wrong: wrong * score(self, x, s),
            )
            assert min(identities.posterior_mean()) > 1e-6
            assert max(identities.integration_by_parts(), key=abs) != pytest.approx(
                0, abs=1e-4
            )
            if wrong > 0:  # the divergence of -p and -q is that of p and q
                assert max(identities.lyu()) > 1e-3


@pytest.mark.parametrize("step", [0.01, 0.3, 0.6])
def test_where_contrastive_divergence_stands_still(step):
    # (1 - s^2 k)^2 + 2 s^2 = 1: the variance of x^- is that of x.
    k = (1 - (1 - 2 * step**2) ** 0.5) / step**2
    assert identities.contrastive_bias(step)[0] == pytest.approx(k - 1, rel=1e-9)


def test_the_update_of_contrastive_divergence_has_a_curl():
    sigma, h = 0.5, 1e-4
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    x, nu = np.meshgrid(nodes, nodes)
    weights = np.outer(weights, weights) / (2 * np.pi)

    def update(a, b):
        negative = x - sigma**2 * (a * x + b * x**3) + 2**0.5 * sigma * nu
        return [np.sum(weights * (negative**p - x**p)) / p for p in (2, 4)]

    of_b = (update(0.5, 0.5 + h)[0] - update(0.5, 0.5 - h)[0]) / (2 * h)
    of_a = (update(0.5 + h, 0.5)[1] - update(0.5 - h, 0.5)[1]) / (2 * h)
    expected = abs(of_b - of_a) / abs(of_b + of_a)
    got = identities.contrastive_asymmetry(sigma, 0.5, 0.5)[0]
    assert got == pytest.approx(expected, rel=1e-5)
    # To leading order in sigma both are -sigma^2 E x^4: an objective in the limit.
    assert identities.contrastive_asymmetry(0.001)[0] < 1e-5


def test_the_bandwidth_falls_as_theory_has_it():
    # n^(-1 / (d + 4)): d + 4 doublings; five draws of 500 and 4000 points, to a quarter.
    assert statistics.median(identities.doublings(4)) == pytest.approx(8, rel=0.25)
    # A sigma that halves while n grows 16 times: four doublings.
    (halves,) = identities.doublings_on_mnist(100, 1600, lambda source: [2.0])
    assert halves == pytest.approx(4)


def test_bandwidths_that_are_known(quick_identities):
    # sigma = 1 / n: one doubling halves it, and eight times the points make an eighth.
    assert identities.doublings(2) == pytest.approx([1] * 5)
    assert identities.shrinkage(2) == pytest.approx([1 / 8] * 5)
    assert identities.doublings_per_dimension(2, 4) == [0]


@pytest.mark.parametrize("sign", [1, -1])
def test_order_of_entropies(sign, quick_identities, monkeypatch):
    def entropy(draw, n, seed=0):
        law = draw.__self__
        if type(law).__name__ == "Checkerboard":
            return sign * np.log(law.side**2 / 2)
        return sign * law.energy(law.sample(2000, seed=1)).mean()

    monkeypatch.setattr(identities, "best_sigma", entropy)
    # 21 pairs, one of which is so near that the two means may order it otherwise: 19/21.
    assert sign * min(identities.entropy_order(), key=abs) > 0.85


# ---- the report ----------------------------------------------------------------------

EXAMPLES = """
### p | q
Place: Sec. 4
Paper: 0.14
Why: why
- KL(p || q): `fig1 a` ≤ 2 nats
- beside: `fig1 a`
### slow
Place: Sec. 5
Why: x
- ms: `cost a` < 1
### vague
Place: Sec. 2
Untestable: no measure
### good?
Place: Sec. 5
Why: x
- m: `0` < 1
"""


@pytest.fixture
def examples(tmp_path, monkeypatch):
    path = tmp_path / "examples.md"
    path.write_text(EXAMPLES, encoding="utf-8")
    read = claims.read
    monkeypatch.setattr(claims, "read", lambda: read(path))


def cells(row):
    return [c.strip() for c in re.split(r"(?<!\\)\|", row)[1:-1]]


def main(*arguments):
    paper = {"paper": {}}
    compare.main(command.options("", list(map(str, arguments)), **paper))


def test_the_report(tmp_path, capsys, examples):
    write(tmp_path, "fig1", {"a": [1.0, 2.0, 3.0]}, {"seeds": [0, 1, 2]})
    write(tmp_path, "fig2", {"a": [1.0]}, {"quick": True})
    main("--out", tmp_path)
    text = (tmp_path / "REPORT.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert (
        "Of 3 claims, with their rows: 0 reproduced; 1 in part (1); 0 not reproduced; "
        "2 cannot be tested (2, 3). Of 1 open questions: 1 yes (4); 0 in part; 0 no; "
        "0 cannot be answered. Rows that lack a result: 1 (see Evidence)." in text
    )
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)[:2]  # then findings.md
    for table in found:
        assert len({len(cells(row)) for row in table.splitlines()}) == 1
    evidence, table = ([cells(r) for r in t.splitlines()] for t in found)
    assert [len(evidence), len(table)] == [len(provenance.COMMANDS) + 2, 4 + 2]
    states = {row[0]: row[1:] for row in evidence[2:]}
    assert states["fig1.json"][0] == "used, 3 seeds"
    assert "quick" in states["fig2.json"][0]
    whole = f"`{provenance.COMMANDS['cost']}`"
    assert states["cost.json"] == ["**missing**", "–", whole]
    first, second, third, fourth = table[2:]
    assert first[1] == r"p \| q (Sec. 4)"
    assert first[2] == r"(a) KL(p \|\| q) ≤ 2 nats<br>(b) beside ·"
    assert first[3:] == [
        "0.14",
        "(a) ~ 2 (1 – 3; 3), 2 of 3 keep it<br>(b) · 2 (1 – 3; 3)",
        "**in part**",
    ]
    assert second[4:] == ["? cost.json: missing", "**cannot be tested**"]
    assert third[4:] == ["no measure", "**cannot be tested**"]
    assert fourth[4:] == ["✓ 0", "**yes**"]
    assert "- 1: why" in text


def test_a_criterion_that_rests_on_one_seed_says_so(tmp_path, examples):
    write(tmp_path, "fig1", {"a": [1.0]}, {"seeds": [0]})
    main("--out", tmp_path)
    assert "(a) ✓ 1, one seed<br>" in (tmp_path / "REPORT.md").read_text()


def test_an_empty_folder(tmp_path, quick_identities):
    main("--out", tmp_path / "new")
    text = (tmp_path / "new" / "REPORT.md").read_text()
    assert text.count("**missing**") == len(provenance.COMMANDS)
    assert text.count("\n| ") > 47


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0"),
        (0.0033412, "0.00334"),
        (-0.5, "-0.5"),
        (1414.2, "1.41e+03"),
        (6.9e-8, "6.9e-08"),
        (float("nan"), "nan"),
    ],
)
def test_numbers(value, text):
    assert compare.number(value) == text


# ---- what is committed is what the code says of the committed results -----------------


def comparable(text):
    """The text with rounding errors (below 1e-6, of the identities) as one word."""
    return re.sub(
        r"(?<![\d.])\d(\.\d+)?e-(0[7-9]|[1-9]\d)\b|(?<=✓ )0(?= \(0)", "tiny", text
    )


def test_the_committed_report_is_not_stale():
    committed = (FIGURES / "REPORT.md").read_text(encoding="utf-8")
    now = compare.report(sources.Evidence(FIGURES))
    stale = "python reproduce/compare.py --out figures"
    assert comparable(committed) == comparable(now), stale


def test_the_readmes_tables_are_not_stale():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall("<!-- table: (.*) -->", text) == ["results"]
    stale = "python reproduce/tables.py --out figures"
    assert text == tables.filled(text, FIGURES), stale


def test_a_table_is_made_anew_between_its_markers(tmp_path):
    record = json.loads((FIGURES / "fig1.json").read_text())
    values = [0.25, 0.5, 0.75]
    record["metrics"]["mixture/deen/grid_kl"]["values"] = values
    (tmp_path / "fig1.json").write_text(json.dumps(record))
    text = "before\n<!-- table: fig1 -->\nold\n<!-- end -->\nafter\n"
    filled = tables.filled(text, tmp_path)
    assert filled.startswith("before\n<!-- table: fig1 -->\n") and "old" not in filled
    assert filled.endswith("<!-- end -->\nafter\n")
    row = next(r for r in filled.splitlines() if r.startswith("| mixture, DEEN | 1000"))
    assert cells(row)[3] == "0.5 (0.25 – 0.75)"
    assert tables.filled(filled, tmp_path) == filled


# ---- the paper's figures beside ours -------------------------------------------------


def picture(path, size, color, mode="RGB"):
    Image.new(mode, size, color).save(path)


@pytest.mark.parametrize(
    "paper, ours, stacked",
    [
        ((300, 200), (900, 600), False),
        ((1200, 300), (800, 200), True),
        ((37, 201), (900, 600), False),
    ],
)
def test_crops_are_laid_beside_ours(paper, ours, stacked, tmp_path, capsys, examples):
    crops = tmp_path / "crops"
    crops.mkdir()
    picture(crops / "fig1.png", paper, "red")
    picture(tmp_path / "fig1.png", ours, "blue")
    picture(crops / "fig2.png", paper, "red")
    main("--out", tmp_path, "--paper", crops)
    out = capsys.readouterr().out
    assert "fig1: " in out and "compare-fig1.png" in out
    assert provenance.COMMANDS["fig2"] in out  # ours is missing
    assert "fig3: no crop" in out
    assert not (tmp_path / "compare-fig2.png").exists()
    pixels = matplotlib.image.imread(tmp_path / "compare-fig1.png")[..., :3]
    red, blue = (np.argwhere((pixels == c).all(2)) for c in ((1, 0, 0), (0, 0, 1)))
    red_size, blue_size = (np.ptp(p, axis=0) + 1 for p in (red, blue))
    along = 1 if stacked else 0
    # Scaled alike, to a few pixels of some hundred.
    assert red_size[along] == pytest.approx(blue_size[along], abs=6)
    assert red_size[1] / red_size[0] == pytest.approx(paper[0] / paper[1], rel=0.05)
    assert red[:, 1 - along].max() < blue[:, 1 - along].min()  # the paper's first
    above = pixels[: red[:, 0].min() - 1, : red[:, 1].max()]
    assert (above == 0).all(2).any()  # black letters above it


def test_no_crops_and_broken_crops(tmp_path, examples):
    arguments = ["--out", tmp_path, "--paper", tmp_path / "crops"]
    with pytest.raises(
        FileNotFoundError, match=r"no fig1\.png, fig2\.png or fig3\.png"
    ):
        main(*arguments)
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "fig1.png").write_text("no picture")
    picture(tmp_path / "fig1.png", (10, 10), "blue")
    with pytest.raises(OSError, match="cannot identify image file"):
        main(*arguments)
    assert not (tmp_path / "compare-fig1.png").exists()

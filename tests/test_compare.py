"""The verdicts: how claims are judged, what counts as evidence, and the report."""

import json
import pathlib
import re
import statistics
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "reproduce"))
try:
    import claims
    import compare
    from claims import evidence as sources
    from claims import identities
    from claims.records import (
        Claim,
        Condition,
        Limit,
        above,
        at_least,
        at_most,
        below,
        between,
        judge,
    )
finally:
    sys.path.pop(0)


def write(folder, name, metrics, settings=None, **more):
    record = {
        "settings": {"quick": False, "seeds": [0]} | (settings or {}),
        "data": {},
        "metrics": {k: {"values": v} for k, v in metrics.items()},
    }
    (folder / f"{name}.json").write_text(json.dumps(record | more))


def values(*numbers):
    return lambda evidence: list(numbers)


def lost(evidence):
    raise sources.Missing("cost.json: missing")


def verdict(*conditions, **more):
    return judge(Claim("sentence", "Sec. 4", conditions, **more), None)[0]


# ---- judging -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limit, kept, broken",
    [
        (at_most(0.02), [0.02, 0.0199, -1], [0.0201, 1e9]),
        (at_least(0.1), [0.1, 5], [0.0999, -5]),
        (below(1), [0.999], [1, 1.001]),
        (above(0), [1e-9], [0, -1]),
        (between(0.135, 0.145), [0.135, 0.14, 0.145], [0.1349, 0.1451]),
    ],
)
def test_limits_at_and_across(limit, kept, broken):
    for value in kept:
        assert verdict(Condition("m", values(value), limit)) == "reproduced"
    for value in [*broken, float("nan")]:
        assert verdict(Condition("m", values(value), limit)) == "not reproduced"


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
    seeds = [1.0] * kept + [3.0] * (of - kept)
    assert verdict(Condition("m", values(*seeds), at_most(2))) == expected


def test_several_conditions():
    holds = Condition("m", values(1.0), at_most(2))
    partly = Condition("m", values(1.0, 3.0), at_most(2))
    fails = Condition("m", values(3.0), at_most(2))
    beside = Condition("m", values(99.0))
    assert verdict(holds, holds, beside) == "reproduced"
    assert verdict(fails, fails, beside) == "not reproduced"
    assert verdict(holds, fails) == verdict(fails, partly) == "in part"
    assert verdict(holds, question=True) == "yes"
    assert verdict(fails, question=True) == "no"


def test_a_missing_number_is_no_failure():
    holds = Condition("m", values(1.0), at_most(2))
    fails = Condition("m", values(3.0), at_most(2))
    assert verdict(holds, Condition("m", lost, at_most(2))) == "cannot be tested"
    assert verdict(fails, Condition("m", lost, at_most(2))) == "cannot be tested"
    assert verdict(holds, Condition("m", lost)) == "reproduced"
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
    with pytest.raises(sources.Missing, match="no b"):
        evidence.metric("table1", "b")
    with pytest.raises(sources.Missing, match="quick"):
        evidence.array("fig1", "curve")
    with pytest.raises(sources.Missing, match="table1.h5"):
        evidence.array("table1", "curve")


def test_sources(tmp_path):
    write(tmp_path, "fig1", {"a": [2.0, 6.0], "b": [1.0, 2.0], "c": [1.0, 4.0, 9.0]})
    with h5py.File(tmp_path / "fig1.h5", "w") as file:
        file["loss"] = [5.0, 3.0, 4.0, 1.0]
    evidence = sources.Evidence(tmp_path)
    a, b, c = (sources.of("fig1", name) for name in "abc")
    assert sources.over(a, b)(evidence) == [2.0, 3.0]  # the same seeds
    assert sources.over(a, c)(evidence) == [0.5, 1.5]  # others: their median
    assert sources.less(b, a)(evidence) == [-1.0, -4.0]
    assert sources.size(sources.less(b, a))(evidence) == [1.0, 4.0]
    assert sources.pick(min, {"first": a, "second": b})(evidence) == [1.0, 2.0]
    assert sources.pick(max, {"first": a, "second": b})(evidence).note == "first"
    assert sources.rise("fig1", "loss")(evidence) == [0.25]  # of 4: from 3 to 4
    total = sources.computed(lambda pair, x: pair[0] + sum(pair[1]) + x, (1, a), 10)
    assert total(evidence) == 19


def test_a_quotient_by_zero_keeps_no_limit():
    over = sources.over(values(1.0), values(0.0))
    for limit in (at_most(1), at_least(1), below(1), above(1)):
        assert verdict(Condition("m", over, limit)) == "not reproduced"


# ---- the table of claims -------------------------------------------------------------


class Everything(sources.Evidence):
    """Has every number, and notes which were asked for."""

    def __init__(self):
        self.records = {name: {"settings": {}} for name in sources.COMMANDS}
        self.refused, self.asked = {}, set()

    def metric(self, name, metric):
        self.asked.add((name, metric))
        return [1.0]

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
    evidence = Everything()
    for claim in claims.CLAIMS:
        _, findings = judge(claim, evidence)
        assert not any(f.missing for f in findings)
        assert all(len(f.values) for f in findings)
        assert bool(findings) != bool(claim.untestable)
        assert claim.because or claim.untestable
        assert any(f.condition.limit for f in findings) or claim.untestable
        assert len(findings) <= 26  # letters


def test_every_metric_asked_for_is_in_the_committed_results(quick_identities):
    evidence = Everything()
    for claim in claims.CLAIMS:
        judge(claim, evidence)
    committed = sources.Evidence(ROOT / "figures")
    optional = ("evaluations",)  # of chains that arrive
    for name, metric in sorted(evidence.asked):
        if name in committed.records and not any(o in metric for o in optional):
            assert committed.metric(name, metric)


def test_every_place_is_in_the_paper():
    letters = {"1": "abcdefghij", "2": "abc", "3": "abc"}
    for claim in claims.CLAIMS:
        assert re.split("[;,]", claim.place)[0] in claims.SECTIONS, claim.place
        for part in re.split("[;,] ", claim.place):
            if equations := re.fullmatch(r"Eqs?\. (\d+)(?:-(\d+))?", part):
                assert all(1 <= int(k) <= 27 for k in equations.groups() if k)
            elif figure := re.fullmatch(r"Fig\. (\d)((?:\([a-j]\))*)", part):
                assert set(figure[2]) <= {*letters[figure[1]], "(", ")"}
            else:
                assert part in claims.SECTIONS, part
    sentences = [claim.sentence for claim in claims.CLAIMS]
    assert len(set(sentences)) == len(sentences)


def test_every_command_runs_a_script_that_is_there():
    for name, command in sources.COMMANDS.items():
        script = command.split()[1]
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
    from deen_tf.laws.parzen import Parzen
    from deen_tf.laws.plane import GaussianMixture

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
    (halves,) = identities.doublings_between((100, [0.2]), (1600, [0.1]))
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

EXAMPLES = (
    Claim(
        "p | q",
        "Sec. 4",
        (
            Condition("KL(p || q)", sources.of("fig1", "a"), at_most(2, "nats")),
            Condition("beside", sources.of("fig1", "a")),
        ),
        "why",
        "0.14",
    ),
    Claim("slow", "Sec. 5", (Condition("ms", sources.of("cost", "a"), below(1)),), "x"),
    Claim("vague", "Sec. 2", untestable="no measure"),
    Claim(
        "good?", "Sec. 5", (Condition("m", values(0.0), below(1)),), "x", question=True
    ),
)


def cells(row):
    return [c.strip() for c in re.split(r"(?<!\\)\|", row)[1:-1]]


def test_the_report(tmp_path, capsys):
    write(tmp_path, "fig1", {"a": [1.0, 2.0, 3.0]}, {"seeds": [0, 1, 2]})
    write(tmp_path, "fig2", {"a": [1.0]}, {"quick": True})
    compare.main(["--out", str(tmp_path)], EXAMPLES)
    text = (tmp_path / "REPORT.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert (
        "Of 3 claims, with their rows: 0 reproduced; 1 in part (1); 0 not reproduced; "
        "2 cannot be tested (2, 3). Of 1 open questions: 1 yes (4); 0 in part; 0 no; "
        "0 cannot be answered. Rows that lack a result: 1 (see Evidence)." in text
    )
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for table in tables:
        assert len({len(cells(row)) for row in table.splitlines()}) == 1
    evidence, table = ([cells(r) for r in t.splitlines()] for t in tables)
    assert [len(evidence), len(table)] == [len(sources.COMMANDS) + 2, len(EXAMPLES) + 2]
    states = {row[0]: row[1:] for row in evidence[2:]}
    assert states["fig1.json"][0] == "used, 3 seeds"
    assert "quick" in states["fig2.json"][0]
    assert states["cost.json"] == ["**missing**", f"`{sources.COMMANDS['cost']}`"]
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


def test_an_empty_folder(tmp_path, quick_identities, capsys):
    compare.main(["--out", str(tmp_path / "new")])
    text = (tmp_path / "new" / "REPORT.md").read_text()
    assert text.count("**missing**") == len(sources.COMMANDS)
    assert text.count("\n| ") > len(claims.CLAIMS)


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


# ---- the paper's figures beside ours -------------------------------------------------


def picture(path, size, color, mode="RGB"):
    Image.new(mode, size, color).save(path)


@pytest.mark.parametrize(
    "paper, ours, stacked",
    [
        ((300, 200), (900, 600), False),
        ((1200, 300), (800, 200), True),
        ((37, 1001), (900, 600), False),
    ],
)
def test_crops_are_laid_beside_ours(paper, ours, stacked, tmp_path, capsys):
    crops = tmp_path / "crops"
    crops.mkdir()
    picture(crops / "fig1.png", paper, "red")
    picture(tmp_path / "fig1.png", ours, "blue")
    picture(crops / "fig2.png", paper, "red")
    compare.main(["--out", str(tmp_path), "--paper", str(crops)], EXAMPLES[2:3])
    out = capsys.readouterr().out
    assert "fig1: " in out and "compare-fig1.png" in out
    assert sources.COMMANDS["fig2"] in out  # ours is missing
    assert "fig3: no crop" in out
    assert not (tmp_path / "compare-fig2.png").exists()
    pixels = np.asarray(Image.open(tmp_path / "compare-fig1.png").convert("RGB"))
    red = np.argwhere((pixels == (255, 0, 0)).all(2))
    blue = np.argwhere((pixels == (0, 0, 255)).all(2))
    (red_size, blue_size) = (np.ptp(p, axis=0) + 1 for p in (red, blue))
    along = 1 if stacked else 0
    assert red_size[along] == blue_size[along]  # scaled alike
    assert np.allclose(red_size[1] / red_size[0], paper[0] / paper[1], rtol=0.03)
    assert red[:, 1 - along].max() < blue[:, 1 - along].min()  # the paper's first
    label = pixels[: compare.LABEL, : red_size[1]]
    assert (label == 0).all(2).any()  # black letters above it


def test_transparent_crops_lie_on_white(tmp_path):
    picture(tmp_path / "a.png", (10, 10), (0, 0, 0, 0), "RGBA")
    assert compare.on_white(tmp_path / "a.png").getpixel((5, 5)) == (255, 255, 255)


def test_no_crops_and_broken_crops(tmp_path):
    arguments = ["--out", str(tmp_path), "--paper", str(tmp_path / "crops")]
    with pytest.raises(
        FileNotFoundError, match=r"no fig1\.png, fig2\.png or fig3\.png"
    ):
        compare.main(arguments, ())
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "fig1.png").write_text("no picture")
    picture(tmp_path / "fig1.png", (10, 10), "blue")
    with pytest.raises(OSError, match="cannot identify image file"):
        compare.main(arguments, ())
    assert not (tmp_path / "compare-fig1.png").exists()


def test_limit_words():
    assert isinstance(at_most(1), Limit)
    assert at_most(0.02, "nats").text == "≤ 0.02 nats"
    assert between(0.135, 0.145).text == "from 0.135 to 0.145"

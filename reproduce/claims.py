"""`claims.md`, read; and how a claim is judged (the rules stand at its head)."""

import dataclasses
import operator
import pathlib
import re

from evidence import Missing

CLAIMS = pathlib.Path(__file__).with_name("claims.md")
VERDICTS = ("reproduced", "in part", "not reproduced", "cannot be tested")
ANSWERS = ("yes", "in part", "no", "cannot be answered")  # to a question, in that order
KEEPS = {"≤": operator.le, "≥": operator.ge, "<": operator.lt, ">": operator.gt}
CONDITION = re.compile(r"- (.*): `(.*)`(?: ((?:[≤≥<>]|from) .*?))?(?: on (.*))?")


@dataclasses.dataclass(frozen=True)
class Condition:
    """A measure, the source of its values (see `evidence`), and the limit they keep."""

    measure: str
    source: str
    limit: str = ""

    def keeps(self, value):
        """Whether the value keeps the limit: "≤ 0.02 nats", "from 0.99 to 1.01"."""
        words = self.limit.split()
        if words[0] == "from":
            return float(words[1]) <= value <= float(words[3])
        return KEEPS[words[0]](value, float(words[1]))


@dataclasses.dataclass
class Claim:
    """A sentence of the paper in short, and what judges it; a question is answered.

    `paper` is the paper's value, where it gives one; `untestable` says why there are no
    conditions.
    """

    sentence: str
    place: str = ""
    conditions: list[Condition] = dataclasses.field(default_factory=list)
    why: str = ""
    paper: str = ""
    untestable: str = ""

    @property
    def question(self):
        return self.sentence.endswith("?")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What became of one condition: its values, or why there are none."""

    condition: Condition
    values: list
    missing: str = ""

    @property
    def kept(self):
        """How many of the values keep the limit."""
        return sum(map(self.condition.keeps, self.values))

    @property
    def share(self):
        return self.kept / len(self.values)


def read(path=CLAIMS):
    """Return the claims of a file such as claims.md, in its order.

    Raises
    ------
    ValueError
        At a line that is none of a claim's parts.
    """
    claims = []
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith("### "):
            claims.append(Claim(line.removeprefix("### ")))
        elif not claims or not line.strip() or line.startswith("## "):
            continue
        elif found := CONDITION.fullmatch(line):
            measure, source, limit, sets = found.groups()
            sets = sets or ("mixture, spiral" if "{D}" in source else "")
            for D in sets.split(", "):
                name = f"{measure}, {D}" if D else measure
                condition = Condition(name, source.replace("{D}", D), limit or "")
                claims[-1].conditions.append(condition)
                measure = "the same"
        elif found := re.fullmatch(r"(Place|Why|Paper|Untestable): (.*)", line):
            setattr(claims[-1], found[1].lower(), found[2])
        else:
            raise ValueError(f"{path}: not a part of a claim: {line}")
    return claims


def judge(claim, evidence):
    """Return the verdict on a claim, one of `VERDICTS` or `ANSWERS`, and its findings."""
    findings = []
    for condition in claim.conditions:
        try:
            findings.append(Finding(condition, evidence.values(condition.source)))
        except Missing as reason:
            findings.append(Finding(condition, [], str(reason)))
    deciding = [f for f in findings if f.condition.limit]
    if not deciding or any(f.missing for f in deciding):
        place = 3
    elif all(f.share == 1 for f in deciding):
        place = 0
    elif all(f.share < 0.5 for f in deciding):
        place = 2
    else:
        place = 1
    return (ANSWERS if claim.question else VERDICTS)[place], findings

"""What a claim is, and how it is judged.

A `Claim` is a sentence of the paper, its place, and conditions; a `Condition` is a measure,
the source of its values, and the limit that they have to keep. To change a criterion,
change its limit; to see why it stands where it does, read `because`. Limits come from the
sentence and from what the measure means, not from what was measured.

A condition HOLDS if the value of every seed keeps the limit, holds IN PART if at least half
of them do, and FAILS otherwise. A claim is reproduced if all its conditions hold, not
reproduced if all fail, reproduced in part in every other case. A condition without a limit
is shown and decides nothing. A missing number makes a claim untestable, never false.
"""

from collections.abc import Callable
from dataclasses import dataclass

from claims.evidence import Missing

VERDICTS = ("reproduced", "in part", "not reproduced", "cannot be tested")
ANSWERS = ("yes", "in part", "no", "cannot be answered")  # to a question, in that order


@dataclass(frozen=True)
class Limit:
    """What a value has to keep: in words, and as a test."""

    text: str
    keeps: Callable[[float], bool]


def at_most(limit, unit=""):
    return Limit(f"≤ {limit:g} {unit}".strip(), lambda value: value <= limit)


def at_least(limit, unit=""):
    return Limit(f"≥ {limit:g} {unit}".strip(), lambda value: value >= limit)


def below(limit, unit=""):
    return Limit(f"< {limit:g} {unit}".strip(), lambda value: value < limit)


def above(limit, unit=""):
    return Limit(f"> {limit:g} {unit}".strip(), lambda value: value > limit)


def between(low, high, unit=""):
    return Limit(
        f"from {low:g} to {high:g} {unit}".strip(), lambda value: low <= value <= high
    )


@dataclass(frozen=True)
class Condition:
    """A measure, the source of its values (see `evidence`), and their limit."""

    measure: str
    values: Callable
    limit: Limit | None = None


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper in short, and what judges it.

    `paper` is the paper's value, where it gives one; `untestable` says why there are no
    conditions; a `question` is one that the paper leaves open: it is answered, not judged.
    """

    sentence: str
    place: str
    conditions: tuple[Condition, ...] = ()
    because: str = ""
    paper: str = ""
    untestable: str = ""
    question: bool = False


def on(sets, measure, source, limit=None):
    """The same condition on several data sets: `source(D)` for each set D."""
    names = [measure, *["the same"] * (len(sets) - 1)]
    return tuple(
        Condition(f"{name}, {D}", source(D), limit)
        for name, D in zip(names, sets, strict=True)
    )


@dataclass(frozen=True)
class Finding:
    """What became of one condition: its values, or why there are none."""

    condition: Condition
    values: list
    missing: str = ""

    @property
    def kept(self):
        """How many of the values keep the limit."""
        return sum(map(self.condition.limit.keeps, self.values))

    @property
    def share(self):
        return self.kept / len(self.values)


def judge(claim, evidence):
    """Return the verdict on a claim, one of `VERDICTS` or `ANSWERS`, and its findings."""
    findings = []
    for condition in claim.conditions:
        try:
            findings.append(Finding(condition, condition.values(evidence)))
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

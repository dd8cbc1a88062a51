"""Where the numbers of `claims.md` come from: <out>/*.json and *.h5, and the identities.

A source is a text that stands for a list of values, one for each seed:

    fig1 mixture/deen/grid_kl      that metric of fig1.json
    A or never                     infinite where a run did not come to record it
    rise fig1 curves/a/losses      of a loss curve in fig1.h5: the largest rise above the
                                   lowest so far, over the whole fall
    identity lyu(0.1)              a function of `identities`
    0.308                          a number
    |A|                            without its sign
    least A, greatest A            A has alternatives, {x,y,z}: of these the one with the
                                   least (greatest) median
    A over B, A less B             seed by seed; where B has other seeds, its median
"""

import ast
import json
import math
import operator
import os
import re
import statistics

from provenance import COMMANDS


class Missing(Exception):
    """There is no such number, and why."""


class Values(list):
    """Values, and a note on which they are."""

    def __init__(self, values, note=""):
        super().__init__(values)
        self.note = note


class Evidence:
    """The results in one folder; what cannot serve as evidence is refused.

    Parameters
    ----------
    folder : str
        Of the scripts' outputs.

    Attributes
    ----------
    records : dict
        The usable <name>.json.
    refused : dict
        For every other name, why not.
    """

    def __init__(self, folder):
        self.folder = folder
        self.records, self.refused = {}, {}
        for name in COMMANDS:
            try:
                self.records[name] = self._load(name)
            except Missing as reason:
                self.refused[name] = str(reason)

    def _load(self, name):
        try:
            with open(os.path.join(self.folder, f"{name}.json")) as stream:
                record = json.load(stream)
            quick, metrics = record["settings"].get("quick"), record["metrics"]
            data = record.get("data", {}).values()
            stand_in = any(isinstance(d, dict) and d.get("stand-in") for d in data)
        except FileNotFoundError:
            raise Missing("missing") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Missing("not a result of its script") from None
        if not isinstance(metrics, dict):
            raise Missing("not a result of its script")
        if quick:
            raise Missing("a quick run: no evidence")
        if stand_in:
            raise Missing("made on stand-in data: no evidence")
        return record

    def seeds(self, name):
        return len(self.records[name]["settings"].get("seeds", [])) or 1

    def metric(self, name, metric):
        """Return the values of a metric, one for each seed."""
        self._refuse(name)
        try:
            values = [float(v) for v in self.records[name]["metrics"][metric]["values"]]
        except (KeyError, TypeError, ValueError):
            values = []
        if not values:
            raise Missing(f"{name}.json: no {metric}")
        return Values(values, "one seed" if self.seeds(name) == 1 else "")

    def array(self, name, path):
        """Return an array of <name>.h5."""
        import h5py

        self._refuse(name)
        try:
            with h5py.File(os.path.join(self.folder, f"{name}.h5")) as file:
                return file[path][()]
        except OSError:
            raise Missing(f"{name}.h5: missing") from None
        except KeyError:
            raise Missing(f"{name}.h5: no {path}") from None

    def _refuse(self, name):
        if name in self.refused:
            raise Missing(f"{name}.json: {self.refused[name]}")

    def values(self, source):
        """Return the values of a source, in the words above.

        Raises
        ------
        Missing
            If a number is not there.
        """
        for word, operation in ((" over ", _quotient), (" less ", operator.sub)):
            left, found, right = source.partition(word)
            if found:
                return _paired(operation, self.values(left), self.values(right))
        first, _, rest = source.partition(" ")
        if first in ("least", "greatest"):
            return self._extreme(min if first == "least" else max, rest)
        if source.startswith("|"):
            values = self.values(source.strip("|"))
            return Values(map(abs, values), values.note)
        if first == "rise":
            return _rise(self.array(*rest.split(" ", 1)))
        if first == "identity":
            return self._identity(*re.fullmatch(r"(\w+)\((.*)\)", rest).groups())
        if not rest:
            return Values([float(source)])
        metric = rest.removesuffix(" or never")
        try:
            return self.metric(first, metric)
        except Missing:
            if metric == rest or first in self.refused:
                raise
            return Values([math.inf])

    def _extreme(self, choose, source):
        before, alternatives, after = re.fullmatch(r"(.*)\{(.*)\}(.*)", source).groups()
        found = {x: self.values(before + x + after) for x in alternatives.split(",")}
        name = choose(found, key=lambda x: statistics.median(found[x]))
        notes = filter(None, (name, found[name].note))
        return Values(found[name], ", ".join(notes))

    def _identity(self, name, arguments):
        import identities

        function = getattr(identities, name)
        arguments = ast.literal_eval(f"({arguments},)") if arguments else ()
        if name == "doublings_on_mnist":  # the one that needs measured numbers
            arguments += (self.values,)
        return Values(function(*arguments))


def _quotient(a, b):
    return a / b if b else math.nan


def _paired(operation, a, b):
    note = ", ".join(dict.fromkeys(filter(None, (a.note, b.note))))
    if len(a) != len(b):  # other seeds: the median stands for all of b
        b = [statistics.median(b)] * len(a)
    return Values(map(operation, a, b), note)


def _rise(loss):
    lowest, rise = loss[0], 0.0
    for value in loss:
        lowest = min(lowest, value)
        rise = max(rise, value - lowest)
    return Values([rise / (loss[0] - lowest) if loss[0] > lowest else math.inf])

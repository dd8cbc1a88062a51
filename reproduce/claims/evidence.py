"""Where the numbers of the claims come from: figures/*.json and *.h5, and the identities.

A source is a function of the `Evidence` that returns a value for each seed. Sources are
built from `of`, `computed` and `rise`, and combined by `over`, `less`, `size` and `pick`.
"""

import json
import math
import os
import statistics

COMMANDS = {
    "fig1": "python reproduce/fig1.py --seeds 10 --long 5",
    "fig1-study": "python reproduce/fig1.py --study",
    "fig2": "python reproduce/fig2.py --data DIR",
    "fig3": "python reproduce/fig3.py --data DIR",
    "table1": "python reproduce/table1.py --seeds 10",
    "cost": "python reproduce/cost.py --seeds 7",
    "contrastive": "python reproduce/contrastive.py --seeds 3",
    "autoencoder": "python reproduce/autoencoder.py --seeds 3",
    "experts": "python reproduce/experts.py --seeds 5",
    "features": "python reproduce/features.py --data DIR",
    "sampling": "python reproduce/sampling.py --seeds 3 --data DIR",
}


class Missing(Exception):
    """There is no such number, and why."""


class Evidence:
    """The results in one folder; what cannot serve as evidence is refused.

    Parameters
    ----------
    folder : str
        Of the scripts' outputs.

    Attributes
    ----------
    records : dict
        The usable figures/<name>.json.
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
            settings, metrics = record["settings"], record["metrics"]
            quick = settings.get("quick")
            stand_ins = [
                data
                for data in record.get("data", {}).values()
                if isinstance(data, dict) and data.get("stand-in")
            ]
        except FileNotFoundError:
            raise Missing("missing") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Missing("not a result of its script") from None
        if not isinstance(metrics, dict):
            raise Missing("not a result of its script")
        if quick:
            raise Missing("a quick run: no evidence")
        if stand_ins:
            raise Missing("made on stand-in data: no evidence")
        return record

    def metric(self, name, metric):
        """Return the values of a metric, one for each seed."""
        if name in self.refused:
            raise Missing(f"{name}.json: {self.refused[name]}")
        try:
            values = [float(v) for v in self.records[name]["metrics"][metric]["values"]]
        except (KeyError, TypeError, ValueError):
            values = []
        if not values:
            raise Missing(f"{name}.json: no {metric}")
        return values

    def array(self, name, path):
        """Return an array of <name>.h5."""
        import h5py

        if name in self.refused:
            raise Missing(f"{name}.json: {self.refused[name]}")
        try:
            with h5py.File(os.path.join(self.folder, f"{name}.h5")) as file:
                return file[path][()]
        except OSError:
            raise Missing(f"{name}.h5: missing") from None
        except KeyError:
            raise Missing(f"{name}.h5: no {path}") from None


class Noted(list):
    """Values, and a word on which they are."""

    def __init__(self, values, note):
        super().__init__(values)
        self.note = note


def of(name, metric):
    """A metric of <name>.json."""
    return lambda evidence: evidence.metric(name, metric)


def computed(function, *arguments):
    """A number computed here; sources among the arguments are looked up first."""

    def values(evidence):
        return function(*(_looked_up(a, evidence) for a in arguments))

    return values


def _looked_up(argument, evidence):
    if isinstance(argument, tuple):
        return tuple(_looked_up(a, evidence) for a in argument)
    return argument(evidence) if callable(argument) else argument


def rise(name, path):
    """Largest rise of a loss curve of <name>.h5 above its lowest so far, over its fall."""

    def values(evidence):
        loss = evidence.array(name, path)
        lowest, highest_rise = loss[0], 0.0
        for value in loss:
            lowest = min(lowest, value)
            highest_rise = max(highest_rise, value - lowest)
        return [highest_rise / (loss[0] - lowest) if loss[0] > lowest else math.inf]

    return values


def over(a, b):
    """One source over another, seed by seed."""
    return lambda evidence: _paired(
        lambda x, y: x / y if y else math.nan, a, b, evidence
    )


def less(a, b):
    """One source less another, seed by seed."""
    return lambda evidence: _paired(lambda x, y: x - y, a, b, evidence)


def _paired(operation, a, b, evidence):
    a, b = a(evidence), b(evidence)
    note = getattr(a, "note", "") or getattr(b, "note", "")
    if len(a) != len(b):  # other seeds: the median stands for all of b
        b = [statistics.median(b)] * len(a)
    return Noted(map(operation, a, b), note)


def or_never(a, others):
    """A time of arrival that is not recorded if it never comes: infinite then.

    It is missing only if `others`, of the same run, are.
    """

    def values(evidence):
        others(evidence)
        try:
            return a(evidence)
        except Missing:
            return [math.inf]

    return values


def size(a):
    """A source without its sign."""
    return lambda evidence: Noted(map(abs, a(evidence)), "")


def pick(choose, sources):
    """Of {name: source}, that with the least (min) or greatest (max) median."""

    def values(evidence):
        found = {name: source(evidence) for name, source in sources.items()}
        name = choose(found, key=lambda name: statistics.median(found[name]))
        return Noted(found[name], name)

    return values

"""Trained energies that come with the package, a card for each.

    model = deen.DEEN.from_preset("mnist-0.3")
    deen.DEEN.presets["mnist-0.3"]

A card says of which class the model is, what its data are and under which licence, the
settings and the code that trained it, and what it reached; `python reproduce/presets.py`
makes the weights and the cards. A model answers as it is; to train it on, `compile()` it.
"""

import difflib
import json
import pathlib

import keras

FOLDER = pathlib.Path(__file__).parent


def read(folder):
    """Return the cards of a folder of presets, {name: card}."""
    return json.loads((pathlib.Path(folder) / "cards.json").read_text(encoding="utf-8"))


CARDS = read(FOLDER)


class Presets(property):
    """A property of a class: {name: card} of what its `from_preset` takes."""

    def __get__(self, model, cls):
        return {k: card for k, card in CARDS.items() if issubclass(_class(card), cls)}


def load(name, cls):
    """Return a preset that is a `cls`.

    Parameters
    ----------
    name : str
    cls : type
        A model class of the package.

    Raises
    ------
    ValueError
        If there is no such preset, or it is of another class.
    """
    if name not in CARDS:
        near = difflib.get_close_matches(str(name), CARDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if str(name).endswith(".keras"):
            hint = "; a file is read by keras.saving.load_model"
        raise ValueError(f"no preset is called {name!r}: {', '.join(CARDS)}{hint}")
    own = _class(CARDS[name])
    if not issubclass(own, cls):
        raise ValueError(  # noqa: TRY004 (of a name, not of an argument's type)
            f"the preset {name!r} is a {own.__name__}, not a {cls.__name__}: "
            f"deen_tf.{own.__name__}.from_preset({name!r})"
        )
    return keras.saving.load_model(FOLDER / f"{name}.keras", compile=False)


def _in_words(name, card):
    numbers = ", ".join(f"{k} {v:g}" for k, v in card["numbers"].items())
    return (
        f"- {name}, {card['class']} of {card['weights']:,} weights: {card['about']}. Points: "
        f"{card['points']}. Data: {card['data']} (licence: {card['licence']}). {numbers}."
    )


def _class(card):
    return keras.saving.get_registered_object(f"deen_tf>{card['class']}")


__doc__ += "\n" + "\n".join(_in_words(*item) for item in CARDS.items()) + "\n"

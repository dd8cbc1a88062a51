"""Docstrings: their examples run, what they refer to exists, the documentation builds."""

import doctest
import importlib
import inspect
import json
import pathlib
import pkgutil
import re
import subprocess
import sys

import numpy as np
import pytest

import deen_tf as deen

ROOT = pathlib.Path(__file__).parents[1]
MODULES = ["deen_tf"] + [
    m.name for m in pkgutil.walk_packages(deen.__path__, "deen_tf.")
]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def docstrings(module):
    """Yield the docstrings of a module and of what it defines."""
    stack, seen = [module], set()
    while stack:
        thing = stack.pop()
        yield inspect.getdoc(thing) or ""
        for other in vars(thing).values():
            if (
                getattr(other, "__module__", None) == module.__name__
                and id(other) not in seen
            ):
                seen.add(id(other))
                if inspect.isclass(other):
                    stack.append(other)
                elif callable(other):
                    yield inspect.getdoc(other) or ""


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    globs = {"deen": deen, "np": np} | vars(module)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs=globs):
        told = []
        result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=told.append)
        assert not result.failed, "".join(told)


def test_there_are_examples():
    find = doctest.DocTestFinder().find
    tests = [
        t for name in MODULES for t in find(importlib.import_module(name)) if t.examples
    ]
    assert len(tests) >= 15


@pytest.mark.parametrize("name", MODULES)
def test_names_of_the_package_lead_somewhere(name):
    for text in docstrings(importlib.import_module(name)):
        for reference in re.findall(r"`(deen_tf\.[\w.]+)`", text):
            thing = deen
            for part in reference.split(".")[1:]:
                try:
                    thing = getattr(thing, part)
                except AttributeError:
                    thing = importlib.import_module(f"{thing.__name__}.{part}")


@pytest.mark.slow
def test_the_documentation_builds_without_warnings(tmp_path):
    pytest.importorskip("pdoc", reason="needs pdoc: pip install -e '.[docs]'")
    done = subprocess.run(
        [sys.executable, ROOT / ".github" / "docs.py", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warn" not in done.stderr
    pages = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.html")}
    for name in set(MODULES) - {"deen_tf.moved"}:
        assert name.replace(".", "/") + ".html" in pages
    text = (tmp_path / "deen_tf" / "models" / "energy.html").read_text()
    assert "Rank bound" in text


def test_one_version_everywhere():
    version = re.search(
        r"^version = (.*)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE
    )[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[
        1
    ]
    assert first == version


def test_the_constraints_are_the_versions_of_the_committed_results():
    text = (ROOT / "reproduce" / "constraints.txt").read_text()
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))
    assert {"tensorflow", "keras", "numpy", "scipy"} <= set(pinned)
    for path in (ROOT / "figures").glob("*.json"):
        versions = json.loads(path.read_text()).get("versions") or {}
        for package, version in versions.items():
            assert version == pinned.get(package, version), path.name

"""Where a result comes from: commit, code, command, versions, device; and if it is fresh.

A script depends on the files of this repository that it imports, and that they import.
Hashes of their code, without comments and docstrings, stand in every <name>.json: a result is
fresh as long as they are the same, and the command. Where code has changed, and quick runs of
the commit that wrote the result and of the present one give the same numbers to the last bit,
that is written down as well (`all.py --verify`), and the result counts as fresh.
"""

import ast
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# These name numbers and print them, and make none: a change of theirs leaves results fresh.
PRINT = ("reproduce/provenance.py", "reproduce/tables.py")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-image", "h5py")

# The committed runs; `all.py` makes them, in this order.
COMMANDS = {
    "fig1": "python reproduce/fig1.py --variants --seeds 5 --long 2",
    "fig1-study": "python reproduce/fig1.py --study --seeds 3",
    "fig2": "python reproduce/fig2.py --seeds 3 --data DIR",
    "fig3": "python reproduce/fig3.py --seeds 3 --data DIR --photograph camera",
    "table1": "python reproduce/table1.py --seeds 3",
    "cost": "python reproduce/cost.py --seeds 7",
    "contrastive": "python reproduce/contrastive.py --seeds 3",
    "autoencoder": "python reproduce/autoencoder.py --seeds 3",
    "experts": "python reproduce/experts.py --seeds 5",
    "features": "python reproduce/features.py --seeds 3 --data DIR",
    "sampling": "python reproduce/sampling.py --seeds 3 --data DIR",
    "levels": "python reproduce/levels.py --seeds 3",
    "digits": "python reproduce/digits.py --data DIR",
    "dimensions": "python reproduce/dimensions.py",
    "photographs": "python reproduce/photographs.py --data DIR",
    "photographs_large": "python reproduce/photographs_large.py --data DIR",
    "presets": "python reproduce/presets.py --data DIR",
}


@functools.cache
def sources(*files):
    """Return the files of the repository that these import, themselves included, sorted."""
    found, queue = set(), [pathlib.Path(file).resolve() for file in files]
    while queue:
        file = queue.pop()
        if file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{name.name}" for name in node.names]
            else:
                continue
            for name in names:
                queue += modules(name)
    return sorted(found)


def modules(name):
    """Return the files that importing `name` runs: packages on the way, and the module."""
    parts = name.split(".")
    found = []
    for folder in (ROOT, ROOT / "reproduce"):
        for k in range(1, len(parts) + 1):
            path = folder.joinpath(*parts[:k])
            found += [
                f
                for f in (path.with_suffix(".py"), path / "__init__.py")
                if f.is_file()
            ]
    return found


def hashes(*files):
    """Return {path within the repository: hash of its code} of all that the files depend on."""
    return {
        file.relative_to(ROOT).as_posix(): digest(file.read_bytes())
        for file in sources(*files)
    }


@functools.cache
def digest(source):
    """Return a hash of Python code, without its comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            del node.body[0]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def versions():
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in PACKAGES
    }


def device():
    """Return the name of the GPU that TensorFlow uses, else of the processor."""
    tf = sys.modules.get("tensorflow")
    for gpu in tf.config.list_physical_devices("GPU") if tf else ():
        return tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        found = re.search(
            r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text()
        )
        name = found[1] if found else name
    return f"{name}, {os.cpu_count()} cores"


def git(*arguments):
    """Return what git says of this repository, or "unknown" where it is absent."""
    try:
        top, answer = (
            subprocess.run(
                ["git", "-C", ROOT, *words], capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (("rev-parse", "--show-toplevel"), arguments)
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer if pathlib.Path(top) == ROOT else "unknown"


def origin(script):
    """Return what a result of the script (a path) has to say of where it comes from."""
    changed = git("status", "--porcelain", "--", *sources(script))
    return {
        "commit": git("rev-parse", "HEAD"),
        "clean": changed if changed == "unknown" else not changed,
        "code": hashes(script),
        "versions": versions(),
        "device": device(),
    }


def why_stale(record, command):
    """Return why a result (of its json) has to be made anew, or "" if it is fresh.

    Parameters
    ----------
    record : dict
    command : str
        That makes it now.
    """
    if "code" not in record:
        return "it does not say which code wrote it"
    if record["command"] != command.replace(" --data DIR", ""):
        return f"made by {record['command']}"
    reason, same = changed(record["code"]), record.get("same")
    return reason and (changed(same["code"]) if same else reason)


def changed(code):
    """Return which file has no longer the code of these hashes, in words, or ""."""
    for file, known in code.items():
        path = ROOT / file
        if file in PRINT:
            continue
        if not path.is_file() or digest(path.read_bytes()) != known:
            return f"{file} has changed"
    return ""

"""Every committed result, made anew where it is not fresh, and what moved.

Runs the scripts in the order of `provenance.COMMANDS`, each as its command says. A result in
the folder that the present code and command made is left alone; an interrupted run goes on
when it is started again. Then come the verdicts (`compare.py`), and a table: which numbers
moved against the committed ones, by how much, and whether beyond the spread of seeds.

    python reproduce/all.py --list                      # what is fresh, and what is left to do
    python reproduce/all.py --data DIR                  # into out/: hours
    python reproduce/all.py --out figures --data DIR    # the committed run
    python reproduce/all.py --out figures --data DIR --verify  # after a change that moves none

--verify runs nothing but quick runs: for each result of which code of the library has changed,
of the commit that wrote it and of the present one. Where all their numbers are the same bits the
json says so, and the result counts as fresh. (A script that has changed is to be run again: its
figures are others.)
"""

from command import options
from provenance import COMMANDS, PRINT, ROOT, git, origin, why_stale

if __name__ == "__main__":
    args = options(
        __doc__,
        data={"help": "folder with MNIST and van Hateren's images"},
        only={
            "nargs": "+",
            "choices": COMMANDS,
            "metavar": "NAME",
            "default": list(COMMANDS),
            "help": f"of {', '.join(COMMANDS)}",
        },
        list={"action": "store_true", "help": "run nothing, tell what is left to do"},
        verify={
            "action": "store_true",
            "help": "see which changes of code move no number",
        },
    )

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

MOVED = 12  # numbers shown, of those that moved most
CLOCK = ("seconds", "ms", "exponent", "ratio")  # depend on the machine
OTHERS = ("bm3d", "BM3D")  # of a package that does not repeat to the last bit


def main(args):
    todo = {}
    for name in args.only:
        command = COMMANDS[name] + " --quick" * args.quick
        todo[name] = reason(os.path.join(args.out, f"{name}.json"), command)
        print(f"{name:12} {todo[name] or 'fresh'}")
    if args.list:
        return
    if args.verify:
        for name in args.only:
            if todo[name].endswith("has changed"):
                try:
                    print(f"{name:12} {verified(name, args)}", flush=True)
                except ChildProcessError as error:
                    print(f"{name:12} {error}", flush=True)
        return
    failed = [name for name in args.only if todo[name] and not made(name, args)]
    run("compare.py", "--out", args.out)
    if os.path.abspath(args.out) == str(ROOT / "figures"):
        run("tables.py", "--out", args.out)  # into the README
    print(*moved(args.only, args.out), sep="\n")
    if not failed and set(args.only) == set(COMMANDS):
        shutil.rmtree(os.path.join(args.out, "cache"), ignore_errors=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the same command goes on from there")


def reason(path, command):
    """Return why the result has to be made, or "" if it is fresh."""
    try:
        with open(path) as stream:
            return why_stale(json.load(stream), command)
    except (OSError, ValueError):
        return "missing"


def verified(name, args):
    """Compare quick runs of the commit that wrote a result and of the present one.

    Where all numbers are the same the json says so from now on. Returns the answer in words.
    """
    path = pathlib.Path(args.out, f"{name}.json")
    record = json.loads(path.read_text("utf-8"))
    script = ROOT / record["script"]
    now = origin(script)
    if not (record["clean"] is now["clean"] is True):
        return "changes that are not committed: there is no commit to compare"
    for file, known in record["code"].items():
        draws = file.startswith("reproduce/") or file.endswith("plotting.py")
        if draws and file not in PRINT and now["code"].get(file) != known:
            return f"{file} has changed: to be run again, its figures may be others"
    with tempfile.TemporaryDirectory() as folder:
        git("worktree", "add", "--detach", folder, record["commit"])
        try:
            before = quick_numbers(folder, name, args.data)
        finally:
            git("worktree", "remove", "--force", folder)
    after = quick_numbers(ROOT, name, args.data)
    moved = [m for m in before.keys() | after.keys() if before.get(m) != after.get(m)]
    if moved:
        return (
            f"{len(moved)} of {len(after)} numbers of a quick run moved: {min(moved)}"
        )
    same = {k: now[k] for k in ("commit", "code")} | {"numbers": len(after)}
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(record | {"same": same}, indent=1) + "\n", "utf-8")
    unfinished.replace(path)
    return f"fresh: the same {len(after)} numbers by a quick run"


def quick_numbers(root, name, data):
    """Return {metric: its values as text} of a quick run of the code under `root`."""
    script, *words = COMMANDS[name].replace(" --data DIR", "").split()[1:]
    words += ["--seeds", "1", "--quick", "--no-export"]
    words += ["--data", data] if "DIR" in COMMANDS[name] and data else []
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, os.path.join(root, script), *words, "--out", out]
        path = {"PYTHONPATH": str(root)}
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=os.environ | path
        )
        if done.returncode:
            *_, last = done.stderr.strip().splitlines()
            raise ChildProcessError(f"its quick run failed: {last}")
        text = pathlib.Path(out, f"{name}.json").read_text("utf-8")
    return {
        metric: str(found["values"])
        for metric, found in json.loads(text)["metrics"].items()
        if not any(c in metric for c in (*CLOCK, *OTHERS))
    }


def made(name, args):
    """Run the script of a result; return whether it ended well."""
    script, *words = COMMANDS[name].replace(" --data DIR", "").split()[1:]
    words += ["--out", args.out, "--keep"] + ["--quick"] * args.quick
    words += ["--no-export"] * args.no_export
    if "DIR" in COMMANDS[name] and args.data:
        words += ["--data", args.data]
    print(f"\n{name}: python {script} {' '.join(words)}", flush=True)
    return run(os.path.basename(script), *words) == 0


def run(script, *words):
    command = [sys.executable, ROOT / "reproduce" / script, *words]
    return subprocess.run(command, check=False).returncode


def committed(name):
    """Return the metrics of a committed result: of the last commit, else of the folder."""
    text = git("show", f"HEAD:figures/{name}.json")
    path = ROOT / "figures" / f"{name}.json"
    if text == "unknown" and path.exists():
        text = path.read_text()
    return {} if text == "unknown" else json.loads(text)["metrics"]


def moved(names, out):
    """Return the lines of the table of what moved, those that moved most first."""
    rows, lines = [], ["", "Against the committed numbers:"]
    for name in names:
        path = os.path.join(out, f"{name}.json")
        if not os.path.exists(path):
            continue
        with open(path) as stream:
            record = json.load(stream)
        if record["settings"]["quick"]:
            lines.append(f"{name:12} a quick run: nothing to compare")
            continue
        before, after = committed(name), record["metrics"]
        shared = [m for m in after if m in before and not any(c in m for c in CLOCK)]
        changes = [
            (name, m, *change(before[m]["values"], after[m]["values"])) for m in shared
        ]
        changed, beyond = ([c for c in changes if c[k]] for k in (2, 3))
        rows += beyond
        lines.append(
            f"{name:12} {len(shared)} numbers, {len(changed)} moved, {len(beyond)} beyond the "
            f"spread of seeds; {len(after) - len(shared)} new or of the clock, "
            f"{len(before.keys() - after.keys())} gone"
        )
    rows.sort(key=lambda row: -abs(row[2]))
    for name, metric, by, _, said in rows[:MOVED]:
        lines.append(f"  {name} {metric}: {said} ({by:+.0%})")
    if len(rows) > MOVED:
        lines.append(f"  and {len(rows) - MOVED} that moved less")
    return lines


def change(old, new):
    """Return by how much a number moved, if beyond both ranges of seeds, and both in words.

    Beyond: the new median is outside the old range, and the old outside the new. One seed
    has no range, and what moves is beyond it.
    """
    a, b = statistics.median(old), statistics.median(new)
    by = (b - a) / max(abs(a), 1e-300)
    inside = min(old) <= b <= max(old) or min(new) <= a <= max(new)
    return by, bool(by) and not inside, f"{a:.3g} -> {b:.3g}"


if __name__ == "__main__":
    main(args)

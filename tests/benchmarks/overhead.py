"""What training costs beside its steps: an epoch, a call, the first thousand iterations.

    python -m tests.benchmarks.overhead [--quick] [--out DIR=figures]

1. At batch 128, in two dimensions, where steps are shortest, and on digits, where data are
   wide: a step, from long epochs; an epoch of 8 steps among many, and a call that trains for
   one such epoch, beside their steps. For JAX and PyTorch a call is as many epochs as asked
   for, as in their own loops.
2. From the start of a fresh process to the end of its first 1000 iterations, whose model
   begins as a user's would: import, data to the device, compilation, steps. What was compiled
   once is kept on disk where a library does so by itself (PyTorch).

Processes take turns; medians. Writes benchmark-overhead.json and benchmark-overhead.md.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import time

from tqdm.auto import tqdm

from tests.benchmarks import report
from tests.benchmarks.interleaved import QUIET, Failure, Process, command

NETWORK, BATCH = "2-D 32-32-32", 128
COSTS = (NETWORK, "MNIST 128-128-256")
SHORT, LONG, NUMBERS = 8, 1024, 2**24  # steps of an epoch; of so many numbers at most
MANY = 128  # short epochs in a call
IMPLEMENTATIONS = {  # module of tests.benchmarks.steps -> title, library
    "deen_fit": ("deen_tf fit", "tensorflow"),
    "jax_scan": ("JAX scan", "jax"),
    "torch_eager": ("PyTorch eager", "torch"),
    "torch_compiled": ("PyTorch compiled", "torch"),
}
FIRST = [("2-D 32-32-32", 128), ("2-D 32-32-32", 4096), ("MNIST 128-128-256", 128)]
ITERATIONS = 1000


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="figures", metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--implementations", nargs="+", choices=IMPLEMENTATIONS)
    options = parser.parse_args()
    names = [
        name
        for name in options.implementations or IMPLEMENTATIONS
        if importlib.util.find_spec(IMPLEMENTATIONS[name][1])
    ]
    result = {
        "quick": options.quick,
        "machine": report.machine(),
        "versions": report.versions("deen-tf", "tensorflow", "keras", "jax", "torch"),
        "devices": {},
        "costs": {},
        "first": [],
        "failures": {},
    }
    turns = 2 if options.quick else 5
    compiled = [name for name in names if name != "torch_eager"]
    total = turns * (len(COSTS) * len(compiled) + len(names) * len(FIRST))
    with tqdm(total=total) as progress:
        for network in COSTS:
            measure_costs(network, compiled, turns, progress, result)
        for network, batch in FIRST:
            row = {name: [] for name in names}
            for _ in range(turns):
                for name in names:
                    try:
                        row[name].append(first_iterations(name, network, batch))
                    except Failure as failure:
                        key = f"{name}, first iterations, {network}, {batch}"
                        result["failures"][key] = str(failure)
                    progress.update()
            result["first"].append(
                {
                    "network": network,
                    "batch": batch,
                    "turns": row,
                    "seconds": {
                        n: medians(stages) for n, stages in row.items() if stages
                    },
                }
            )
    text = markdown(result)
    report.write(options.out, "benchmark-overhead", result, text)
    print(text)


# ---- an epoch, a call --------------------------------------------------------------------


class Costs:
    """What a short epoch, and a call, cost beside their steps; compiled when it is made.

    Parameters
    ----------
    steps_of : class
        `Steps` of an implementation.
    network : Network
    batch : int
    """

    def __init__(self, steps_of, network, batch):
        self.count = max(SHORT, min(LONG, NUMBERS // (batch * network.d)))
        self.long, self.short = (
            steps_of(network, network.weights(), network.data(batch * count), batch)
            for count in (self.count, SHORT)
        )
        for steps in (self.long, self.short):
            for epochs in (1, 3):
                steps.run(epochs)

    def measure(self):
        """Return the seconds of a "step", of an "epoch" and a "call" beside theirs.

        And of a "whole call", with its steps.
        """
        step = (median(self.long, 4, 3) - median(self.long, 1, 3)) / (3 * self.count)
        call = median(self.short, 1, 15)
        epoch = (median(self.short, 1 + MANY, 3) - call) / MANY
        return {
            "step": step,
            "epoch": epoch - SHORT * step,
            "call": call - SHORT * step,
            "whole call": call,
        }


def median(steps, epochs, repeats):
    """Return the median seconds of a run of some epochs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        steps.run(epochs)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_costs(network, names, turns, progress, result):
    processes = [Process(name) for name in names]
    try:
        rows = {name: [] for name in names}
        for process in processes:
            result["devices"][process.name] = process.call("about")["device"]
            process.call("prepare_costs", network=network, batch=BATCH)
        for _ in range(turns):
            for process in processes:
                rows[process.name].append(process.call("costs"))
                progress.update()
        result["costs"][network] = {name: medians(row) for name, row in rows.items()}
    finally:
        for process in processes:
            process.close()


def medians(rows):
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


# ---- the first iterations ------------------------------------------------------------------


def first_iterations(name, network, batch, source=None):
    """Return the seconds until a fresh process has imported, and trained, what it needs."""
    words = command("tests.benchmarks.first", name, network, batch, source=source)
    start = time.perf_counter()
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | QUIET,
    )
    seconds = {}
    for line in process.stdout:
        if line.strip() in ("imported", "trained"):
            seconds[line.strip()] = time.perf_counter() - start
    if process.wait() or "trained" not in seconds:
        raise Failure(f"ended with code {process.returncode} before it had trained")
    return seconds


def markdown(result):
    devices = ", ".join(
        f"{IMPLEMENTATIONS[n][0]}: {d}" for n, d in result["devices"].items()
    )
    text = (
        f"# Beside the steps\n\n{report.where(result)}\n\n{devices}. Written by `python -m "
        f"tests.benchmarks.overhead`, which says how.\n\nBatch {BATCH}; an epoch has {SHORT} "
        "steps:\n\n"
    )
    text += report.table(
        [
            "network",
            "",
            "a step, us",
            "an epoch beside its steps, us",
            "a call of one epoch beside its steps, ms",
        ],
        [
            [
                network,
                IMPLEMENTATIONS[name][0],
                f"{1e6 * row['step']:.0f}",
                f"{1e6 * row['epoch']:.0f}",
                f"{1e3 * row['call']:.2f}",
            ]
            for network, rows in result["costs"].items()
            for name, row in rows.items()
        ],
    )
    text += (
        f"\nSeconds from the start of a process to the end of its first {ITERATIONS} "
        "iterations; in brackets, until its libraries are imported:\n\n"
    )
    names = [
        n for n in IMPLEMENTATIONS if any(n in r["seconds"] for r in result["first"])
    ]
    text += report.table(
        ["network", "batch", *(IMPLEMENTATIONS[n][0] for n in names)],
        [
            [
                row["network"],
                row["batch"],
                *(stages(row["seconds"].get(n)) for n in names),
            ]
            for row in result["first"]
        ],
    )
    for name, reason in result["failures"].items():
        text += f"\n{name}: {reason}\n"
    return text


def stages(row):
    if row is None:
        return "failed"
    return f"{row['trained']:.1f} ({row['imported']:.1f})"


if __name__ == "__main__":
    main()

"""Whole training steps of ours and others, side by side.

    python -m tests.benchmarks.training [--quick] [--out DIR=figures] [--only NAME ...]

A step is: draw a minibatch without replacement, draw the noise, the objective, its gradient
by nested differentiation, Adam. Every implementation lives in a process of its own; rounds
of all of them alternate and, within one, nobody else is at work. Before it is timed each
must give the loss and the gradients of the same weights, data and noise that float64 NumPy
gives. Medians over the rounds; ratios are medians over the rounds of the ratio within one.

On a GPU, in full float32, without NumPy and the roofline. Writes benchmark.json and
benchmark.md. PyTorch and JAX are left out where they are missing: pip install -e
'.[benchmark]' brings them, and the JAX whose loops on a CPU are fast.
"""

import argparse
import importlib.util
import statistics
import time

from tqdm.auto import tqdm

from tests.benchmarks import report
from tests.benchmarks.interleaved import Failure, Process, rounds
from tests.benchmarks.networks import NETWORKS

IMPLEMENTATIONS = {  # module of tests.benchmarks.steps -> the library it needs
    "deen_fit": "tensorflow",
    "keras_fit": "tensorflow",
    "jax_scan": "jax",
    "torch_eager": "torch",
    "torch_compiled": "torch",
    "by_hand": "numpy",
    "roofline": "tensorflow",
}
ON_A_CPU = ("by_hand", "roofline")
TITLES = {
    "deen_fit": "deen_tf fit",
    "keras_fit": "Keras fit, defaults",
    "jax_scan": "JAX scan",
    "torch_eager": "PyTorch eager",
    "torch_compiled": "PyTorch compiled",
    "by_hand": "NumPy by hand",
    "roofline": "roofline",
}
VERSIONS = ("deen-tf", "tensorflow", "keras", "jax", "torch", "numpy")
TURN = 0.5  # seconds of one implementation's turn, if its epoch is not longer
REPEATS = 5


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="figures", metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="3 rounds, short turns")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, metavar="NETWORK")
    parser.add_argument("--batches", nargs="+", type=int, metavar="N")
    parser.add_argument("--implementations", nargs="+", choices=IMPLEMENTATIONS)
    options = parser.parse_args()
    start = time.perf_counter()
    on_gpu = bool(report.gpus())
    chosen = options.implementations or [
        name for name in IMPLEMENTATIONS if not (on_gpu and name in ON_A_CPU)
    ]
    names = [n for n in chosen if importlib.util.find_spec(IMPLEMENTATIONS[n])]
    result = {
        "quick": options.quick,
        "machine": report.machine(),
        "versions": report.versions(*VERSIONS),
        "devices": {},
        "missing": [n for n in chosen if n not in names],
        "failures": {},
        "cases": [],
    }
    for name in result["missing"]:
        print(f"{name}: {IMPLEMENTATIONS[name]} is not installed, left out")
    turn, repeats = (0.15, 3) if options.quick else (TURN, REPEATS)
    networks = options.only or list(NETWORKS)
    with tqdm(desc="rounds", unit="turn") as progress:
        for network in networks:
            of = NETWORKS[network]
            epochs = {
                batch: steps
                for batch, steps in (of.gpu_epoch if on_gpu else of.epoch).items()
                if options.batches is None or batch in options.batches
            }
            measure(network, epochs, names, turn, repeats, progress, result)
            result["seconds"] = time.perf_counter() - start
    text = markdown(result)
    report.write(options.out, "benchmark", result, text)
    print(text)


def measure(network, steps_of, names, turn, repeats, progress, result):
    """Add the cases of one network, batch -> steps of an epoch, to the result."""
    processes = {name: Process(name) for name in names}
    try:
        for name, process in processes.items():
            if name not in ON_A_CPU:
                result["devices"][name] = process.call("about")["device"]
        for batch, steps in steps_of.items():
            ready, rows = [], {}
            for name, process in processes.items():
                try:
                    rows[name] = process.call(
                        "prepare", network=network, batch=batch, steps=steps
                    )
                    ready.append(process)
                except Failure as failure:
                    result["failures"][f"{name}, {network}, {batch}"] = str(failure)
                    progress.write(f"{name}, {network}, {batch}: {failure}")
            epochs = {}
            for process in ready:
                seconds = process.call("run", epochs=1)
                epochs[process.name] = max(1, round(turn / seconds))
            answers = rounds(ready, epochs, repeats, progress)
            for process in ready:
                row = rows[process.name]
                row["step"] = [
                    seconds / (steps * epochs[process.name])
                    for seconds in answers[process.name]
                ]
                row["memory"] = process.call("memory")
                if process.name == "roofline":
                    row["parts"] = process.call("details")
            result["cases"].append(
                {
                    "network": network,
                    "batch": batch,
                    "parameters": NETWORKS[network].parameters,
                    "data bytes": 4 * batch * steps * NETWORKS[network].d,
                    "rows": rows,
                    "ratios": ratios(rows),
                }
            )
    finally:
        for process in processes.values():
            process.close()


def ratios(rows):
    """Return the targets' ratios: medians over the rounds of ours to each other's step."""
    if "deen_fit" not in rows:
        return {}
    ours = rows["deen_fit"]["step"]

    def to(name):
        others = rows[name]["step"]
        return statistics.median(a / b for a, b in zip(ours, others, strict=True))

    answer = {f"ours / {name}": to(name) for name in rows if name != "deen_fit"}
    if "roofline" in rows:
        answer["part of the roofline"] = 1 / answer.pop("ours / roofline")
    return answer


def markdown(result):
    """Return the result as text with three tables: times, ratios, memory."""
    present = [n for n in TITLES if any(n in case["rows"] for case in result["cases"])]
    # The roofline's process holds several libraries: its memory says nothing.
    steppers = [n for n in present if n != "roofline"]
    others = [n for n in steppers if n != "deen_fit"]
    times, relative, memory = [], [], []
    for case in result["cases"]:
        name, rows = [case["network"], case["batch"]], case["rows"]
        times.append([*name, *(microseconds(rows.get(n)) for n in present)])
        ratios = case["ratios"]
        cells = [f"{ratios.get(f'ours / {n}', float('nan')):.2f}" for n in others]
        if "roofline" in rows:
            products = rows["roofline"]["parts"]["products"]
            cells += [
                f"{ratios.get('part of the roofline', float('nan')):.0%}",
                f"{products['library']}, {products['GFLOP/s']:.0f}",
            ]
        relative.append([*name, *cells])
        data = f"{case['data bytes'] / 1e6:.0f}"
        memory.append([*name, data, *(megabytes(rows.get(n)) for n in steppers)])
    text = (
        f"# Whole training steps\n\n{report.where(result)}\n\n{devices(result)}Microseconds a "
        "step, median "
        "over the rounds. Written by `python -m tests.benchmarks.training`, which says "
        "how.\n\n"
    )
    head = ["network", "batch"]
    text += report.table([*head, *(TITLES[n] for n in present)], times)
    text += "\nRatios, medians over the rounds:\n\n"
    columns = [f"ours / {TITLES[n]}" for n in others]
    if "roofline" in present:
        columns += ["part of the roofline", "its products by, GFLOP/s"]
    text += report.table([*head, *columns], relative)
    text += (
        "\nPeak resident memory of the process, MB; in brackets above what its libraries "
        "hold once imported:\n\n"
    )
    text += report.table([*head, "data", *(TITLES[n] for n in steppers)], memory)
    for name in result["missing"]:
        text += (
            f"\n{TITLES[name]}: {IMPLEMENTATIONS[name]} is not installed, left out.\n"
        )
    for name, reason in result["failures"].items():
        text += f"\n{name}: {reason}\n"
    return text


def devices(result):
    """Return where the libraries ran, if that is not the processor for all."""
    where = {TITLES[name]: device for name, device in result["devices"].items()}
    if set(where.values()) <= {"CPU"}:
        return ""
    return "; ".join(f"{name}: {device}" for name, device in where.items()) + ". "


def microseconds(row):
    return "failed" if row is None else f"{1e6 * statistics.median(row['step']):.0f}"


def megabytes(row):
    if row is None:
        return "failed"
    peak, libraries = row["memory"]["peak"], row["memory"]["libraries"]
    return f"{peak / 1e6:.0f} ({(peak - libraries) / 1e6:.0f})"


if __name__ == "__main__":
    main()

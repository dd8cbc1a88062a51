"""How time and memory grow: batch, width, depth, dimensions, data set, replicas, start.

    python -m tests.benchmarks.scaling [--quick] [--out DIR=figures]

Every measurement is a `fit` in a process of its own. Time is the median step of three fits
of about half a second, compiled before; memory is the process's peak above what it held
before the model was made, the data set apart.

Wanted: a step of DEEN is linear in batch, depth and dimensions (exact score matching is
beside it, whose step takes d backward passes); memory does not depend on the size of a
data set that is streamed. Writes benchmark-scaling.json and benchmark-scaling.md.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from tqdm.auto import tqdm

from tests.benchmarks import memory, report

TURN = 0.5  # seconds of one fit
BASE = {"model": "DEEN", "n": 8192, "d": 784, "hidden": (256, 256), "batch": 128}
SWEEPS = {  # title -> the settings that differ from BASE
    "batch": [{"batch": b} for b in (128, 512, 2048, 8192)],
    "width": [{"hidden": (w, w)} for w in (64, 128, 256, 512, 1024)],
    "depth": [{"hidden": (256,) * depth} for depth in (1, 2, 4, 8)],
    "dimensions": [
        {"d": d, "model": model}
        for model in ("DEEN", "ScoreMatching")
        for d in (2, 8, 32, 128, 512)
        if model == "DEEN" or d <= 128
    ],
    "data": [
        {"n": n, "d": 1024, "source": source}
        for source in ("memory", "HDF5")
        for n in (8192, 32_768, 131_072)
    ],
    "replicas": [{"replicas": r, "batch": 1024} for r in (1, 2)],
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="figures", metavar="DIR")
    parser.add_argument(
        "--quick", action="store_true", help="ends of each sweep, small"
    )
    parser.add_argument("--only", nargs="+", choices=[*SWEEPS, "start"])
    options = parser.parse_args()
    sweeps = {k: v for k, v in SWEEPS.items() if not options.only or k in options.only}
    if options.quick:
        sweeps = {k: [v[0], v[1]] for k, v in sweeps.items()}
    result = {
        "quick": options.quick,
        "machine": report.machine(),
        "versions": report.versions("deen-tf", "tensorflow", "keras"),
        "base": BASE,
        "sweeps": {},
    }
    with tqdm(total=sum(map(len, sweeps.values())), unit="fit") as bar:
        for title, sweep in sweeps.items():
            result["sweeps"][title] = []
            for settings in sweep:
                measured = in_new_process(BASE | settings)
                result["sweeps"][title].append({"settings": settings} | measured)
                bar.update()
    if not options.only or "start" in options.only:
        result["start"] = start(3 if options.quick else 7)
    text = markdown(result)
    report.write(options.out, "benchmark-scaling", result, text)
    print(text)


def in_new_process(settings):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measure, settings).result()
        except Exception as error:  # noqa: BLE001 (a row of the table tells of it)
            return {"error": f"{type(error).__name__}: {error}"}


def measure(settings):
    """Return the seconds of a step, and the bytes of the data and beside it."""
    import tensorflow as tf

    if settings.get("replicas", 1) > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        devices = [tf.config.LogicalDeviceConfiguration()] * settings["replicas"]
        tf.config.set_logical_device_configuration(cpu, devices)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    else:
        strategy = tf.distribute.get_strategy()
    import deen_tf as deen
    from deen_tf.models import score_matching

    n, d, batch = settings["n"], settings["d"], settings["batch"]
    with tempfile.TemporaryDirectory() as folder:
        if settings.get("source") == "HDF5":
            x, held = stream(os.path.join(folder, "points.h5"), n, d, batch), 0
            arguments = {"shuffle": False}
        else:
            x = np.random.default_rng(0).standard_normal((n, d), "float32")
            held, arguments = x.nbytes, {"batch_size": batch}
        before = memory.now()
        memory.restart_peak()
        cls = (
            deen.DEEN
            if settings["model"] == "DEEN"
            else getattr(score_matching, settings["model"])
        )
        with strategy.scope():
            model = cls(settings["hidden"], sigma=0.3)
            model.build((None, d))
            model.compile()
        steps = math.ceil(n / batch)

        def step(epochs):
            begin = time.perf_counter()
            model.fit(x, epochs=epochs, verbose=0, **arguments)
            return (time.perf_counter() - begin) / (epochs * steps)

        step(1)
        epochs = max(1, round(TURN / (step(1) * steps)))
        seconds = statistics.median(step(epochs) for _ in range(3))
    return {
        "step": seconds,
        "data bytes": held,
        "other bytes": memory.peak() - before,
    }


def stream(path, n, d, batch):
    """Return n points as the library streams patches: from a cache of images on disk."""
    import h5py

    from deen_tf.datasets.patch_cache import CHUNK, Patches

    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["settings"] = json.dumps({"size": math.isqrt(d)})
        file.attrs["source"], file.attrs["sha256"] = "random", ""
        file.attrs["dropped"], file["skipped"] = "{}", "{}"
        for split in ("train", "validation", "test"):
            file.create_group(split)
        for image in range(n // 8192):
            x = random.standard_normal((8192, d), "float32")
            file["train"].create_dataset(
                f"{image:03}", data=x, chunks=(CHUNK, d), fletcher32=True
            )
    return Patches(h5py.File(path, "r")).stream("train", batch)


def start(repeats):
    """Return medians of how long a fresh interpreter takes, in seconds."""
    commands = {
        "import tensorflow": ["-c", "import tensorflow"],
        "import tensorflow, keras": ["-c", "import tensorflow, keras"],
        "import deen_tf": ["-c", "import deen_tf"],
        "reproduce/fig1.py --help": ["reproduce/fig1.py", "--help"],
    }
    times = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True, check=True)
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def markdown(result):
    text = f"# How time and memory grow\n\n{report.where(result)}\n\nIf not said otherwise: "
    text += ", ".join(f"{k} {v}" for k, v in result["base"].items()) + ".\n"
    for title, rows in result["sweeps"].items():
        cells, previous = [], None
        for row in rows:
            settings = row["settings"]
            words = ", ".join(f"{k} {v}" for k, v in settings.items())
            if "error" in row:
                cells.append([words, row["error"], "", "", ""])
                continue
            same = previous and all(
                previous["settings"].get(k) == settings.get(k)
                for k in ("model", "source")
            )
            cells.append(
                [
                    words,
                    f"{1e6 * row['step']:.0f}",
                    f"{row['step'] / previous['step']:.2f}" if same else "",
                    f"{row['data bytes'] / 1e6:.0f}",
                    f"{row['other bytes'] / 1e6:.0f}",
                ]
            )
            previous = row
        head = ["", "step, us", "times the one before", "data, MB", "beside it, MB"]
        text += f"\n## {title.capitalize()}\n\n" + report.table(head, cells)
    if "start" in result:
        rows = [[name, f"{seconds:.2f}"] for name, seconds in result["start"].items()]
        text += "\n## Start\n\n" + report.table(["", "s"], rows)
    return text


if __name__ == "__main__":
    main()

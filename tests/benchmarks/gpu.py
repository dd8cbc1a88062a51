"""Training steps on a GPU beside JAX and PyTorch at equal precision, and what must hold there.

    python -m tests.benchmarks.gpu [--tensorflow-env FILE] [--seconds 220] [--out DIR=figures]
                                   [--only NETWORK ...] [--peers NAME ...] [--jobs N] [--quick]

A step is: gather a minibatch without replacement, draw the noise, the objective, its gradient
by nested differentiation, Adam. Ours is `fit`, many epochs in one call; JAX's a `lax.scan`
over an epoch, many of them queued; PyTorch's one CUDA graph of gather, noise, compiled
gradient and Adam. Full float32 for all, or TF32 for all.

Each implementation has a process for each row. They compile side by side, and that includes
XLA's choice of kernels, made while others use the GPU too; then they are timed, one at a time,
in turns. The seconds of a step are (T(many epochs) - T(a few)) / steps between: what a call
costs beside its steps is told apart. Loss and gradients of the same weights, data and noise must
be float64 NumPy's.

Then the checks:
- the relative curl rms(d1 psi2 - d2 psi1) / rms(|J|_F) of a trained DEEN: at most 1e-5;
- the losses of the first 100 steps beside a CPU's. Weights, noise and order are the same, sums
  are rounded otherwise: between XLA and the plain graph on one CPU the losses differ by at most
  2e-7 of themselves there (two units in the last place), with other noise by 2e-2 and more.
  Between these lies DRIFT;
- what a call and a short epoch cost beside their steps, the seconds of the first call.

A row or check that fails or is not reached in time says so, and the others go on. FILE is
read by the shell of TensorFlow's processes alone (library paths, say). Without a GPU there is
only --quick, a small run to try the script. Writes benchmark-gpu.json and benchmark-gpu.md.
"""

import argparse
import os
import queue
import statistics
import threading
import time

from tests.benchmarks import report
from tests.benchmarks.interleaved import Failure, Process
from tests.benchmarks.networks import NETWORKS
from tests.benchmarks.overhead import BATCH, NETWORK

IMPLEMENTATIONS = {
    "deen_fit": "deen_tf fit",
    "jax_scan": "JAX scan",
    "torch_compiled": "PyTorch compiled, CUDA graph",
}
PRECISIONS = {"float32": False, "TF32": True}
FEW, ROUNDS, LONGEST_TURN = 3, 3, 0.4  # epochs; turns of each; seconds
COMPILING = 0.7  # of the time
CURL, DRIFT, STEPS = 1e-5, 1e-5, 100
ENVIRONMENT = {
    "TORCHINDUCTOR_COMPILE_THREADS": "1"
}  # processes are parallel, not their parts


class Run:
    """Everything that is known so far, on the terminal and in the files."""

    def __init__(self, options):
        self.options, self.start = options, time.perf_counter()
        self.lock = threading.Lock()
        self.result = {
            "quick": options.quick,
            "jobs": options.jobs,
            "machine": report.machine(),
            "versions": {},
            "devices": {},
            "rows": [],
            "checks": {},
            "failures": {},
        }

    @property
    def seconds(self):
        return time.perf_counter() - self.start

    def say(self, text):
        with self.lock:
            print(f"[{self.seconds:5.1f}] {text}", flush=True)

    def failed(self, what, why):
        self.result["failures"][what] = str(why)
        self.say(f"{what}: {why}")

    def process(self, name, environment=None):
        source = self.options.tensorflow_env if name == "deen_fit" else None
        return Process(name, ENVIRONMENT | (environment or {}), source)

    def write(self):
        self.result["seconds"] = self.seconds
        text = markdown(self.result)
        report.write(self.options.out, "benchmark-gpu", self.result, text)
        return text


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tensorflow-env", metavar="FILE")
    parser.add_argument("--seconds", type=float, default=220)
    parser.add_argument("--out", default="figures", metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, metavar="NETWORK")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=list(IMPLEMENTATIONS)[1:],
        default=list(IMPLEMENTATIONS)[1:],
        metavar="NAME",
        help="of jax_scan, torch_compiled: what to time beside it",
    )
    jobs = max(2, (os.cpu_count() or 2) * 3 // 4)
    parser.add_argument("--jobs", type=int, default=jobs, help="that compile at once")
    parser.add_argument("--quick", action="store_true", help="small, and without a GPU")
    options = parser.parse_args()
    if not options.quick and not report.gpus():
        parser.error("nvidia-smi sees no GPU")
    run = Run(options)
    cases = [
        (name, batch, steps, precision)
        for precision in PRECISIONS
        for name in options.only or NETWORKS
        for batch, steps in NETWORKS[name].gpu_epoch.items()
    ]
    if options.quick:
        cases = [
            (n, min(b, 256), 8, p) for n, b, _, p in cases if n != "natural 2048-256"
        ]
        cases = [*cases[:2], *cases[-2:]]
    names = ["deen_fit", *options.peers]
    cells = {case: [Cell(run, name, *case) for name in names] for case in cases}
    checks = Checks(run)
    try:
        tasks = [cell for row in cells.values() for cell in row]
        costs = [checks.costs_of(name) for name in names]
        compile_all(run, [checks.on_gpu, checks.on_cpu, *tasks, *costs])
        checks.give_up()
        for i, (case, row) in enumerate(cells.items()):
            measure(run, case, [cell for cell in row if cell.ready], len(cells) - i)
            run.write()
        checks.timed()
    finally:
        for cell in tasks:
            cell.close()
        checks.close()
    print(run.write())


# ---- compile -----------------------------------------------------------------------------


def compile_all(run, tasks):
    """Do the tasks, functions without arguments, a few at a time; give up in time."""
    waiting = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    until = COMPILING * run.options.seconds

    def work():
        while run.seconds < until:
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            task()

    threads = [
        threading.Thread(target=work, daemon=True) for _ in range(run.options.jobs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, until - run.seconds))
    for task in tasks:
        if isinstance(task, Cell):
            task.give_up()


class Cell:
    """One implementation's process for one row of the table."""

    def __init__(self, run, name, network, batch, steps, precision):
        self.run, self.name, self.batch = run, name, batch
        self.arguments = {
            "network": network,
            "batch": batch,
            "steps": steps,
            "tf32": PRECISIONS[precision],
        }
        self.network, self.precision = network, precision
        self.what = f"{IMPLEMENTATIONS[name]}, {network}, {batch}, {precision}"
        self.process, self.ready = None, None
        self.lock, self.late = threading.Lock(), False

    def __call__(self):
        with self.lock:
            if self.late:
                return
            self.process = self.run.process(self.name)
        try:
            about = self.process.call("about")
            self.run.result["versions"] |= about["versions"]
            self.run.result["devices"][self.name] = about["device"]
            ready = self.process.call("prepare", **self.arguments)
        except Failure as failure:
            if not self.late:
                self.run.failed(self.what, failure)
                self.late = True
                self.close()
            return
        self.ready = ready
        self.run.say(
            f"{self.what}: first epoch {ready['first']:.1f} s, relative error "
            f"{ready['error']:.1g}"
        )

    def give_up(self):
        """End a process that is still at work: it would disturb those that are timed."""
        with self.lock:
            if self.ready or self.late:
                return
            self.late = True
        self.close()
        self.run.failed(self.what, "not compiled in time")

    def close(self):
        if self.process:
            self.process.close()


# ---- measure -----------------------------------------------------------------------------


def measure(run, case, cells, rows_left):
    """Time the cells of one row, in turns, and add the row to the result."""
    row = dict(
        zip(("network", "batch", "steps of an epoch", "precision"), case, strict=True)
    )
    row |= {"step": {}, "call": {}, "first": {}, "error": {}, "ratios": {}}
    run.result["rows"].append(row)
    steps = row["steps of an epoch"]
    left = 0.9 * run.options.seconds - run.seconds
    if left < 0:
        run.failed(
            f"{row['network']}, {row['batch']}, {row['precision']}", "no time left"
        )
        return
    turn = min(LONGEST_TURN, left / (rows_left * len(IMPLEMENTATIONS) * (ROUNDS + 2)))
    few, epochs, many = {}, {}, {}

    def timed(cell, epochs, times):
        try:
            if cell in cells:
                times.append(cell.process.call("run", epochs=epochs))
        except Failure as failure:
            run.failed(cell.what, failure)
            cells.remove(cell)

    for cell in list(cells):
        row["first"][cell.name] = cell.ready["first"]
        row["error"][cell.name] = cell.ready["error"]
        times, many[cell] = [], []
        for n in (FEW, *[FEW] * ROUNDS, 4 * FEW):  # the first one warms up
            timed(cell, n, times)
        if cell in cells:
            few[cell] = statistics.median(times[1:-1])
            epoch = max((times[-1] - few[cell]) / (3 * FEW), few[cell] / 1000)
            epochs[cell] = max(1, round(turn / epoch))
    for i in range(ROUNDS):
        for cell in cells[i:] + cells[:i]:
            timed(cell, FEW + epochs[cell], many[cell])
    for cell in cells:
        turns = [(t - few[cell]) / (epochs[cell] * steps) for t in many[cell]]
        row["step"][cell.name] = turns
        row["call"][cell.name] = few[cell] - FEW * steps * statistics.median(turns)
    row["ratios"] = ratios(row["step"])
    run.say(" | ".join(map(str, shown(row))))


def ratios(turns):
    """Return ours to each other's step: medians over the rounds."""
    if "deen_fit" not in turns:
        return {}
    return {
        name: statistics.median(
            a / b for a, b in zip(turns["deen_fit"], other, strict=True)
        )
        for name, other in turns.items()
        if name != "deen_fit"
    }


# ---- checks ------------------------------------------------------------------------------


class Checks:
    """What must hold on a GPU."""

    def __init__(self, run):
        self.run, self.result = run, run.result["checks"]
        self.processes, self.ready = [], {}

    def _process(self, name, environment=None):
        process = self.run.process(name, environment)
        self.processes.append(process)
        return process

    def on_gpu(self):
        """The curl, and the first losses, as the GPU has them."""
        process = self._process("deen_fit")
        steps = 200 if self.run.options.quick else 2000
        for precision, tf32 in PRECISIONS.items():
            with self._noted(f"relative curl, {precision}") as note:
                note(
                    process.call(
                        "ask", function="relative_curl", steps=steps, tf32=tf32
                    )
                )
        self._losses(process, "GPU")

    def on_cpu(self):
        """The first losses of a CPU."""
        no_gpu = {"CUDA_VISIBLE_DEVICES": "-1"}
        self._losses(self._process("deen_fit", no_gpu), "CPU")

    def _losses(self, process, where):
        for network in ("2-D 32-32-32", "MNIST 128-128-256"):
            with self._noted(f"losses, {network}, {where}") as note:
                note(
                    process.call(
                        "ask",
                        function="losses",
                        network=network,
                        batch=128,
                        steps=STEPS,
                    )
                )

    def give_up(self):
        for process in self.processes:
            if process.busy:
                process.close()

    def costs_of(self, name):
        """Return a task: compile what shows an implementation's costs."""

        def prepare():
            process = self._process(name)
            try:
                process.call("prepare_costs", network=NETWORK, batch=BATCH)
                self.ready[name] = process
            except Failure as failure:
                self.run.failed(f"costs, {IMPLEMENTATIONS[name]}", failure)

        return prepare

    def timed(self):
        """What a call and a short epoch cost, now that nobody compiles."""
        costs = self.result["costs"] = {}
        for name, process in self.ready.items():
            what = f"costs, {IMPLEMENTATIONS[name]}"
            if self.run.seconds > self.run.options.seconds:
                self.run.failed(what, "no time left")
                continue
            try:
                costs[name] = process.call("costs")
            except Failure as failure:
                self.run.failed(what, failure)

    def _noted(self, what):
        return Note(self.run, self.result, what)

    def close(self):
        for process in self.processes:
            process.close()


class Note:
    """Keeps what a check answers, or why it failed."""

    def __init__(self, run, result, what):
        self.run, self.result, self.what = run, result, what

    def __enter__(self):
        return self._keep

    def _keep(self, answer):
        self.result[self.what] = answer
        shown = answer if isinstance(answer, float) else f"{len(answer)} numbers"
        self.run.say(f"{self.what}: {shown}")

    def __exit__(self, kind, error, _):
        if isinstance(error, Failure):
            self.run.failed(self.what, error)
            return True
        return False


def drift(checks, network):
    """Return the largest relative difference of the first losses from a CPU's, or None."""
    losses = [checks.get(f"losses, {network}, {where}") for where in ("GPU", "CPU")]
    if None in losses:
        return None
    return max(abs(a - b) / b for a, b in zip(*losses, strict=True))


# ---- write -------------------------------------------------------------------------------


def shown(row):
    def microseconds(name):
        turns = row["step"].get(name)
        return "-" if turns is None else f"{1e6 * statistics.median(turns):.0f}"

    def ratio(name):
        value = row["ratios"].get(name)
        return "-" if value is None else f"{value:.2f}"

    return [
        row["network"],
        row["batch"],
        row["steps of an epoch"],
        *map(microseconds, IMPLEMENTATIONS),
        *map(ratio, list(IMPLEMENTATIONS)[1:]),
        milliseconds(row["call"].get("deen_fit")),
        "-" if "deen_fit" not in row["first"] else f"{row['first']['deen_fit']:.1f}",
    ]


def milliseconds(seconds):
    return "-" if seconds is None else f"{1e3 * seconds:.1f}"


def markdown(result):
    devices = "; ".join(
        f"{IMPLEMENTATIONS[n]}: {d}" for n, d in result["devices"].items()
    )
    text = (
        f"# Training steps on a GPU\n\n{report.where(result)}\n\n{devices}. Microseconds a "
        "step, median over the rounds; programs were compiled "
        f"{result['jobs']} at a time. Written by `python -m tests.benchmarks.gpu`, which says "
        "how.\n"
    )
    titles = list(IMPLEMENTATIONS.values())
    head = ["network", "batch", "steps of an epoch", *titles]
    head += [f"ours / {title.split()[0]}" for title in titles[1:]]
    head += ["fit beside its steps, ms", "first epoch, s"]
    for precision, words in (("float32", "Full float32"), ("TF32", "TF32 products")):
        rows = [
            shown(row)
            for row in result["rows"]
            if row["precision"] == precision and row["step"]
        ]
        text += f"\n{words}, for all:\n\n" + report.table(head, rows)
    text += "\nChecks:\n\n" + report.table(["", "measured", "wanted"], checked(result))
    for reason, what in failures(result).items():
        text += f"\n{reason}: {'; '.join(what)}\n"
    return text


def failures(result):
    """Return reason -> what failed for it; of a row whose cells all did, the row."""
    grouped = {}
    for what, reason in result["failures"].items():
        grouped.setdefault(reason, []).append(what)
    for reason, what in grouped.items():
        rows = [
            w.removeprefix(f"{t}, ") for w in what for t in IMPLEMENTATIONS.values()
        ]
        whole = {
            r
            for r in rows
            if all(f"{t}, {r}" in what for t in IMPLEMENTATIONS.values())
        }
        cells = [w for w in what if not any(w.endswith(f", {r}") for r in whole)]
        grouped[reason] = [*(r for r in dict.fromkeys(rows) if r in whole), *cells]
    return grouped


def checked(result):
    checks, rows = result["checks"], []
    for precision in PRECISIONS:
        curl = checks.get(f"relative curl, {precision}")
        wanted = f"{CURL:g}" if precision == "float32" else ""
        shown = "-" if curl is None else f"{curl:.1e}"
        rows.append([f"relative curl of a trained DEEN, {precision}", shown, wanted])
    for network in ("2-D 32-32-32", "MNIST 128-128-256"):
        value = drift(checks, network)
        shown = "-" if value is None else f"{value:.1e}"
        what = f"losses of {STEPS} steps beside a CPU's, {network}, relative"
        rows.append([what, shown, f"{DRIFT:g}"])
    for name, costs in checks.get("costs", {}).items():
        title = f"{IMPLEMENTATIONS[name]}, 2-D, batch 128"
        epoch = f"{1e6 * costs['epoch']:.0f} us"
        rows.append([f"{title}: an epoch of 8 steps beside its steps", epoch, ""])
        rows.append(
            [
                f"{title}: a call of one such epoch",
                f"{1e3 * costs['whole call']:.2f} ms",
                "",
            ]
        )
    return rows


if __name__ == "__main__":
    main()

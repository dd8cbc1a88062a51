"""Processes that take turns: each waits, stopped, while another one is timed.

Timings of different programs are comparable only if both met the same machine, so rounds
of all of them alternate; and a waiting thread pool must not spin, so whoever is not at
work is stopped by a signal.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile


class Failure(Exception):
    """An implementation could not do what was asked; says why."""


QUIET = {  # a GPU's memory is taken as it is needed: others want some too
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


def command(module, *arguments, source=None):
    """Return the command that runs a module, after a shell has read the file `source`."""
    words = [sys.executable, "-m", module, *map(str, arguments)]
    return ["bash", "-c", '. "$0" && exec "$@"', source, *words] if source else words


class Process:
    """A worker (`tests.benchmarks.worker`) of one implementation.

    Parameters
    ----------
    name : str
        A module of `tests.benchmarks.steps`.
    environment : dict, optional
        Variables to add.
    source : str, optional
        A file that sets variables, read by the process' shell.
    """

    def __init__(self, name, environment=None, source=None):
        self.name = name
        self.busy = False  # with a request
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (until close)
        self._process = subprocess.Popen(
            command("tests.benchmarks.worker", name, source=source),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | QUIET | (environment or {}),
        )

    def call(self, request, **arguments):
        """Let the worker work on one request and return its answer, or raise Failure."""
        self.busy = True
        self._signal(signal.SIGCONT)
        try:
            print(
                json.dumps([request, arguments]), file=self._process.stdin, flush=True
            )
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        self._signal(signal.SIGSTOP)
        self.busy = False
        if not line:
            code = self._process.wait()
            raise Failure(f"the process ended with code {code}: {self._last_words()}")
        reply = json.loads(line)
        if "error" in reply:
            raise Failure(reply["error"])
        return reply["answer"]

    def close(self):
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _last_words(self):
        try:
            self._log.seek(0)
            lines = [line.strip() for line in self._log if line.strip()]
        except ValueError:  # closed while it was at work
            return "it was ended"
        return " / ".join(lines[-3:])[-500:]

    def _signal(self, number):
        if self._process.poll() is None:
            self._process.send_signal(number)


def rounds(processes, epochs, repeats, progress):
    """Time all processes in turn, `repeats` times.

    Returns
    -------
    dict
        Name -> list of what `run` answered.
    """
    answers = {p.name: [] for p in processes}
    for repeat in range(repeats):
        shift = repeat % len(processes)
        for process in processes[shift:] + processes[:shift]:
            answers[process.name].append(
                process.call("run", epochs=epochs[process.name])
            )
            progress.update()
    return answers

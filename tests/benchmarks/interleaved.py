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


class Failure(Exception):
    """An implementation could not do what was asked; says why."""


class Process:
    """A worker (`tests.benchmarks.worker`) of one implementation.

    Parameters
    ----------
    name : str
        A module of `tests.benchmarks.steps`.
    environment : dict, optional
        Variables to add.
    """

    def __init__(self, name, environment=None):
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | (environment or {}),
        )

    def call(self, request, **arguments):
        """Let the worker work on one request and return its answer, or raise Failure."""
        self._signal(signal.SIGCONT)
        try:
            print(
                json.dumps([request, arguments]), file=self._process.stdin, flush=True
            )
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        self._signal(signal.SIGSTOP)
        if not line:
            raise Failure(f"the process ended with code {self._process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise Failure(reply["error"])
        return reply["answer"]

    def close(self):
        self._process.kill()
        self._process.wait()

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

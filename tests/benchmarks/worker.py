"""One implementation in a process of its own: answers requests, one JSON line each.

about       versions and device
prepare     draw weights and data, check loss and gradients, compile, run one epoch
run         time some epochs
costs       what a call, and a short epoch, take beside their steps (`prepare_costs` first)
memory      peak resident memory since `prepare`, and what the libraries alone held
details     what the implementation has to tell of its turns
ask         the answer of one of the module's functions
"""

import gc
import importlib
import json
import os
import sys
import time

import numpy as np

from tests.benchmarks import memory, overhead, report
from tests.benchmarks.networks import NETWORKS
from tests.benchmarks.steps import by_hand

CHECKED = 256  # points in the check of loss and gradients
# Of the float32 products' rounding near 1e-6 comes, of TF32's (10 bits: 5e-4) some 1e-3; a lost
# factor or term is near 1.
TOLERANCE, TOLERANCE_TF32 = 1e-4, 1e-2


class Worker:
    def __init__(self, name):
        self.module = importlib.import_module(f"tests.benchmarks.steps.{name}")
        self.libraries = memory.now()
        self.steps = None

    def about(self):
        return {
            "versions": report.versions(*self.module.PACKAGES),
            "device": self.module.device(),
        }

    def prepare(self, network, batch, steps=None, tf32=False):
        """Make steps ready; `steps` of an epoch, if not as many as the network has."""
        network = NETWORKS[network]
        self.steps = None
        gc.collect()
        memory.restart_peak()
        start = time.perf_counter()
        if hasattr(self.module, "allow_tf32"):
            self.module.allow_tf32(tf32)
        weights = network.weights()
        x = network.data(batch * (steps or network.epoch[batch]))
        self.steps = self.module.Steps(network, weights, x, batch)
        error = None
        if hasattr(self.steps, "loss_and_gradients"):
            error = self._error(network)
            if not error < (TOLERANCE_TF32 if tf32 else TOLERANCE):
                raise ValueError(
                    f"{self.module.TITLE} computes something else: relative error {error:.2g}"
                )
        first = time.perf_counter()
        self.steps.run(1)
        end = time.perf_counter()
        return {"error": error, "seconds": end - start, "first": end - first}

    def _error(self, network):
        """Return the largest relative error of loss and gradients against float64."""
        random = np.random.default_rng(2)
        x, nu = random.standard_normal((2, CHECKED, network.d))
        weights = [w.astype("float64") for w in network.weights()]
        loss, gradients = by_hand.loss_and_gradients(weights, x, nu, network.sigma)
        got, g = self.steps.loss_and_gradients(x.astype("f4"), nu.astype("f4"))
        errors = [abs(float(got) - loss) / loss]
        for wanted, array in zip(gradients, g, strict=True):
            difference = np.asarray(array, "float64") - wanted
            errors.append(np.linalg.norm(difference) / np.linalg.norm(wanted))
        return float(max(errors))

    def run(self, epochs):
        start = time.perf_counter()
        answer = self.steps.run(epochs)
        return time.perf_counter() - start if answer is None else answer

    def prepare_costs(self, network, batch):
        self.module.allow_tf32(False)
        self.steps = overhead.Costs(self.module.Steps, NETWORKS[network], batch)

    def costs(self):
        return self.steps.measure()

    def memory(self):
        return {"peak": memory.peak(), "libraries": self.libraries}

    def details(self):
        return self.steps.details()

    def ask(self, function, tf32=False, network=None, **arguments):
        self.module.allow_tf32(tf32)
        if network is not None:
            arguments["network"] = NETWORKS[network]
        return getattr(self.module, function)(**arguments)


def main():
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = None
    for line in sys.stdin:
        request, arguments = json.loads(line)
        try:
            if worker is None:
                worker = Worker(sys.argv[1])
            answer = {"answer": getattr(worker, request)(**arguments)}
        except Exception as error:  # noqa: BLE001 (the parent tells of it)
            answer = {"error": f"{type(error).__name__}: {str(error)[:1000]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

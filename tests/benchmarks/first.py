"""A learning run from the start of its process: python -m tests.benchmarks.first NAME NETWORK BATCH

Says "imported" and "trained" when it has got there, for whoever holds the clock.
"""

import importlib
import sys

from tests.benchmarks.networks import NETWORKS
from tests.benchmarks.overhead import ITERATIONS


def main(name, network, batch):
    module = importlib.import_module(f"tests.benchmarks.steps.{name}")
    print("imported", flush=True)
    network, batch = NETWORKS[network], int(batch)
    x = network.data(10 * batch)
    # Ours draws its first weights to suit the data.
    weights = None if name == "deen_fit" else network.weights()
    steps = module.Steps(network, weights, x, batch)
    steps.run(ITERATIONS // 10)
    print("trained", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A script in the manner of `reproduce/`, small, which the tests interrupt.

It checkpoints after every epoch, so that much of its time is spent writing.
"""

import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "reproduce"))
import command

if __name__ == "__main__":
    args = command.options(__doc__)

import experiment
import numpy as np

import deen_tf as deen
from deen_tf.laws.mixtures import GaussianMixture

EPOCHS = 30


def main(args):
    experiment.KEEP_EVERY = 0.0
    run = experiment.Run(__file__, args, {"epochs": EPOCHS}, name="small")
    x = GaussianMixture.ring(modes=8).sample(1010, seed=args.seed)
    for cls in (deen.DEEN, deen.DSM):
        model = cls(hidden_units=(16, 16), sigma=0.1, seed=args.seed)
        model.compile(steps_per_execution=4)
        name = cls.__name__
        losses, _ = run.fit(model, x, batch_size=100, epochs=EPOCHS, name=name)
        drawn = run.once(name, lambda m=model: {"score": m.score(x[:50]), "one": 1.0})
        weights = [w.numpy().ravel() for w in model.weights]
        moments = [np.ravel(v.numpy()) for v in model.optimizer.variables]
        state = {"weights": np.concatenate(weights), "moments": np.concatenate(moments)}
        run.arrays(name, {"losses": losses, "score": drawn["score"]} | state)
        run.metric(f"{name}/loss_end", losses[-1])
        run.export(model, name)
    run.finish(run.recorded)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started it
    main(args)

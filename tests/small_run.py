"""A script in the manner of `reproduce/`, small, which the tests interrupt.

It checkpoints after every epoch, so that much of its time is spent writing.
"""

import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "reproduce"))
import outputs

EPOCHS = 30


def main(argv=None):
    args = outputs.options(__doc__).parse_args(argv)
    outputs.KEEP_EVERY = 0.0
    run = outputs.Run("small", args, {"epochs": EPOCHS})
    import numpy as np

    import deen_tf as deen

    x = deen.datasets.GaussianMixture.ring(modes=8).sample(1010, seed=args.seed)
    groups = {}
    for cls in (deen.DEEN, deen.DSM):
        model = cls((16, 16), sigma=0.1, seed=args.seed)
        model.compile(steps_per_execution=4)
        name = cls.__name__
        iterations, losses, _ = run.train(
            model, x, name=name, batch_size=100, epochs=EPOCHS
        )
        weights = np.concatenate([w.numpy().ravel() for w in model.weights])
        moments = [np.ravel(v.numpy()) for v in model.optimizer.variables]
        groups[name] = (
            {
                "iterations": iterations,
                "losses": losses,
                "weights": weights,
                "optimizer": np.concatenate(moments),
            },
            {},
        )
        run.metric(f"{name}/loss", losses[-1], "1", "of the last steps")
        if not args.no_export:
            model.export(run.path("models", name))
    run.arrays(groups)
    run.json()
    run.finish_training()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started it
    outputs.guarded(main)

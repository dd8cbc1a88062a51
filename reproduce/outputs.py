"""What every script here shares: its options, its training with resume, its outputs.

The package, and with it TensorFlow, is imported only when a run begins: `--help` answers
at once.
"""

import argparse
import contextlib
import csv
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import statistics
import sys
import time

# TensorFlow reports its build and the missing GPU on every import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
logging.getLogger("tensorflow").setLevel("ERROR")  # it counts our models as retracings

PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-image", "h5py")


def options(description, **more):
    """Return the parser of the options that all scripts take.

    Parameters
    ----------
    description : str
        The script's docstring.
    **more : dict
        Further options, as `name=dict(...)` of `add_argument`'s arguments.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", default="figures", help="folder of the outputs (default: figures)"
    )
    parser.add_argument("--seed", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument(
        "--seeds", type=int, default=1, help="how many seeds to run (default: 1)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run of seconds, marked as such"
    )
    parser.add_argument("--no-export", action="store_true", help="write no SavedModels")
    for name, arguments in more.items():
        parser.add_argument("--" + name.replace("_", "-"), **arguments)
    return parser


class Run:
    """One run of a script: its folder, its settings, its metrics.

    Parameters
    ----------
    name : str
        Of the script: outputs are called `<name>.json`, `<name>.png`, ...
    args : argparse.Namespace
        From `options`.
    settings : dict
        What decides the result; recorded, and part of a checkpoint's identity.

    Raises
    ------
    OSError
        If the folder cannot be written; before any work starts.
    """

    def __init__(self, name, args, settings):
        from deen_tf.validation import output_folder, whole

        self.name = name
        self.out = output_folder(args.out)
        self.first = whole(args.seed, "--seed", least=0)
        self.seeds = range(self.first, self.first + whole(args.seeds, "--seeds"))
        self.quick = args.quick
        self.settings = settings | {"quick": args.quick, "seeds": list(self.seeds)}
        self.data = {}
        self.started = time.perf_counter()
        self.stages = {}
        self._values = {}
        self._checkpoints = []
        self._definitions = {}

    def path(self, *parts):
        return os.path.join(self.out, *parts)

    @contextlib.contextmanager
    def stage(self, name):
        """Add the wall time of the block to the stage `name`."""
        start = time.perf_counter()
        yield
        self.stages[name] = self.stages.get(name, 0) + time.perf_counter() - start

    # ---- training that survives an interruption --------------------------------------

    def train(self, model, x, *, name, batch_size, epochs, bar=None, **identity):
        """Fit the model, or take up the fit that an interrupted run left.

        A fit is known by the model's configuration, its optimizer, the data and the
        schedule. Its state is kept, at the end of an epoch, in `<out>/checkpoints`; a finished
        fit stays there until the script has ended.

        Parameters
        ----------
        model : ScoreModel
            Compiled.
        x : ndarray, shape (n, d)
        name : str
            Of this fit, unique in the script.
        batch_size, epochs : int
        bar : tqdm, optional
            Advanced by one for every step.

        Returns
        -------
        iterations : list of int
        losses : list of float
            The mean loss of each execution, and the iteration at its end.
        seconds : float
            Of the fit, over all its parts.
        """
        config = model.get_config()
        del config["name"]  # Keras counts the models of a process
        fit = {
            "config": config,
            "compile": model.get_compile_config(),
            "x": hashlib.sha256(x.tobytes()).hexdigest(),
            "schedule": [batch_size, epochs, int(model.optimizer.iterations)],
            "versions": versions(),
        } | identity
        key = hashlib.sha256(json.dumps(fit, default=str).encode()).hexdigest()[:16]
        folder = self.path("checkpoints", f"{self.name}-{name}-{key}")
        os.makedirs(folder, exist_ok=True)
        self._checkpoints.append(folder)
        steps = -(-len(x) // batch_size)
        if not model.built:
            model.adapt(x)
        model.optimizer.build(model.trainable_variables)
        log = os.path.join(folder, "losses.csv")
        model.fit(
            x,
            batch_size=batch_size,
            epochs=epochs,
            verbose=0,
            callbacks=[_loss_log(log, bar, steps), _backup(folder, epochs)],
        )
        rows = {}
        with open(log, newline="") as stream:
            for end, loss, seconds in csv.reader(stream):
                rows[int(end)] = float(loss), float(seconds)  # of a resume, the last
        iterations = sorted(rows)
        losses = [rows[end][0] for end in iterations]
        return iterations, losses, sum(seconds for _, seconds in rows.values())

    def finish_training(self):
        """Forget this run's checkpoints: the outputs are written."""
        for folder in self._checkpoints:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run's are still there
            os.rmdir(self.path("checkpoints"))

    # ---- outputs ---------------------------------------------------------------------

    def metric(self, name, value, unit, definition):
        """Record a number; again with the next seed, and it becomes a range."""
        self._values.setdefault(name, []).append(float(value))
        self._definitions[name] = {"unit": unit, "definition": definition}

    def metrics(self):
        return {
            name: {
                "median": statistics.median(values),
                "min": min(values),
                "max": max(values),
                "values": values,
            }
            | self._definitions[name]
            for name, values in self._values.items()
        }

    def figure(self, figure, stem):
        """Write the figure as PNG and PDF; a quick run says so on it."""
        if self.quick:
            figure.text(
                0.5, 0.5, "quick", fontsize=80, alpha=0.15, ha="center", va="center"
            )
        from deen_tf.atomic import replacing

        for ending in ("png", "pdf"):
            with replacing(self.path(f"{stem}.{ending}")) as temporary:
                figure.savefig(temporary, dpi=150)

    def arrays(self, groups):
        """Write `{group: ({name: array}, {attribute: value})}` to `<name>.h5`."""
        import h5py
        import numpy as np

        from deen_tf.atomic import replacing

        with (
            replacing(self.path(f"{self.name}.h5")) as temporary,
            h5py.File(temporary, "w") as file,
        ):
            for group, (arrays, attributes) in groups.items():
                target = file.create_group(group)
                target.attrs.update(attributes)
                for name, array in arrays.items():
                    target.create_dataset(
                        name, data=np.asarray(array, "float32"), compression="gzip"
                    )

    def json(self, **more):
        """Write `<name>.json`: the settings, the versions, the data, the metrics."""
        record = {
            "script": f"reproduce/{self.name}.py",
            "settings": self.settings,
            "data": self.data,
            "versions": versions(),
            "seconds": {k: round(v, 2) for k, v in self.stages.items()}
            | {"total": round(time.perf_counter() - self.started, 2)},
            "metrics": self.metrics(),
        } | more
        write_json(self.path(f"{self.name}.json"), record)

    def table(self):
        """Print the metrics."""
        metrics = self.metrics()
        width = max(map(len, metrics), default=0)
        print(f"\n{'metric':{width}}  {'median':>11}  {'min':>11}  {'max':>11}  unit")
        for name, m in metrics.items():
            print(
                f"{name:{width}}  {m['median']:11.4g}  {m['min']:11.4g}  "
                f"{m['max']:11.4g}  {m['unit']}"
            )
        print(f"\nwritten to {self.out} in {time.perf_counter() - self.started:.0f} s")


def write_json(path, record):
    from deen_tf.atomic import replacing

    with replacing(path) as temporary, open(temporary, "w") as stream:
        json.dump(record, stream, indent=1)
        stream.write("\n")


def versions():
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in PACKAGES
    }


def guarded(main):
    """Run a script's `main(argv)`: a mistake of the user's is one line, not a traceback."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(
            "interrupted: the finished epochs are kept; the same command goes on there"
        )
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get("DEEN_TRACEBACK"):
            raise
        sys.exit(f"{type(error).__name__}: {error}")


def _backup(folder, epochs, every=10.0):
    """Keras' BackupAndRestore, at most once in so many seconds and at the end."""
    import keras

    class Backup(keras.callbacks.BackupAndRestore):
        saved = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            if epoch + 1 == epochs or time.perf_counter() - self.saved > every:
                super().on_epoch_end(epoch, logs)
                self.saved = time.perf_counter()

    return Backup(os.path.join(folder, "backup"), delete_checkpoint=False)


def _loss_log(path, bar, steps):
    """Keep the mean loss and the seconds of every execution, and advance the bar."""
    import keras

    class LossLog(keras.callbacks.Callback):
        advanced = 0  # steps that the bar knows of

        def on_epoch_begin(self, epoch, logs=None):
            self.first = epoch * steps
            self.done, self.mean, self.rows = 0, 0.0, []
            self.clock = time.perf_counter()
            self.advance(0)

        def on_train_batch_end(self, batch, logs=None):
            done, mean = min(batch + 1, steps), logs["loss"]
            # Keras reports the mean since the epoch began.
            loss = (mean * done - self.mean * self.done) / (done - self.done)
            seconds, self.clock = time.perf_counter() - self.clock, time.perf_counter()
            self.rows.append((self.first + done, repr(loss), f"{seconds:.4f}"))
            self.done, self.mean = done, mean
            self.advance(done)

        def on_epoch_end(self, epoch, logs=None):
            with open(path, "a", newline="") as stream:
                csv.writer(stream).writerows(self.rows)

        def advance(self, done):
            if bar is not None:
                bar.update(self.first + done - self.advanced)
            self.advanced = self.first + done

    return LossLog()

"""What every script here shares: its options, its training with resume, its outputs.

The package, and with it TensorFlow, is imported only when a run begins: `--help` answers
at once.
"""

import argparse
import contextlib
import csv
import hashlib
import importlib.metadata
import io
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

KEEP_EVERY = 10.0  # seconds between two checkpoints of a training

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
        from deen_tf.checks import output_folder, whole

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
        schedule. Its state is kept in `<out>/checkpoints`, at the end of an epoch, of the last
        and otherwise every `KEEP_EVERY` seconds at most; a finished fit stays there until the
        script has ended. What was trained since, an interrupted run trains again, to the same
        weights.

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
        compiled = model.get_compile_config()
        # Keras counts the models of a process, and the optimizers.
        del config["name"], compiled["optimizer"]["config"]["name"]
        fit = {
            "config": config,
            "compile": compiled,
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
        keeper = _keeper(folder, steps, epochs, bar)
        done = keeper.take_up(model)
        if done < epochs:
            model.fit(
                x,
                batch_size=batch_size,
                initial_epoch=done,
                epochs=epochs,
                verbose=0,
                callbacks=[keeper],
            )
        iterations, losses, seconds = zip(*keeper.rows, strict=True)
        return list(iterations), list(losses), sum(seconds)

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

        content = io.BytesIO()  # on a full disk HDF5 ends the whole process
        with h5py.File(content, "w") as file:
            for group, (arrays, attributes) in groups.items():
                target = file.create_group(group)
                target.attrs.update(attributes)
                for name, array in arrays.items():
                    target.create_dataset(
                        name, data=np.asarray(array, "float32"), compression="gzip"
                    )
        with (
            replacing(self.path(f"{self.name}.h5")) as temporary,
            open(temporary, "wb") as stream,
        ):
            stream.write(content.getbuffer())

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
        print(
            "interrupted: all but the last seconds of training is kept; the same command "
            "goes on from there",
            file=sys.stderr,
        )
        sys.exit(130)  # as a shell reports Ctrl-C
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        if os.environ.get("DEEN_TRACEBACK"):
            raise
        sys.exit(f"{type(error).__name__}: {error}")


def _keeper(folder, steps, epochs, bar):
    """Return the callback that keeps a fit's state and losses, and advances the bar.

    Two files, each replaced as a whole: first the losses, then the weights, which hold the
    optimizer and with it the iteration. Killed in between, the losses are ahead of the
    weights, and what is ahead is dropped. (Keras' BackupAndRestore writes its two files in
    place, and after a kill they may be half written, or not belong together.)
    """
    import keras

    from deen_tf.atomic import replacing
    from deen_tf.training.guard import restore, state

    weights = os.path.join(folder, "state.weights.h5")
    losses = os.path.join(folder, "losses.csv")

    class Keeper(keras.callbacks.Callback):
        rows = ()  # of each execution: iteration at its end, mean loss, seconds
        advanced = 0  # steps that the bar knows of
        kept = time.perf_counter()

        def take_up(self, model):
            """Give the model the state that is kept; return the epochs it has behind it."""
            if not os.path.exists(weights):
                return 0
            begin, start = int(model.optimizer.iterations), state(model)
            try:
                model.load_weights(weights)
                done = int(model.optimizer.iterations) - begin
                with open(losses, newline="") as stream:
                    rows = [
                        (int(end), float(loss), float(seconds))
                        for end, loss, seconds in csv.reader(stream)
                    ]
                rows = [row for row in rows if row[0] <= done]
                if done % steps or not rows or rows[-1][0] != done:
                    raise ValueError(f"they end at {rows[-1:]}, the weights at {done}")
            except (OSError, ValueError, KeyError) as error:
                restore(model, start)
                print(f"{folder} is damaged: this fit begins anew ({error})")
                return 0
            self.rows = rows
            self.advance(done)
            return done // steps

        def on_epoch_begin(self, epoch, logs=None):
            self.first = epoch * steps
            self.done, self.mean, self.new = 0, 0.0, []
            self.clock = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            done, mean = min(batch + 1, steps), logs["loss"]
            # Keras reports the mean since the epoch began.
            loss = (mean * done - self.mean * self.done) / (done - self.done)
            seconds, self.clock = time.perf_counter() - self.clock, time.perf_counter()
            self.new.append((self.first + done, float(loss), round(seconds, 4)))
            self.done, self.mean = done, mean
            self.advance(self.first + done)

        def on_epoch_end(self, epoch, logs=None):
            self.rows = [*self.rows, *self.new]
            if epoch + 1 < epochs and time.perf_counter() - self.kept < KEEP_EVERY:
                return
            with (
                replacing(losses) as temporary,
                open(temporary, "w", newline="") as stream,
            ):
                csv.writer(stream).writerows(self.rows)
            with replacing(weights) as temporary:
                self.model.save_weights(temporary)
            self.kept = time.perf_counter()

        def advance(self, done):
            if bar is not None:
                bar.update(done - self.advanced)
            self.advanced = done

    return Keeper()

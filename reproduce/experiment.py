"""A run of a script: its settings and seeds, its fits and results, its numbers, its files.

Two things survive an interruption, in `<out>/cache` until the script has written its outputs
(with `--keep`, until you remove it): fits (`Run.fit`), finished or not, and results of other
long computations (`Run.once`). Each is known by all that decides it, the code included; what
is damaged is named and computed anew.
"""

import contextlib
import hashlib
import inspect
import json
import pathlib
import re
import shutil
import statistics
import sys
import time
import types
import zipfile
import zlib

import matplotlib
import numpy as np
from provenance import ROOT, device, hashes, origin, versions
from tables import in_words
from tqdm import tqdm

from deen_tf.atomic import hdf5, lock, replacing
from deen_tf.checks import output_folder, whole
from deen_tf.training.checkpoints import load_state, save_state

matplotlib.use("Agg")

KEEP_EVERY = 10.0  # seconds between two checkpoints of a fit
DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


class Run:
    """One run of a script.

    Parameters
    ----------
    file : str
        `__file__` of the script, whose outputs are called <name>.json, <name>.png, ...
    args : argparse.Namespace
        From `command.options`.
    settings : dict
        What decides the result; then an attribute, a namespace.
    quick : dict, optional
        The settings that are others in a quick run.
    name : str, optional
        By default that of the file.

    Attributes
    ----------
    data : dict
        For the script to say what the data are.
    seeds : range
    watched : bool
        Whether somebody sees progress bars.

    Raises
    ------
    OSError
        If the folder cannot be written, or another run writes there; before any work starts.
    """

    def __init__(self, file, args, settings, quick=(), name=None):
        self.name, self.args, self.quick = (
            name or pathlib.Path(file).stem,
            args,
            args.quick,
        )
        self.out = pathlib.Path(output_folder(args.out))
        self.first = whole(args.seed, "--seed", least=0)
        self.seeds = range(self.first, self.first + whole(args.seeds, "--seeds"))
        more = dict(quick) if args.quick else {}
        self.settings = types.SimpleNamespace(**(settings | more))
        self.watched = sys.stderr.isatty()
        self.data, self.stages = {}, {}
        self._values, self._defined, self._known = {}, {}, definitions()
        self._arrays, self._used, self._lock = {}, set(), contextlib.ExitStack()
        self._lock.enter_context(lock(self.out))
        script = pathlib.Path(file).resolve()
        self.origin = {"script": script.relative_to(ROOT).as_posix()}
        self.origin |= {"command": args.command} | origin(script)
        self._started = time.perf_counter()

    def path(self, *parts):
        return self.out.joinpath(*parts)

    @contextlib.contextmanager
    def stage(self, name):
        """Add the wall time of the block to the stage `name`."""
        start = time.perf_counter()
        yield
        self.stages[name] = self.stages.get(name, 0) + time.perf_counter() - start

    def each(self, cases, unit="fit", total=None):
        """Go through the cases, with a bar if somebody watches."""
        cases = cases if total else list(cases)
        return tqdm(cases, unit=unit, total=total, disable=None, dynamic_ncols=True)

    # ---- what survives an interruption -----------------------------------------------

    def fit(self, model, x, *, batch_size, epochs, name="fit"):
        """Fit the model, or take up the fit that an interrupted run left.

        A fit is known by where it starts, the model and its optimizer, the data, the
        schedule and the code. Its state is kept at the end of an epoch, about every
        `KEEP_EVERY` seconds and at the last; what was trained since, an interrupted run
        trains again, to the same weights.

        Parameters
        ----------
        model : keras.Model
            Of deen_tf, compiled.
        x : ndarray, shape (n, ...)
        batch_size, epochs : int
        name : str
            For the bar.

        Returns
        -------
        losses : ndarray, shape (steps,)
            Of every step.
        seconds : float
            Wall time, over all parts of the fit.
        """
        if not model.built:
            model.adapt(x)
        model.optimizer.build(model.trainable_variables)
        config, compiled = model.get_config(), model.get_compile_config()
        # Keras counts the models of a process, and the optimizers.
        config.pop("name", None), compiled["optimizer"]["config"].pop("name", None)
        start = [v.numpy() for v in (*model.weights, *model.optimizer.variables)]
        library = [
            f for k in ("models", "networks") for f in ROOT.glob(f"deen_tf/{k}/*.py")
        ]
        decided = (type(model).__name__, config, compiled, batch_size, epochs)
        path = self._cache("fit", *decided, content(*start, x), hashes(*library))
        curve = read_result(path + ".npz") or {"losses": np.empty(0), "seconds": 0.0}
        done = len(curve["losses"]) and load_state(path + ".state", model) or 0
        # Killed between two files, the losses were ahead of the state.
        losses, seconds = (
            curve["losses"][: done * -(-len(x) // batch_size)],
            curve["seconds"],
        )
        bar = tqdm(desc=name, total=epochs, unit="epoch", leave=False, disable=None)
        bar.update(done)
        many = 1  # epochs to the next checkpoint
        while done < epochs:
            began, end = time.perf_counter(), min(done + many, epochs)
            more = {"initial_epoch": done, "epochs": end, "verbose": 0}
            model.fit(x, batch_size=batch_size, **more)
            spent, many = time.perf_counter() - began, end - done
            done, seconds = end, seconds + spent
            losses = np.append(losses, model.step_losses)
            write_result(path + ".npz", {"losses": losses, "seconds": seconds})
            save_state(path + ".state", model, epoch=done)
            bar.update(many)
            many = max(1, int(many * KEEP_EVERY / spent))
        bar.close()
        return losses, seconds

    def once(self, name, compute, *decided_by):
        """Return what `compute()` returns, or what an interrupted run left of it.

        Parameters
        ----------
        name : str
            Of this result, unique in the script.
        compute : callable
            Returns {name: array or number}.
        *decided_by
            What decides the result beside the settings, the first seed and the code: the
            data's identity, for instance.
        """
        function = getattr(compute, "func", compute)  # of a functools.partial
        path = self.result_path(name, inspect.getsourcefile(function), *decided_by)
        if read_result(path) is None:
            write_result(path, compute())
        return read_result(path)

    def result_path(self, name, file, *decided_by):
        """Return the path of a result of `once` that code in `file` computes."""
        decided = vars(self.settings), self.first, hashes(file)
        return self._cache(name, *decided_by, *decided) + ".npz"

    def _cache(self, name, *decided_by):
        identity = json.dumps([name, decided_by, versions(), device()], default=str)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        path = self.path("cache", f"{name.replace('/', '-')}-{digest}")
        path.parent.mkdir(exist_ok=True)
        self._used.add(path)
        return str(path)

    # ---- numbers ---------------------------------------------------------------------

    def metric(self, name, value, of=None, note=""):
        """Record a number; again with the next seed, and it becomes a range.

        Parameters
        ----------
        name : str
        value : float
        of : str, optional
            Its row in metrics.md, where the name does not tell (see there).
        note : str
            Added to the definition.
        """
        self._values.setdefault(name, []).append(float(value))
        first = name.split("/")[0]
        for part in [of] if of else reversed(name.split("/")):
            base = part.split("@")[0]
            for key in (f"{self.name}/{base}", f"{first}/{base}", base):
                if key in self._known:
                    unit, text = self._known[key]
                    self._defined[name] = {"unit": unit, "definition": text + note}
                    return
        raise KeyError(f"metrics.md does not say what {name} is")

    def record(self, prefix, values):
        """Record {metric: value} under `prefix/metric`."""
        for metric, value in values.items():
            self.metric(f"{prefix}/{metric}", value)

    @property
    def recorded(self):
        """The names of all metrics so far."""
        return list(self._values)

    def values(self, name):
        """Return the values of a metric, one for each seed, shape (seeds,)."""
        return np.array(self._values[name])

    def median(self, name):
        return float(np.median(self._values[name]))

    # ---- files -----------------------------------------------------------------------

    def figure(self, figure, stem):
        """Write the figure as PNG and PDF; a quick run says so on it."""
        if self.quick:
            place = {"ha": "center", "va": "center", "zorder": 1000}
            figure.text(0.5, 0.5, "quick", fontsize=90, color="red", alpha=0.4, **place)
        for ending in ("png", "pdf"):
            with replacing(self.path(f"{stem}.{ending}")) as temporary:
                figure.savefig(temporary, dpi=200)
        matplotlib.pyplot.close(figure)

    def arrays(self, group, arrays, **attributes):
        """Keep the arrays of a panel, for `<name>.h5`."""
        self._arrays[group] = arrays, attributes

    def export(self, model, name):
        """Write the SavedModel of one of the script's networks."""
        if not self.args.no_export:
            with self.stage("export"):
                model.export(str(self.path("models", f"{self.name}-{name}")))

    def finish(self, show, part=False, **more):
        """Write json and HDF5, forget what was kept for the run, print a short table.

        Parameters
        ----------
        show : iterable of str
            The metrics that a reader of the figure wants; about ten.
        part : bool
            This was a part of the script's work: the run of all will want what is kept.
        **more : dict
            Further entries of the json.
        """
        if self._arrays:
            with hdf5(self.path(f"{self.name}.h5")) as file:
                for group, (arrays, attributes) in self._arrays.items():
                    file.create_group(group).attrs.update(attributes)
                    for name, array in arrays.items():
                        array = np.asarray(array, "float32")
                        file[group].create_dataset(name, data=array, compression="gzip")
        total = time.perf_counter() - self._started
        settings = vars(self.settings) | {
            "quick": self.quick,
            "seeds": list(self.seeds),
        }
        record = self.origin | {
            "settings": settings,
            "data": self.data,
            "seconds": {
                k: round(v, 2) for k, v in (self.stages | {"total": total}).items()
            },
            "metrics": {
                k: summary(v) | self._defined[k] for k, v in self._values.items()
            },
        }
        text = json.dumps(record | more, indent=1, default=str)
        write(self.path(f"{self.name}.json"), text + "\n")
        if not (part or self.args.keep):
            for path in self._used:
                for file in path.parent.glob(f"{path.name}*"):
                    file.unlink()
                # Of a run that was killed while it wrote.
                for folder in path.parent.glob(f".{path.name}*.unfinished-*"):
                    shutil.rmtree(folder)
            with contextlib.suppress(OSError):  # another run's are still there
                self.path("cache").rmdir()
        self._lock.close()
        show = [name for name in show if name in self._values]
        for name in show:
            unit = self._defined[name]["unit"]
            words = in_words(self._values[name]) + (f" {unit}" if unit != "1" else "")
            print(f"{name:{max(map(len, show))}}  {words}")
        print(f"written to {self.out} in {total:.0f} s")


def definitions():
    """Return {name: (unit, definition)} from metrics.md."""
    table = pathlib.Path(__file__).with_name("metrics.md").read_text(encoding="utf-8")
    rows = (re.split(r" (?<!\\)\| ", row.strip("| ")) for row in table.splitlines())
    return {r[0]: (r[1], r[2].replace("\\|", "|")) for r in rows if len(r) == 3}


def content(*arrays):
    """Return a hash of what the arrays hold."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def read_result(path):
    """Return the arrays of a .npz file, numbers as numbers; None if there is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)  # every part has a checksum
    except FileNotFoundError:
        return None
    except DAMAGE as error:
        print(f"{path} is damaged and not used ({error})")
        return None
    return {k: v if v.ndim else v.item() for k, v in arrays.items()}


def write_result(path, arrays):
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)


def write(path, text):
    """Write a text file, as a whole or not at all."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)


def summary(values):
    median = statistics.median(values)
    return {"median": median, "min": min(values), "max": max(values), "values": values}

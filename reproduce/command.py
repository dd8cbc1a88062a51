"""The command line of every script, read before anything heavy is imported.

TensorFlow takes seconds to import, and `--help` has to answer at once, and mistakes too. So
every script begins with

    from command import options

    if __name__ == "__main__":
        args = options(__doc__, long={"type": int, "default": 0, "help": "..."})

then imports what it needs, as usual, and ends with

    if __name__ == "__main__":
        main(args)

From there on a mistake of the user's is one line, not a traceback (but with DEEN_TRACEBACK
set in the environment), and so is Ctrl-C.
"""

import argparse
import logging
import os
import sys

# TensorFlow reports its build and the missing GPU on every import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
logging.getLogger("tensorflow").setLevel("ERROR")  # it counts our models as retracings

MISTAKES = (ValueError, TypeError, OSError, FloatingPointError, ImportError)


def options(description, argv=None, **more):
    """Read the command line: the options that all scripts take, and a script's own.

    Parameters
    ----------
    description : str
        The script's docstring.
    argv : list of str, optional
        By default that of the process.
    **more : dict
        Further options, as `name={...}` of `add_argument`'s arguments.

    Returns
    -------
    argparse.Namespace
        With `command`, what was typed but for places (`--out`, `--data`) and what is kept.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", default="out", help="folder of the outputs (default: out)")
    add("--seed", type=int, default=0, help="first seed (default: 0)")
    add("--seeds", type=int, default=1, help="how many seeds to run (default: 1)")
    add("--quick", action="store_true", help="a smoke run of seconds, marked as such")
    add("--no-export", action="store_true", help="write no SavedModels")
    add("--keep", action="store_true", help="leave what was computed in <out>/cache")
    for name, arguments in more.items():
        add("--" + name.replace("_", "-"), **arguments)
    typed = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(typed)
    places = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--out", "--data", "--model", "--models", "--jobs"):
        places.add_argument(name)
    places.add_argument("--no-export", "--keep", action="store_true")
    script = os.path.basename(sys.argv[0])
    decides = places.parse_known_args(typed)[1]
    args.command = " ".join(["python", f"reproduce/{script}", *decides])
    if argv is None:
        sys.excepthook = one_line
    return args


def one_line(kind, error, traceback):
    """Print a mistake of the user's, or Ctrl-C, as one line; all else as Python does."""
    if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
        kind = KeyboardInterrupt  # within C++, which raises SystemError from it
    if os.environ.get("DEEN_TRACEBACK") or not issubclass(
        kind, (*MISTAKES, KeyboardInterrupt)
    ):
        sys.__excepthook__(kind, error, traceback)
    elif kind is KeyboardInterrupt:
        words = "all but the last seconds of training is kept; the same command goes on"
        print(f"interrupted: {words} from there", file=sys.stderr)
    else:
        print(f"{kind.__name__}: {error}", file=sys.stderr)

"""The documentation, made of the docstrings by pdoc; its warnings are errors.

pip install -e '.[docs]'
python .github/docs.py             # into out/docs: open out/docs/index.html
python .github/docs.py FOLDER
"""

import importlib
import pathlib
import pkgutil
import sys
import warnings

import pdoc

import deen_tf


def open_all():
    """Import all modules of the package, and name in each package what is in it."""
    found = {"deen_tf": deen_tf}
    for module in pkgutil.walk_packages(deen_tf.__path__, "deen_tf."):
        if module.name != "deen_tf.moved":  # old names
            found[module.name] = importlib.import_module(module.name)
    for name, module in found.items():
        if hasattr(
            module, "__path__"
        ):  # a package: what it imports late, and its rooms
            names = set(getattr(module, "__all__", ()))
            vars(module).update({n: getattr(module, n) for n in names})
            rooms = {
                n.rpartition(".")[2] for n in found if n.rpartition(".")[0] == name
            }
            module.__all__ = sorted(names | rooms)


def main(folder="out/docs"):
    warnings.filterwarnings("error", module="pdoc")
    pdoc.render.configure(docformat="numpy", show_source=True, search=True)
    open_all()
    pdoc.pdoc("deen_tf", output_directory=pathlib.Path(folder))
    print(f"written to {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Modules under the names that they had in 0.1: `import deen_tf.parzen` still answers."""

import importlib
import importlib.abc
import importlib.machinery
import sys

HOMES = {
    "contrastive": "models.contrastive_divergence",
    "datasets.law": "laws.law",
    "datasets.toy": "laws.plane",
    "deen": "models.deen",
    "distribution": "training.replicas",
    "divergence": "training.guard",
    "energy": "models.energy",
    "initialization": "training.start",
    "kernel_sums": "laws.kernel_sums",
    "noise": "training.noise",
    "noise_contrastive": "models.noise_contrastive",
    "parzen": "laws.parzen",
    "photographs": "images",
    "score_matching": "models.score_matching",
    "stein": "models.stein",
    "validation": "checks",
}


class Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its old name, and gives the module that it is."""

    def find_spec(self, name, path=None, target=None):
        if name.removeprefix("deen_tf.") in HOMES and name.startswith("deen_tf."):
            return importlib.machinery.ModuleSpec(name, self)
        return None

    def create_module(self, spec):
        home = HOMES[spec.name.removeprefix("deen_tf.")]
        module = importlib.import_module(f"deen_tf.{home}")
        self.spec = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = self.spec  # which the import under the old name has replaced


sys.meta_path.append(Moved())

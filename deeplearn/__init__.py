"""Neural networks in JAX: a task, a model, data and an optimizer in one record, and one loop.

The public names load on first use, so that `import deeplearn` costs milliseconds:
`Experiment`, `train`, `evaluate`, `load` and `Run`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplearn.evaluate import evaluate
    from deeplearn.experiment import Experiment
    from deeplearn.train import Run, load, train

__all__ = ["Experiment", "Run", "evaluate", "load", "train"]
__version__ = "0.1.0"

_HOME = {
    "Experiment": "deeplearn.experiment",
    "Run": "deeplearn.train",
    "evaluate": "deeplearn.evaluate",
    "load": "deeplearn.train",
    "train": "deeplearn.train",
}


class _Package(ModuleType):
    """A package whose public names win over its submodules of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        # On its first import the module deeplearn.train is bound here as `train`, which would make
        # `from deeplearn import train` depend on who imported what before.
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

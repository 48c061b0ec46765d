"""The experiment: the one configuration type, a frozen record that names one of each.

Linen modules are dataclasses themselves, so the record holds the model, not a mirror of it.
`overrides.py` changes fields from text; `record` writes the whole as JSON-able values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from deeplearn.data.dataset import Sequential, Shuffled
from deeplearn.data.source import Source
from deeplearn.errors import UsageError
from deeplearn.optimizers import Optimizer
from deeplearn.players import Players
from deeplearn.sharding import Axes, Rules
from deeplearn.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stops after `patience` evaluations without a better value; the best state is the result.

    `metric` is `split/name`, such as `validation/loss`; `mode` is "min" or "max".
    """

    metric: str = "validation/loss"
    mode: str = "min"
    patience: int = 5

    def signed(self, metrics: Mapping[str, Mapping[str, float]]) -> float:
        """The watched value with smaller always better."""
        split, _, name = self.metric.partition("/")
        value = metrics[split][name]
        return value if self.mode == "min" else -value


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One training run: a task on data with an optimizer, and how to run it.

    All periods (`log_every`, `evaluate_every`, `save_every`) and `steps` count updates. One call of
    the compiled program makes `steps_per_call` updates, one update averages `microbatches` parts of
    a batch of `batch_size` examples. `keep` is the number of latest checkpoints. `skip_limit`
    non-finite updates are dropped before the run stops. `mesh` and `rules` place the state (see
    `sharding`); `per_device` compiles by `shard_map` instead of `jit`. `overrides` are the texts
    that changed the record since its source made it; `override` writes them.
    """

    name: str
    task: Task
    train: Source
    optimizer: Optimizer | Players
    steps: int
    evaluation: Mapping[str, Source] = dataclasses.field(default_factory=dict)
    batch_size: int = 64
    evaluation_batch_size: int = 500
    augment: tuple[Any, ...] = ()
    seed: int = 0
    microbatches: int = 1
    steps_per_call: int = 1
    log_every: int = 50
    evaluate_every: int = 500
    save_every: int = 500
    keep: int = 2
    early_stopping: EarlyStopping | None = None
    skip_limit: int = 0
    mesh: Axes = (("data", -1),)
    rules: Rules = ()
    per_device: bool = False
    overrides: tuple[str, ...] = ()

    def train_dataset(self) -> Shuffled:
        """The endless shuffled and augmented training stream."""
        return Shuffled(self.train, self.batch_size, self.seed, self.augment)

    def evaluation_dataset(self, split: str, multiple: int = 1) -> Sequential:
        """One pass over a split, in order; the batch size is rounded up to a multiple."""
        if split not in self.evaluation:
            known = ", ".join(sorted(self.evaluation)) or "none"
            raise UsageError(f"experiment '{self.name}' has no split '{split}'; it has: {known}")
        source = self.evaluation[split]
        rows = min(self.evaluation_batch_size, max(len(source), 1))
        return Sequential(source, -(-rows // multiple) * multiple)

    def validate(self) -> None:
        """Raises `UsageError` where a field cannot work; reads no data."""
        least_one = ("steps", "batch_size", "evaluation_batch_size", "microbatches", "keep")
        periods = ("steps_per_call", "log_every", "evaluate_every", "save_every")
        for name in least_one + periods:
            self._require(getattr(self, name) >= 1, name, "must be at least 1")
        self._require(self.steps < 2**31, "steps", "must be below 2³¹")
        self._require(0 <= self.seed < 2**32, "seed", "must be in [0, 2³²)")
        self._require(self.skip_limit >= 0, "skip_limit", "must not be negative")
        call = self.steps_per_call
        for name in ("steps", *periods[1:]):
            multiple = getattr(self, name) % call == 0
            self._require(multiple, name, f"must be a multiple of steps_per_call={call}")
        if "train" in self.evaluation:
            raise UsageError(
                f"experiment '{self.name}': an evaluation split cannot be called 'train', which"
                " names the training data; rename it"
            )
        divides = self.batch_size % self.microbatches == 0
        self._require(
            divides, "batch_size", f"must be a multiple of microbatches={self.microbatches}"
        )
        self._require(
            not (self.per_device and self.rules), "rules", "must be empty with per_device=True"
        )
        if (stop := self.early_stopping) is not None:
            split, _, metric = stop.metric.partition("/")
            known = ", ".join(sorted(self.evaluation)) or "none"
            found = split in self.evaluation and bool(metric)
            self._require(
                found, "early_stopping.metric", f"must be SPLIT/NAME with a split of: {known}"
            )
            self._require(stop.mode in ("min", "max"), "early_stopping.mode", "must be min or max")
            self._require(stop.patience >= 1, "early_stopping.patience", "must be at least 1")
        self.optimizer.validate(self.steps)

    def _require(self, holds: bool, field: str, rule: str) -> None:
        if not holds:
            value: Any = self
            for name in field.split("."):
                value = getattr(value, name)
            raise UsageError(f"experiment '{self.name}': {field}={value!r} {rule}")


def public_fields(value: Any) -> list[dataclasses.Field]:
    """The fields that describe a dataclass; those that linen adds to modules are left out."""
    hidden = {"parent", "name"} if hasattr(value, "scope") else set()
    return [field for field in dataclasses.fields(value) if field.init and field.name not in hidden]


def record(value: Any) -> Any:
    """A value as JSON-able data: dataclasses and modules by type and fields, arrays by digest.

    Raises `UsageError` for a value that has no such form: a function, an open file.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: record(getattr(value, field.name)) for field in public_fields(value)}
        return {"type": f"{type(value).__module__}.{type(value).__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {str(key): record(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [record(item) for item in value]
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": digest}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UsageError(
        f"an experiment cannot hold {value!r} of type {type(value).__name__}; use numbers, text,"
        " tuples, modules and dataclasses"
    )


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The (path, old, new) of every leaf in which two records differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [
            found
            for key in keys
            for found in differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if old == new else [(path, old, new)]

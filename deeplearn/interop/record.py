"""Which fields of a model decide what it computes, and whether variables are a model's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.experiment import differences, record

# What only matters to training, to rounding, or to the layout of the parameters.
FREE = {
    "dropout",
    "dtype",
    "embedding_scale",
    "init_scale",
    "output_scale",
    "remat",
    "scan",
    "implementation",
}
# None stands for a default here; were it another than is written, shapes would differ.
DEFAULTED = {"kv_heads", "rank", "width"}


def refuse_other_function(model: nn.Module, other: nn.Module) -> None:
    """Raises `UsageError` where a field of `model` would be lost if it were written as `other`."""
    for field, old, new in differences(_by_place(record(model)), _by_place(record(other))):
        name = field.rpartition(".")[2]
        if name not in FREE and not (old is None and name in DEFAULTED):
            raise UsageError(
                f"the model cannot be written: {field}={_brief(old)} has no counterpart, only"
                f" {_brief(new)}"
            )


def require_shapes(leaves: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises `UsageError` naming the first leaf (path → array) that is not the model's own."""
    for path in sorted({*leaves, *shapes}):
        found = leaves[path].shape if path in leaves else None
        if found != shapes.get(path):
            raise UsageError(
                f"variable '{path}' has shape {found}, but the model's is {shapes.get(path)}; give"
                " the variables of this model"
            )


def _by_place(value: Any) -> Any:
    """A record with a mapping in the place of each list, so that differences are found within."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    return {str(k): _by_place(v) for k, v in value.items()} if isinstance(value, dict) else value


def _brief(value: Any) -> str:
    """A value of a record, a module by its name alone."""
    return value["type"].rpartition(".")[2] if isinstance(value, dict) else repr(value)

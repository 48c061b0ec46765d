"""Which fields of a model decide what it computes, and whether variables are a model's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deeplearn.errors import UsageError
from deeplearn.experiment import differences

# What only matters to training or to rounding.
FREE = {
    "dropout",
    "dtype",
    "embedding_scale",
    "implementation",
    "init_scale",
    "output_scale",
    "remat",
}
LAYOUT = {"scan"}
"""What decides under which paths the parameters lie."""
# None stands for a default here; were it another than the value, shapes would differ.
DEFAULTED = {"kv_heads", "rank", "width"}


def first_difference(old: Any, new: Any, decisive: set[str]) -> tuple[str, str, str] | None:
    """A field in which two records of models compute something else, and both values for people.

    Fields in `LAYOUT` count where they are `decisive`.
    """
    for field, here, there in differences(_by_place(old), _by_place(new)):
        name = field.rpartition(".")[2]
        free = name in FREE | (LAYOUT - decisive)
        if not free and not (name in DEFAULTED and here is None):
            return field, _brief(here), _brief(there)
    return None


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

"""The correspondence of two namings of one model's tensors, read in both directions.

Each tensor of theirs is a *view* of a leaf of ours: a layer of a stack, some columns of a fused
kernel, its transpose. Assigning to the view imports the tensor; reading it exports the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from deeplearn.errors import DataError
from deeplearn.interop.tensors import FLOATS, Tensors
from deeplearn.types import Variables

View = Callable[[np.ndarray], np.ndarray]
Table = Mapping[str, tuple[Any, ...]]
"""Their name → (our path, view, view, …). `{layer}` in both stands for each layer in turn; our
`layers/{layer}` is row `layer` of the leaves under `layers`, which are stacked."""


@dataclass(frozen=True)
class Tensor:
    """Their tensor `name` as a view of our leaf `path`, or of its row `layer`."""

    name: str
    path: str
    layer: int | None
    views: tuple[View, ...]

    def of(self, leaf: np.ndarray) -> np.ndarray:
        """The view of the leaf's memory."""
        x = leaf if self.layer is None else leaf[self.layer]
        for view in self.views:
            x = view(x)
        return x

    def shape(self, leaf: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor for a shape of the leaf."""
        return self.of(np.broadcast_to(np.float32(0), leaf)).shape


def transposed(x: np.ndarray) -> np.ndarray:
    """A kernel (in, out) as (out, in)."""
    return x.T


def oihw(x: np.ndarray) -> np.ndarray:
    """A convolution kernel (h, w, in, out) as (out, in, h, w)."""
    return x.transpose(3, 2, 0, 1)


def depthwise(x: np.ndarray) -> np.ndarray:
    """A convolution kernel (size, channels) with one channel a group as (channels, 1, size)."""
    return x.T[:, None]


def columns(start: int, size: int) -> View:
    """`size` entries of the last axis from `start` on."""
    return lambda x: x[..., start : start + size]


def expand(table: Table, layers: int, scanned: bool = True) -> list[Tensor]:
    """The tensors of a table for that many layers, which are a stack or separate leaves."""
    tensors = []
    for name, (path, *views) in table.items():
        if "{layer}" not in name:
            tensors.append(Tensor(name, path, None, tuple(views)))
            continue
        for layer in range(layers):
            home = path.replace("layers/{layer}", "layers" if scanned else f"layers_{layer}")
            index = layer if scanned else None
            tensors.append(Tensor(name.format(layer=layer), home, index, tuple(views)))
    return tensors


def read_variables(
    tensors: Sequence[Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    source: Tensors,
    names: Mapping[str, str],
) -> Variables:
    """Variables in fp32 whose leaves have `shapes` (path → shape), filled tensor by tensor.

    `names` maps the name of each tensor to the one that it is stored under. Raises `DataError`
    that names a tensor which is missing, unknown, of a wrong shape, or no float.
    """
    _check_names(tensors, source, names)
    by_path: dict[str, list[Tensor]] = {path: [] for path in shapes}
    for tensor in tensors:
        by_path[tensor.path].append(tensor)
        _check(source, names[tensor.name], tensor.shape(shapes[tensor.path]))
    leaves = {}
    for path, parts in by_path.items():
        leaf = np.empty(shapes[path], np.float32)
        for part in parts:
            part.of(leaf)[...] = source.read(names[part.name])
        leaves[path] = jnp.asarray(leaf)
    return unflatten_dict(leaves, sep="/")


def _check_names(tensors: Sequence[Tensor], source: Tensors, names: Mapping[str, str]) -> None:
    wanted = {tensor.name for tensor in tensors}
    unknown = sorted(stored for name, stored in names.items() if name not in wanted)
    missing = sorted(wanted - set(names))
    for kind, found in (("unknown", unknown), ("missing", missing)):
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise DataError(
                f"{source.directory}: tensor '{found[0]}'{more} is {kind}; its config.json"
                " describes another model"
            )


def _check(source: Tensors, name: str, shape: tuple[int, ...]) -> None:
    if source.shape(name) != shape:
        raise DataError(
            f"{source.directory}: tensor '{name}' has shape {source.shape(name)}, but config.json"
            f" asks for {shape}"
        )
    if source.dtype(name) not in FLOATS:
        raise DataError(
            f"{source.directory}: tensor '{name}' is {source.dtype(name)}, not one of"
            f" {', '.join(FLOATS)}; convert it first"
        )

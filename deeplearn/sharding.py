"""Where arrays live: a mesh of named axes, and rules from a leaf's path to its partition.

Models know nothing of this. The batch axis B is split over the mesh axis `data`. A rule is a pair
(pattern, partition): the first pattern that `re.search` finds in a leaf's path, such as
`opt_state/1/mu/Dense_0/kernel`, decides; so one rule places a parameter and its moments alike. A
partition is a tuple of mesh-axis names (None for a whole axis), or "fsdp": split the largest axis
that divides over `data` (Rajbhandari et al. 2020, ZeRO stage 3). Other leaves are replicated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import cast

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from deeplearn.errors import UsageError
from deeplearn.tree_paths import path_name
from deeplearn.types import Batch, PyTree

Axes = tuple[tuple[str, int], ...]
Partition = str | tuple[str | None, ...]
Rules = tuple[tuple[str, Partition], ...]

BATCH_AXIS = "data"
# Splitting a leaf costs a collective of some 10 µs; below this many elements it saves nothing.
FSDP_MIN_SIZE = 2**12
ALIGNMENT = 64
"""Bytes; XLA on CPU uses memory of the host that lies so without a copy of its own."""


def make_mesh(axes: Axes, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices; one axis size may be −1, which takes what the others leave.

    Raises `UsageError` where the sizes do not multiply to the number of devices, or where no axis
    is named `data`.
    """
    devices = jax.devices() if devices is None else devices
    names = tuple(name for name, _ in axes)
    sizes = [size for _, size in axes]
    if BATCH_AXIS not in names or len(set(names)) != len(names):
        raise UsageError(f"mesh {axes}: axis names must differ and one must be '{BATCH_AXIS}'")
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UsageError(f"mesh {axes}: sizes must be positive, and at most one −1 (the rest)")
    if -1 in sizes:
        known = -int(np.prod(sizes))
        sizes[sizes.index(-1)] = max(len(devices) // known, 1)
    if int(np.prod(sizes)) != len(devices):
        shape = " × ".join(f"{name}={size}" for name, size in zip(names, sizes, strict=True))
        raise UsageError(
            f"mesh {shape} needs {int(np.prod(sizes))} devices but there are {len(devices)};"
            " change the experiment's `mesh` (a size of −1 takes the rest)"
        )
    # Explicit axis types would make every operation state its sharding; these rules do not.
    return jax.make_mesh(tuple(sizes), names, (AxisType.Auto,) * len(names), devices=devices)


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """B split over `data`; `leading` axes before it (steps of one call) are whole."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, BATCH_AXIS))


def process_rows(mesh: Mesh, batch_size: int) -> slice:
    """The rows of a global batch that this process must hold."""
    if batch_size % mesh.shape[BATCH_AXIS]:
        raise UsageError(
            f"batch size {batch_size} does not divide over the {mesh.shape[BATCH_AXIS]} devices of"
            f" mesh axis '{BATCH_AXIS}'; choose a multiple"
        )
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    bounds = [index[0].indices(batch_size)[:2] for index in indices.values() if index]
    return slice(min(low for low, _ in bounds), max(high for _, high in bounds))


def to_devices(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> Batch:
    """The rows of this process as arrays that are global over all processes.

    Those of a single CPU are copied to where XLA reads them in place and stay NumPy's, read-only:
    to make a `jax.Array` of each costs more time than a small step.
    """
    if jax.process_count() == 1:
        devices: list[jax.Device] = list(sharding.device_set)
        if len(devices) == 1 and devices[0].platform == "cpu":
            return cast(Batch, {name: _aligned(array) for name, array in batch.items()})
        return jax.device_put(dict(batch), sharding)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy in JAX's dtype that begins at a multiple of `ALIGNMENT`, as NumPy's own need not."""
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    size = array.size * dtype.itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    copy = room[start : start + size].view(dtype).reshape(array.shape)
    copy[...] = array
    copy.flags.writeable = False
    return copy


def state_shardings(state: PyTree, mesh: Mesh, rules: Rules) -> PyTree:
    """A `NamedSharding` for every leaf of an (abstract) state.

    Raises `UsageError` for a rule that fits no leaf, or not the leaf that it finds.
    """
    used: set[str] = set()

    def sharding(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = path_name(path)
        for pattern, partition in rules:
            if _search(pattern, name):
                used.add(pattern)
                return NamedSharding(mesh, _spec(name, leaf.shape, partition, mesh))
        return NamedSharding(mesh, PartitionSpec())

    shardings = jax.tree_util.tree_map_with_path(sharding, state)
    for pattern, _ in rules:
        if pattern not in used:
            raise UsageError(f"sharding rule '{pattern}' decides no leaf of the state; remove it")
    return shardings


def per_device(step: Callable, mesh: Mesh) -> Callable:
    """The program that one device runs, by `jax.shard_map`: what `jax.pmap` has become.

    `step(state, batch)` sees its own rows of the batch and must combine over `data` itself. The
    state is replicated. Its result equals that of `jit` where nothing depends on how the batch is
    split; BatchNorm uses the statistics of a device's rows, and dropout a key of the device.
    """
    whole, split = PartitionSpec(), PartitionSpec(BATCH_AXIS)
    # The gradient of replicated parameters must stay local until the weighted sum of the step;
    # with check_vma the transpose would already sum it, without weights.
    return jax.shard_map(step, mesh=mesh, in_specs=(whole, split), out_specs=whole, check_vma=False)


def _search(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise UsageError(f"sharding rule '{pattern}' is no regular expression: {error}") from None


def _spec(name: str, shape: tuple[int, ...], partition: Partition, mesh: Mesh) -> PartitionSpec:
    if partition == "fsdp":
        devices = mesh.shape[BATCH_AXIS]
        sizes = [size if size % devices == 0 else 0 for size in shape]
        if int(np.prod(shape)) < FSDP_MIN_SIZE or not any(sizes):
            return PartitionSpec()
        axis = sizes.index(max(sizes))
        return PartitionSpec(*(None,) * axis, BATCH_AXIS)
    if isinstance(partition, str) or len(partition) > len(shape):
        raise UsageError(
            f"sharding rule {partition!r} does not fit {name} of shape {shape}; give 'fsdp' or at"
            f" most {len(shape)} axis names"
        )
    named = [axis_name for axis_name in partition if axis_name is not None]
    if len(set(named)) < len(named):
        raise UsageError(f"sharding rule {partition} for {name} uses a mesh axis twice")
    for size, axis_name in zip(shape, partition, strict=False):
        if axis_name is not None and size % mesh.shape.get(axis_name, size + 1):
            raise UsageError(
                f"sharding rule {partition} cannot split {name} of shape {shape} over mesh axis"
                f" '{axis_name}' of {dict(mesh.shape)}"
            )
    return PartitionSpec(*partition)

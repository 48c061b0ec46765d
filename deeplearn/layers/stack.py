"""Equal layers as one loop, so that compile time does not grow with depth."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from deeplearn.errors import UsageError, did_you_mean

REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What the backward pass keeps of the forward pass: nothing but the input, or matrix products.

Chen et al. 2016 (arXiv:1604.06174).
"""


def recomputed(kind: type[nn.Module], remat: str | None, in_loop: bool = False) -> Any:
    """The kind of module whose backward pass recomputes what `REMAT` does not keep; None: nothing.

    Raises `UsageError` for a name that is not in `REMAT`.
    """
    if remat is None:
        return kind
    if remat not in REMAT:
        raise UsageError(f"remat={remat!r} is not known{did_you_mean(remat, REMAT)}")
    # Inside a scan the loop itself keeps XLA from undoing the recomputation.
    return nn.remat(kind, policy=REMAT[remat], prevent_cse=not in_loop)


def stacked(kind: type[nn.Module], layers: int, in_axes: Any, remat: str | None = None) -> Any:
    """`kind`, called as (x, *inputs) → (x, output), one after the other `layers` times.

    Each parameter gains a leading axis L. `in_axes` says of each of the inputs whether it has that
    axis, 0, or is the same for all, `nn.broadcast`; the outputs have it.
    """
    # A loop copies what the backward pass needs into stacks: a fifth of a step and a third of
    # its memory on CPU (4 layers of Mamba, 5 of a Transformer). Compile time limits it to few
    # layers. What is to be computed again stays in the loop.
    few = jax.default_backend() == "cpu" and layers <= 8 and remat is None
    return nn.scan(
        recomputed(kind, remat, in_loop=True),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=layers,
        unroll=layers if few else 1,
    )

"""A trained model as one StableHLO file: its function of a batch, parameters inside.

The file needs no Python of the model's: `load_stablehlo` runs it with jax alone, on a CPU, an
NVIDIA GPU or a TPU, for any number of examples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import DataError, UsageError
from deeplearn.layers.dot_product_attention import plain_attention
from deeplearn.types import Array, Variables

PLATFORMS = ("cpu", "cuda", "tpu")
# The container is a flatbuffer, whose offsets have 31 bits.
LIMIT_BYTES = 2**31 - 2**24


def export_stablehlo(model: nn.Module, variables: Variables, example: Any) -> bytes:
    """The model's output for inputs like `example` (B, …), at any B, in evaluation mode.

    Of a sequence model the output is its logits. To an encoder of text such as BERT token 0 is
    padding, as in its training: T is fixed in the file, so fill up shorter texts with it. Raises
    `UsageError` for a model too large for one file.
    """
    from jax import export

    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    if size > LIMIT_BYTES:
        raise UsageError(
            f"the variables have {size} bytes and a StableHLO file holds {LIMIT_BYTES} at most;"
            " export safetensors"
        )
    (batch,) = export.symbolic_shape("batch")
    shape: Any = (batch, *example.shape[1:])

    call = inspect.signature(type(model).__call__).parameters
    # A model with a carry reads from left to right: what is filled up changes nothing before it.
    padded = "segments" in call and "carry" not in call

    def function(x: Array) -> Any:
        more: dict[str, Any] = {"segments": (x > 0).astype(jnp.int32)} if padded else {}
        output = model.apply(variables, x, **more)
        return output[0] if isinstance(output, tuple) else output

    with plain_attention():
        exported = export.export(jax.jit(function), platforms=PLATFORMS)(
            jax.ShapeDtypeStruct(shape, example.dtype)
        )
    return bytes(exported.serialize())


def load_stablehlo(path: str | Path) -> Callable[[Array], Array]:
    """The compiled function of an exported file; `DataError` where the file holds none."""
    from jax import export

    try:
        exported = export.deserialize(bytearray(Path(path).read_bytes()))
    except Exception as error:  # The reader of flatbuffers raises whatever it stumbles over.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{path} holds no exported model: {reason}") from None
    return jax.jit(exported.call)

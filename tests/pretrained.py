"""Small models, random variables and Hugging Face directories for the tests of interop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from deeplearn.interop.pretrained import save_pretrained
from deeplearn.models.bert import BERT, MaskedLanguageModel
from deeplearn.models.mamba import Mamba2Sizes, MambaSizes, mamba
from deeplearn.models.resnet import ResNet
from deeplearn.models.transformer import GPT2, Llama, transformer

GOLDEN = Path(__file__).parent / "golden"
GPT2_SIZES = GPT2(vocabulary=13, width=8, depth=2, heads=2, max_length=6)
LLAMA_SIZES = Llama(13, 8, 3, heads=4, kv_heads=2, features=12, max_length=16)
ENCODER = BERT(13, 8, depth=2, heads=2, features=12, max_length=6, dropout=0.0)
MODELS = {
    "bert": ENCODER,
    "bert masked": MaskedLanguageModel(ENCODER),
    "gpt2": transformer(GPT2_SIZES),
    "llama": transformer(LLAMA_SIZES),
    "llama tied": transformer(
        Llama(13, 8, 2, 2, 2, 12, tied=True, head_width=6, rotary_scaling=(4.0, 0.5, 2.0, 8))
    ),
    "llama unrolled": transformer(LLAMA_SIZES).clone(scan=False),
    "mamba": mamba(MambaSizes(13, 8, 3, state_size=3)),
    "mamba2": mamba(Mamba2Sizes(13, 8, 3, state_size=3, head_width=4)),
    "mamba2 untied": mamba(Mamba2Sizes(13, 8, 1, 3, head_width=2, groups=2)).clone(tied=False),
    "mistral": transformer(Llama(13, 8, 2, 2, 1, 12, window=3)),
    "resnet 18": ResNet(18, 3, 2),
    "resnet 50": ResNet(50, 3, 2),
}


def example(model) -> jax.ShapeDtypeStruct:
    if isinstance(model, ResNet):
        return jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.ShapeDtypeStruct((1, 1), jnp.int32)


def random_variables(model, seed: int = 0) -> dict[str, Any]:
    """Variables whose every number is another one."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), example(model))
    return jax.tree.map(
        lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), dict(shapes)
    )


def same(one, other) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)
    )


def save_llama(directory: Path) -> Path:
    """A small Llama directory in three files or more."""
    model = MODELS["llama"]
    save_pretrained(directory, model, random_variables(model), shard_bytes=2000)
    return directory


def shard_of(directory: Path, name: str) -> Path:
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    return directory / index["weight_map"][name]


def change(directory: Path, name: str, tensor: np.ndarray | None) -> None:
    """Puts another tensor in the place of one, or takes it out of its file."""
    tensors = load_file(shard_of(directory, name))
    tensors[name] = tensor
    kept = {name: x for name, x in tensors.items() if x is not None}
    save_file(kept, shard_of(directory, name))

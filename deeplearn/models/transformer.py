"""Decoder-only Transformers: the GPT-2 and the Llama form, with their published sizes.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners": learned
positions, LayerNorm, GELU, biases, tied embeddings. Touvron et al. 2023 (arXiv:2302.13971) and
Grattafiori et al. 2024 (arXiv:2407.21783): rotary positions, RMSNorm, SwiGLU, grouped queries.
With a sliding window it is Mistral's (Jiang et al. 2023, arXiv:2310.06825).

Initializer: normal with deviation 0.02, divided by √(2·depth) for the kernels that write into the
residual stream (GPT-2). Weight decay leaves out biases, scales and embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.layers.attention import Attention
from deeplearn.layers.checks import require_sizes
from deeplearn.layers.feed_forward import FeedForward, GatedFeedForward
from deeplearn.layers.rotary import Scaling
from deeplearn.models.sequence import Block, SequenceModel


@dataclass(frozen=True)
class GPT2:
    """Sizes of the GPT-2 form: heads of width D/H, feed-forward width 4·D."""

    vocabulary: int
    width: int
    depth: int
    heads: int
    max_length: int = 1024


@dataclass(frozen=True)
class Llama:
    """Sizes of the Llama form: heads of width `head_width` (None: D/H).

    With `window`, as in Mistral, a token sees itself and the `window` − 1 before it in each layer
    (None: all before it).
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    features: int
    rotary: float = 500_000.0
    rotary_scaling: Scaling | None = None
    tied: bool = False
    head_width: int | None = None
    epsilon: float = 1e-5
    max_length: int | None = 8192
    window: int | None = None


_LLAMA_3_2: Any = {"tied": True, "rotary_scaling": (32.0, 1.0, 4.0, 8192), "max_length": 131_072}
_MISTRAL: Any = {"rotary": 10_000.0, "max_length": 32_768, "window": 4096}

PRESETS: dict[str, GPT2 | Llama] = {
    "tiny": GPT2(vocabulary=256, width=128, depth=4, heads=4, max_length=256),
    "gpt2": GPT2(vocabulary=50257, width=768, depth=12, heads=12),
    "gpt2_medium": GPT2(vocabulary=50257, width=1024, depth=24, heads=16),
    "gpt2_large": GPT2(vocabulary=50257, width=1280, depth=36, heads=20),
    "gpt2_xl": GPT2(vocabulary=50257, width=1600, depth=48, heads=25),
    "llama_1b": Llama(128256, 2048, 16, 32, 8, 8192, **_LLAMA_3_2),
    "llama_3b": Llama(128256, 3072, 28, 24, 8, 8192, **_LLAMA_3_2),
    "llama_8b": Llama(128256, 4096, 32, 32, 8, 14336),
    "mistral_7b": Llama(32000, 4096, 32, 32, 8, 14336, **_MISTRAL),
}
"""The published sizes by name: Llama 3.2 of 1 and 3 billion parameters, Llama 3 of 8,
Mistral 0.1 of 7.

`tiny` is ours, for two CPU cores.
"""


def transformer(sizes: GPT2 | Llama, dropout: float = 0.0, dtype: str = "float32") -> SequenceModel:
    """The decoder of these sizes."""
    head_width = sizes.head_width if isinstance(sizes, Llama) else None
    require_sizes(
        "transformer",
        vocabulary=sizes.vocabulary,
        width=sizes.width,
        depth=sizes.depth,
        heads=sizes.heads,
        head_width=head_width,
    )
    if head_width is None and sizes.width % sizes.heads:
        raise UsageError(
            f"transformer: width={sizes.width} does not divide into heads={sizes.heads}"
        )
    return (
        _gpt2(sizes, dropout, dtype) if isinstance(sizes, GPT2) else _llama(sizes, dropout, dtype)
    )


def preset(name: str, dropout: float = 0.0, dtype: str = "float32") -> SequenceModel:
    """The decoder of that name in `PRESETS`; `UsageError` where there is none."""
    if name not in PRESETS:
        raise UsageError(f"no transformer is called '{name}'{did_you_mean(name, PRESETS)}")
    return transformer(PRESETS[name], dropout, dtype)


def _gpt2(sizes: GPT2, dropout: float, dtype: str) -> SequenceModel:
    scale = (2 * sizes.depth) ** -0.5
    block = Block(
        mixer=Attention(
            heads=sizes.heads,
            head_width=sizes.width // sizes.heads,
            rotary=None,
            use_bias=True,
            output_scale=scale,
            dtype=dtype,
        ),
        feed_forward=FeedForward(4 * sizes.width, output_scale=scale, dtype=dtype),
        normalization="layer",
        epsilon=1e-5,
        dropout=dropout,
        dtype=dtype,
    )
    return SequenceModel(
        vocabulary=sizes.vocabulary,
        width=sizes.width,
        repeats=sizes.depth,
        pattern=(block,),
        max_length=sizes.max_length,
        learned_positions=True,
        normalization="layer",
        epsilon=1e-5,
        dropout=dropout,
        dtype=dtype,
    )


def _llama(sizes: Llama, dropout: float, dtype: str) -> SequenceModel:
    scale = (2 * sizes.depth) ** -0.5
    block = Block(
        mixer=Attention(
            heads=sizes.heads,
            head_width=sizes.head_width or sizes.width // sizes.heads,
            kv_heads=sizes.kv_heads,
            window=sizes.window,
            rotary=sizes.rotary,
            rotary_scaling=sizes.rotary_scaling,
            output_scale=scale,
            dtype=dtype,
        ),
        feed_forward=GatedFeedForward(sizes.features, output_scale=scale, dtype=dtype),
        epsilon=sizes.epsilon,
        dropout=dropout,
        dtype=dtype,
    )
    return SequenceModel(
        vocabulary=sizes.vocabulary,
        width=sizes.width,
        repeats=sizes.depth,
        pattern=(block,),
        tied=sizes.tied,
        max_length=sizes.max_length,
        epsilon=sizes.epsilon,
        dropout=dropout,
        dtype=dtype,
    )

"""Mamba language models: Mamba, Mamba-2 and hybrids with attention, with their published sizes.

Source: Gu & Dao 2023 (arXiv:2312.00752); Dao & Gu 2024 (arXiv:2405.21060); the hybrid after Lieber
et al. 2024 (arXiv:2403.19887): in each repetition one block of attention, without positions,
follows several of Mamba, and all have a gated feed-forward layer; there are no experts.

Initializer: the embedding is normal with deviation 0.02, the mixers are as in layers/mamba.py,
their output kernels divided by √depth, those of a hybrid, which has feed-forward layers too, by
√(2·depth). Weight decay leaves out A_log, D, biases, scales and the embedding.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.layers.attention import Attention
from deeplearn.layers.checks import require_sizes
from deeplearn.layers.feed_forward import GatedFeedForward
from deeplearn.layers.mamba import Mamba, Mamba2
from deeplearn.models.sequence import Block, SequenceModel


@dataclass(frozen=True)
class MambaSizes:
    """Sizes of a Mamba: the inner width is twice the width."""

    vocabulary: int
    width: int
    depth: int
    state_size: int = 16


@dataclass(frozen=True)
class Mamba2Sizes:
    """Sizes of a Mamba-2: heads of width `head_width` over twice the width."""

    vocabulary: int
    width: int
    depth: int
    state_size: int = 128
    head_width: int = 64
    groups: int = 1


@dataclass(frozen=True)
class HybridSizes:
    """Sizes of a hybrid: `depth` blocks, of which every `period`-th is attention."""

    vocabulary: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    features: int
    period: int = 8
    state_size: int = 16


Sizes = MambaSizes | Mamba2Sizes | HybridSizes

PRESETS: dict[str, Sizes] = {
    "tiny": MambaSizes(vocabulary=256, width=128, depth=4),
    "mamba_130m": MambaSizes(vocabulary=50280, width=768, depth=24),
    "mamba_370m": MambaSizes(vocabulary=50280, width=1024, depth=48),
    "mamba_790m": MambaSizes(vocabulary=50280, width=1536, depth=48),
    "mamba_1.4b": MambaSizes(vocabulary=50280, width=2048, depth=48),
    "mamba_2.8b": MambaSizes(vocabulary=50280, width=2560, depth=64),
    "tiny_2": Mamba2Sizes(vocabulary=256, width=128, depth=4, state_size=64, head_width=32),
    "mamba2_130m": Mamba2Sizes(vocabulary=50288, width=768, depth=24),
    "mamba2_370m": Mamba2Sizes(vocabulary=50288, width=1024, depth=48),
    "mamba2_780m": Mamba2Sizes(vocabulary=50288, width=1536, depth=48),
    "mamba2_1.3b": Mamba2Sizes(vocabulary=50288, width=2048, depth=48),
    "mamba2_2.7b": Mamba2Sizes(vocabulary=50288, width=2560, depth=64),
    "tiny_hybrid": HybridSizes(256, 128, 4, heads=4, kv_heads=4, features=256, period=4),
}
"""The published sizes by name; those called tiny are ours, for two CPU cores."""


def mamba(sizes: Sizes, dropout: float = 0.0, dtype: str = "float32") -> SequenceModel:
    """The language model of these sizes; `UsageError` where one of them is impossible."""
    require_sizes("mamba", **asdict(sizes))
    pattern = (
        _hybrid(sizes, dropout, dtype)
        if isinstance(sizes, HybridSizes)
        else (_block(sizes, dropout, dtype),)
    )
    return SequenceModel(
        vocabulary=sizes.vocabulary,
        width=sizes.width,
        repeats=sizes.depth // len(pattern),
        pattern=pattern,
        epsilon=1e-5,
        dropout=dropout,
        dtype=dtype,
    )


def preset(name: str, dropout: float = 0.0, dtype: str = "float32") -> SequenceModel:
    """The model of that name in `PRESETS`; `UsageError` where there is none."""
    if name not in PRESETS:
        raise UsageError(f"no mamba is called '{name}'{did_you_mean(name, PRESETS)}")
    return mamba(PRESETS[name], dropout, dtype)


def _block(sizes: MambaSizes | Mamba2Sizes, dropout: float, dtype: str) -> Block:
    scale = sizes.depth**-0.5
    if isinstance(sizes, MambaSizes):
        mixer = Mamba(sizes.width, sizes.state_size, output_scale=scale, dtype=dtype)
        return Block(mixer, epsilon=1e-5, dropout=dropout, dtype=dtype)
    mixer2 = Mamba2(
        sizes.width,
        sizes.state_size,
        head_width=sizes.head_width,
        groups=sizes.groups,
        output_scale=scale,
        dtype=dtype,
    )
    return Block(mixer2, epsilon=1e-5, dropout=dropout, dtype=dtype)


def _hybrid(sizes: HybridSizes, dropout: float, dtype: str) -> tuple[Block, ...]:
    """`period` − 1 blocks of Mamba and one of attention, which needs no positions of its own."""
    if sizes.depth % sizes.period or sizes.width % sizes.heads:
        raise UsageError(
            f"mamba: depth={sizes.depth} must divide by period={sizes.period} and"
            f" width={sizes.width} by heads={sizes.heads}"
        )
    scale = (2 * sizes.depth) ** -0.5
    mixers = [Mamba(sizes.width, sizes.state_size, output_scale=scale, dtype=dtype)] * (
        sizes.period - 1
    )
    attention = Attention(
        sizes.heads,
        sizes.width // sizes.heads,
        sizes.kv_heads,
        rotary=None,
        output_scale=scale,
        dtype=dtype,
    )
    return tuple(
        Block(
            mixer,
            GatedFeedForward(sizes.features, output_scale=scale, dtype=dtype),
            epsilon=1e-5,
            dropout=dropout,
            dtype=dtype,
        )
        for mixer in (*mixers, attention)
    )

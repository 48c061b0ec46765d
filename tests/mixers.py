"""One small model for every sequence mixer: what is named here must keep the contract."""

from __future__ import annotations

from collections.abc import Callable

from deeplearn.layers.attention import Attention
from deeplearn.layers.mamba import Mamba, Mamba2
from deeplearn.models.lstm import LSTM
from deeplearn.models.rnn import RNN, MinGRU
from deeplearn.models.sequence import Block, SequenceModel

VOCABULARY = 32
WIDTH = 16


def model(*blocks: Block, **fields: object) -> SequenceModel:
    """Two repetitions of the blocks, with an output kernel of its own."""
    defaults = {"repeats": 2, "tied": False, "embedding_scale": 0.5}
    return SequenceModel(VOCABULARY, WIDTH, pattern=blocks, **{**defaults, **fields})


MODELS: dict[str, Callable[[], SequenceModel]] = {
    "attention": lambda: model(Block(Attention(4, 4, init_scale=0.2))),
    "grouped_attention": lambda: model(Block(Attention(4, 4, kv_heads=2, init_scale=0.2))),
    "window_attention": lambda: model(Block(Attention(2, 8, window=3, init_scale=0.2))),
    "learned_positions": lambda: model(
        Block(Attention(4, 4, rotary=None, use_bias=True, init_scale=0.2), normalization="layer"),
        learned_positions=True,
        max_length=4096,
    ),
    "rnn": lambda: model(Block(RNN(WIDTH))),
    "stacked_relu_rnn": lambda: model(
        Block(RNN(WIDTH, "relu"), None, None, False), normalization=None
    ),
    "lstm": lambda: model(Block(LSTM(WIDTH))),
    "mingru": lambda: model(Block(MinGRU(WIDTH))),
    "associative_mingru": lambda: model(Block(MinGRU(WIDTH, "associative"))),
    "mamba": lambda: model(Block(Mamba(WIDTH, 4))),
    "mamba2": lambda: model(Block(Mamba2(WIDTH, 4, head_width=8, groups=2))),
    "hybrid": lambda: model(Block(Mamba(WIDTH, 4)), Block(Attention(4, 4, init_scale=0.2))),
}

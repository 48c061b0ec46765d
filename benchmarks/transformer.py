"""The Transformer against torch and transformers: a step of training, and generating text.

TRF-1 is a whole step of a character GPT against the same network written by hand with torch's own
attention; TRF-2 generates text with a cache of keys and values, against transformers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.models import assign
from benchmarks.steps import RATE, THREADS, Step, fastest, torch_step
from benchmarks.timing import Row, compare
from deeplearn.models.transformer import GPT2, transformer
from deeplearn.optimizers import AdamW
from deeplearn.sampling.autoregressive import generate
from deeplearn.sampling.sampler import Sampler
from deeplearn.tasks.language import Language
from deeplearn.types import PyTree

CHARACTERS = GPT2(vocabulary=65, width=128, depth=4, heads=4, max_length=128)
ROWS = 16
DECAY = 0.1
SIZES = GPT2(vocabulary=256, width=128, depth=4, heads=4, max_length=256)
PROMPT, COUNT = 16, 128


class PeerBlock(nn.Module):
    """Attention and feed-forward layer, each behind a LayerNorm and beside the identity."""

    def __init__(self, sizes: GPT2):
        super().__init__()
        width = sizes.width
        self._heads = sizes.heads
        self.mixer_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(self.mixer_norm(x)).unflatten(-1, (3, self._heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(y.transpose(1, 2).flatten(2))
        hidden = functional.gelu(self.up(self.feed_forward_norm(x)), approximate="tanh")
        return x + self.down(hidden)


class PeerGPT(nn.Module):
    """GPT-2 in torch: tokens (B, T) → logits (B, T, V), with the parameters of ours."""

    def __init__(self, sizes: GPT2, params: PyTree):
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.position = nn.Embedding(sizes.max_length, sizes.width)
        self.blocks = nn.ModuleList(PeerBlock(sizes) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.width)
        copy_gpt(params, self)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.embedding.weight)


def copy_gpt(params: PyTree, model: PeerGPT) -> None:
    """Our parameters, layers stacked, into the torch model."""
    assign(model.embedding.weight, params["embedding"]["embedding"])
    assign(model.position.weight, params["position"]["embedding"])
    _copy(params["norm"], model.norm)
    stacked = params["layers"]["blocks_0"]
    for index, block in enumerate(model.blocks):
        ours = jax.tree.map(lambda leaf, index=index: leaf[index], stacked)
        _copy(ours["mixer_norm"], block.mixer_norm)
        _copy(ours["mixer"]["qkv"], block.qkv)
        _copy(ours["mixer"]["output"], block.output)
        _copy(ours["feed_forward_norm"], block.feed_forward_norm)
        _copy(ours["feed_forward"]["input"], block.up)
        _copy(ours["feed_forward"]["output"], block.down)


def _copy(params: PyTree, layer: nn.Module) -> None:
    """Kernel or scale, and bias, of one layer."""
    assign(layer.weight, params["scale"] if "scale" in params else params["kernel"].T)
    assign(layer.bias, params["bias"])


class PeerStep:
    """The same step in torch, eager or compiled; as in ours, only kernels decay."""

    def __init__(self, sizes: GPT2, params: PyTree, tokens: np.ndarray, form: str):
        self._model = PeerGPT(sizes, params)
        both = torch.from_numpy(tokens).long()
        self._inputs, self._labels = both[:, :-1].contiguous(), both[:, 1:].flatten()
        kernels = [p for p in self._model.blocks.parameters() if p.ndim == 2]
        within = {id(p) for p in kernels}
        others = [p for p in self._model.parameters() if id(p) not in within]
        self._optimizer = torch.optim.AdamW(
            [{"params": kernels, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
            lr=RATE,
            fused=True,
        )
        self._run: Callable = torch.compile(self._loss) if form == "compile" else self._loss

    def _loss(self) -> torch.Tensor:
        return functional.cross_entropy(self._model(self._inputs).flatten(0, 1), self._labels)

    def __call__(self) -> float:
        return torch_step(self._optimizer, self._run)


def step_sides(sizes: GPT2, rows: int, form: str) -> tuple[Step, PeerStep]:
    """Our step and torch's, of the same parameters and random tokens; 20 losses must agree."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, sizes.vocabulary, (rows, sizes.max_length + 1), np.int32)
    optimizer = AdamW(learning_rate=RATE, weight_decay=DECAY)
    ours = Step(Language(transformer(sizes)), {"tokens": tokens}, optimizer)
    peer = PeerStep(sizes, ours.params, tokens, form)
    losses = [[side() for _ in range(20)] for side in (ours, peer)]
    np.testing.assert_allclose(*losses, rtol=1e-2)
    return ours, peer


def step_race(name: str, goal: float, sizes: GPT2 = CHARACTERS, rows: int = ROWS) -> Row:
    """A whole step with AdamW against torch's fastest form."""
    work = f"char-GPT step L{sizes.depth} D{sizes.width} T{sizes.max_length} B{rows}"
    sides = functools.partial(step_sides, sizes, rows)
    return fastest(name, work, sides, ("eager", "compile"), goal)


def peer_model() -> GPT2LMHeadModel:
    """GPT-2 of the same sizes in transformers."""
    config = GPT2Config(
        vocab_size=SIZES.vocabulary,
        n_positions=SIZES.max_length,
        n_embd=SIZES.width,
        n_layer=SIZES.depth,
        n_head=SIZES.heads,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


def generation_race(name: str, goal: float) -> Row:
    """Greedy text of both: ours from one compiled loop, theirs from `generate`.

    The peer keeps its cache as it is by default; the static one took 64 ms a token.
    """
    torch.set_num_threads(THREADS)
    model = transformer(SIZES)
    prompts = np.random.default_rng(0).integers(0, SIZES.vocabulary, (1, PROMPT))
    variables = jax.jit(model.init)(jax.random.key(0), prompts.astype(np.int32))
    sampler, key = Sampler(COUNT, temperature=0), jax.random.key(0)
    theirs, tokens = peer_model(), torch.from_numpy(prompts)

    def ours() -> np.ndarray:
        return generate(model, variables, prompts, sampler, key)

    def peer() -> torch.Tensor:
        with torch.inference_mode():
            return theirs.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                max_new_tokens=COUNT,
            )

    assert ours().shape == (1, COUNT) and peer().shape == (1, PROMPT + COUNT)
    work = f"GPT-2 L4 D128, {COUNT} tokens after {PROMPT}"
    return compare(name, work, "transformers generate", ours, peer, goal, (COUNT, COUNT))


def rows() -> Iterator[tuple[str, Callable[[], Row]]]:
    """Every measurement of this suite by its id."""
    yield "TRF-1", lambda: step_race("TRF-1", 1.2)
    yield "TRF-2", lambda: generation_race("TRF-2", 5)

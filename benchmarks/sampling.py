"""Generating text with a cache of keys and values, against transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.timing import Row, compare
from deeplearn.models.transformer import GPT2, transformer
from deeplearn.sampling.autoregressive import generate
from deeplearn.sampling.sampler import Sampler

THREADS = 2
SIZES = GPT2(vocabulary=256, width=128, depth=4, heads=4, max_length=256)
PROMPT, COUNT = 16, 128


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


def race(goal: float) -> Row:
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
    return compare("TRF-2", work, "transformers generate", ours, peer, goal, (COUNT, COUNT))


def rows() -> Iterator[tuple[str, Callable[[], Row]]]:
    """Every measurement of this suite by its id."""
    yield "TRF-2", lambda: race(5)

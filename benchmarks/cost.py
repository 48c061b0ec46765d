"""What a token costs a Transformer and a Mamba of one width and depth, against the length T.

    python -m benchmarks.cost [--longest=16384]

For T = 256, 512, … 16384: temporary memory and time of a train step of one row, time and carry of
decoding the last tokens of T. The file is benchmarks/results/cost.json; a run with a smaller
--longest prints its table and leaves the file alone. The whole takes 5 minutes on 2 CPU cores.

Both models have 2 layers of width 128, and both recompute a layer in the backward pass (remat
"full"). Attention on a CPU computes the scores of long rows again too, 128 queries at a time: all
at once they are H·T² numbers, 4.3 GB of fp32 for 4 heads at T = 16384, and the step had 17.5 GB of
temporaries and took 5.6 ms a token there.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplearn.errors import Error, UsageError
from deeplearn.models.mamba import MambaSizes, mamba
from deeplearn.models.sequence import SequenceModel
from deeplearn.models.transformer import GPT2, transformer
from deeplearn.optimizers import AdamW
from deeplearn.report.receipt import cpu, devices, parameter_count, versions, write_json
from deeplearn.sampling.autoregressive import State, begin, decode, step_of
from deeplearn.sampling.sampler import Sampler
from deeplearn.sampling.unrolled import unrolled
from deeplearn.step import init_state, train_step
from deeplearn.tasks.language import Language
from deeplearn.types import Variables

RESULTS = Path(__file__).parent / "results"
LENGTHS = tuple(256 * 2**power for power in range(7))
VOCABULARY, WIDTH, DEPTH, HEADS = 65, 128, 2, 4
COUNT = 32
"""Tokens that are decoded, and those that are read at once before them."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What one token costs one model at one length; times are medians.

    `temporary_bytes` are those of the compiled train step, `carry_bytes` is the whole state that
    decoding keeps. Both are exact; `step_us` and `decode_us` have their fastest and slowest round.
    """

    model: str
    length: int
    parameters: int
    temporary_bytes: int
    temporary_bytes_per_token: float
    step_us_per_token: float
    step_us_range: tuple[float, float]
    decode_us_per_token: float
    decode_us_range: tuple[float, float]
    carry_bytes: int


def models(length: int, width: int = WIDTH, depth: int = DEPTH) -> dict[str, SequenceModel]:
    """Both models for sequences of `length` tokens; their depth counts blocks."""
    sizes = GPT2(VOCABULARY, width, depth, HEADS, max_length=length)
    return {"transformer": transformer(sizes), "mamba": mamba(MambaSizes(VOCABULARY, width, depth))}


def measure(name: str, model: SequenceModel, length: int) -> Row:
    """One row: train steps of `length` tokens, and decoding up to that length."""
    rounds = 3 if length >= 4096 else 7
    temporary, step = train(model, length, rounds)
    variables = jax.jit(lambda: model.init(jax.random.key(0), _tokens(1)))()
    carry, decoding = generation(model, variables, length, rounds)
    return Row(
        model=name,
        length=length,
        parameters=parameter_count(variables["params"]),
        temporary_bytes=temporary,
        temporary_bytes_per_token=temporary / length,
        step_us_per_token=statistics.median(step) / length,
        step_us_range=(min(step) / length, max(step) / length),
        decode_us_per_token=statistics.median(decoding) / COUNT,
        decode_us_range=(min(decoding) / COUNT, max(decoding) / COUNT),
        carry_bytes=carry,
    )


def train(model: SequenceModel, length: int, rounds: int) -> tuple[int, list[float]]:
    """Temporary bytes of a train step of one row of `length` tokens, and its times in µs."""
    compiled, make_state, batch = compiled_step(model, length)
    analysis: Any = compiled.memory_analysis()
    temporary = analysis.temp_size_in_bytes
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if temporary > memory:
        raise UsageError(
            f"a train step of {length} tokens needs {temporary / 1e9:.1f} GB, the machine has"
            f" {memory / 1e9:.1f} GB; measure less with --longest={length // 2}"
        )
    state = make_state()

    def step() -> float:
        nonlocal state
        began = time.perf_counter()
        state, metrics = compiled(state, batch)
        jax.block_until_ready(state)
        found = 1e6 * (time.perf_counter() - began)
        assert np.isfinite(float(metrics["loss"].value))
        return found

    step()  # The first call brings in the memory.
    return temporary, [step() for _ in range(rounds)]


def compiled_step(
    model: SequenceModel, length: int
) -> tuple[jax.stages.Compiled, Callable[[], Any], Any]:
    """The train step of one row, compiled, and what makes its state; nothing has run."""
    task, optimizer = Language(model.copy(remat="full")), AdamW().build(1)
    batch: Any = {"tokens": _tokens(length + 1)}
    make_state = jax.jit(lambda: init_state(task, optimizer, jax.random.key(0), batch))
    step = jax.jit(functools.partial(train_step, task, optimizer), donate_argnums=0)
    return step.lower(jax.eval_shape(make_state), batch).compile(), make_state, batch


def generation(
    model: SequenceModel, variables: Variables, length: int, rounds: int
) -> tuple[int, list[float]]:
    """Bytes of a carry for `length` tokens, and the times in µs of decoding the last `COUNT`."""
    if jax.default_backend() == "cpu":
        model, variables = unrolled(model, variables)  # as `generate` has it
    tokens = _tokens(length).reshape(-1, 1, COUNT)[:-1]
    real, sampler = jnp.ones((1, COUNT), jnp.int32), Sampler(COUNT, temperature=0)

    @functools.partial(jax.jit, donate_argnums=1)
    def read(variables: Variables, carry: Any, chunk: jax.Array) -> Any:
        return step_of(model, variables)(chunk, carry, None)[1]

    @functools.partial(jax.jit, donate_argnums=1)
    def start(variables: Variables, carry: Any, chunk: jax.Array) -> State:
        return begin(step_of(model, variables), carry, chunk, real, jax.random.key(0))

    @functools.partial(jax.jit, donate_argnums=1)
    def go_on(variables: Variables, state: State) -> tuple[jax.Array, State]:
        return decode(step_of(model, variables), state, sampler, COUNT)

    carry = jax.jit(lambda: model.init_carry(1, length))()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(carry))
    for chunk in tokens[:-1]:
        carry = read(variables, carry, chunk)
    state = start(variables, carry, tokens[-1])

    def decoded() -> float:
        fresh = jax.block_until_ready(jax.tree.map(jnp.copy, state))
        began = time.perf_counter()
        jax.block_until_ready(go_on(variables, fresh))
        return 1e6 * (time.perf_counter() - began)

    decoded()
    return size, [decoded() for _ in range(rounds)]


def table(rows: Sequence[Row]) -> str:
    """The rows as one aligned text table."""
    cells: list[tuple[str, ...]] = [
        ("T", "model", "train kB/token", "train µs/token", "decode µs/token", "carry kB")
    ]
    for row in rows:
        figures = (
            row.temporary_bytes_per_token / 1e3,
            row.step_us_per_token,
            row.decode_us_per_token,
            row.carry_bytes / 1e3,
        )
        cells.append((str(row.length), row.model, *(f"{figure:.4g}" for figure in figures)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in cells
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures every length, the longest first, and writes the result."""
    parser = argparse.ArgumentParser(description="cost of a token against the length")
    parser.add_argument("--longest", type=int, default=LENGTHS[-1])
    longest = parser.parse_args(arguments).longest
    lengths = [length for length in LENGTHS if length <= longest]
    if not lengths:
        raise UsageError(f"--longest={longest} must be {LENGTHS[0]} or more")
    rows = []
    for length in reversed(lengths):  # What does not fit fails at once.
        for name, model in models(length).items():
            print(f"measuring {name} at T = {length}", file=sys.stderr, flush=True)
            rows.append(measure(name, model, length))
    rows.sort(key=lambda row: (row.model, row.length))
    if lengths[-1] == LENGTHS[-1]:
        RESULTS.mkdir(exist_ok=True)
        write_json(RESULTS / "cost.json", result(rows))
    print(table(rows))


def result(rows: Sequence[Row]) -> dict[str, Any]:
    """What the file holds."""
    return {
        "date": datetime.date.today().isoformat(),
        "width": WIDTH,
        "depth": DEPTH,
        "heads": HEADS,
        "rows": [dataclasses.asdict(row) for row in rows],
        "versions": versions(),
        "devices": devices(),
        "cpu": cpu(),
    }


def _tokens(count: int) -> np.ndarray:
    """Random tokens (1, count)."""
    return np.random.default_rng(0).integers(0, VOCABULARY, (1, count), np.int32)


if __name__ == "__main__":
    try:
        main()
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

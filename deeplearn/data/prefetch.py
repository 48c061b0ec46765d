"""Batches made ahead of the step that uses them, in order, by threads.

Data in memory take one thread of the standard library, which makes small batches several in a row:
beside a step that fills caches and cores, those behind the first cost less. Streamed data take
Grain's threads over a *step-indexed batch source* (`source[i]` is a whole batch), whose only state
is an integer. Both yield exactly the batches of a plain loop.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from deeplearn.data.dataset import Dataset
from deeplearn.data.source import Examples
from deeplearn.errors import naming

T = TypeVar("T")

BURST, BURST_BYTES = 8, 2**21
"""How many batches are made in a row at most, and how large they may be together."""


def prefetch(
    dataset: Dataset,
    rows: slice,
    steps: Sequence[int],
    place: Callable[[Examples], T],
    depth: int = 2,
) -> Generator[T]:
    """`place(dataset.batch(step, rows))` for each of `steps` (a range or list), `depth` ahead.

    `depth` is 1 or more; small batches in memory may be up to depth − 1 + `BURST`. An error is
    raised where its batch would have come; closing the generator ends the threads.
    """
    size = 0

    def batch(step: int) -> T:
        nonlocal size
        examples = dataset.batch(step, rows)
        size = sum(value.nbytes for value in examples.values())
        with naming(f"batch {step}"):
            return place(examples)

    def in_a_row() -> int:
        return max(1, min(BURST, BURST_BYTES // max(size, 1)))

    if dataset.in_memory:
        return _by_thread(batch, in_a_row, steps, depth)
    return _by_grain(batch, steps, depth)


def _by_thread(
    batch: Callable[[int], T], in_a_row: Callable[[], int], steps: Sequence[int], depth: int
) -> Generator[T]:
    ahead: deque[Future[T]] = deque()
    remaining = iter(steps)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:

        def make(count: int) -> None:
            ahead.extend(pool.submit(batch, step) for step in itertools.islice(remaining, count))

        try:
            make(depth)
            while ahead:
                result = ahead.popleft().result()
                if len(ahead) < depth:
                    make(in_a_row())
                yield result
        finally:
            for future in ahead:
                future.cancel()


def _by_grain(batch: Callable[[int], T], steps: Sequence[int], depth: int) -> Generator[T]:
    import grain

    # Batches in flight are `depth` in all; a streamed source itself reads a batch in parallel.
    options = grain.ReadOptions(num_threads=depth, prefetch_buffer_size=depth)
    batches = iter(grain.MapDataset.source(_Batches(batch, steps)).to_iter_dataset(options))
    try:
        yield from batches
    finally:
        batches.close()


class _Batches(Generic[T]):
    """Batch i of a list of steps, as Grain's random access asks for it."""

    def __init__(self, batch: Callable[[int], T], steps: Sequence[int]) -> None:
        self._batch, self._steps = batch, steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> T:
        return self._batch(self._steps[index])

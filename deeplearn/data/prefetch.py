"""Batches made ahead of the step that uses them, in order, by threads.

Data in memory take one thread of the standard library. Streamed data take Grain's threads over a
*step-indexed batch source* (`source[i]` is a whole batch), whose only state is an integer. Both
yield exactly the batches of a plain loop.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from deeplearn.data.dataset import Dataset
from deeplearn.data.source import Examples

T = TypeVar("T")


def prefetch(
    dataset: Dataset,
    rows: slice,
    steps: Sequence[int],
    place: Callable[[Examples], T],
    depth: int = 2,
) -> Generator[T]:
    """`place(dataset.batch(step, rows))` for each of `steps` (a range or list), `depth` ahead.

    An error is raised where its batch would have come; closing the generator ends the threads.
    """

    def batch(step: int) -> T:
        return place(dataset.batch(step, rows))

    if dataset.in_memory:
        return _by_thread(batch, steps, depth)
    return _by_grain(batch, steps, depth)


def _by_thread(batch: Callable[[int], T], steps: Sequence[int], depth: int) -> Generator[T]:
    ahead: deque[Future[T]] = deque()
    remaining = iter(steps)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        try:
            for step in itertools.islice(remaining, depth):
                ahead.append(pool.submit(batch, step))
            for step in remaining:
                result = ahead.popleft().result()
                ahead.append(pool.submit(batch, step))
                yield result
            while ahead:
                yield ahead.popleft().result()
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

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

from deeplearn.data.dataset import Sequential, Shuffled
from deeplearn.data.memory import Arrays
from deeplearn.data.prefetch import BURST, BURST_BYTES, prefetch
from deeplearn.errors import DataError

KINDS = ["memory", "streamed"]


@dataclass(frozen=True, eq=False)
class Streamed:
    """The examples of another source, read one batch at a time as if from files."""

    source: Arrays
    seconds: float = 0.0
    broken: int = -1

    in_memory = False

    @property
    def spec(self):
        return self.source.spec

    @property
    def digest(self):
        return self.source.digest

    def __len__(self):
        return len(self.source)

    def gather(self, indices):
        time.sleep(self.seconds)
        if self.broken in indices:
            raise DataError(f"example {self.broken} is broken")
        return self.source.gather(indices)


@dataclass(frozen=True, eq=False)
class InMemory(Streamed):
    in_memory = True


def source(kind: str, **options):
    arrays = Arrays({"x": np.random.default_rng(0).normal(size=(40, 3)), "label": np.arange(40)})
    return (Streamed if kind == "streamed" else InMemory)(arrays, **options)


def threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith(("prefetch", "grain"))}


def wait_for_no_threads() -> None:
    end = time.monotonic() + 10
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert not threads()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_batches_and_their_order_are_those_of_a_plain_loop(kind, depth):
    dataset, rows = Shuffled(source(kind), 8, 3), slice(2, 7)
    steps = range(11, 50, 3)
    got = list(prefetch(dataset, rows, steps, lambda batch: batch, depth))
    assert len(got) == len(steps)
    for step, batch in zip(steps, got, strict=True):
        expected = dataset.batch(step, rows)
        assert set(batch) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(batch[name], value)
    wait_for_no_threads()


@pytest.mark.parametrize("kind", KINDS)
def test_no_steps_give_no_batches(kind):
    assert list(prefetch(Sequential(source(kind), 8), slice(0, 8), [], lambda batch: batch)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_where_its_batch_would_have_come(kind):
    dataset = Sequential(source(kind, broken=27), 8)
    batches = prefetch(dataset, slice(0, 8), range(5), lambda batch: batch["label"][0])
    assert [next(batches) for _ in range(3)] == [0, 8, 16]
    with pytest.raises(DataError, match="example 27 is broken"):
        next(batches)
    wait_for_no_threads()


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_while_placing_comes_through(kind):
    def place(batch):
        if batch["label"][0] == 8:
            raise DataError("label 8")
        return batch

    batches = prefetch(Sequential(source(kind), 8), slice(0, 8), range(5), place)
    next(batches)
    with pytest.raises(DataError, match="label 8"):
        next(batches)


@pytest.mark.parametrize("kind", KINDS)
def test_closing_ends_the_threads(kind):
    batches = prefetch(
        Shuffled(source(kind, seconds=0.02), 8, 0), slice(0, 8), range(10**6), lambda batch: batch
    )
    next(batches)
    assert threads()
    batches.close()
    wait_for_no_threads()


def test_closing_waits_for_no_batch_that_has_not_begun():
    dataset = Shuffled(source("memory", seconds=0.2), 8, 0)
    batches = prefetch(dataset, slice(0, 8), range(100), lambda batch: batch, 10)
    next(batches)
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 5 * 0.2


def most_ahead(data: Arrays | Streamed, depth: int) -> int:
    """How many batches are made and not yet taken, at most, where nobody is in a hurry."""
    made, counts = [], []

    def place(batch):
        made.append(1)
        return batch

    batches = prefetch(Shuffled(data, 8, 0), slice(0, 8), range(1000), place, depth)
    for taken, _ in enumerate(itertools.islice(batches, 10), start=1):
        before = -1
        while len(made) > before:
            before = len(made)
            time.sleep(0.05)
        counts.append(len(made) - taken)
    batches.close()
    return max(counts)


def test_streamed_batches_are_made_ahead_but_not_further():
    assert 2 <= most_ahead(source("streamed"), 3) <= 3


@pytest.mark.parametrize(("half", "in_a_row"), [(0, BURST), (1, 2), (2, 1), (6, 1)])
def test_small_batches_in_memory_are_made_in_a_row_and_large_ones_one_by_one(half, in_a_row):
    batch = np.zeros((8, max(1, half * BURST_BYTES // (2 * 8 * 4))), np.float32)
    assert most_ahead(Arrays({"x": batch}), 3) == 2 + in_a_row


@pytest.mark.parametrize("kind", KINDS)
def test_preparing_overlaps_with_using(kind):
    dataset = Shuffled(source(kind, seconds=0.05), 8, 0)
    start = time.monotonic()
    for _ in prefetch(dataset, slice(0, 8), range(8), lambda batch: batch):
        time.sleep(0.05)
    assert time.monotonic() - start < 0.9 * 8 * 0.1


def test_data_in_memory_need_no_grain():
    script = (
        "import sys, numpy as np\n"
        "sys.modules['grain'] = sys.modules['tensorflow_datasets'] = None\n"
        "from deeplearn.data.dataset import Shuffled\n"
        "from deeplearn.data.memory import Arrays\n"
        "from deeplearn.data.prefetch import prefetch\n"
        "import deeplearn.data.tfds, deeplearn.data.stream, deeplearn.data.image\n"
        "data = Shuffled(Arrays({'x': np.ones((9, 2))}), 4, 0)\n"
        "print(len(list(prefetch(data, slice(0, 4), range(7), dict))))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "7\n", done.stderr

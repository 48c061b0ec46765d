from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplearn.data.dataset import Draw, Sequential, Shuffled
from deeplearn.data.memory import Arrays
from deeplearn.data.source import Examples, Field
from deeplearn.errors import DataError, UsageError


def numbered(size: int) -> Arrays:
    """A source whose example i holds i."""
    return Arrays({"x": np.arange(size, dtype=np.float32)[:, None], "label": np.arange(size)})


@dataclass(frozen=True)
class Noise:
    """Adds the draw of each example; writes into its argument."""

    def __call__(self, examples: Examples, draw: Draw) -> Examples:
        examples["x"] += draw.uniform(0).astype(np.float32)[:, None]
        return examples


@dataclass(frozen=True)
class Swap:
    """Replaces each example by another, as the transforms before made it."""

    def __call__(self, examples: Examples, draw: Draw) -> Examples:
        return draw.fetch(draw.integers(0, draw.size), draw.keys)


@dataclass(frozen=True)
class Soft:
    """Changes shape and dtype of the label."""

    def __call__(self, examples: Examples, draw: Draw) -> Examples:
        label = np.zeros((len(draw.keys), 3), np.float32)
        return {**examples, "label": label}


def joined(dataset: Shuffled, step: int, parts: int) -> dict[str, np.ndarray]:
    """The global batch of a step, put together from the rows of `parts` processes."""
    rows = dataset.batch_size // parts
    batches = [dataset.batch(step, slice(p * rows, (p + 1) * rows)) for p in range(parts)]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(8, 70),
    batch=st.sampled_from([4, 8]),
    seed=st.integers(0, 2**32),
    start=st.integers(0, 10**9),
    augmented=st.booleans(),
)
def test_processes_and_start_steps_see_the_same_global_batches(size, batch, seed, start, augmented):
    augment = (Noise(), Swap(), Noise()) if augmented else ()
    for step in (start, start + 1, start):
        batches = [
            joined(Shuffled(numbered(size), batch, seed, augment), step, parts)
            for parts in (1, 2, 4)
        ]
        for other in batches[1:]:
            for name, value in batches[0].items():
                np.testing.assert_array_equal(other[name], value)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 60), part=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_every_epoch_holds_each_example_once_and_batches_straddle_epochs(size, part, seed):
    batch = 1 + int(part * (size - 1))
    dataset = Shuffled(numbered(size), batch, seed)
    steps = 3 * size  # whole epochs: 3 · batch of them
    stream = np.concatenate([dataset.batch(t, slice(0, batch))["label"] for t in range(steps)])
    epochs = stream.reshape(3 * batch, size)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(size), (3 * batch, 1)))
    if size >= 10:
        assert len(np.unique(epochs, axis=0)) > 1


def test_a_range_of_examples_is_the_batches_of_its_steps():
    dataset = Shuffled(numbered(10), 4, 0, (Noise(),))
    whole = dataset.examples(7 * 4, 20 * 4)
    parts = [dataset.batch(step, slice(0, 4)) for step in range(7, 20)]
    for name in whole:
        np.testing.assert_array_equal(whole[name], np.concatenate([p[name] for p in parts]))


def test_no_rows_are_a_batch_of_none():
    for augment in ((), (Noise(), Swap())):
        batch = Shuffled(numbered(10), 4, 0, augment).batch(2, slice(1, 1))
        assert batch["x"].shape == (0, 1) and batch["label"].shape == (0,)


def test_seeds_and_augmentation_draws_differ():
    one, two = (Shuffled(numbered(50), 50, seed).batch(0, slice(0, 50))["label"] for seed in (0, 1))
    assert (one != two).any()
    dataset = Shuffled(numbered(50), 50, 0, (Noise(),))
    draws = []
    for epoch in (0, 1):
        batch = dataset.batch(epoch, slice(0, 50))
        noise = (batch["x"][:, 0] - batch["label"])[np.argsort(batch["label"])]
        assert (noise >= 0).all() and (noise < 1).all() and len(np.unique(noise)) > 45
        draws.append(noise)
    assert (draws[0] != draws[1]).mean() > 0.9
    twice = Shuffled(numbered(50), 50, 0, (Noise(), Noise())).batch(0, slice(0, 50))
    first = dataset.batch(0, slice(0, 50))
    second = twice["x"] - first["x"]
    assert not np.allclose(second[:, 0], first["x"][:, 0] - first["label"], atol=1e-3)


def test_fetched_examples_went_through_the_transforms_before():
    plain = Shuffled(numbered(50), 50, 0, (Swap(),)).batch(0, slice(0, 50))
    assert (plain["x"] % 1 == 0).all()
    noisy = Shuffled(numbered(50), 50, 0, (Noise(), Swap())).batch(0, slice(0, 50))
    assert (noisy["x"] % 1 != 0).mean() > 0.9


def test_a_far_step_needs_no_earlier_permutation(monkeypatch):
    from deeplearn.data import permutation

    asked = []
    walk = permutation._walk
    monkeypatch.setattr(permutation, "_walk", lambda k, n, p: asked.append(len(p)) or walk(k, n, p))
    Shuffled(numbered(10_007), 8, 123).batch(10**7, slice(0, 8))
    Shuffled(numbered(200_000), 8, 123).batch(10**7, slice(0, 8))
    assert asked in ([10_007, 8], [10_007, 10_007, 8])


def test_the_specification_is_that_of_the_batches():
    for augment in ((), (Noise(),), (Noise(), Soft(), Swap())):
        dataset = Shuffled(numbered(9), 4, 0, augment)
        batch = dataset.batch(3, slice(1, 3))
        assert set(batch) == set(dataset.spec)
        for name, field in dataset.spec.items():
            assert batch[name].shape == (2, *field.shape) and batch[name].dtype == field.dtype


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 40), batch=st.integers(1, 12), cut=st.integers(0, 12))
def test_evaluation_sees_each_example_once_in_order(size, batch, cut):
    dataset = Sequential(numbered(size), batch)
    assert dataset.batches == -(-size // batch)
    cut = min(cut, batch)
    seen, weights = [], []
    for step in range(dataset.batches):
        for rows in (slice(0, cut), slice(cut, batch)):
            part = dataset.batch(step, rows)
            assert part["x"].shape == (rows.stop - rows.start, 1)
            assert part["mask"].dtype == np.float32
            seen.append(part["label"])
            weights.append(part["mask"])
    seen, weights = np.concatenate(seen), np.concatenate(weights)
    assert len(seen) == batch * dataset.batches
    np.testing.assert_array_equal(seen[weights == 1], np.arange(size))
    assert weights.sum() == size


def test_a_mask_of_the_source_counts_in_evaluation_too():
    for weights in (np.array([1.0, 0.0, 0.5]), np.array([True, False, True])):
        source = Arrays({"x": np.zeros((3, 1)), "mask": weights})
        batch = Sequential(source, 4).batch(0, slice(0, 4))
        np.testing.assert_array_equal(batch["mask"], [*weights, 0])
        assert batch["mask"].dtype == np.float32
    wide = Arrays({"x": np.zeros((3, 1)), "mask": np.ones((3, 2))})
    with pytest.raises(DataError, match=r"'mask' of .* has the shape \(2,\) an example"):
        Sequential(wide, 4).batch(0, slice(0, 4))


def test_the_evaluation_specification_has_the_mask():
    dataset = Sequential(numbered(5), 2)
    assert dataset.spec["mask"] == Field((), "float32")
    assert len(dataset) == 5
    assert dataset.digest == Shuffled(numbered(5), 2, 0).digest == numbered(5).digest


def test_an_empty_source_is_refused():
    for make in (lambda: Shuffled(numbered(0), 1, 0), lambda: Sequential(numbered(0), 1)):
        with pytest.raises(DataError, match="holds no examples"):
            make()


def test_a_batch_larger_than_the_source_is_refused_with_both_numbers():
    with pytest.raises(DataError, match=r"batch_size 8 .* 5 examples"):
        Shuffled(numbered(5), 8, 0)
    assert Sequential(numbered(5), 8).batches == 1


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(UsageError, match="batch_size is 0"):
        Shuffled(numbered(5), 0, 0)
    with pytest.raises(UsageError, match="batch_size is -2"):
        Sequential(numbered(5), -2)


class Streamed:
    """A source that is not in memory and hands out what it is given."""

    in_memory = False
    digest = "0"
    spec = {"x": Field((2,), "float32")}

    def __init__(self, **values: np.ndarray) -> None:
        self.values = values

    def __len__(self) -> int:
        return 10

    def gather(self, indices: np.ndarray) -> Examples:
        return {name: value[: len(indices)] for name, value in self.values.items()}


def test_streamed_batches_are_checked():
    good = np.ones((4, 2), np.float32)
    Sequential(Streamed(x=good), 4).batch(0, slice(0, 4))
    bad = good.copy()
    bad[2, 1] = np.nan
    for values, message in [
        ({"x": bad}, "field 'x' of example 6 holds NaN"),
        ({"x": good.astype(np.float64)}, r"'x' .* index 4 .* float64 \(4, 2\); expected float32"),
        ({"x": good[:, :1]}, r"float32 \(4, 1\); expected float32 \(4, 2\)"),
        ({"y": good}, "field 'x' is missing"),
    ]:
        with pytest.raises(DataError, match=message):
            Sequential(Streamed(**values), 4).batch(1, slice(0, 4))
        with pytest.raises(DataError):
            Shuffled(Streamed(**values), 4, 0).batch(1, slice(0, 4))

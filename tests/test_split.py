from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplearn.data.corpus import Documents, Text
from deeplearn.data.memory import Arrays
from deeplearn.data.split import Split, places
from deeplearn.data.text import Packed, Windows
from deeplearn.errors import UsageError

PLACES = [0.28324763891382765, 0.6761697081476467, 0.6361274026303542]


def source(size: int = 500, seed: int = 0) -> Arrays:
    x = np.random.default_rng(seed).integers(0, 256, (size, 3, 3, 1), dtype=np.uint8)
    return Arrays({"x": x, "label": np.arange(size)}, mean=(0.3,), std=(0.2,))


@settings(max_examples=30, deadline=None)
@given(cut=st.floats(0.05, 0.95), seed=st.integers(0, 9))
def test_two_sides_share_nothing_and_miss_nothing(cut, seed):
    whole = source(100, seed)
    labels = [Split(whole, *ends).arrays["label"] for ends in ((0.0, cut), (cut, 1.0))]
    assert sorted(np.concatenate(labels)) == list(range(100))


def test_rows_stay_together_and_keep_their_scale():
    whole, part = source(), Split(source(), 0.2, 0.5)
    numbers = part.arrays["label"]
    taken = part.gather(np.arange(len(part)))
    np.testing.assert_array_equal(taken["x"], whole.gather(numbers)["x"])
    assert part.spec == whole.spec and part.mean == whole.mean


def test_neither_order_nor_other_examples_nor_labels_nor_scale_move_an_example():
    whole = source()
    x, kept = whole.arrays["x"], set(Split(whole, 0.0, 0.4).arrays["label"])
    order = np.random.default_rng(1).permutation(500)[:300]
    other = Arrays({"x": x[order], "label": order}, mean=(0.9,))
    assert set(Split(other, 0.0, 0.4).arrays["label"]) == kept & set(order)


def test_equal_inputs_fall_on_the_same_side():
    x = np.repeat(source(40).arrays["x"], 2, axis=0)
    labels = Split(Arrays({"x": x, "label": np.arange(80)}), 0.0, 0.5).arrays["label"]
    assert 0 < len(labels) < 80
    assert set(labels) == {pair ^ 1 for pair in labels}


def test_zeros_of_both_signs_are_equal():
    assert len(set(places(np.array([[0.0, 1.0], [-0.0, 1.0]], np.float32)))) == 1


def test_places_are_uniform_and_fixed_forever():
    found = places(np.arange(20_000, dtype=np.int32)[:, None])
    counts, _ = np.histogram(found, bins=20, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 19 + 5 * np.sqrt(38)
    assert places(np.arange(3, dtype=np.uint8)[:, None]).tolist() == PLACES


@pytest.mark.parametrize("ends", [(0.5, 0.5), (0.6, 0.2), (-0.1, 0.5), (0.5, 1.1)])
def test_ends_must_rise_within_0_and_1(ends):
    with pytest.raises(UsageError, match="start < stop"):
        Split(source(), *ends)


def test_texts_are_refused():
    windows = Windows(Text("to be or not to be " * 9), "all", 8)
    for source in (windows, Packed(Documents(["ab"]), "all", 8)):
        with pytest.raises(UsageError, match="Split goes by the field 'x', and .* has none"):
            len(Split(source, 0.0, 0.5))


def test_a_source_outside_memory_is_refused():
    from deeplearn.data.stream import TfdsImages

    with pytest.raises(UsageError, match="not in memory"):
        Split(TfdsImages("imagenet2012"), 0.0, 0.5)

from __future__ import annotations

import numpy as np
import pytest

from deeplearn.data import permutation
from deeplearn.data.permutation import example_keys, fold, mix, permute

SIZES = [1, 2, 3, 4, 5, 7, 10, 97, 1000] + [2**k + d for k in (4, 8, 12, 17) for d in (-1, 0, 1)]
ORDER = [3, 7, 8, 9, 2, 0, 6, 5, 4, 1]
LARGE = [385833, 358421, 917162]
KEYS = [12028183565029334674, 16428607682432143941]


@pytest.mark.parametrize("size", SIZES)
def test_every_epoch_is_a_bijection(size):
    for epoch in (0, 1, 10**9):
        order = permute(3, epoch, size, np.arange(size))
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_large_sizes_never_leave_their_range_and_never_collide():
    for size in (10**9 + 7, 2**40 + 1, 2**62 - 1):
        positions = np.arange(20_000) * (size // 20_000)
        order = permute(0, 5, size, positions)
        assert order.min() >= 0 and order.max() < size
        assert len(np.unique(order)) == len(positions)


def test_the_table_and_the_direct_computation_agree(monkeypatch):
    table = permute(1, 2, 1000, np.arange(1000))
    monkeypatch.setattr(permutation, "_TABLE_SIZE", 0)
    np.testing.assert_array_equal(permute(1, 2, 1000, np.arange(1000)), table)


@pytest.mark.parametrize("size", [2, 3, 4, 10, 37])
def test_every_example_is_as_likely_at_every_position(size):
    epochs = 1500
    counts = np.zeros((size, size))
    for epoch in range(epochs):
        keys = permutation._round_keys(7, epoch)
        counts[np.arange(size), permutation._walk(keys, size, np.arange(size))] += 1
    expected = epochs / size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = (size - 1) ** 2
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_all_orders_of_four_examples_occur_equally_often():
    epochs = 3000
    orders = [tuple(permute(11, epoch, 4, np.arange(4))) for epoch in range(epochs)]
    found, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(found) == 24
    chi_square = ((counts - epochs / 24) ** 2 / (epochs / 24)).sum()
    assert chi_square < 23 + 5 * np.sqrt(46)


def test_neighbouring_positions_hold_unrelated_examples():
    size = 1 << 14
    order = permute(0, 0, size, np.arange(size)).astype(float)
    for lag in (1, 2, 128, 129):
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 5 / np.sqrt(size)


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        permute(seed, epoch, 100, np.arange(100)).tobytes()
        for seed in (-1, 0, 1, 2**40)
        for epoch in range(25)
    }
    assert len(orders) == 100


def test_the_values_are_fixed_forever():
    assert permute(0, 0, 10, np.arange(10)).tolist() == ORDER
    assert permute(2**31, 123_456, 1 << 20, np.arange(3)).tolist() == LARGE
    assert example_keys(0, 0, np.arange(2)).tolist() == KEYS


def test_keys_differ_by_seed_epoch_index_and_stream():
    keys = [example_keys(seed, epoch, np.arange(500)) for seed in range(3) for epoch in range(3)]
    keys += [fold(keys[0], stream) for stream in range(5)]
    words = np.concatenate(keys)
    assert len(np.unique(words)) == len(words)
    ones = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / np.sqrt(len(words))


def test_a_flipped_bit_changes_half_of_all_bits():
    words = example_keys(5, 0, np.arange(200))
    for bit in (0, 31, 63):
        changed = mix(words) ^ mix(words ^ np.uint64(1 << bit))
        assert abs(np.unpackbits(changed.view(np.uint8)).mean() - 0.5) < 0.03

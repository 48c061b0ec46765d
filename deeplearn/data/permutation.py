"""Keyed permutations and hashes: all randomness of the data as pure functions of integers.

Position p of epoch e holds example `permute(seed, e, N, p)`. Nothing is built or stored on the way
to an epoch, so a seek to any step costs what one batch costs, and the values are fixed by this file
alone: they depend on no library's random streams.
"""

from __future__ import annotations

import functools
import math

import numpy as np

# Up to this many examples an epoch's order is computed once and kept: 2^16 takes 512 KiB and about
# 10 ms, and a batch then costs one lookup instead of some 80 NumPy calls.
_TABLE_SIZE = 1 << 16
_ROUNDS = 8
_WORD = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ORDER, _EXAMPLE = 1, 2  # separate the two uses of one seed


def permute(seed: int, epoch: int, size: int, positions: np.ndarray) -> np.ndarray:
    """The examples at `positions` (int64, any shape) of an epoch over `size` examples (int64).

    A bijection of [0, size) for every (seed, epoch), in time O(len(positions)).
    """
    if size <= _TABLE_SIZE:
        return _table(seed, epoch, size)[positions]
    return _walk(_round_keys(seed, epoch), size, positions)


def example_keys(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """64 random bits (uint64) for each example (int64 indices, any shape) of an epoch."""
    return mix(indices.astype(np.uint64) * _GOLDEN + _fold(seed, epoch, _EXAMPLE))


def fold(keys: np.ndarray, stream: int) -> np.ndarray:
    """Keys (uint64) of an independent stream, one for each of `keys`."""
    return mix(keys ^ _fold(stream))


def uniform(keys: np.ndarray, stream: int) -> np.ndarray:
    """Numbers in [0, 1) (float64), one for each of `keys`, from the stream of that number."""
    return (fold(keys, stream) >> np.uint64(11)) * 2.0**-53


def mix(words: np.ndarray) -> np.ndarray:
    """A bijection of uint64 in which every bit depends on all others (splitmix64's finalizer).

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    words = words ^ (words >> np.uint64(30))
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


@functools.lru_cache(maxsize=8)
def _table(seed: int, epoch: int, size: int) -> np.ndarray:
    table = _walk(_round_keys(seed, epoch), size, np.arange(size))
    table.flags.writeable = False
    return table


def _walk(keys: np.ndarray, size: int, positions: np.ndarray) -> np.ndarray:
    """Applies the cipher until every value is below `size` (cycle walking keeps it a bijection)."""
    values = _cipher(keys, size, positions.astype(np.uint64))
    while (outside := values >= size).any():
        values[outside] = _cipher(keys, size, values[outside])
    return values.astype(np.int64)


def _cipher(keys: np.ndarray, size: int, values: np.ndarray) -> np.ndarray:
    """An alternating Feistel cipher on [0, rows · columns), the least such rectangle over `size`.

    Values are digits in mixed radix and rounds add modulo the radix, so less than one value in
    √size falls outside: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002.
    """
    columns = math.isqrt(size - 1) + 1
    rows = -(-size // columns)
    row, column = np.divmod(values, np.uint64(columns))
    for key in keys:
        # One bit is dropped so that the sum cannot wrap, which would break the bijection.
        column = (column + (mix(row + key) >> np.uint64(1))) % np.uint64(columns)
        row = (row + (mix(column - key) >> np.uint64(1))) % np.uint64(rows)
    return row * np.uint64(columns) + column


def _round_keys(seed: int, epoch: int) -> np.ndarray:
    return mix(_fold(seed, epoch, _ORDER) + _GOLDEN * np.arange(_ROUNDS, dtype=np.uint64))


@functools.lru_cache(maxsize=64)
def _fold(*integers: int) -> np.ndarray:
    """One word (uint64, shape (1,)) from integers of any size and sign."""
    word = np.zeros(1, np.uint64)
    for integer in integers:
        word = mix((word ^ np.uint64(integer & _WORD)) + _GOLDEN)
    return word

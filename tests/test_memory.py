from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from deeplearn.data.memory import Arrays, scaled
from deeplearn.data.source import Field
from deeplearn.errors import DataError, UsageError


def source() -> Arrays:
    return Arrays({"x": np.arange(12.0).reshape(6, 2), "label": [3, 1, 4, 1, 5, 9]})


def test_arrays_become_float32_and_int32():
    arrays = source()
    assert arrays.spec == {"x": Field((2,), "float32"), "label": Field((), "int32")}
    assert len(arrays) == 6 and arrays.in_memory
    batch = arrays.gather(np.array([4, 0, 4]))
    np.testing.assert_array_equal(batch["x"], [[8, 9], [0, 1], [8, 9]])
    np.testing.assert_array_equal(batch["label"], [5, 3, 5])
    for name, field in arrays.spec.items():
        assert batch[name].dtype == field.dtype


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.int64, np.bool_, ">i4"])
def test_every_integer_type_becomes_int32(dtype):
    arrays = Arrays({"label": np.array([1, 0, 1], dtype)})
    assert arrays.spec["label"].dtype == "int32"
    np.testing.assert_array_equal(arrays.gather(np.arange(3))["label"], [1, 0, 1])


def test_pixels_stay_bytes_in_memory_and_come_out_scaled():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 2), dtype=np.uint8)
    arrays = Arrays({"x": pixels}, mean=(0.5, 0.1), std=(0.25, 2.0))
    assert arrays.arrays["x"].dtype == np.uint8
    batch = arrays.gather(np.array([3, 1]))["x"]
    assert batch.dtype == np.float32 and arrays.spec["x"] == Field((4, 3, 2), "float32")
    expected = (pixels[[3, 1]] / 255 - [0.5, 0.1]) / [0.25, 2.0]
    np.testing.assert_allclose(batch, expected, atol=1e-6)
    plain = scaled(np.array([[0, 255]], np.uint8), (), ())
    np.testing.assert_array_equal(plain, np.array([[0, 1]], np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, r"do not fit pixels of shape \(4, 3, 2\)"),
        ({"std": (0.0,)}, "and std above 0"),
        ({"mean": (float("nan"),)}, "must be finite"),
    ],
)
def test_a_scaling_that_cannot_be_is_refused(options, message):
    pixels = np.zeros((5, 4, 3, 2), np.uint8)
    with pytest.raises(UsageError, match=message):
        Arrays({"x": pixels}, **options).gather(np.arange(2))


def test_what_gather_returns_may_be_written():
    arrays = source()
    before = arrays.digest
    for value in arrays.gather(np.arange(6)).values():
        value[:] = 0
    assert arrays.gather(np.array([1]))["x"].tolist() == [[2, 3]]
    assert before == source().digest
    with pytest.raises(ValueError, match="read-only"):
        arrays.arrays["x"][0] = 1


def test_the_digest_is_that_of_the_content():
    base = {"x": np.ones((4, 2)), "label": np.arange(4)}
    same = Arrays({"label": np.arange(4, dtype=np.int8), "x": np.ones((4, 2), np.float32)})
    assert Arrays(base).digest == same.digest
    changes = [
        {**base, "x": np.ones((4, 2)) + [[0, 1e-6]]},
        {**base, "x": np.ones((2, 4)).repeat(2, axis=0)},
        {**base, "label": [0, 1, 3, 2]},
        {"x": base["x"], "y": base["label"]},
        {"x": base["x"]},
    ]
    digests = {Arrays(change).digest for change in changes} | {same.digest}
    pixels = {"x": np.ones((4, 2), np.uint8)}
    digests |= {Arrays(pixels).digest, Arrays(pixels, mean=(0.5,)).digest}
    assert len(digests) == len(changes) + 3


def test_the_representation_holds_no_values():
    arrays = Arrays({"x": np.zeros((1000, 28, 28)), "label": np.zeros(1000, int)})
    assert repr(arrays) == "Arrays(x float32[1000, 28, 28], label int32[1000])"


def test_copies_hold_the_same():
    arrays = source()
    assert len(arrays) == len(copy.deepcopy(arrays))
    assert dataclasses.replace(arrays, std=(1.0,)).spec == arrays.spec
    assert arrays.digest == copy.deepcopy(arrays).digest


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no arrays"),
        ({"x": np.ones((3, 2)), "label": np.ones(4, int)}, "'x': 3, 'label': 4"),
        ({"x": np.float32(1)}, "'x' is a scalar"),
        ({"x": np.array(["a", "b"])}, "'x' has dtype <U1"),
        ({"x": np.array([1 + 2j])}, "'x' has dtype complex"),
        ({"x": np.array([{}, {}], object)}, "'x' has dtype object"),
        ({"label": np.array([2**31])}, "'label' holds integers from 2147483648"),
        ({"label": np.array([2**63], np.uint64)}, "outside int32"),
        ({"x": np.array([[1.0], [2], [np.nan], [np.nan]])}, "'x' of example 2 holds NaN"),
        ({"x": np.array([1.0, -np.inf])}, "'x' of example 1 holds"),
        ({"target": np.array([1.0, 1e300])}, "'target' of example 1 holds"),
    ],
)
def test_arrays_that_cannot_work_are_refused(fields, message):
    with pytest.raises(DataError, match=message):
        Arrays(fields)

from __future__ import annotations

import numpy as np
import pytest

from deeplearn.data.dataset import Draw, Shuffled
from deeplearn.data.image import CutMix, Mixup, RandomCrop, RandomErasing, RandomFlip
from deeplearn.data.memory import Arrays
from deeplearn.data.permutation import example_keys, uniform
from deeplearn.data.source import Field
from deeplearn.errors import DataError, UsageError

N, Y, X, C, CLASSES = 300, 8, 6, 2, 5
TRANSFORMS = [
    RandomCrop(2),
    RandomFlip(),
    RandomErasing(),
    Mixup(0.4, CLASSES),
    CutMix(1.0, CLASSES),
]


def source(channels: int = C) -> Arrays:
    """Distinct pixels of at least 0.5 within an image, labels in turn."""
    rng = np.random.default_rng(0)
    x = 0.5 + rng.permuted(np.tile(np.arange(Y * X * channels), (N, 1)), axis=1) / 1000
    return Arrays({"x": x.reshape(N, Y, X, channels), "label": np.arange(N) % CLASSES})


def draw(size: int = N) -> Draw:
    """A draw whose other examples are those of `source`."""
    return Draw(
        example_keys(0, 0, np.arange(size)), lambda indices, keys: source().gather(indices), N
    )


def images() -> np.ndarray:
    return source().gather(np.arange(N))["x"]


def applied(transform) -> dict[str, np.ndarray]:
    return transform(source().gather(np.arange(N)), draw())


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_rows_may_be_split_in_any_way(transform):
    dataset = Shuffled(source(), 100, 0, (RandomFlip(), transform))
    whole = dataset.batch(5, slice(0, 100))
    for cut in (1, 37, 99):
        parts = [dataset.batch(5, rows) for rows in (slice(0, cut), slice(cut, 100))]
        for name, value in whole.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), value)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_shapes_dtypes_and_the_source_stay(transform):
    data = source()
    digest = data.digest
    dataset = Shuffled(data, 50, 0, (transform,))
    batch = dataset.batch(0, slice(0, 50))
    assert batch["x"].shape == (50, Y, X, C) and batch["x"].dtype == np.float32
    assert dataset.spec["label"] == Field(batch["label"].shape[1:], str(batch["label"].dtype))
    assert Arrays(data.arrays).digest == digest


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_an_example_looks_different_in_the_next_epoch(transform):
    epochs = []
    dataset = Shuffled(source(), N, 0, (transform,))
    for step in (0, 1):
        batch = dataset.batch(step, slice(0, N))
        epochs.append({x.tobytes() for x in batch["x"]})
    assert len(epochs[0] & epochs[1]) < 0.6 * N


def test_a_crop_shifts_by_at_most_the_padding_and_fills_the_rest():
    before, after = images(), applied(RandomCrop(2, fill=-1.0))["x"]
    seen = set()
    for old, new in zip(before, after, strict=True):
        padded = np.full((Y + 4, X + 4, C), -1.0, np.float32)
        padded[2:-2, 2:-2] = old
        shifts = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if (padded[dy : dy + Y, dx : dx + X] == new).all()
        ]
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert len(seen) == 25


def test_a_crop_without_padding_changes_nothing():
    np.testing.assert_array_equal(applied(RandomCrop(0))["x"], images())


def test_a_flip_mirrors_the_stated_part_of_the_images():
    before, after = images(), applied(RandomFlip(0.3))["x"]
    same = (after == before).all(axis=(1, 2, 3))
    mirrored = (after == before[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / N)
    np.testing.assert_array_equal(applied(RandomFlip(0.0))["x"], before)
    np.testing.assert_array_equal(applied(RandomFlip(1.0))["x"], before[:, :, ::-1])


def test_erasing_overwrites_one_rectangle_of_the_stated_area():
    transform = RandomErasing(0.7, area=(0.1, 0.3), aspect=(0.5, 2.0), fill=-9.0)
    before, after = images(), applied(transform)["x"]
    erased = (after == -9.0).all(axis=-1)
    assert ((after == before).all(axis=-1) | erased).all()
    chosen = erased.any(axis=(1, 2))
    assert abs(chosen.mean() - 0.7) < 5 * np.sqrt(0.7 * 0.3 / N)
    areas = []
    for mask in erased[chosen]:
        down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask[down[0] : down[-1] + 1, across[0] : across[-1] + 1].all()
        assert mask.sum() == len(down) * len(across)
        assert 0.3 < len(down) / len(across) < 3.1
        areas.append(mask.mean())
    assert 0.05 < min(areas) < 0.15 < np.mean(areas) < 0.25 < max(areas) < 0.4
    assert erased[chosen].any(axis=0).all()
    np.testing.assert_array_equal(applied(RandomErasing(0.0))["x"], before)


def test_mixup_mixes_two_examples_and_their_labels_by_the_same_part():
    batch = applied(Mixup(0.4, CLASSES))
    x, data = source().arrays["x"], source().arrays
    partner = draw().integers(0, N)
    before, other = images(), x[partner]
    part = batch["label"][np.arange(N), data["label"]]
    differ = data["label"] != data["label"][partner]
    assert differ.mean() > 0.5
    expected = part[:, None, None, None] * before + (1 - part)[:, None, None, None] * other
    np.testing.assert_allclose(batch["x"][differ], expected[differ], atol=1e-5)
    np.testing.assert_allclose(
        batch["label"][differ, data["label"][partner][differ]], 1 - part[differ], atol=1e-6
    )
    # Beta(0.4, 0.4) has mean 1/2 and variance 1/7.2.
    assert abs(part[differ].mean() - 0.5) < 0.12
    assert abs(part[differ].var() - 1 / 7.2) < 0.04


def test_cutmix_pastes_one_rectangle_and_weighs_the_labels_by_area():
    batch = applied(CutMix(1.0, CLASSES))
    data, partner = source().arrays, draw().integers(0, N)
    own = (batch["x"] == images()).all(axis=-1)
    pasted = (batch["x"] == data["x"][partner]).all(axis=-1)
    assert (own | pasted).all()
    differ = data["label"] != data["label"][partner]
    weight = batch["label"][np.arange(N), data["label"]]
    np.testing.assert_allclose(weight[differ], own.mean(axis=(1, 2))[differ], atol=0.03)
    for mask in ~own[~own.all(axis=(1, 2))]:
        down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = mask[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
        assert box.mean() > 0.85
    assert 0.6 < weight[differ].mean() < 0.9 and weight.min() < 0.35


@pytest.mark.parametrize(
    "augment",
    [
        (Mixup(0.2, CLASSES),),
        (CutMix(0.5, CLASSES),),
        (RandomCrop(1), Mixup(0.4, CLASSES), CutMix(1.0, CLASSES), RandomErasing()),
    ],
    ids=len,
)
def test_the_mass_of_a_label_is_one(augment):
    label = Shuffled(source(), N, 0, augment).batch(0, slice(0, N))["label"]
    assert label.shape == (N, CLASSES) and label.dtype == np.float32 and label.min() >= 0
    np.testing.assert_allclose(label.sum(axis=1), 1, atol=1e-6)


def test_partners_went_through_the_transforms_before_with_draws_of_their_own():
    erasing = RandomErasing(1.0, fill=-1.0)
    once, mixed = (
        (Shuffled(source(), N, 0, augment).batch(0, slice(0, N))["x"] == -1).all(axis=-1)
        for augment in ((erasing,), (erasing, CutMix(1.0, CLASSES)))
    )
    brought = mixed & ~once
    assert brought.any(axis=(1, 2)).mean() > 0.3
    assert brought.any(axis=0).mean() > 0.9  # one rectangle would cover a third at most


@pytest.mark.parametrize("transform", [Mixup(1.0, CLASSES), CutMix(1.0, CLASSES)], ids=repr)
def test_what_a_source_draws_of_a_partner_does_not_follow_the_mix(transform):
    seen = []

    def fetch(indices, keys):
        seen.append(keys)
        return source().gather(indices)

    keys = example_keys(0, 0, np.arange(N))
    transform(source().gather(np.arange(N)), Draw(keys, fetch, N))
    for stream in range(5):
        for own in range(5):
            pair = uniform(seen[0], stream), uniform(keys, own)
            assert abs(np.corrcoef(*pair)[0, 1]) < 0.3


def test_a_label_outside_the_classes_is_refused():
    with pytest.raises(DataError, match="labels run from 0 to 4; .* classes=4"):
        applied(Mixup(0.2, 4))


def test_what_is_no_image_is_refused():
    table = Arrays({"x": np.ones((9, 4)), "label": np.zeros(9, int)})
    for transform in TRANSFORMS:
        with pytest.raises(DataError, match=r"needs images x \(B, Y, X, C\), got \(3, 4\)"):
            Shuffled(table, 3, 0, (transform,)).batch(0, slice(0, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomCrop(-1),
        lambda: RandomFlip(1.5),
        lambda: RandomErasing(-0.1),
        lambda: RandomErasing(area=(0.5, 0.2)),
        lambda: RandomErasing(aspect=(0.0, 1.0)),
        lambda: Mixup(0.0, 3),
        lambda: CutMix(float("nan"), 3),
    ],
)
def test_fields_that_cannot_work_are_refused(make):
    with pytest.raises(UsageError, match="must"):
        make()

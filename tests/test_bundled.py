from __future__ import annotations

import re

import numpy as np
import pytest

from deeplearn.data import bundled
from deeplearn.data.bundled import DIABETES_TARGET_MEAN, DIABETES_TARGET_STD, SETS, Bundled
from deeplearn.errors import UsageError

SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize("name", SETS)
def test_the_splits_have_the_stated_sizes_and_share_nothing(name):
    stated = re.search(rf"    {name} .* (\d+) +(\d+) +(\d+)\n", bundled.__doc__)
    sources = [Bundled(name, split) for split in SPLITS]
    assert [len(source) for source in sources] == [int(size) for size in stated.groups()]
    rows = np.concatenate([s.arrays["x"].reshape(len(s), -1) for s in sources])
    assert len(np.unique(rows, axis=0)) == len(rows)


@pytest.mark.parametrize("split", SPLITS)
def test_digits_are_images_in_0_to_1(split):
    source = Bundled("digits", split)
    x, label = source.arrays["x"], source.arrays["label"]
    assert x.shape[1:] == (8, 8, 1) and x.dtype == np.float32 and x.min() == 0 and x.max() == 1
    assert label.dtype == np.int32 and set(label) == set(range(10))


def test_digits_are_the_right_way_up():
    from sklearn.datasets import load_digits

    images = {image.tobytes() for image in (load_digits().images / 16).astype(np.float32)}
    assert all(x[..., 0].tobytes() in images for x in Bundled("digits").arrays["x"])


@pytest.mark.parametrize("name", ["breast_cancer", "diabetes"])
def test_features_are_standardized_by_the_training_split(name):
    x = Bundled(name).arrays["x"].astype(float)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-5)
    held_out = Bundled(name, "test").arrays["x"]
    assert np.abs(held_out.mean(axis=0)).max() > 0.01


def test_the_diabetes_target_keeps_its_unit_and_its_constants_are_those_of_training():
    target = Bundled("diabetes").arrays["target"]
    assert target.dtype == np.float32 and target.min() >= 25 and target.max() <= 346
    assert pytest.approx(target.mean(dtype=float), abs=1e-3) == DIABETES_TARGET_MEAN
    assert pytest.approx(target.std(dtype=float), abs=1e-3) == DIABETES_TARGET_STD


def test_breast_cancer_has_two_classes_in_every_split():
    for split in SPLITS:
        counts = np.bincount(Bundled("breast_cancer", split).arrays["label"])
        assert len(counts) == 2 and counts[1] > counts[0] > 20


def test_a_linear_model_learns_each_set():
    from sklearn.linear_model import LogisticRegression, Ridge

    for name, model, field, least in [
        ("digits", LogisticRegression(max_iter=300), "label", 0.93),
        ("breast_cancer", LogisticRegression(), "label", 0.93),
        ("diabetes", Ridge(), "target", 0.3),
    ]:
        train, test = (Bundled(name, split).arrays for split in ("train", "test"))
        model.fit(train["x"].reshape(len(train["x"]), -1), train[field])
        assert model.score(test["x"].reshape(len(test["x"]), -1), test[field]) > least


def test_unknown_names_and_splits_are_refused_with_a_hint():
    with pytest.raises(UsageError, match="no bundled set 'digit'; did you mean 'digits'"):
        Bundled("digit")
    with pytest.raises(UsageError, match="no split 'valid'; did you mean 'validation'"):
        Bundled("digits", "valid")

"""Metrics of generated samples against closed forms, and on sets that are the same or apart."""

from __future__ import annotations

import numpy as np
import pytest

from deeplearn import generative_metrics
from deeplearn.errors import UsageError
from deeplearn.generative_metrics import (
    frechet_distance,
    kernel_distance,
    support,
    support_by_class,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def with_moments(rng, mean, covariance, count=50):
    """Points (count, D) that have this mean and covariance exactly."""
    x = rng.normal(size=(count, len(mean)))
    x -= x.mean(axis=0)
    x = np.linalg.solve(np.linalg.cholesky(np.cov(x.T)), x.T).T
    return mean + x @ np.linalg.cholesky(covariance).T


def test_the_frechet_distance_of_two_gaussians_is_the_closed_form(rng):
    """Of commuting covariances U·diag(a)·Uᵀ it is |Δμ|² + Σ(√a − √b)²; of others by eigenvalues."""
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    a, b = np.array([4.0, 1.0, 0.25, 9.0]), np.array([1.0, 1.0, 4.0, 0.01])
    shift = np.array([1.0, -2.0, 0.0, 0.5])
    x = with_moments(rng, np.zeros(4), turn * a @ turn.T)
    y = with_moments(rng, shift, turn * b @ turn.T)
    expected = shift @ shift + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    first, second = (m @ m.T for m in rng.normal(size=(2, 4, 4)))
    x, y = with_moments(rng, shift, first), with_moments(rng, shift, second, count=80)
    root = np.sqrt(np.linalg.eigvals(first @ second).real).sum()
    expected = np.trace(first + second) - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_the_frechet_distance_bears_features_that_are_always_zero(rng):
    """More features than rows, dead ones, and large ones: still 0 for a set and itself."""
    x = np.zeros((20, 60), np.float32)
    x[:, :30] = 1e3 * rng.normal(size=(20, 30))
    assert frechet_distance(x, x) <= 1e-12 * (x**2).sum()
    moved = x.copy()
    moved[:, 40] += 2
    assert frechet_distance(x, moved) == pytest.approx(4, rel=1e-5)


def test_the_kernel_distance_is_that_of_its_definition(rng, monkeypatch):
    """All pairs by hand, and the jackknife by leaving out each row; in blocks of 5."""
    monkeypatch.setattr(generative_metrics, "BLOCK", 5)
    x, y = rng.normal(size=(12, 3)), 0.5 + rng.normal(size=(9, 3))

    def by_hand(x, y):
        def mean(a, b, same):
            kernel = (a @ b.T / 3 + 1) ** 3
            return kernel[~np.eye(len(a), dtype=bool)].mean() if same else kernel.mean()

        return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)

    without_x = [by_hand(np.delete(x, i, 0), y) for i in range(12)]
    without_y = [by_hand(x, np.delete(y, i, 0)) for i in range(9)]
    variance = 11 * np.var(without_x) + 8 * np.var(without_y)
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(by_hand(x, y), rel=1e-12)
    assert found.standard_error == pytest.approx(variance**0.5, rel=1e-9)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.7, 0.85, 1.15), (0.0, 1.0, 1.7)])
def test_the_kernel_distance_is_unbiased_and_knows_its_error(rng, shift, low, high):
    """Over 300 pairs of sets: the mean within 4 errors of the truth, and errors over the spread.

    Of this kernel in one dimension the truth is Σ_k C(3, k)·(E x^k − E y^k)².
    """
    found = [
        kernel_distance(rng.normal(size=(60, 1)), shift + rng.normal(size=(40, 1)))
        for _ in range(300)
    ]
    values, errors = np.array(found).T
    moments = np.array([shift, 1 + shift**2, shift**3 + 3 * shift]) - [0, 1, 0]
    truth = ([3, 3, 1] * moments**2).sum()
    assert abs(values.mean() - truth) < 4 * values.std() / 300**0.5
    assert low < np.sqrt((errors**2).mean()) / values.std() < high


def test_a_set_covers_itself_and_nothing_far_away(rng):
    x = rng.normal(size=(200, 4))
    assert support(x, x)[:2] == (1, 1) and support(x, x).coverage == 1
    assert support(x, x + 100) == (0, 0, 0, 0)


def test_sets_of_one_distribution_have_a_density_of_one(rng, monkeypatch):
    """And of sets of one size, which lie mixed at random, a coverage of about 1 − 2⁻⁵."""
    monkeypatch.setattr(generative_metrics, "BLOCK", 170)
    found = support(*rng.normal(size=(2, 1000, 3)))
    assert abs(found.density - 1) < 0.05
    assert abs(found.coverage - (1 - 2**-5)) < 0.02
    assert found.precision > 0.9 and found.recall > 0.9


def test_half_of_the_data_is_half_a_recall_and_junk_half_a_precision(rng):
    x = np.concatenate([rng.normal(size=(100, 2)), 50 + rng.normal(size=(100, 2))])
    assert support(x, x[:100]) == pytest.approx((1, 0.5, support(x[:100], x[:100]).density, 0.5))
    junk = np.concatenate([x[:100], 1000 * rng.normal(size=(100, 2)) - 5000])
    found = support(x[:100], junk)
    assert (found.precision, found.coverage) == (0.5, 1)


def test_a_collapsed_class_shows_by_itself(rng):
    """Ten classes of which one always draws the same point: the whole recalls nine tenths."""
    label = np.repeat(np.arange(10), 60)
    x = 20 * label[:, None] + rng.normal(size=(600, 2))
    y = 20 * label[:, None] + rng.normal(size=(600, 2))
    y[label == 3] = 60
    found = support_by_class(x, label, y, label)
    assert set(found) == set(range(10))
    assert found[3].recall == 0 and found[3].coverage <= 0.2 and found[3].precision == 1
    assert min(found[k].recall for k in range(10) if k != 3) > 0.7
    assert support(x, y).recall > 0.75


@pytest.mark.parametrize(
    ("metric", "x", "y", "message"),
    [
        (frechet_distance, np.zeros((5, 2)), np.zeros((5, 3)), "must be"),
        (frechet_distance, np.zeros((5, 2)), np.zeros((1, 2)), "with 2 rows or more"),
        (kernel_distance, np.zeros((5,)), np.zeros((5,)), "must be"),
        (support, np.zeros((5, 2)), np.zeros((9, 2)), "with 6 rows or more"),
        (support, np.zeros((9, 2)), np.full((9, 2), np.nan), "row 0 .* samples is not finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(metric, x, y, message):
    with pytest.raises(UsageError, match=message):
        metric(x, y)

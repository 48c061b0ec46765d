"""The request for images: its classes in turn, its parts, what it refuses; interpolation."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.sampling.images import Request, interpolate, interval_of, labels_of


def test_labels_are_taken_in_turn_and_parts_go_on_where_the_last_one_ended():
    request = Request(7, labels=(4, 0, 2))
    np.testing.assert_array_equal(request.class_of(), [4, 0, 2, 4, 0, 2, 4])
    parts = [request.part(0, 4), request.part(4, 7)]
    assert [part.count for part in parts] == [4, 3]
    np.testing.assert_array_equal(
        np.concatenate([part.class_of() for part in parts]), request.class_of()
    )
    assert Request(5).class_of() is None and Request(5).part(1, 3) == Request(2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampler": "dmp"}, "unknown sampler 'dmp'"),
        ({"count": 0}, "count=0 must be 1 or more"),
        ({"steps": 0}, "steps=0 must be 1 or more"),
        ({"guidance": 2.0}, "guidance=2.0 needs a label"),
        ({"guidance": float("nan")}, "guidance=nan must be finite"),
        *(
            ({"guidance_interval": bounds}, "must be a tuple of two finite numbers")
            for bounds in (
                (3.0, 0.3),
                (-1.0, 2.0),
                (0.0, math.nan),
                (0.3, math.inf),
                (1.0,),
                [0, 1],
            )
        ),
    ],
)
def test_a_request_that_cannot_work_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        Request(**fields)


def test_an_interval_is_read_from_text():
    assert interval_of("0.3,3") == (0.3, 3.0)
    for wrong in ("3", "a,b", "1,2,3", ""):
        with pytest.raises(UsageError, match=f"guidance_interval={wrong} is not two numbers"):
            interval_of(wrong)


def test_classes_are_read_from_text():
    assert (labels_of("3"), labels_of("3,5"), labels_of("none")) == ((3,), (3, 5), ())
    for wrong in ("", "3,", "a", "none,3", "1.5"):
        with pytest.raises(UsageError, match=f"label={wrong} is not a list of classes"):
            labels_of(wrong)


def test_labels_are_held_against_the_classes_of_a_model():
    Request(labels=(0, 2)).require_classes(3, "task")
    Request().require_classes(0, "task")
    with pytest.raises(UsageError, match=r"task: the label 3 is outside \[0, 2\]"):
        Request(labels=(0, 3)).require_classes(3, "task")
    with pytest.raises(UsageError, match="knows no classes; leave out the label 1"):
        Request(labels=(1,)).require_classes(0, "task")


@pytest.mark.parametrize(
    "asked",
    [{"guidance": 2.0}, {"guidance_interval": (0.3, 3.0)}, {"sampler": "heun"}, {"steps": 18}],
)
def test_what_is_for_diffusion_alone_is_refused_where_a_pass_draws_all(asked):
    Request(9, labels=(0,), shape=(3,)).require_one_pass("task")
    ((name, value),) = asked.items()
    with pytest.raises(UsageError) as refused:
        Request(labels=(0,), **asked).require_one_pass("task")
    assert str(refused.value) == (
        f"task: {name}={value} is for diffusion; a generator draws in one pass, leave out {name}"
    )


def test_every_point_of_an_interpolation_is_as_likely_as_its_ends(key):
    """The straight line would have half the variance in its middle. 20,000 draws, 5 errors."""
    first, last = jax.random.normal(key, (2, 20_000, 1))
    between = interpolate(first, last, 5)
    assert between.shape == (20_000, 5, 1)
    np.testing.assert_allclose(between[:, 0], first, atol=1e-6)
    np.testing.assert_allclose(between[:, -1], last, atol=1e-6)
    np.testing.assert_allclose(between.var(axis=0), 1, atol=5 * (2 / 20_000) ** 0.5)

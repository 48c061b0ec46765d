"""Schedules equal those of optax, can be traced, and are refused where they cannot work."""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deeplearn import schedules
from deeplearn.errors import UsageError
from deeplearn.schedules import WSD, Constant, Cosine, Linear, Schedule, Step

STEPS, PEAK, WARMUP = 50, 0.3, 7


def after_warmup(schedule):
    return optax.join_schedules([optax.linear_schedule(0.0, PEAK, WARMUP), schedule], [WARMUP])


CASES: dict[str, tuple[Schedule, optax.Schedule]] = {
    "constant": (Constant(), optax.constant_schedule(PEAK)),
    "constant after warm-up": (Constant(WARMUP), after_warmup(optax.constant_schedule(PEAK))),
    "cosine": (Cosine(), optax.cosine_decay_schedule(PEAK, STEPS)),
    "cosine after warm-up": (
        Cosine(WARMUP, final=0.1),
        optax.warmup_cosine_decay_schedule(0.0, PEAK, WARMUP, STEPS, end_value=0.1 * PEAK),
    ),
    "linear": (Linear(final=0.2), optax.linear_schedule(PEAK, 0.2 * PEAK, STEPS)),
    "linear after warm-up": (
        Linear(WARMUP),
        after_warmup(optax.linear_schedule(PEAK, 0.0, STEPS - WARMUP)),
    ),
    "step": (
        Step(boundaries=(10, 40), factor=0.5),
        optax.piecewise_constant_schedule(PEAK, {10: 0.5, 40: 0.5}),
    ),
    "step after warm-up": (
        Step(WARMUP, boundaries=(20,)),
        after_warmup(optax.piecewise_constant_schedule(PEAK, {20 - WARMUP: 0.1})),
    ),
    "wsd": (
        WSD(WARMUP, decay=0.2, final=0.1),
        optax.join_schedules(
            [
                optax.linear_schedule(0.0, PEAK, WARMUP),
                optax.constant_schedule(PEAK),
                optax.linear_schedule(PEAK, 0.1 * PEAK, 10),
            ],
            [WARMUP, 40],
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_optax_at_every_step_and_beyond(name):
    schedule, reference = CASES[name]
    steps = np.arange(STEPS + 5)
    expected = [float(reference(step)) for step in steps]
    np.testing.assert_allclose(schedule(steps, PEAK, STEPS), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_every_number_can_be_traced(name):
    schedule, _ = CASES[name]
    # Integers and floats of the dataclass, step, peak and total, all at once.
    numbers = {
        key: value for key, value in vars(schedule).items() if isinstance(value, (int, float))
    }

    @jax.jit
    def traced(numbers, step, peak, steps):
        return replace(schedule, **numbers)(step, peak, steps)

    expected = schedule(np.arange(STEPS), PEAK, STEPS)
    value = jax.vmap(lambda step: traced(numbers, step, PEAK, STEPS))(jnp.arange(STEPS))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_peak_is_reached_right_after_the_warmup(name):
    schedule, _ = CASES[name]
    np.testing.assert_allclose(schedule(schedule.warmup, PEAK, STEPS), PEAK, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_good_schedules_pass_validation(name):
    CASES[name][0].validate(PEAK, STEPS)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Constant(warmup=51), "warmup = 51"),
        (Constant(warmup=-1), "warmup = -1"),
        (Cosine(final=-0.1), "at step"),
        (Linear(final=math.nan), "at step 0 is nan"),
        (Step(boundaries=(3,), factor=-1.0), "at step 3"),
        (Step(boundaries=(3,), factor=math.inf), "at step 3 is inf"),
        (WSD(warmup=45, decay=0.2), "overlap"),
        (WSD(decay=1.5), "outside"),
        (WSD(decay=math.nan), "outside"),
    ],
)
def test_bad_schedules_are_refused_in_one_line(schedule, message):
    with pytest.raises(UsageError, match=message) as caught:
        schedule.validate(PEAK, STEPS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("peak", [math.nan, math.inf, -1.0])
def test_bad_peaks_are_refused(peak):
    with pytest.raises(UsageError, match="at step 0"):
        Constant().validate(peak, STEPS)


def test_a_run_without_end_is_validated_in_little_memory(monkeypatch):
    monkeypatch.setattr(schedules, "MOST_TRIED", 1000)
    Cosine(warmup=10).validate(PEAK, 2**31 - 1)
    with pytest.raises(UsageError, match=r"at step \d{10} is -"):
        Cosine(final=-0.1).validate(PEAK, 2**31 - 1)


def test_ten_million_steps_are_exact_integers():
    schedule = Step(boundaries=(10_000_001,), factor=0.5)
    values = schedule(np.array([10_000_000, 10_000_001]), 1.0, 20_000_000)
    np.testing.assert_array_equal(values, [1.0, 0.5])

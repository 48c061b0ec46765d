"""Hooks: what is reported, when, and what an evaluation decides."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.experiment import EarlyStopping, Experiment
from deeplearn.hooks import Evaluate, Log, Loop, Watch
from deeplearn.optimizers import AdamW
from deeplearn.report.progress import Pace
from deeplearn.step import Control, TrainState
from deeplearn.types import Mean


def metrics(loss):
    one = jnp.ones(())
    return {"loss": Mean(jnp.asarray(loss), one), "skipped": Mean(jnp.zeros(()), one)}


@pytest.fixture
def loop():
    experiment = Experiment(
        name="example",
        task=None,
        train=None,
        evaluation={"validation": None},
        optimizer=AdamW(),
        steps=8,
        log_every=2,
        evaluate_every=2,
        early_stopping=EarlyStopping("validation/loss", patience=2),
    )
    zero = jnp.zeros((), jnp.int32)
    return Loop(experiment, TrainState(zero, {}, {}, (), None, Control.initial()), 0)


def test_a_row_is_reported_one_period_late_and_the_last_by_a_flush(loop):
    seen = []
    log = Log([lambda *row: seen.append(row)], lambda *row: None, Pace(8, 1))
    for step in range(1, 6):
        loop.step, loop.metrics = step, metrics(float(step))
        log.after(loop)
        assert [row[0] for row in seen] == list(range(2, step - 1, 2))
    log.flush(loop)
    log.flush(loop)
    assert [(step, split, row["loss"]) for step, split, row in seen] == [
        (2, "train", 2.0),
        (4, "train", 4.0),
    ]


def test_a_row_comes_with_the_speed_of_the_period_that_it_ends(loop):
    clock = itertools.count()
    pace, seen = Pace(8, 3, lambda: next(clock)), []
    log = Log([lambda *row: seen.append(pace.examples_per_second)], lambda *row: None, pace)
    for step in range(1, 5):
        loop.step, loop.metrics = step, metrics(float(step))
        log.after(loop)
    assert seen == [6.0]


def test_a_value_that_stays_is_no_better_though_fp32_rounds_it_up(loop):
    assert float(np.float32(1.1)) > 1.1
    evaluate = Evaluate(
        lambda variables, split: {"loss": 1.1}, Log([], lambda *row: None, Pace(8, 1))
    )
    seen = []
    for step in (2, 4, 6):
        loop.step, loop.metrics = step, metrics(float(step))
        evaluate.after(loop)
        seen.append((int(loop.state.control.best_step), loop.stopping))
    assert seen == [(2, False), (2, False), (2, True)]


class Running:
    """The metrics of a step that is computed when it is told so; nobody may wait for them."""

    ready = False

    def is_ready(self):
        return self.ready


def test_the_steps_shown_are_computed_and_nobody_waits(loop):
    moved, paced = [], []
    watch = Watch(SimpleNamespace(move=moved.append), SimpleNamespace(computed=paced.append))
    dispatched = [Running() for _ in range(8)]
    for step, running in enumerate(dispatched, start=1):
        dispatched[0].ready, dispatched[3].ready = step >= 4, step >= 6
        loop.step, loop.metrics = step, {"loss": Mean(running, None)}
        watch.after(loop)
    assert moved == [0, 1, 4]
    assert paced == [1, 4]


def test_the_best_evaluation_is_kept_and_bad_ones_are_counted(loop):
    losses = iter([1.0, 3.0, 0.5, float("nan"), 0.75])
    log = Log([], lambda *row: None, Pace(8, 1))
    loop.experiment = dataclasses.replace(loop.experiment, steps=100)
    evaluate = Evaluate(lambda variables, split: {"loss": next(losses)}, log)
    found = []
    for step in range(2, 12, 2):
        loop.step = step
        evaluate.after(loop)
        control = loop.state.control
        found.append((float(control.best), int(control.best_step), int(control.bad_evaluations)))
    assert found == [(1.0, 2, 0), (1.0, 2, 1), (0.5, 6, 0), (0.5, 6, 1), (0.5, 6, 2)]
    assert loop.stopping


def test_a_metric_may_be_watched_for_its_maximum():
    values = {"validation": {"accuracy": 0.75}}
    assert EarlyStopping("validation/accuracy", "max").signed(values) == -0.75
    assert EarlyStopping("validation/accuracy", "min").signed(values) == 0.75

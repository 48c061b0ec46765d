"""Hooks: everything that happens around a train step and is not the step.

The loop calls `before` ahead of a compiled call and `after` behind its dispatch, for each hook of
one list in order. A hook never waits for the step that was just dispatched unless it must read it.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplearn.checkpoint import Checkpoints
from deeplearn.diagnosis import raise_if_collapsed, raise_if_halted
from deeplearn.evaluate import Evaluator, values
from deeplearn.experiment import EarlyStopping, Experiment
from deeplearn.generation import columns, generate, overview
from deeplearn.report.images import Gallery
from deeplearn.report.progress import Pace, Progress
from deeplearn.step import Metrics, TrainState, evaluation_variables
from deeplearn.tasks.task import Generative


@dataclasses.dataclass
class Loop:
    """What hooks see: the state after `step` updates and the metrics of the last of them.

    A hook ahead of the save may replace `state.control`. Any may set `stopping`, which ends the run
    as its last step does until it is started again, or `preempted`, which leaves it to be resumed:
    behind this call, but behind the next where the `after` of a user's hook sets it, since that
    comes behind the save. `improved_at` is the step of the best evaluation in this process.
    `results` are the latest metrics of each split.
    """

    experiment: Experiment
    state: TrainState
    step: int
    metrics: Metrics | None = None
    stopping: bool = False
    preempted: bool = False
    improved_at: int = -1
    results: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)

    @property
    def last(self) -> bool:
        """Whether the run is finished behind this call."""
        return self.stopping or self.step >= self.experiment.steps

    def due(self, period: int) -> bool:
        """Whether a period of steps ends here; the last step ends every period."""
        return self.step % period == 0 or self.last


class Hook:
    """Two moments around a compiled call; does nothing by default."""

    def before(self, loop: Loop) -> None:
        """Ahead of the dispatch."""

    def after(self, loop: Loop) -> None:
        """Behind the dispatch; `loop.step` counts the updates now dispatched."""


Report = Callable[[int, str, dict[str, float]], None]
"""Receives (step, split, values): a log, a progress bar, TensorBoard."""


class Log(Hook):
    """Reports the metrics of a train step one period late, when they are long computed.

    Wall-clock figures go to `timing` alone, so that two equal runs write equal rows.
    """

    def __init__(self, reports: list[Report], timing: Report, pace: Pace):
        self._reports = reports
        self._timing = timing
        self._pace = pace
        self._pending: tuple[int, Metrics] | None = None

    def after(self, loop: Loop) -> None:
        if loop.due(loop.experiment.log_every):
            # Ahead of the flush, so that the row has the speed, but behind what that waits for:
            # nothing where an evaluation or a save has flushed.
            jax.block_until_ready(self._pending)
            rate = self._pace.mark(loop.step)
            self.flush(loop)
            if rate is not None:
                self._timing(loop.step, "train", {"examples_per_second": rate})
            assert loop.metrics is not None
            self._pending = loop.step, loop.metrics

    def flush(self, loop: Loop) -> None:
        """Reports what is pending; waits for the step it belongs to."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        row = values(metrics)
        if row["skipped"] > 0:
            raise_if_halted(loop.experiment, loop.state)
        self.report(loop, step, "train", row)
        raise_if_collapsed(loop.experiment, step, row)

    def report(self, loop: Loop, step: int, split: str, row: dict[str, float]) -> None:
        """Passes one row to every report and keeps it as the latest of its split."""
        loop.results[split] = row
        for report in self._reports:
            report(step, split, row)

    def pause(self) -> None:
        """Leaves the time since the last period out of the measured speed."""
        self._pace.pause()


class Watch(Hook):
    """Shows which step is computed, and never waits for one.

    It watches one step at a time: where that is ready it goes on to the one just dispatched.
    """

    def __init__(self, progress: Progress, pace: Pace):
        self._progress = progress
        self._pace = pace
        self._watched: tuple[int, Any] | None = None

    def after(self, loop: Loop) -> None:
        assert loop.metrics is not None
        if self._watched is None:
            self._progress.move(loop.step - loop.experiment.steps_per_call)
        else:
            step, array = self._watched
            if not array.is_ready():
                return
            self._pace.computed(step)
            self._progress.move(step)
        self._watched = loop.step, loop.metrics["loss"].total


class Evaluate(Hook):
    """Evaluates every split, and counts the evaluations without a better watched value."""

    def __init__(self, evaluator: Evaluator, log: Log):
        self._evaluator = evaluator
        self._log = log

    def after(self, loop: Loop) -> None:
        experiment = loop.experiment
        if not experiment.evaluation or not loop.due(experiment.evaluate_every):
            return
        self._log.flush(loop)
        raise_if_halted(experiment, loop.state)
        variables = evaluation_variables(loop.state)
        for split in experiment.evaluation:
            self._log.report(loop, loop.step, split, self._evaluator(variables, split))
        self._log.pause()
        if experiment.early_stopping is not None:
            self._watch(loop, experiment.early_stopping)

    def _watch(self, loop: Loop, stop: EarlyStopping) -> None:
        control = loop.state.control
        # As the state keeps it: else a value may be better than itself, rounded.
        value = float(np.float32(stop.signed(loop.results)))
        # NaN compares as not better, so it is never the best.
        if value < float(control.best):
            bad, best, best_step = 0, value, loop.step
            loop.improved_at = loop.step
        else:
            bad = int(control.bad_evaluations) + 1
            best, best_step = float(control.best), int(control.best_step)
        changed = {"best": best, "best_step": best_step, "bad_evaluations": bad}
        placed = {
            field: jax.device_put(
                jnp.asarray(value, getattr(control, field).dtype), getattr(control, field).sharding
            )
            for field, value in changed.items()
        }
        loop.state = dataclasses.replace(loop.state, control=dataclasses.replace(control, **placed))
        loop.stopping = loop.stopping or bad >= stop.patience


class Draw(Hook):
    """Writes a picture of what a generative model draws, at every evaluation: step_N.png.

    Of clips it is step_N.gif. Always from the same noise, so that pictures compare; nothing of the
    run depends on it.
    """

    def __init__(self, experiment: Experiment, directory: Path, log: Log):
        self._log = log
        self._gallery: Gallery | None = None
        if isinstance(experiment.task, Generative) and Gallery.can_show(experiment.train):
            self._gallery = Gallery(experiment.train, directory)
            self._request = overview(experiment)

    def after(self, loop: Loop) -> None:
        if self._gallery is None or not loop.due(loop.experiment.evaluate_every):
            return
        variables, rng = evaluation_variables(loop.state), jax.random.key(0)
        x = generate(loop.experiment, variables, self._request, rng)
        self._gallery.save(f"step_{loop.step:08d}", x, columns(self._request))
        self._log.pause()


class Save(Hook):
    """Saves when a period ends, and at once when an evaluation was the best so far."""

    def __init__(self, checkpoints: Checkpoints, flush: Callable[[Loop], None]):
        self._checkpoints = checkpoints
        self._flush = flush

    def after(self, loop: Loop) -> None:
        experiment = loop.experiment
        best = loop.improved_at == loop.step
        if not (best or loop.preempted or loop.due(experiment.save_every)):
            return
        # Rows up to this step must be on disk before the step is: a resumed run keeps them.
        self._flush(loop)
        raise_if_halted(loop.experiment, loop.state)
        self._checkpoints.save(loop.step, loop.state)


class Preempt(Hook):
    """Turns SIGTERM and SIGINT into a save and a stop; a second signal stops at once.

    `received` is the signal's number. Only the main thread can hold signals; elsewhere the hook
    does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Preempt:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._receive)
            except ValueError:
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: object) -> None:
        self.received = number
        self.__exit__()

    def after(self, loop: Loop) -> None:
        loop.preempted = loop.preempted or self.received is not None

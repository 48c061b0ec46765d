"""The one training loop: it folds `train_step` over a dataset.

Everything that is not a step enters as a hook. Starting again in the same directory resumes, and
the resumed run equals the uninterrupted one to the bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from deeplearn import canary, preflight
from deeplearn.checkpoint import Checkpoints
from deeplearn.errors import NumericsError, Preempted, ResumeError, StorageError, UsageError
from deeplearn.evaluate import Evaluator
from deeplearn.experiment import Experiment
from deeplearn.hooks import Draw, Evaluate, Hook, Log, Loop, Preempt, Save, Watch
from deeplearn.overrides import override
from deeplearn.program import Program
from deeplearn.report import files
from deeplearn.report.progress import Pace, Progress, closing_table
from deeplearn.report.receipt import read_json, receipt, write_json
from deeplearn.report.rows import RowLog, read_rows
from deeplearn.report.summary import summary
from deeplearn.report.tensorboard import TensorBoard
from deeplearn.run_directory import (
    RunDirectory,
    describe,
    refuse_differences,
    run_path,
    stored_experiment,
)
from deeplearn.sharding import BATCH_AXIS
from deeplearn.step import TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or loaded run: its state, and the last metrics of each split."""

    experiment: Experiment
    state: TrainState
    metrics: Mapping[str, Mapping[str, float]]
    workdir: Path


def train(
    experiment: Experiment, workdir: str | os.PathLike[str], hooks: Sequence[Hook] = ()
) -> Run:
    """Trains an experiment in a directory, or goes on with the run that the directory holds.

    `hooks` come behind the loop's own. Raises a `deeplearn.errors.Error` for whatever the user can
    mend; what can be known ahead of training is raised before anything is written.
    """
    if jax.process_count() > 1:
        raise UsageError("train runs in one process with all its devices; start it on one host")
    canary.check()
    experiment.validate()
    program = Program(experiment)
    evaluator = Evaluator(experiment, program.mesh)
    preflight.check(program, evaluator)
    description = describe(experiment)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(RunDirectory(workdir)).path
        checkpoints = Checkpoints(directory / "checkpoints", experiment.keep)
        stack.callback(checkpoints.close)
        state = _first_state(program, directory, checkpoints)
        if stored_experiment(directory) != description:
            write_json(directory / "experiment.json", description)
        table = directory / "summary.txt"
        if int(state.step) == 0 or not table.exists():
            files.replace(table, f"{summary(experiment.task, program.example)}\n".encode())
        loop = Loop(experiment, state, int(state.step), stopping=_stopped_early(experiment, state))
        began = time.monotonic()
        if not loop.last:
            _loop(program, evaluator, loop, checkpoints, directory, hooks)
        run = _result(program, loop.state, checkpoints, directory)
        _close(run, time.monotonic() - began, trained=loop.metrics is not None)
        return run


def load(workdir: str | os.PathLike[str], experiment: Experiment | None = None) -> Run:
    """The run that a directory holds: its experiment, rebuilt from source, and its latest state.

    With early stopping the state is the best one. `experiment` is needed where the source is not a
    module of `experiments`. Where its mesh or rules do not fit the devices here, the state lies on
    them by its "fsdp" rules alone. Raises `UsageError` where there is no run, `ResumeError` where
    the source has changed since.
    """
    directory = run_path(workdir)
    stored = stored_experiment(directory)
    if stored is None:
        raise UsageError(f"no run in {directory}: there is no experiment.json; check --workdir")
    if experiment is None:
        experiment = override(_source(stored["experiment"]), stored["overrides"])
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    with contextlib.closing(checkpoints):
        done = max(checkpoints.steps(), default=0)
        refuse_differences(directory, stored, experiment, done, resuming=False)
        program = _program_here(experiment)
        state = checkpoints.restore(program.shapes)
        run = _result(program, state, checkpoints, directory)
        return dataclasses.replace(run, experiment=experiment)


def _program_here(experiment: Experiment) -> Program:
    """The program of an experiment on the devices at hand, which need not be those of its mesh."""
    try:
        return Program(experiment)
    except UsageError:
        # What is wrong beside mesh and rules is so here too.
        rules = tuple(rule for rule in experiment.rules if rule[1] == "fsdp")
        return Program(dataclasses.replace(experiment, mesh=((BATCH_AXIS, -1),), rules=rules))


def _loop(
    program: Program,
    evaluator: Evaluator,
    loop: Loop,
    checkpoints: Checkpoints,
    directory: Path,
    extra: Sequence[Hook],
) -> None:
    experiment = program.experiment
    with contextlib.ExitStack() as stack:
        rows, timing = RowLog(directory / "metrics.jsonl"), RowLog(directory / "timing.jsonl")
        rows.truncate_after(loop.step)
        timing.truncate_after(loop.step)
        stack.push(functools.partial(_keep_if_diverged, rows, timing))
        pace = Pace(experiment.steps, experiment.batch_size)
        progress = Progress(experiment.name, experiment.steps, loop.step, pace)
        stack.callback(progress.close)
        board = TensorBoard(directory / "tensorboard", loop.step)
        stack.callback(board.close)
        preempt = stack.enter_context(Preempt())
        log = Log([rows.append, progress.log, board.log], timing.append, pace)

        def flush(loop: Loop) -> None:
            log.flush(loop)
            failures = rows.failures
            rows.flush(sync=True)
            if rows.failures > failures:
                raise StorageError(
                    f"{rows.path} cannot be written: {rows.error}; free space, then start again"
                )
            timing.flush()

        # The order is a contract. The step is dispatched first, so that the devices work while the
        # host logs the period before. Evaluation comes ahead of the save, which must hold what it
        # decided. Pictures and rows are written ahead of the save: a resumed run keeps them.
        draw = Draw(experiment, directory / "samples", log)
        watch, save = Watch(progress, pace), Save(checkpoints, flush)
        order = [preempt, watch, log, Evaluate(evaluator, log), draw, save]
        batches = program.batches(loop.step)
        stack.callback(batches.close)
        step, finished = None, False
        for batch in batches:
            step = step or program.compile(batch)
            for hook in (*order, *extra):
                hook.before(loop)
            loop.state, loop.metrics = step(loop.state, batch)
            loop.step += experiment.steps_per_call
            for hook in order:
                hook.after(loop)
            # What a hook behind the save asks for has its save behind the next call.
            finished, left = loop.last, loop.preempted
            for hook in extra:
                hook.after(loop)
            if finished or left:
                break
        checkpoints.wait()
        if loop.preempted and not finished:
            number = preempt.received
            name = "a hook" if number is None else signal.Signals(number).name
            raise Preempted.by(
                number,
                f"{name} stopped the run at step {loop.step}; its checkpoint is written:"
                f" start again with the same --workdir {directory}",
            )


def _keep_if_diverged(
    rows: RowLog, timing: RowLog, kind: type[BaseException] | None, *_: Any
) -> None:
    """Writes the rows since the last save where a run ends by its numbers: they show how."""
    if kind is not None and issubclass(kind, NumericsError):
        rows.flush()
        timing.flush()


def _first_state(program: Program, directory: Path, checkpoints: Checkpoints) -> TrainState:
    """A fresh state, or that of the latest checkpoint of the same experiment.

    Before the first checkpoint and row there is nothing to lose: any experiment may start.
    """
    stored, steps = stored_experiment(directory), checkpoints.steps()
    if stored is not None and (steps or read_rows(directory / "metrics.jsonl")):
        refuse_differences(directory, stored, program.experiment, done=max(steps, default=0))
    elif steps:
        raise ResumeError(
            f"{directory} holds checkpoints but no experiment.json; choose another --workdir"
        )
    return checkpoints.restore(program.shapes) if steps else program.init()


def _stopped_early(experiment: Experiment, state: TrainState) -> bool:
    stop = experiment.early_stopping
    return stop is not None and int(state.control.bad_evaluations) >= stop.patience


def _result(program: Program, state: TrainState, checkpoints: Checkpoints, directory: Path) -> Run:
    """The run at its latest state; with early stopping at its best."""
    if program.experiment.early_stopping is not None and int(state.control.best_step) >= 0:
        state = checkpoints.restore(program.shapes, int(state.control.best_step))
    metrics: dict[str, dict[str, float]] = {}
    for row in read_rows(directory / "metrics.jsonl"):
        if row["step"] <= int(state.step):
            metrics[row["split"]] = {
                name: value for name, value in row.items() if name not in ("step", "split")
            }
    return Run(program.experiment, state, metrics, directory)


def _close(run: Run, seconds: float, trained: bool) -> None:
    """Writes the receipt, unless a finished run was only started again, and shows the end.

    `seconds` are those of this start; a run may have had others before.
    """
    path = run.workdir / "receipt.json"
    if trained or not path.exists() or read_json(path)["steps"] != int(run.state.step):
        write_json(path, receipt(run.experiment.name, run.state, run.metrics, seconds))
    else:
        seconds = read_json(path)["seconds"]
    written = {"run": run.workdir, "layers": run.workdir / "summary.txt", "receipt": path}
    closing_table(run.experiment.name, run.metrics, seconds, written)


def _source(name: str) -> Experiment:
    """The experiment that a module of `experiments` describes."""
    path = f"experiments.{name}"
    if not name.isidentifier() or not all(map(importlib.util.find_spec, ("experiments", path))):
        raise UsageError(
            f"there is no experiments/{name}.py; give the experiment: load(workdir, experiment)"
        )
    return importlib.import_module(path).experiment()

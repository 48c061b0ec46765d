"""Checkpoints by Orbax: save while training goes on, restore onto any mesh.

A step is written to a temporary directory and renamed when it is complete, so a stop at any moment
leaves whole checkpoints only. The latest ones and the best one are kept.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from deeplearn.errors import CheckpointError, StorageError
from deeplearn.step import TrainState

DELETED = "deleted"


class Checkpoints:
    """The checkpoints of one run directory.

    `keep` is the number of latest steps kept; the best step of the state saved last is kept too.
    `read_only` leaves every file alone: another process may be training in the directory.
    """

    def __init__(self, directory: Path, keep: int = 2, read_only: bool = False):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as managers

        # Orbax logs each phase of each save and warns of its own defaults; errors still come.
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp = ocp
        self.directory = directory.resolve()
        self._owns = not read_only
        # Orbax forgets which step was the best when a run is resumed; the state does not.
        self._best = _OneStep()
        kept = [managers.LatestN(keep), self._best]
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy(kept),
                # Without a rename first, a stop during a deletion leaves a broken step listed.
                todelete_subdir=DELETED,
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
                enable_async_checkpointing=True,
            ),
        )

    def steps(self) -> list[int]:
        """The complete steps on disk, oldest first."""
        return sorted(self._manager.all_steps(read=True))

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write the state; returns once it is copied, so its buffers may be donated.

        Raises `StorageError` where this save, or the one before, cannot be written.
        """
        try:
            # Its thread may still be moving an old step out of the way.
            self._manager.wait_until_finished()
            self._delete()
            self._best.step = int(state.control.best_step)
            if step not in self._manager.all_steps():
                arguments = self._ocp.args.StandardSave(_storable(state))
                self._manager.save(step, args=arguments, force=True)
        except (OSError, ValueError) as error:
            raise StorageError(self._unwritable(error)) from error

    def wait(self) -> None:
        """Returns when every save is on disk; raises `StorageError` where one failed."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise StorageError(self._unwritable(error)) from error

    def restore(self, target: TrainState, step: int | None = None) -> TrainState:
        """The state of a step (the latest by default) with the shapes and shardings of `target`.

        `target` is abstract; its leaves carry shardings, so a checkpoint of any mesh lands on this
        one. A latest step that cannot be read gives way to the one before, and is renamed. Raises
        `CheckpointError` that lists each step and its reason where none can be read.
        """
        steps = self.steps() if step is None else [step]
        reasons: dict[int, str] = {}
        for candidate in reversed(steps):
            try:
                arguments = self._ocp.args.StandardRestore(_storable_shapes(target))
                stored = self._manager.restore(candidate, args=arguments)
            except Exception as error:  # Orbax raises many types for a damaged directory
                reasons[candidate] = _line(error)
                continue
            self._set_aside(reasons, candidate)
            key = jax.random.wrap_key_data(stored.rng)
            return dataclasses.replace(stored, rng=jax.device_put(key, target.rng.sharding))
        listed = "; ".join(f"step {candidate}: {reason}" for candidate, reason in reasons.items())
        raise CheckpointError(
            f"no checkpoint in {self.directory} can be restored"
            f" ({listed or 'none exists'}); bring it back from a copy, or start in a new"
            " directory"
        )

    def close(self) -> None:
        """Waits for the saves under way and frees the threads.

        Raises `StorageError` where the last save failed.
        """
        try:
            self._manager.close()
        except (OSError, ValueError) as error:
            raise StorageError(self._unwritable(error)) from error
        self._delete()

    def _set_aside(self, reasons: dict[int, str], restored: int) -> None:
        """Warns of unreadable steps and frees their numbers, so that the run can save there."""
        for step, reason in reasons.items():
            warnings.warn(
                f"checkpoint {self.directory / str(step)} cannot be read ({reason});"
                f" went back to step {restored}",
                stacklevel=3,
            )
            if self._owns:
                aside = self.directory / f"{step}.unreadable"
                shutil.rmtree(aside, ignore_errors=True)
                (self.directory / str(step)).rename(aside)
        if self._owns and reasons:
            self._manager.reload()

    def _delete(self) -> None:
        """Removes the steps that Orbax has moved out of the way."""
        if self._owns:
            shutil.rmtree(self.directory / DELETED, ignore_errors=True)

    def _unwritable(self, error: Exception) -> str:
        return (
            f"checkpoint in {self.directory} cannot be written: {_line(error)}; free space, then"
            " start again: the run goes on from the last whole checkpoint"
        )


class _OneStep:
    """An Orbax preservation policy: keeps one step, which may change."""

    step = -1

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]


def _line(error: Exception) -> str:
    """The first line of an error, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _storable(state: TrainState) -> TrainState:
    """The state with its typed key as plain integers, which every Orbax version reads."""
    return dataclasses.replace(state, rng=jax.random.key_data(state.rng))


def _storable_shapes(target: TrainState) -> TrainState:
    data = jax.eval_shape(jax.random.key_data, target.rng)
    rng: Any = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=target.rng.sharding)
    return dataclasses.replace(target, rng=rng)

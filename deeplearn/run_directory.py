"""The run directory: one process at a time, one experiment from its first row or checkpoint on.

It holds `experiment.json` (name, overrides, the resolved record, the digests of the data),
`metrics.jsonl`, `timing.jsonl`, `checkpoints/`, `tensorboard/` and, when done, `receipt.json`.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp

from deeplearn.errors import LockedError, ResumeError, StorageError, UsageError
from deeplearn.experiment import Experiment, differences, record

# What a start that came to nothing leaves behind.
BEFORE_THE_RECORD = (".lock", "crash.txt", "checkpoints", "experiment.json.tmp")
# What a resumed run may change.
FREE = ("log_every", "save_every", "keep", "rules", "overrides")
# Without early stopping an evaluation only looks.
FREE_WITHOUT_STOPPING = ("evaluate_every", "evaluation", "evaluation_batch_size")


def run_path(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a run directory, which need not be there."""
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError as error:
        raise UsageError(f"run directory {path}: {error}; choose another --workdir") from None


class RunDirectory:
    """A run directory held by this process while the context is open.

    Raises `StorageError` where it cannot be written, `LockedError` where another process is
    training in it, and `UsageError` where it holds other files; nothing is changed then.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = run_path(path)
        self._lock: Any = None

    def __enter__(self) -> RunDirectory:
        try:
            self._refuse_other_files()
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"probe")
            self._lock = open(self.path / ".lock", "a+")  # noqa: SIM115 (held until exit)
        except OSError as error:
            raise StorageError(
                f"run directory {self.path} cannot be written: {error.strerror or error};"
                " choose another --workdir"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            raise LockedError(
                f"run directory {self.path} is in use by {holder}; wait for it, stop it, or choose"
                " another --workdir"
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.close()

    def _refuse_other_files(self) -> None:
        if not self.path.is_dir() or (self.path / "experiment.json").exists():
            return
        found = sorted(path.name for path in self.path.iterdir())
        others = [name for name in found if name not in BEFORE_THE_RECORD]
        if others:
            raise UsageError(
                f"directory {self.path} holds {others[0]} but no run; choose a new --workdir"
            )


def describe(experiment: Experiment) -> dict[str, Any]:
    """The content of `experiment.json`; reads the data for its digests."""
    sources = {"train": experiment.train, **experiment.evaluation}
    return {
        "experiment": experiment.name,
        "overrides": list(experiment.overrides),
        "record": record(experiment),
        "devices": jax.device_count(),
        "digests": {split: source.digest for split, source in sources.items()},
    }


def stored_experiment(path: Path) -> dict[str, Any] | None:
    """The parsed `experiment.json` of a run directory, or None where there is none."""
    file = path / "experiment.json"
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ResumeError(
            f"{file} cannot be read: {error}; restore it from a copy, or start in a new directory"
        ) from None


def refuse_differences(
    path: Path, stored: dict[str, Any], experiment: Experiment, done: int, resuming: bool = True
) -> None:
    """Raises `ResumeError` where the experiment is not the one that the directory belongs to.

    `done` is the number of steps already taken. Fields that only look may differ. So may the mesh,
    whose result agrees to rounding, but not where a run with `per_device` is resumed: there it
    decides who draws what. So may `steps`, where everything done so far would have been done alike.
    """
    new = describe(experiment)
    free: tuple[str, ...] = FREE
    if not experiment.early_stopping:
        free += FREE_WITHOUT_STOPPING
    bound_to_devices = experiment.per_device and resuming
    if not bound_to_devices:
        free += ("mesh",)
    if _may_be_longer(experiment, stored["record"], done):
        free += ("steps",)
    found = differences(stored["record"], new["record"])
    found = [item for item in found if item[0].split(".")[0] not in free]
    if bound_to_devices:
        found += differences({"devices": stored["devices"]}, {"devices": new["devices"]})
    # Without early stopping no number of the run depends on the data of an evaluation.
    splits = new["digests"] if experiment.early_stopping else ("train",)
    for split in splits:
        old, now = stored["digests"].get(split), new["digests"][split]
        found += differences({f"data {split}": old}, {f"data {split}": now})
    if found:
        text = "; ".join(f"{field}: {old!r} there, {now!r} now" for field, old, now in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise ResumeError(
            f"run directory {path} belongs to another run: {text}{more};"
            " choose another --workdir, or take the change back"
        )


def _may_be_longer(experiment: Experiment, old: dict[str, Any], done: int) -> bool:
    """Whether the steps taken so far are those that a run of the new length would have taken.

    The learning rates must agree, and a finished run must have ended where its periods did: the
    last step is logged and evaluated in any case.
    """
    if experiment.steps < done:
        raise UsageError(
            f"steps={experiment.steps} is less than the {done} steps that the run has taken already"
        )
    if experiment.steps == old["steps"]:
        return True
    periods = (old["log_every"], old["evaluate_every"] if experiment.evaluation else 1)
    if done == old["steps"] and any(done % period for period in periods):
        return False
    taken, rate = jnp.arange(done), experiment.optimizer.learning_rate_at
    return bool(jnp.array_equal(rate(taken, old["steps"]), rate(taken, experiment.steps)))

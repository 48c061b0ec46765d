"""A run that was killed at any step ends with the bits of the run that was not."""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from conftest import HASTY, ROOT
from families import GENERATORS, MODELS, SEQUENCES, STEPS, family

from deeplearn.checkpoint import Checkpoints
from deeplearn.hooks import Hook
from deeplearn.program import Program
from deeplearn.step import Control
from deeplearn.train import train

# Forking a process that has imported everything, but touched no device, saves 5 s a start. The
# package imports Orbax and Grain only where they are used, so here they are imported by name.
SCRIPT = """
import json, os, random, signal, sys
from pathlib import Path
import grain, jax, orbax.checkpoint
sys.path.insert(0, "tests")
from families import family
from deeplearn.hooks import Hook
from deeplearn.report.receipt import state_sha256
from deeplearn.train import train

name, directory, end, count = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
jax.config.update("jax_compilation_cache_dir", str(directory / "cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

class Kill(Hook):
    def __init__(self, workdir, step):
        self.workdir, self.step = workdir, step
    def after(self, loop):
        if loop.last:  # the run's result is its best step, not this one
            (self.workdir / "final").write_text(state_sha256(loop.state))
        if loop.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

def attempt(workdir, kill_at):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        train(family(name), workdir, hooks=[Kill(workdir, kill_at)])
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

# One kill behind the start of an asynchronous save, the others anywhere. A run goes on from before
# its kill, so rising steps all come to pass.
calls = range(family(name).steps_per_call, end + 1, family(name).steps_per_call)
kills = sorted({9, *random.Random(name).sample(calls, count)})
codes = [attempt(directory / "killed", kill) for kill in kills]
codes += [attempt(directory / "killed", None), attempt(directory / "whole", None)]
print(json.dumps(codes))
"""


# The last step of each family's run, and its rows.
ENDS = {
    **dict.fromkeys(
        (*MODELS, *SEQUENCES, *GENERATORS, "regression", "mlp_streamed"),
        (STEPS, STEPS // 4 + STEPS // 6),
    ),
    "mlp_three_steps_a_call": (STEPS, STEPS // 6 + STEPS // 6),
    "mlp_stopped_early": (18, 18 // 4 + 18 // 6),
}


# One of each kind is compiled as users compile it; of the others that would take most of the time.
AS_IN_USE = (*MODELS, "transformer", "mamba", "gan", "diffusion", "mlp_three_steps_a_call")


@pytest.mark.parametrize("name", ENDS)
def test_a_killed_run_equals_the_undisturbed_one_to_the_bit(name, tmp_path):
    end, count = ENDS[name]
    kills = "3" if name in (*MODELS, "mlp_three_steps_a_call", "mlp_stopped_early") else "1"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(tmp_path), str(end), kills],
        cwd=ROOT,
        env={
            "PYTHONPATH": str(ROOT),
            "PATH": "/usr/bin:/bin",
            # The compiler's self-test is remembered at home.
            "HOME": str(Path.home()),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(HASTY and name not in AS_IN_USE)),
        },
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes[:-2] == [-9] * (len(codes) - 2) and codes[-2:] == [0, 0], (codes, done.stderr)
    killed, whole = (
        json.loads((tmp_path / run / "receipt.json").read_text()) for run in ("killed", "whole")
    )
    assert killed["state_sha256"] == whole["state_sha256"]
    assert killed["metrics"] == whole["metrics"]
    finals = [(tmp_path / run / "final").read_text() for run in ("killed", "whole")]
    assert finals[0] == finals[1]
    rows = [(tmp_path / run / "metrics.jsonl").read_bytes() for run in ("killed", "whole")]
    assert rows[0] == rows[1] and rows[0].count(b"\n") == count


class Stopped(Exception):
    """Ends a run between two steps."""


class Stop(Hook):
    """Ends a run behind a step that no checkpoint holds."""

    def after(self, loop):
        if loop.step == STEPS // 2 + 1:
            raise Stopped


def outcome(workdir):
    """What a run leaves: the hash of its state, and its rows."""
    receipt = json.loads((workdir / "receipt.json").read_text())
    return receipt["state_sha256"], (workdir / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function from a name to the outcome of a whole run, and the directory of half a run."""

    @functools.cache
    def of(name):
        directory = tmp_path_factory.mktemp(name)
        train(EXPERIMENTS[name], directory / "whole")
        with pytest.raises(Stopped):
            train(EXPERIMENTS[name], directory / "half", [Stop()])
        return outcome(directory / "whole"), directory / "half"

    with pytest.MonkeyPatch.context() as patch:
        # All runs of an experiment take the same step, so it is compiled for the first of them.
        fresh, steps = Program.compile, {}

        def compiled(self, batch):
            name = self.experiment.name
            if name not in steps:
                steps[name] = fresh(self, batch)
            return steps[name]

        patch.setattr(Program, "compile", compiled)
        yield of


@pytest.fixture
def resumed(runs, tmp_path, monkeypatch):
    """A function that goes on with the half run, from its checkpoint as `change` leaves it."""

    def of(name, change):
        restore = Checkpoints.restore

        def changed(self, target, step=None):
            state = restore(self, target, step)
            # A step is named where the best state is read, behind the last step.
            return change(state) if step is None else state

        monkeypatch.setattr(Checkpoints, "restore", changed)
        _, half = runs(name)
        train(EXPERIMENTS[name], shutil.copytree(half, tmp_path / "run"))
        return outcome(tmp_path / "run")

    return of


# The result of a run without early stopping is its last state, so every change of that is seen.
EXPERIMENTS = {
    "mlp": dataclasses.replace(family("mlp"), early_stopping=None),
    "mlp_stopped_early": family("mlp_stopped_early"),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_that_goes_on_from_a_checkpoint_equals_the_whole_one(runs, resumed, name):
    whole, _ = runs(name)
    assert resumed(name, lambda state: state) == whole


def ema_lost(state):
    chain = list(state.opt_state)
    chain[-1] = chain[-1]._replace(params=jax.tree.map(jnp.copy, state.params))
    return state.replace(opt_state=tuple(chain))


def moment_lost(name):
    def zeroed(path, leaf):
        return jnp.zeros_like(leaf) if f".{name}" in jax.tree_util.keystr(path) else leaf

    return lambda state: state.replace(
        opt_state=jax.tree_util.tree_map_with_path(zeroed, state.opt_state)
    )


MUTATIONS = {
    "ema": ema_lost,
    "first moment": moment_lost("mu"),
    "second moment": moment_lost("nu"),
    "statistics": lambda state: state.replace(
        collections=jax.tree.map(jnp.zeros_like, state.collections)
    ),
    "rng": lambda state: state.replace(rng=jax.random.key(1)),
    "step": lambda state: state.replace(step=jnp.zeros_like(state.step)),
    "schedule": lambda state: state.replace(
        opt_state=jax.tree.map(
            lambda leaf: jnp.zeros_like(leaf) if leaf.dtype == jnp.int32 else leaf, state.opt_state
        )
    ),
    "control": lambda state: state.replace(control=Control.initial()),
}


@pytest.mark.parametrize("lost", MUTATIONS)
def test_a_checkpoint_that_loses_something_does_not_go_unseen(runs, resumed, lost):
    """The mutation check of this file: without it, the equalities above might hold for nothing."""
    name = "mlp_stopped_early" if lost == "control" else "mlp"
    (state_sha256, rows), _ = runs(name)
    broken_sha256, broken_rows = resumed(name, MUTATIONS[lost])
    assert broken_sha256 != state_sha256
    assert broken_rows != rows

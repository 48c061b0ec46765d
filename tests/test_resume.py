"""A run that was killed at any step ends with the bits of the run that was not."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from families import GENERATORS, MODELS, SEQUENCES, STEPS, family

from deeplearn.checkpoint import Checkpoints
from deeplearn.program import Program
from deeplearn.report.receipt import state_sha256

# Forking a process that has imported everything, but touched no device, saves 4 s a start.
SCRIPT = """
import json, os, random, signal, sys
from pathlib import Path
import jax
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
    **dict.fromkeys((*MODELS, *SEQUENCES, *GENERATORS), (STEPS, STEPS // 4 + STEPS // 6)),
    "mlp_three_steps_a_call": (STEPS, STEPS // 6 + STEPS // 6),
    "mlp_stopped_early": (18, 18 // 4 + 18 // 6),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_killed_run_equals_the_undisturbed_one_to_the_bit(name, tmp_path):
    end, count = ENDS[name]
    kills = "1" if name in (*SEQUENCES, *GENERATORS) else "3"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(tmp_path), str(end), kills],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
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


@pytest.fixture(scope="module")
def rest():
    """The program of a family, its state at half time, and the function that runs the rest."""
    program = Program(family("mlp"))
    half, step = STEPS // 2, None
    state = program.init()

    def run(state, stop):
        nonlocal step
        batches = program.batches(int(state.step))
        for batch in batches:
            step = step or program.compile(batch)
            state, _ = step(state, batch)
            if int(state.step) >= stop:
                break
        batches.close()
        return state

    state = run(state, half)
    return program, state, functools.partial(run, stop=STEPS)


def copied(state):
    """The same state in buffers of its own, which may be donated."""
    return jax.tree.map(jnp.copy, state)


def test_going_on_from_a_checkpoint_equals_going_on(rest, tmp_path):
    program, state, run = rest
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(int(state.step), state)
    checkpoints.wait()
    restored = checkpoints.restore(program.shapes)
    checkpoints.close()
    assert state_sha256(run(restored)) == state_sha256(run(copied(state)))


def ema_lost(state):
    chain = list(state.opt_state)
    chain[-1] = chain[-1]._replace(params=jax.tree.map(jnp.copy, state.params))
    return state.replace(opt_state=tuple(chain))


def moment_lost(state):
    def zeroed(path, leaf):
        return jnp.zeros_like(leaf) if ".mu" in jax.tree_util.keystr(path) else leaf

    return state.replace(opt_state=jax.tree_util.tree_map_with_path(zeroed, state.opt_state))


MUTATIONS = {
    "ema": ema_lost,
    "moment": moment_lost,
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
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_checkpoint_that_loses_something_does_not_go_unseen(rest, name):
    """The mutation check of this file: without it, the equality above might hold for nothing."""
    _, state, run = rest
    whole = run(copied(state))
    broken = MUTATIONS[name](copied(state))
    assert state_sha256(broken) != state_sha256(state)
    broken = run(broken)
    assert state_sha256(broken) != state_sha256(whole)
    if name not in ("ema", "statistics"):
        # Training reads all the others, so the damage spreads to the parameters.
        pairs = zip(jax.tree.leaves(broken.params), jax.tree.leaves(whole.params), strict=True)
        assert not all(np.array_equal(one, two) for one, two in pairs)

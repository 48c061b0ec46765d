"""Checkpoints: what comes back, what is kept, and what a damaged one does."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.checkpoint import Checkpoints
from deeplearn.errors import CheckpointError
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import AdamW
from deeplearn.report.receipt import state_sha256
from deeplearn.step import init_state, train_step
from deeplearn.tasks.classification import Classification

BATCH = {"x": np.ones((4, 6), np.float32), "label": np.zeros(4, np.int32)}
TASK = Classification(MLP(hidden=(16,), outputs=2, normalization="batch", dropout=0.5))
OPTIMIZER = AdamW(ema_decay=0.9).build(10)


@pytest.fixture(scope="module")
def step():
    return jax.jit(functools.partial(train_step, TASK, OPTIMIZER), donate_argnums=0)


@pytest.fixture
def state(key):
    return jax.jit(lambda key: init_state(TASK, OPTIMIZER, key, BATCH))(key)


@pytest.fixture
def target(state):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def test_a_state_comes_back_to_the_bit(tmp_path, state, target, step):
    state, _ = step(state, BATCH)
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(1, state)
    checkpoints.wait()
    restored = checkpoints.restore(target)
    assert state_sha256(restored) == state_sha256(state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    checkpoints.close()


def test_a_save_holds_the_state_of_its_moment_though_its_buffers_are_donated(
    tmp_path, state, target, step
):
    checkpoints = Checkpoints(tmp_path / "c")
    before = state_sha256(state)
    checkpoints.save(0, state)
    for _ in range(30):
        state, _ = step(state, BATCH)
    checkpoints.wait()
    assert state_sha256(checkpoints.restore(target, 0)) == before != state_sha256(state)
    checkpoints.close()


def test_the_latest_and_the_best_are_kept_and_the_rest_is_gone(tmp_path, state):
    """Also where the process that saves is not the one that saved the best."""
    for start, best_steps in ((0, [0, 1, 1]), (3, [1, 1, 1])):
        checkpoints = Checkpoints(tmp_path / "c", keep=2)
        for step, best in enumerate(best_steps, start):
            control = dataclasses.replace(state.control, best_step=jnp.asarray(best, jnp.int32))
            checkpoints.save(step, dataclasses.replace(state, control=control))
        checkpoints.close()
    assert Checkpoints(tmp_path / "c", read_only=True).steps() == [1, 4, 5]
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1", "4", "5"]


def test_a_damaged_step_gives_way_to_the_one_before(tmp_path, state, target):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(1, state)
    checkpoints.save(2, state)
    checkpoints.close()
    shutil.rmtree(tmp_path / "c" / "2" / "default" / "d")
    checkpoints = Checkpoints(tmp_path / "c")
    with pytest.warns(UserWarning, match=r"2 cannot be read .* went back to step 1"):
        restored = checkpoints.restore(target)
    assert state_sha256(restored) == state_sha256(state)
    # The step number is free again, and what was found under it is not lost.
    assert checkpoints.steps() == [1]
    assert (tmp_path / "c" / "2.unreadable").is_dir()
    checkpoints.save(2, state)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2]
    checkpoints.close()


def test_without_any_readable_step_every_reason_is_listed(tmp_path, state, target):
    checkpoints = Checkpoints(tmp_path / "c")
    with pytest.raises(CheckpointError, match="none exists"):
        checkpoints.restore(target)
    for step in (1, 2):
        checkpoints.save(step, state)
        checkpoints.wait()
        shutil.rmtree(tmp_path / "c" / str(step) / "default" / "d")
    with pytest.raises(CheckpointError, match="step 2: .*; step 1: ") as caught:
        checkpoints.restore(target)
    assert "\n" not in str(caught.value)
    checkpoints.close()


def test_another_shape_is_refused(tmp_path, state, target):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(1, state)
    checkpoints.wait()
    wrong = target.replace(
        step=jax.ShapeDtypeStruct((3,), jnp.int32, sharding=target.step.sharding)
    )
    with pytest.raises(CheckpointError):
        checkpoints.restore(wrong)
    checkpoints.close()


def test_reading_leaves_every_file_alone(tmp_path, state):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(1, state)
    checkpoints.close()
    unfinished = tmp_path / "c" / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    Checkpoints(tmp_path / "c", read_only=True).close()
    assert unfinished.is_dir()

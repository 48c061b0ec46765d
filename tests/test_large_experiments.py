"""The experiments that are too large to run here: what they hold and where, from shapes alone."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from deeplearn.experiment import Experiment
from deeplearn.sharding import BATCH_AXIS, FSDP_MIN_SIZE, state_shardings
from deeplearn.step import TrainState, init_state, train_step
from deeplearn.tree_paths import path_name

DEVICES = 8
PARAMETERS = {"llama_8b": 8_030_261_248, "mamba_2_8b": 2_768_345_600}
"""The published numbers."""
STATE = {"llama_8b": 12_045_391_912, "mamba_2_8b": 4_152_545_320}
"""Bytes of the state on each device: three numbers in fp32 a parameter, and some small leaves."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """An experiment and the shapes of its state and of a batch."""

    name: str
    doc: str
    experiment: Experiment
    optimizer: Any
    batch: dict[str, jax.ShapeDtypeStruct]
    state: TrainState

    @functools.cached_property
    def placed(self) -> list[tuple[str, jax.ShapeDtypeStruct, Any]]:
        """Path, shape and sharding of every leaf of the state."""
        mesh = AbstractMesh((DEVICES,), (BATCH_AXIS,))
        shardings = state_shardings(self.state, mesh, self.experiment.rules)
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.state)
        return [
            (path_name(path), leaf, sharding)
            for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True)
        ]


@pytest.fixture(scope="module", params=PARAMETERS)
def plan(request):
    module = importlib.import_module(f"experiments.{request.param}")
    experiment = module.experiment()
    optimizer = experiment.optimizer.build(experiment.steps)
    batch = {
        name: jax.ShapeDtypeStruct((experiment.batch_size, *field.shape), field.dtype)
        for name, field in experiment.train.spec.items()
    }
    init = functools.partial(init_state, experiment.task, optimizer)
    state = jax.eval_shape(init, jax.random.key(0), batch)
    return Plan(
        request.param, " ".join(module.__doc__.split()), experiment, optimizer, batch, state
    )


def nbytes(leaf, shape):
    """Bytes of an array of this type; a key is two numbers of 32 bits."""
    key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return int(np.prod(shape)) * (8 if key else leaf.dtype.itemsize)


def test_the_parameters_are_as_many_as_published(plan):
    leaves = jax.tree.leaves(plan.state.params)
    assert sum(leaf.size for leaf in leaves) == PARAMETERS[plan.name]
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert f"{PARAMETERS[plan.name]:,} parameters" in plan.doc


def test_every_large_array_is_split_over_the_devices(plan):
    large = [(path, sharding) for path, leaf, sharding in plan.placed if leaf.size >= FSDP_MIN_SIZE]
    assert {path.partition("/")[0] for path, _ in large} == {"params", "opt_state"}
    moments = [path for path, _ in large if "/mu/" in path or "/nu/" in path]
    assert len(moments) == 2 * (len(large) - len(moments))
    assert [path for path, sharding in large if BATCH_AXIS not in sharding.spec] == []


def test_a_device_holds_what_the_docstring_says(plan):
    held = sum(nbytes(leaf, sharding.shard_shape(leaf.shape)) for _, leaf, sharding in plan.placed)
    assert held == STATE[plan.name]
    # Nothing but the smallest leaves is held more than once.
    assert held <= 12 * PARAMETERS[plan.name] / DEVICES * 1.001
    assert f"{held / 1e9:.2f} GB" in plan.doc


def test_the_step_takes_a_whole_batch(plan):
    experiment, rows = plan.experiment, plan.experiment.batch_size
    assert rows % (DEVICES * experiment.microbatches) == 0
    step = functools.partial(
        train_step, experiment.task, plan.optimizer, microbatches=experiment.microbatches
    )
    state, metrics = jax.eval_shape(step, plan.state, plan.batch)
    same = jax.tree.map(
        lambda new, old: (new.shape, new.dtype) == (old.shape, old.dtype), state, plan.state
    )
    assert all(jax.tree.leaves(same))
    assert metrics["loss"].total.shape == () and metrics["loss"].total.dtype == jnp.float32


def test_the_backward_pass_keeps_one_vector_a_token_and_layer(plan):
    experiment = plan.experiment
    row = {name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for name, x in plan.batch.items()}

    def backward(params, batch):
        loss = lambda params: experiment.task.loss({"params": params}, batch, jax.random.key(0))[0]  # noqa: E731
        return jax.vjp(loss, params)[1]

    shapes = {leaf.shape for leaf in jax.tree.leaves(plan.state.params)}
    shapes |= {shape[::-1] for shape in shapes}  # a tied embedding, as output kernel
    kept = jax.tree.leaves(jax.eval_shape(backward, plan.state.params, row))
    kept = [leaf for leaf in kept if leaf.shape not in shapes]
    total = sum(nbytes(leaf, leaf.shape) for leaf in kept)
    model, length = experiment.task.model, experiment.train.length
    layers = model.repeats * length * model.width * 2
    assert layers <= total < 1.5 * layers, total
    assert f"{layers / 1e9:.2f} GB" in plan.doc

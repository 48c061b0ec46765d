"""The compiled side of an experiment: shapes before arrays, batches by step, what it refuses."""

import dataclasses

import jax
import numpy as np
import pytest
from families import family

from deeplearn.data.memory import Arrays
from deeplearn.errors import DataError, UsageError
from deeplearn.program import Program


@pytest.fixture(scope="module")
def program():
    return Program(family("mlp"))


def test_the_abstract_state_is_that_of_the_first_one(program):
    state = program.init()
    for leaf, shape in zip(jax.tree.leaves(state), jax.tree.leaves(program.shapes), strict=True):
        assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
        assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)


def test_the_first_state_is_a_function_of_the_seed(program):
    def kernel(program):
        return np.asarray(program.init().params["output"]["kernel"])

    other = Program(dataclasses.replace(program.experiment, seed=1))
    np.testing.assert_array_equal(kernel(program), kernel(program))
    assert not np.array_equal(kernel(program), kernel(other))


def test_batches_begin_at_any_step(program):
    batches = program.batches(7)
    for step in (7, 8):
        expected = program.dataset.batch(step, program.rows)
        found = next(batches)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
    batches.close()


def test_batches_of_several_steps_are_those_of_the_steps():
    program = Program(family("mlp_three_steps_a_call"))
    batches = program.batches(3)
    found = next(batches)
    batches.close()
    for index in range(3):
        expected = program.dataset.batch(3 + index, program.rows)
        np.testing.assert_array_equal(found["x"][index], expected["x"])


def test_the_state_is_donated_and_placed_as_before(program):
    state, batch = program.init(), next(program.batches(0))
    new, _ = program.compile(batch)(state, batch)
    assert state.params["output"]["kernel"].is_deleted()
    placed = jax.tree.map(lambda leaf: leaf.sharding, new)
    assert placed == jax.tree.map(lambda leaf: leaf.sharding, program.shapes)


def test_what_is_wrong_is_said_before_anything_is_computed(program):
    experiment = program.experiment
    wrong = Arrays({"x": np.zeros((20, 16, 16, 1), np.float32), "label": np.full(20, 7)})
    with pytest.raises(DataError, match=r"'label'.*is 7.*outside \[0, 2\]"):
        Program(dataclasses.replace(experiment, train=wrong))
    with pytest.raises(UsageError, match="mesh data=3 needs 3 devices"):
        Program(dataclasses.replace(experiment, mesh=(("data", 3),)))
    with pytest.raises(UsageError, match="'kernl' decides no leaf"):
        Program(dataclasses.replace(experiment, rules=(("kernl", "fsdp"),)))

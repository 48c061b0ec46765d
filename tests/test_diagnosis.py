"""Diagnosis: which part of a task a run that cannot go on names."""

import dataclasses

import jax.numpy as jnp
import pytest

from deeplearn.diagnosis import raise_if_halted
from deeplearn.errors import NumericsError
from deeplearn.experiment import Experiment
from deeplearn.models.gan import MLPDiscriminator, MLPGenerator
from deeplearn.optimizers import AdamW
from deeplearn.step import Control, TrainState
from deeplearn.tasks.adversarial import Adversarial


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_a_player_that_an_update_made_overflow_is_named(name):
    """Such a step is not taken again: it needs no data."""
    task = Adversarial(MLPGenerator(), MLPDiscriminator())
    experiment = Experiment("example", task, train=None, optimizer=AdamW(), steps=8)
    params = {part: {"kernel": jnp.ones(2)} for part in task.parts}
    params[name] = {"kernel": jnp.full(2, jnp.inf)}
    control = dataclasses.replace(Control.initial(), halted_at=jnp.asarray(3, jnp.int32))
    state = TrainState(jnp.zeros((), jnp.int32), params, {}, (), None, control)
    with pytest.raises(NumericsError, match=f"step 4 is not finite in the {name}, and no state"):
        raise_if_halted(experiment, state)

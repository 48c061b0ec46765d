"""The strictness that every test relies on is in force."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import pytest


def test_a_warning_raised_from_the_package_is_an_error():
    with pytest.raises(UserWarning, match="loud"):
        warnings.warn_explicit("loud", UserWarning, "mlp.py", 1, module="deeplearn.models.mlp")


def test_shapes_that_broadcast_by_accident_are_errors():
    with pytest.raises(ValueError, match="rank"):
        jnp.ones((2, 3)) + jnp.ones(3)


def test_the_key_is_the_same_for_all(key):
    assert (jax.random.key_data(key) == jax.random.key_data(jax.random.key(0))).all()


def test_scripts_run_on_fake_devices(run_on_devices):
    script = (
        "import jax, jax.numpy as jnp\n"
        "mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))\n"
        "sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))\n"
        "x = jax.device_put(jnp.arange(8.0), sharding)\n"
        "print(jax.device_count(), len(x.addressable_shards), float(jax.jit(jnp.sum)(x)))\n"
    )
    assert run_on_devices(4, script) == "4 4 28.0\n"


def test_a_script_that_fails_or_hangs_fails_the_test(run_on_devices):
    with pytest.raises(pytest.fail.Exception, match="the reason"):
        run_on_devices(1, "raise SystemExit('the reason')")
    with pytest.raises(pytest.fail.Exception, match="no end after 1"):
        run_on_devices(1, "import time; time.sleep(60)", timeout=1)

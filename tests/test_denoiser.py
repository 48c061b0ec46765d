"""The perceptron that denoises: shapes, what it reads, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.layers.conditioning import fourier_features
from deeplearn.models.denoiser import MLPDenoiser

X, LEVEL, LABEL = jnp.ones((4, 3)), jnp.linspace(0.1, 0.9, 4), jnp.asarray([0, 1, 2, -1])


def variables_of(model, key):
    """Variables whose last layer is not 0, as it is at first."""
    variables = model.init(key, X, LEVEL, LABEL)
    variables["params"]["output"]["kernel"] += 1.0
    return variables


def test_an_untrained_model_predicts_zero(key):
    model = MLPDenoiser(width=8, classes=3)
    y, variables = model.init_with_output(key, X, LEVEL, LABEL, train=True)
    assert y.shape == X.shape and y.dtype == jnp.float32 and (y == 0).all()
    # level, input and three blocks with their shifts of 8·8 + 8; norms; classes; output.
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert count == 72 + (3 * 8 + 8) + 3 * (72 + 72 + 16) + 16 + 3 * 8 + (8 * 3 + 3)


def test_every_input_matters_and_no_row_another(key):
    model = MLPDenoiser(width=8, depth=2, classes=3)
    variables = variables_of(model, key)
    apply = lambda *inputs: model.apply(variables, *inputs)  # noqa: E731
    y = apply(X, LEVEL, LABEL)
    for inputs in (
        (X.at[0].add(1.0), LEVEL, LABEL),
        (X, LEVEL.at[0].add(0.1), LABEL),
        (X, LEVEL, LABEL.at[0].set(2)),
    ):
        changed = np.abs(np.asarray(apply(*inputs) - y)).max(1) > 1e-5
        np.testing.assert_array_equal(changed, [True, False, False, False])


def test_label_minus_one_is_no_label(key):
    model = MLPDenoiser(width=8, depth=1, classes=3)
    variables = variables_of(model, key)
    none = model.apply(variables, X, LEVEL)
    np.testing.assert_array_equal(model.apply(variables, X, LEVEL, jnp.full(4, -1)), none)


def test_fourier_features_tell_levels_apart():
    """A level and one a hundredth off have cosine similarity under 0.9; those 1 apart as well."""
    for step in (0.01, 1.0):
        one, other = fourier_features(jnp.asarray([0.3, 0.3 + step]), 64)
        assert float(one @ other) / 32 < 0.9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 7}, "width=7 of MLPDenoiser must be an even number"),
        ({"depth": -1}, "depth=-1 .* must be 0 or more"),
        ({"classes": -1}, "classes=-1 .* must be 0 or more"),
        ({"classes": 0}, "was given labels, but has classes=0"),
    ],
)
def test_what_cannot_work_is_refused(key, fields, message):
    with pytest.raises(UsageError, match=message):
        MLPDenoiser(**{"classes": 3, **fields}).init(key, X, LEVEL, LABEL)

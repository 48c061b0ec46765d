"""Adversarial losses against NumPy, and gradient penalties against the closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.adversarial_losses import LOSSES, interpolated_penalty, zero_centered_penalty
from deeplearn.errors import UsageError

GENERATOR = np.random.default_rng(0)
REAL, FAKE = GENERATOR.normal(scale=3.0, size=(2, 9))


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


FORMULAS = {
    "non_saturating": (
        -log_sigmoid(FAKE),
        -log_sigmoid(REAL) - np.log1p(-1 / (1 + np.exp(-FAKE))),
    ),
    "hinge": (-FAKE, np.maximum(0, 1 - REAL) + np.maximum(0, 1 + FAKE)),
    "wasserstein": (-FAKE, FAKE - REAL),
    "relativistic": (-log_sigmoid(FAKE - REAL), -log_sigmoid(REAL - FAKE)),
}


def test_every_loss_has_a_formula():
    assert set(FORMULAS) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_their_formulas(name):
    for function, expected in zip(LOSSES[name], FORMULAS[name], strict=True):
        value = function(jnp.asarray(REAL), jnp.asarray(FAKE))
        assert value.shape == (9,) and value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_huge_logits_are_finite(name):
    real, fake = jnp.asarray([1e4, -1e4]), jnp.asarray([-1e4, 1e4])
    for function in LOSSES[name]:
        assert np.isfinite(function(real, fake)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_logits_of_another_shape_are_refused(name):
    for function in LOSSES[name]:
        for shapes in ((9, 1), (9,)), ((9, 1), (9, 1)):
            with pytest.raises(UsageError, match="shape"):
                function(*map(jnp.zeros, shapes))


@pytest.fixture
def images():
    return tuple(jnp.asarray(GENERATOR.normal(size=(5, 4, 3, 2)), jnp.float32) for _ in range(2))


def test_penalties_of_a_linear_critic_are_closed_forms(images):
    """A gradient that differs by row: of row b it is scale[b]·w wherever the image lies."""
    real, fake = images
    w = jnp.asarray(GENERATOR.normal(size=24), jnp.float32)
    scale = jnp.asarray([0.1, 0.5, 1.0, 2.0, 3.0])
    norms = np.asarray(scale) * np.linalg.norm(w)

    def critic(x):
        return scale * (x.reshape(5, -1) @ w)

    penalty = zero_centered_penalty(critic, real)
    np.testing.assert_allclose(penalty, norms**2 / 2, rtol=1e-5)
    penalty = interpolated_penalty(critic, real, fake, jnp.linspace(0, 1, 5))
    np.testing.assert_allclose(penalty, (norms - 1) ** 2, rtol=1e-5)


def test_interpolates_lie_where_the_mixing_says(images):
    """The gradient of ½‖x‖² is x itself, so the penalty tells the place."""
    real, fake = images
    mixing = jnp.linspace(0, 1, 5)
    penalty = interpolated_penalty(
        lambda x: 0.5 * jnp.square(x.reshape(5, -1)).sum(-1), real, fake, mixing
    )
    share = np.asarray(mixing).reshape(5, 1, 1, 1)
    places = (share * np.asarray(real) + (1 - share) * np.asarray(fake)).reshape(5, -1)
    np.testing.assert_allclose(penalty, (np.linalg.norm(places, axis=1) - 1) ** 2, rtol=1e-4)


def test_a_flat_critic_has_finite_gradients(images):
    def penalty(w):
        return interpolated_penalty(lambda x: x.reshape(5, -1) @ w, *images, jnp.ones(5)).sum()

    assert np.isfinite(jax.grad(penalty)(jnp.zeros(24))).all()

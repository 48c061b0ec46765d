"""The adversarial task: two games in one scalar, its statistics, its cost, and what it refuses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from games import LATENT, NORMED, ROWS, game, points

from deeplearn.adversarial_losses import LOSSES, interpolated_penalty, zero_centered_penalty
from deeplearn.errors import DataError, UsageError
from deeplearn.models.dcgan import DCGANDiscriminator, DCGANGenerator
from deeplearn.models.gan import MLPDiscriminator, MLPGenerator
from deeplearn.sampling.images import Request
from deeplearn.tasks.adversarial import Adversarial
from deeplearn.tasks.player import player


@pytest.fixture
def batch():
    return points()


def start(task, key, batch):
    return jax.jit(task.init)(key, batch)


def gradients(task, collections):
    """The gradient of the one scalar, a function of params, batch and key."""

    def loss(params, batch, key):
        return task.loss({"params": params, **collections}, batch, key)[0]

    return jax.grad(loss)


def separate_games(task, collections):
    """The gradients of the generator's game and of the discriminator's, each on its own."""
    objective = LOSSES[task.objective]

    def apply(name, params, x, labels):
        variables = {"params": params, **player(collections, name)}
        return getattr(task, name).apply(variables, x, *labels, train=True, mutable=[*collections])[
            0
        ]

    def images(generator, labels, key):
        z = jax.random.normal(key, (ROWS, LATENT))
        return apply("generator", generator, z, labels)

    def together(discriminator, real, fake, labels):
        twice = [jnp.concatenate([label, label]) for label in labels]
        both = jnp.concatenate([real, fake])
        return jnp.split(apply("discriminator", discriminator, both, twice), 2)

    def apart(discriminator, real, fake, labels):
        return [apply("discriminator", discriminator, x, labels) for x in (real, fake)]

    # A logit beside BatchNorm depends on the other images.
    judged = together if "batch_stats" in collections else apart

    def generator_game(generator, discriminator, x, labels, keys):
        fake = images(generator, labels, keys[0])
        return objective.generator(*judged(discriminator, x, fake, labels)).mean()

    def discriminator_game(discriminator, generator, x, labels, keys):
        fake = images(generator, labels, keys[0])
        loss = objective.discriminator(*together(discriminator, x, fake, labels))
        judge = lambda x: apply("discriminator", discriminator, x, labels)  # noqa: E731
        if task.r1:
            loss += task.r1 * zero_centered_penalty(judge, x)
        if task.r2:
            loss += task.r2 * zero_centered_penalty(judge, fake)
        if task.interpolated:
            mixing = jax.random.uniform(keys[3], (ROWS,))
            loss += task.interpolated * interpolated_penalty(judge, x, fake, mixing)
        return loss.mean()

    def both(params, batch, key):
        given = batch["x"], [batch["label"]] if task.conditional else [], jax.random.split(key, 4)
        players = params["generator"], params["discriminator"]
        return {
            "generator": jax.grad(generator_game)(*players, *given),
            "discriminator": jax.grad(discriminator_game)(*players[::-1], *given),
        }

    return both


GAMES = {name: game(objective=name) for name in LOSSES} | {
    "interpolated": game(objective="wasserstein", interpolated=10.0),
    "r1 and r2": game(objective="relativistic", r1=0.5, r2=0.3),
    "BatchNorm": NORMED,
    "conditional": Adversarial(
        MLPGenerator((8,), classes=3), MLPDiscriminator((8,), classes=3), LATENT, conditional=True
    ),
    "spectral": Adversarial(
        DCGANGenerator((4, 4, 1), (4,), 3, classes=3),
        DCGANDiscriminator((4,), 3, "spectral", classes=3),
        LATENT,
        "hinge",
        conditional=True,
    ),
}


@pytest.fixture(scope="module")
def compiled():
    """Name → task, variables, batch, and the compiled gradients of one scalar and of two games."""

    @functools.cache
    def compile(name):
        task, key = GAMES[name], jax.random.key(0)
        shape = (ROWS, 4, 4, 1) if name == "spectral" else (ROWS, 2)
        x = np.random.default_rng(0).normal(size=shape)
        batch = {"x": jnp.asarray(x, jnp.float32), "label": jnp.arange(ROWS) % 3}
        variables = start(task, key, batch)
        params = variables.pop("params")
        arguments = params, batch, key
        functions = [each(task, variables) for each in (gradients, separate_games)]
        return arguments, [jax.jit(each).lower(*arguments).compile() for each in functions]

    return compile


@pytest.mark.parametrize("name", GAMES)
def test_gradients_equal_those_of_two_separate_games(name, compiled):
    """To 1e-6 of the largest number of a player's gradient: 16 roundings of fp32.

    Losses and statistics are fp32 also in x64, and the two programs sum in another order.
    """
    arguments, functions = compiled(name)
    one, two = (jax.device_get(function(*arguments)) for function in functions)
    for part in GAMES[name].parts:
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(two[part]))
        assert_close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6 * largest)
        jax.tree.map(assert_close, one[part], two[part])
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(one["generator"]))


@pytest.mark.parametrize("name", GAMES)
def test_one_scalar_costs_no_more_than_two_gradients_and_the_metrics(name, compiled):
    """The metrics are a few sums over the batch: at most 11 operations of 6,000 here."""
    one, two = (function.cost_analysis()["flops"] for function in compiled(name)[1])
    assert one <= two * 1.005


def test_statistics_are_of_one_pass_over_real_and_fake(batch, key):
    variables = start(NORMED, key, batch)
    _, aux = jax.jit(NORMED.loss)(variables, batch, key)
    z_key = jax.random.split(key, 4)[0]
    z = jax.random.normal(z_key, (ROWS, LATENT))
    fake, generator = NORMED.generator.apply(
        player(variables, "generator"), z, train=True, mutable=["batch_stats"]
    )
    _, discriminator = NORMED.discriminator.apply(
        player(variables, "discriminator"),
        jnp.concatenate([batch["x"], fake]),
        train=True,
        mutable=["batch_stats"],
    )
    expected = {
        "generator": generator["batch_stats"],
        "discriminator": discriminator["batch_stats"],
    }
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        dict(aux.mutated["batch_stats"]),
        expected,
    )


def test_batch_norm_sees_fake_images_beside_real_ones_in_both_terms(batch, key):
    """So that the generator is told of the logits that the discriminator learns by."""
    variables = start(NORMED, key, batch)
    one_row = {name: x[:1] for name, x in batch.items()}
    _, aux = jax.jit(NORMED.loss)(variables, one_row, key)
    loss = -jax.nn.log_sigmoid(aux.metrics["fake_logit"].value)
    np.testing.assert_allclose(aux.metrics["generator_loss"].value, loss, rtol=1e-5)


@pytest.mark.parametrize("name", ["r1", "r2", "interpolated"])
def test_a_penalty_refuses_batch_norm_of_the_discriminator_only(name, batch, key):
    task = dataclasses.replace(NORMED, **{name: 1.0})
    with pytest.raises(UsageError, match=f"{name} = 1.0.*BatchNorm"):
        task.init(key, batch)
    allowed = dataclasses.replace(task, discriminator=MLPDiscriminator((8,)))
    variables = start(allowed, key, batch)
    assert np.isfinite(jax.jit(allowed.loss)(variables, batch, key)[0])


def test_masked_rows_count_nothing(batch, key):
    task = game(objective="relativistic", r1=1.0)
    variables = start(task, key, batch)
    mask = jnp.ones(ROWS).at[2].set(0.0)
    bad = {**batch, "x": batch["x"].at[2].set(jnp.nan), "mask": mask}
    good = {**batch, "x": batch["x"].at[2].set(7.0), "mask": mask}
    gradient = jax.jit(gradients(task, {}))
    one, two = (gradient(variables["params"], each, key) for each in (bad, good))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    nothing = {**batch, "mask": jnp.zeros(ROWS)}
    loss, aux = jax.jit(task.loss)(variables, nothing, key)
    assert float(loss) == 0.0 and float(aux.weight) == 0.0


def test_both_players_see_the_label(batch, key):
    players = MLPGenerator((8,), classes=3), MLPDiscriminator((8,), classes=3)
    task = Adversarial(*players, latent=LATENT, conditional=True)
    variables = start(task, key, batch)
    loss = jax.jit(task.loss)
    other = {**batch, "label": (batch["label"] + 1) % 3}
    for name in ("generator_loss", "real_logit", "fake_logit"):
        one, two = (loss(variables, each, key)[1].metrics[name].value for each in (batch, other))
        assert float(one) != float(two), name
    images = task.sample(variables, key, Request(4, labels=(0, 1)))
    assert images.shape == (4, 2)
    z = jax.random.normal(key, (4, LATENT))
    np.testing.assert_allclose(
        images, task.generate(variables, z, jnp.asarray([0, 1, 0, 1])), rtol=1e-6
    )
    for request, message in (
        (Request(4), "give labels"),
        (Request(4, labels=(3,)), "label 3 is outside"),
        (Request(4, labels=(0,), guidance=2.0), "guidance=2.0 is for diffusion"),
        (Request(4, labels=(0,), sampler="heun"), "sampler=heun is for diffusion"),
        (Request(4, labels=(0,), steps=18), "steps=18 is for diffusion"),
        (Request(4, labels=(0,), shape=(3,)), "leave out the shape"),
    ):
        with pytest.raises(UsageError, match=message):
            task.sample(variables, key, request)
    with pytest.raises(UsageError, match="task.conditional"):
        dataclasses.replace(task, conditional=False).init(key, batch)
    with pytest.raises(DataError, match="outside"):
        task.check({"x": np.zeros((2, 2)), "label": np.asarray([0, 3])})


def test_evaluation_is_a_function_of_the_variables(batch, key):
    task = game()
    variables = start(task, key, batch)
    one, two = jax.jit(task.evaluate)(variables, batch), task.evaluate(variables, batch)
    assert set(one) == {"loss", "generator_loss", "discriminator_loss", "real_logit", "fake_logit"}
    for name, mean in one.items():
        np.testing.assert_allclose(mean.value, two[name].value, rtol=1e-5)


def test_evaluation_depends_on_neither_order_nor_size_nor_padding_of_batches(batch, key):
    task = game(objective="relativistic")
    variables = start(task, key, batch)
    evaluate = jax.jit(task.evaluate)
    whole = evaluate(variables, batch)
    padding = {name: jnp.concatenate([field[::-1], field]) for name, field in batch.items()}
    padding["mask"] = jnp.repeat(jnp.asarray([1.0, 0.0]), ROWS)
    turned = evaluate(variables, padding)
    rows = [
        evaluate(variables, {name: field[i : i + 1] for name, field in batch.items()})
        for i in range(ROWS)
    ]
    for name, mean in whole.items():
        for total in (turned[name].total, sum(row[name].total for row in rows)):
            np.testing.assert_allclose(total, mean.total, rtol=1e-5, atol=1e-6)
    # Each image has a z of its own.
    assert len({float(row["fake_logit"].value) for row in rows}) == ROWS


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"objective": "hings"}, "did you mean 'hinge'"),
        ({"latent": 0}, "latent = 0"),
        ({"r1": -1.0}, "r1 = -1.0"),
        ({"interpolated": np.inf}, "interpolated = inf"),
    ],
)
def test_bad_fields_are_refused(fields, text):
    with pytest.raises(UsageError, match=text):
        Adversarial(MLPGenerator(), MLPDiscriminator(), **fields)


@pytest.mark.parametrize("classes", [2, 4])
def test_players_of_other_classes_are_refused(classes, batch, key):
    players = MLPGenerator((8,), classes=3), MLPDiscriminator((8,), classes=classes)
    task = Adversarial(*players, conditional=True)
    message = f"the generator has classes = 3 and the discriminator {classes}; set"
    with pytest.raises(UsageError, match=message):
        task.init(key, batch)


def test_images_of_another_shape_are_refused(batch, key):
    task = dataclasses.replace(game(), generator=MLPGenerator((8,), outputs=3))
    variables = start(task, key, batch)
    with pytest.raises(UsageError, match="makes images"):
        task.loss(variables, batch, key)

"""Models of GANs: counts by hand, shapes, labels, initial values and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.layers.pooling import upsample
from deeplearn.models.dcgan import DCGANDiscriminator, DCGANGenerator
from deeplearn.models.gan import MLPDiscriminator, MLPGenerator
from deeplearn.models.r3gan import R3GANDiscriminator, R3GANGenerator

CLASSES, LATENT = 3, 5
SMALL = {"image": (8, 8, 1), "channels": (8, 4)}
GENERATORS = {
    "mlp": lambda classes: MLPGenerator((8,), classes=classes),
    "dcgan": lambda classes: DCGANGenerator(**SMALL, classes=classes),
    "r3gan": lambda classes: R3GANGenerator(**SMALL, classes=classes),
}
DISCRIMINATORS = {
    "mlp": lambda classes: MLPDiscriminator((8,), classes=classes),
    "dcgan": lambda classes: DCGANDiscriminator((4, 8), classes=classes),
    "sngan": lambda classes: DCGANDiscriminator((4, 8), normalization="spectral", classes=classes),
    "r3gan": lambda classes: R3GANDiscriminator((4, 8), classes=classes),
}
SHAPES = {"mlp": (2,)}


def count(model, *inputs):
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=True))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def block(channels):
    inner = channels // 2
    return channels * inner + inner + 9 * inner * inner + inner + inner * channels


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (MLPGenerator((16, 8)), (LATENT,), (5 + 1) * 16 + (16 + 1) * 8 + (8 + 1) * 2),
        (MLPDiscriminator((16, 8)), (2,), (2 + 1) * 16 + (16 + 1) * 8 + (8 + 1)),
        (
            DCGANGenerator(),
            (100,),
            100 * 6272 + 2 * 128 + 25 * 128 * 64 + 2 * 64 + 25 * 64 + 1,
        ),
        (
            DCGANDiscriminator(),
            (28, 28, 1),
            25 * 64 + 64 + 25 * 64 * 128 + 2 * 128 + 49 * 128 + 1,
        ),
        (
            R3GANGenerator(),
            (64,),
            65 * 128
            + 49 * 128
            + 9 * 128 * 64
            + 64
            + 9 * 64 * 32
            + 32
            + sum(map(block, (128, 64, 32)))
            + 32
            + 1,
        ),
        (
            R3GANDiscriminator(),
            (28, 28, 1),
            32 + 32 * 64 + 64 * 128 + sum(map(block, (32, 64, 128))) + 49 * 128 + 128 + 1,
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parameters_are_as_many_as_the_layers_need(model, shape, expected):
    assert count(model, jnp.zeros((1, *shape))) == expected


@pytest.mark.parametrize("classes", [None, CLASSES])
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_make_images_of_z_and_label(name, classes, key):
    model = GENERATORS[name](classes)
    z = jax.random.normal(key, (4, LATENT))
    labels = () if classes is None else (jnp.asarray([0, 1, 2, 0]),)
    variables = jax.jit(model.init)(key, z, *labels)
    apply = jax.jit(model.apply)
    images = apply(variables, z, *labels)
    assert images.shape == (4, *SHAPES.get(name, (8, 8, 1))) and images.dtype == jnp.float32
    assert float(jnp.abs(apply(variables, z + 1.0, *labels) - images).max()) > 0
    if classes is not None:
        assert float(jnp.abs(apply(variables, z, labels[0] * 0) - images)[0].max()) == 0
        assert float(jnp.abs(apply(variables, z, labels[0] * 0) - images)[1].max()) > 0


@pytest.mark.parametrize("classes", [None, CLASSES])
@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminators_judge_an_image_and_its_label(name, classes, key):
    model = DISCRIMINATORS[name](classes)
    x = jax.random.normal(key, (4, *SHAPES.get(name, (8, 8, 1))))
    labels = () if classes is None else (jnp.asarray([0, 1, 2, 0]),)
    variables = jax.jit(model.init)(key, x, *labels)
    if classes is not None and name != "mlp":
        # The embedding of the labels starts at 0.
        head = variables["params"]["head"]
        embedding = jax.random.normal(key, head["label"]["embedding"].shape)
        head = {**head, "label": {"embedding": embedding}}
        variables = {**variables, "params": {**variables["params"], "head": head}}
    apply = jax.jit(model.apply)
    logits = apply(variables, x, *labels)
    assert logits.shape == (4,) and logits.dtype == jnp.float32
    if classes is not None:
        changed = np.asarray(apply(variables, x, labels[0] * 0) != logits)
        assert changed.tolist() == [False, True, True, False]


def test_collections_are_those_of_the_normalization():
    x = jnp.zeros((1, 8, 8, 1))
    for kind, expected in (("batch", "batch_stats"), ("spectral", "spectral_norm"), (None, None)):
        model = DCGANDiscriminator((4, 8), normalization=kind)
        variables = jax.eval_shape(lambda model=model: model.init(jax.random.key(0), x))
        assert set(variables) - {"params"} == ({expected} if expected else set())


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_the_slope_of_a_spectral_discriminator_is_bounded_whatever_its_kernels(classes, key):
    """A 5×5 convolution of stride 2 reads a pixel in up to 9 windows: its slope is at most 3."""
    model = DISCRIMINATORS["sngan"](classes)
    x = jax.random.normal(key, (4, 8, 8, 1))
    labels = () if classes is None else (jnp.asarray([0, 1, 2, 0]),)
    variables = jax.jit(model.init)(key, x, *labels)
    train = jax.jit(lambda v: model.apply(v, x, *labels, train=True, mutable=["spectral_norm"])[1])
    for _ in range(50):
        variables = {**variables, **train(variables)}

    @jax.jit
    def slope(params):
        apply = lambda x: model.apply({**variables, "params": params}, x, *labels).sum()  # noqa: E731
        return jnp.linalg.norm(jax.grad(apply)(x).reshape(4, -1), axis=1)

    params = variables["params"]
    wide = jax.tree.map(lambda p: 100 * p if p.ndim > 1 else p, params)
    np.testing.assert_allclose(slope(wide), slope(params), rtol=1e-4)
    assert slope(params).min() > 0 and slope(params).max() <= 3 * 3 * (1 if classes is None else 2)


def test_dcgan_images_lie_between_minus_one_and_one(key):
    model = GENERATORS["dcgan"](None)
    z = 100 * jax.random.normal(key, (4, LATENT))
    variables = jax.jit(model.init)(key, z)
    variables = {**variables, "params": jax.tree.map(lambda p: 50 * p, variables["params"])}
    images = jax.jit(model.apply)(variables, z)
    assert 0.9 < float(jnp.abs(images).max()) <= 1.0


def test_residual_blocks_start_as_the_identity(key):
    x = jax.random.normal(key, (2, 8, 8, 1))
    one, two = R3GANDiscriminator((4, 8), blocks=1), R3GANDiscriminator((4, 8), blocks=2)
    deep = jax.jit(two.init)(key, x)
    plain = {name: leaf for name, leaf in deep["params"].items() if "block1" not in name}
    np.testing.assert_array_equal(one.apply({"params": plain}, x), two.apply(deep, x))
    # He's gain of the activation times L^(−1/4), L = 4 blocks.
    kernel = R3GANDiscriminator((64, 256), blocks=2).init(key, x)["params"]["stage1_block0"]["mix"]
    gain = 2**0.5 * 4**-0.25 / np.sqrt(9 * 128)
    assert float(kernel["kernel"].std()) == pytest.approx(gain, rel=0.05)


def test_upsampling_doubles_pixels(key):
    x = jax.random.normal(key, (2, 3, 2, 4))
    np.testing.assert_array_equal(upsample(x), np.repeat(np.repeat(x, 2, axis=1), 2, axis=2))


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (DCGANGenerator(channels=()), (LATENT,), r"channels=\(\) of DCGANGenerator must"),
        (DCGANDiscriminator(channels=(4, 0)), (8, 8, 1), r"\(4, 0\) of DCGANDiscriminator must"),
        (R3GANGenerator(channels=()), (LATENT,), r"channels=\(\) of R3GANGenerator must"),
        (R3GANDiscriminator(channels=()), (8, 8, 1), r"channels=\(\) of R3GANDiscriminator must"),
        (R3GANGenerator(blocks=-1), (LATENT,), "blocks=-1 of R3GANGenerator must be 1 or more"),
        (R3GANDiscriminator(blocks=0), (8, 8, 1), "blocks=0 of R3GANDiscriminator must be 1"),
    ],
)
def test_networks_of_nothing_are_refused_in_one_line(model, shape, message, key):
    with pytest.raises(UsageError, match=message) as caught:
        model.init(key, jnp.zeros((1, *shape)))
    assert "\n" not in str(caught.value)


def test_what_cannot_work_is_refused(key):
    z, x = jnp.zeros((1, LATENT)), jnp.zeros((1, 8, 8, 1))
    with pytest.raises(UsageError, match="multiples of 4"):
        DCGANGenerator(image=(30, 28, 1)).init(key, z)
    with pytest.raises(UsageError, match="normalization='layer'"):
        DCGANDiscriminator(normalization="layer").init(key, x)
    with pytest.raises(UsageError, match="no label"):
        R3GANGenerator(classes=3).init(key, z)
    with pytest.raises(UsageError, match="a label"):
        MLPDiscriminator().init(key, jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32))

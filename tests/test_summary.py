"""Operations counted by hand against the count, and tables that add up."""

from __future__ import annotations

import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from deeplearn.models.resnet import ResNet
from deeplearn.report.flops import count_flops
from deeplearn.report.summary import Row, at_depth, summary, trace
from deeplearn.types import Aux, Mean


def shape(*axes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(axes, dtype)


def convolution(*, stride=1, groups=1, dilation=None, transposed=None, padding="SAME"):
    def function(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            lhs_dilation=transposed,
            rhs_dilation=dilation,
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    return function


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (jnp.matmul, [(5, 7), (7, 11)], 2 * 5 * 7 * 11),
        (jnp.matmul, [(3, 5, 7), (3, 7, 11)], 2 * 3 * 5 * 7 * 11),
        (jnp.vdot, [(13,), (13,)], 2 * 13),
        (lambda x, y: jnp.einsum("bthk,bshk->bhts", x, y), [(2, 5, 3, 4), (2, 7, 3, 4)], 1680),
        (convolution(), [(2, 8, 8, 3), (3, 3, 3, 16)], 2 * 2 * 64 * 16 * 27),
        (convolution(stride=2), [(2, 8, 8, 3), (3, 3, 3, 16)], 2 * 2 * 16 * 16 * 27),
        (convolution(padding="VALID"), [(2, 8, 8, 3), (3, 3, 3, 16)], 2 * 2 * 36 * 16 * 27),
        (convolution(dilation=(2, 2)), [(2, 8, 8, 3), (3, 3, 3, 16)], 2 * 2 * 64 * 16 * 27),
        (convolution(groups=3), [(2, 8, 8, 6), (3, 3, 2, 9)], 2 * 2 * 64 * 9 * 18),
        (convolution(groups=6), [(2, 8, 8, 6), (3, 3, 1, 6)], 2 * 2 * 64 * 6 * 9),
        # Every one of 64 inputs meets the whole kernel once.
        (
            convolution(transposed=(2, 2), padding=((1, 2), (1, 2))),
            [(2, 8, 8, 3), (3, 3, 3, 16)],
            2 * 2 * 64 * 16 * 27,
        ),
        (lambda x: jnp.sin(x) * x, [(100,)], 0),
    ],
)
def test_one_operation(function, shapes, expected):
    assert count_flops(function, *(shape(*axes) for axes in shapes)) == expected


def test_a_scan_counts_as_often_as_it_runs():
    def loop(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, x @ w), x, length=17)[0]

    def nested(x, w):
        return jax.lax.scan(lambda x, _: (loop(x, w), None), x, length=5)[0]

    x, w = shape(4, 8), shape(8, 8)
    assert count_flops(loop, x, w) == 17 * 2 * (2 * 4 * 8 * 8)
    assert count_flops(nested, x, w) == 5 * count_flops(loop, x, w)
    assert count_flops(jax.jit(loop), x, w) == count_flops(loop, x, w)


def test_every_wrapper_is_looked_into():
    product = 2 * 4 * 8 * 8

    @jax.custom_vjp
    def custom(x, w):
        return x @ w

    custom.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, g: (g, g))

    def branches(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    def loop(x, w):
        return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ w, x)

    x, w = shape(4, 8), shape(8, 8)
    assert count_flops(custom, x, w) == product
    assert count_flops(jax.checkpoint(lambda x, w: x @ w), x, w) == product
    assert count_flops(branches, x, w) == 2 * product
    assert count_flops(loop, x, w) == product
    assert count_flops(jax.vmap(jnp.matmul, (0, None)), shape(6, 4, 8), w) == 6 * product


def test_a_gradient_costs_two_more_products():
    def loss(x, w):
        return (x @ w).sum()

    both = jax.value_and_grad(loss, argnums=(0, 1))
    x, w = shape(4, 8), shape(8, 16)
    assert count_flops(both, x, w) == 3 * count_flops(loss, x, w)


@dataclass(frozen=True)
class Fit:
    """Sum of the outputs of some models: all that the summary needs of a task."""

    models: tuple[nn.Module, ...]

    def init(self, rng, batch):
        trees = [model.init({"params": rng}, batch["x"]) for model in self.models]
        names = {name for tree in trees for name in tree}
        return {
            name: {str(i): tree.get(name, {}) for i, tree in enumerate(trees)} for name in names
        }

    def loss(self, variables, batch, rng):
        total = jnp.float32(0)
        for i, model in enumerate(self.models):
            own = {name: tree[str(i)] for name, tree in variables.items()}
            total += model.apply(own, batch["x"], mutable=["batch_stats"])[0].sum()
        return total, Aux(jnp.float32(1), {"loss": Mean.of(total)}, {})


@pytest.fixture(scope="module")
def resnet():
    return trace(Fit((ResNet(depth=50),)), {"x": shape(2, 224, 224, 3)})


def test_resnet_50_has_the_published_size(resnet):
    assert sum(row.parameters for row in resnet) == 25_557_032
    # He et al. 2016 state 3.8 G multiply-adds with the stride in the 1×1 convolution; with it in
    # the 3×3, as here and in torchvision, there are 4.089 G.
    assert sum(row.flops for row in resnet) / 2 == pytest.approx(4.089e9, rel=1e-3)


def test_every_depth_adds_up(resnet):
    for depth in range(5):
        rows = at_depth(resnet, depth)
        assert sum(row.parameters for row in rows) == 25_557_032
        assert sum(row.flops for row in rows) == sum(row.flops for row in resnet)
        assert all(len(row.path) <= depth + 1 for row in rows)
    assert at_depth(resnet, 0)[0].path == ("ResNet",)


def test_rows_name_what_is_inside_them(resnet):
    by_path = {"/".join(row.path): row for row in resnet}
    stem = by_path["ResNet/stem/conv"]
    assert (stem.kind, stem.output, stem.parameters) == ("Conv", (112, 112, 64), 7 * 7 * 3 * 64)
    assert stem.flops == 2 * 112 * 112 * 64 * 7 * 7 * 3
    head = by_path["ResNet/output"]
    assert (head.output, head.parameters) == ((1000,), 2_049_000)
    assert head.flops == 2 * 2048 * 1000
    assert by_path["ResNet/stage1_block2"].flops == 0, "its own, without the layers inside"


def test_the_table_of_resnet_50_reads_well():
    text = summary(Fit((ResNet(depth=50),)), {"x": shape(2, 224, 224, 3)})
    lines = text.splitlines()
    assert len(lines) < 45 and max(map(len, lines)) <= 100
    assert any(
        re.match(r"stage3_block2 … stage3_block6 +Bottleneck +14×14×1024 +5 × 1,117,184", x)
        for x in lines
    )
    assert re.search(r"(?m)^total +25,557,032 +8\.18 G$", text)


class Layer(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width, name="dense")(x), None


class Stack(nn.Module):
    """Layers under one scan and rematerialization, as deep models have them."""

    layers: int
    width: int = 16

    @nn.compact
    def __call__(self, x, train=False):
        self.helper()
        scale = self.param("scale", nn.initializers.ones, (1, self.width))
        scanned = nn.scan(
            nn.remat(Layer),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
        )
        x, _ = scanned(self.width, name="layers")(x @ jnp.ones((self.width, self.width)))
        return nn.Dropout(0.5, deterministic=True)(x) * scale

    def helper(self):
        return None


def test_scanned_layers_count_all_their_repetitions():
    rows = {row.path: row for row in trace(Fit((Stack(9),)), {"x": shape(4, 16)})}
    dense = rows["Stack", "layers", "dense"]
    assert dense.parameters == 9 * (16 * 16 + 16)
    assert dense.flops == 9 * 2 * 16 * 16
    assert rows["Stack", "layers"].kind == "Layer"
    own = rows["Stack",]
    assert (own.parameters, own.flops) == (16, 2 * 16 * 16)
    assert [row.path[-1] for row in at_depth(rows.values(), 9)] == ["Stack", "dense"]


class Declared(nn.Module):
    """Submodules made in `setup`; one used twice, one never, one through another method."""

    def setup(self):
        self.twice = nn.Dense(16)
        self.never = nn.Dense(16)
        self.embedding = nn.Embed(7, 16)

    def __call__(self, x, train=False):
        return self.embedding.attend(self.twice(self.twice(x)))


def test_modules_of_setup_and_other_methods():
    rows = {"/".join(row.path): row for row in trace(Fit((Declared(),)), {"x": shape(4, 16)})}
    assert list(rows) == ["Declared", "Declared/twice", "Declared/embedding"]
    assert rows["Declared/twice"].flops == 2 * (2 * 16 * 16)
    assert rows["Declared/twice"].parameters == 16 * 16 + 16
    assert rows["Declared/embedding"].flops == 2 * 16 * 7
    assert rows["Declared/embedding"].output == (7,)


def test_several_models_are_told_apart():
    task = Fit((Stack(2), Stack(3), nn.Dense(5), Stack(2)))
    rows = trace(task, {"x": shape(4, 16)})
    names = list(dict.fromkeys(row.path[0] for row in rows))
    # The first and the last are equal and share their rows; the other's parameters are not lost.
    assert names == ["Stack", "Stack_2", "Dense", "outside of modules"]
    shapes = jax.eval_shape(task.init, jax.random.key(0), {"x": shape(4, 16)})
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert sum(row.parameters for row in rows) == total
    text = summary(task, {"x": shape(4, 16)})
    assert re.search(r"(?m)^Stack_2/layers/dense +Dense", text)
    assert f"{total:,}" in text.splitlines()[-2]


def test_flops_are_those_of_one_example():
    one, many = (trace(Fit((Stack(3),)), {"x": shape(size, 16)}) for size in (1, 32))
    assert [row.output for row in one] == [row.output for row in many]
    # A product that does not depend on the batch is shared by its examples.
    assert [row.flops for row in one][1:] == [row.flops for row in many][1:]


def test_long_names_and_deep_models_keep_the_table_narrow():
    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            for index in range(60):
                name = f"layer_with_a_very_long_name_indeed_and_longer_{index:04d}"
                x = nn.Dense(8 + index % 2, name=name)(x)
            return x

    text = summary(Fit((Deep(),)), {"x": shape(4, 8)})
    assert max(map(len, text.splitlines())) <= 100
    assert re.search(r"(?m)^….*_0059 ", text)


def test_alike_neighbours_share_a_line():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            for index in range(100):
                x = nn.Dense(8, name=f"dense_{index}")(x)
            return x

    lines = summary(Fit((Plain(),)), {"x": shape(4, 8)}).splitlines()
    assert len(lines) == 6
    assert re.match(r"dense_0 … dense_99 +Dense +8 +100 × 72 +100 × 128$", lines[2])


def test_alike_modules_of_different_parents_are_named_in_full():
    class Nested(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            for index in range(3):
                x, _ = Layer(16, name=f"block_{index}")(x)
            return x

    text = summary(Fit((Nested(),)), {"x": shape(4, 16)})
    assert re.search(r"(?m)^block_0/dense … block_2/dense +Dense +16 +3 × 272 +3 × 512$", text)


def test_merging_rows_keeps_the_outer_description():
    rows = [
        Row(("M",), "M", (3,), 1, 2),
        Row(("M", "a"), "A", (4,), 10, 20),
        Row(("M", "a", "b"), "B", (5,), 100, 200),
    ]
    assert at_depth(rows, 1) == [rows[0], Row(("M", "a"), "A", (4,), 110, 220)]

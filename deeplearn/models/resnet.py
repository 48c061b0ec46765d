"""Residual network for images, in the ImageNet and the CIFAR form.

Source: He, Zhang, Ren & Sun 2015, "Deep Residual Learning for Image Recognition"
(arXiv:1512.03385). ImageNet form (table 1): depth 18 and 34 of two 3×3 convolutions a block, 50,
101 and 152 of bottlenecks, projection where the shape changes (option B). CIFAR form (section
4.2): depth 6n + 2, three stages of n blocks, shortcuts without parameters (option A).

    y = relu(F(x) + shortcut(x))

Differences: the stride of a bottleneck is at its 3×3 convolution ("v1.5", as in torchvision); the
last scale of each F starts at 0, so that every block starts as the identity (arXiv:1706.02677).
Initializer: He normal (fan in), Glorot uniform for the output. Weight decay leaves out the leaves
`bias` and `scale`.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.layers.convolution import Conv
from deeplearn.layers.dense import Dense
from deeplearn.layers.normalization import BatchNorm
from deeplearn.layers.pooling import global_average_pool, max_pool
from deeplearn.types import Array


@dataclass(frozen=True)
class _Form:
    """What the paper's tables say of one depth."""

    blocks: tuple[int, ...]
    bottleneck: bool
    cifar: bool
    width: int


def _form(depth: int) -> _Form:
    imagenet = {
        18: ((2, 2, 2, 2), False),
        34: ((3, 4, 6, 3), False),
        50: ((3, 4, 6, 3), True),
        101: ((3, 4, 23, 3), True),
        152: ((3, 8, 36, 3), True),
    }
    if depth in imagenet:
        return _Form(*imagenet[depth], cifar=False, width=64)
    n, rest = divmod(depth - 2, 6)
    if n >= 1 and rest == 0:
        return _Form((n, n, n), bottleneck=False, cifar=True, width=16)
    raise UsageError(
        f"depth={depth} of ResNet is not known; choose one of: {', '.join(map(str, imagenet))}"
        " (ImageNet form), or 6n + 2 such as 8, 20, 56, 110 (CIFAR form)"
    )


class ResNet(nn.Module):
    """Residual network: (B, Y, X, C) → (B, outputs) float32.

    `depth` chooses the form; `width` is the number of channels of the first stage (doubled by each
    later one) where it is not the paper's. Raises `UsageError` for a depth without a form.
    """

    depth: int = 50
    outputs: int = 1000
    width: int | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        self._check(x)
        form = _form(self.depth)
        width = form.width if self.width is None else self.width
        if form.cifar:
            x = _ConvNorm(width, 3, 1, dtype=self.dtype, name="stem")(x, train)
            x = nn.relu(x)
        else:
            x = _ConvNorm(width, 7, 2, dtype=self.dtype, name="stem")(x, train)
            x = max_pool(nn.relu(x), 3, 2, padding=1)
        block = _Bottleneck if form.bottleneck else _Basic
        for stage, count in enumerate(form.blocks):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"stage{stage + 1}_block{i + 1}"
                features = width * 2**stage
                x = block(features, stride, not form.cifar, self.dtype, name=name)(x, train)
        x = global_average_pool(x)
        init = nn.initializers.glorot_uniform()
        y = Dense(self.outputs, dtype=self.dtype, kernel_init=init, name="output")(x)
        return y.astype(jnp.float32)

    def _check(self, x: Array) -> None:
        if self.outputs < 1:
            raise UsageError(f"outputs={self.outputs} of ResNet must be 1 or more")
        if self.width is not None and self.width < 1:
            raise UsageError(f"width={self.width} of ResNet must be 1 or more")
        if x.ndim != 4:
            raise UsageError(f"ResNet takes images (B, Y, X, C), not an input of shape {x.shape}")


class _ConvNorm(nn.Module):
    """norm(W ∗ x): (B, Y, X, C) → (B, Y/stride, X/stride, features)."""

    features: int
    kernel_size: int
    strides: int = 1
    scale_init: nn.initializers.Initializer = nn.initializers.ones_init()
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = Conv(
            self.features,
            self.kernel_size,
            self.strides,
            padding=self.kernel_size // 2,
            use_bias=False,
            dtype=self.dtype,
            name="conv",
        )(x)
        return BatchNorm(dtype=self.dtype, scale_init=self.scale_init, name="norm")(x, train=train)


class _Basic(nn.Module):
    """relu(F(x) + shortcut(x)), F of two 3×3 convolutions."""

    features: int
    stride: int
    projection: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        zeros = nn.initializers.zeros_init()
        y = _ConvNorm(self.features, 3, self.stride, dtype=self.dtype, name="first")(x, train)
        y = nn.relu(y)
        y = _ConvNorm(self.features, 3, 1, zeros, self.dtype, name="second")(y, train)
        return nn.relu(y + _shortcut(x, y.shape, self, train))


class _Bottleneck(nn.Module):
    """relu(F(x) + shortcut(x)), F of 1×1, 3×3 and 1×1 to four times the features."""

    features: int
    stride: int
    projection: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        zeros = nn.initializers.zeros_init()
        y = nn.relu(_ConvNorm(self.features, 1, dtype=self.dtype, name="reduce")(x, train))
        y = _ConvNorm(self.features, 3, self.stride, dtype=self.dtype, name="middle")(y, train)
        y = nn.relu(y)
        y = _ConvNorm(4 * self.features, 1, 1, zeros, self.dtype, name="expand")(y, train)
        return nn.relu(y + _shortcut(x, y.shape, self, train))


def _shortcut(x: Array, shape: tuple[int, ...], block: _Basic | _Bottleneck, train: bool) -> Array:
    """x brought to `shape`: itself, projected (option B), or subsampled and padded (option A)."""
    if x.shape == shape:
        return x
    if block.projection:
        project = _ConvNorm(shape[-1], 1, block.stride, dtype=block.dtype, name="projection")
        return project(x, train)
    x = x[:, :: block.stride, :: block.stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, shape[-1] - x.shape[-1])))

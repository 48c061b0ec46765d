"""Two-dimensional convolution, with gradients that stay fast inside a loop on CPU.

XLA on CPU has a fast convolution for one order of axes (input NHWC, kernel HWIO, unreversed). Its
own gradients have other orders; outside loops a compiler pass reorders them, inside `scan` and
`while` it does not, and a naive loop runs (3×3, B128 28×28×32: 20 ms → over 2 s). So here both
gradients are written as convolutions in that one order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from deeplearn.errors import UsageError
from deeplearn.layers.precision import compute_dtype
from deeplearn.types import Array

Pair = tuple[int, int]
Padding = str | int | tuple[Pair, Pair]

# Up to so many products for one output value, summing shifted images beats the convolution, which
# fuses with nothing: 3×3 of 1 channel to 16, B128 28×28: 0.7 against 5.7 ms, im2col 3.5 ms.
# Of 3 channels im2col is no cure: B8 224×224, 7×7 to 64, stride 2, 29 against 13 ms, and with the
# weight gradient 36 against 49; 11×11 to 96, stride 4, 19 against 9, and 34 against 27.
_FEW_PRODUCTS = 32
# Up to so many channels the input gradient is faster as a product and a sum: 5×5 of 6 channels to
# 16, B64 14×14: 0.7 against 1.65 ms; 3×3 of 8 to 16, B64 28×28: 1.45 against 2.4 ms.
_FEW_CHANNELS = 8
# From this size of a kernel on, the input gradient of a stride of 2 is faster as four convolutions
# of every second tap: 5×5 of 64 channels to 128, B128 14×14: 29 against 49 ms; 3×3 gains nothing.
_WIDE_KERNEL = 5
# The weight gradient sums over at most so many places at a time where there are so many features,
# or the product's blocks outgrow the caches. On a Xeon 3×3 of 32 channels to 32, B64 28×28, takes
# 32 ms in one sum and 12 in 16, and of 64 to 64, 14×14, 24 and 10; but 8 to 8 takes 3 and 6.
_SUMMANDS, _MANY_FEATURES = 3200, 32


class Conv(nn.Module):
    """Convolution: (B, Y, X, C) → (B, Y', X', features).

    `kernel_size` and `strides` are one number or a pair; `padding` is "SAME", "VALID", a number for
    all four sides, or ((top, bottom), (left, right)). Parameters `kernel` (h, w, C, features) and
    `bias` (features,) are fp32; the convolution is computed in `dtype`. `kernel_init` draws the
    kernel as a matrix (h·w·C, features).
    """

    features: int
    kernel_size: int | Pair = 3
    strides: int | Pair = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dtype = compute_dtype(self.dtype)
        shape = (*pair(self.kernel_size), x.shape[-1], self.features)

        def init(key: Array) -> Array:
            # XLA on CPU compiles a draw of four axes in 1.3 s, of two in 0.35 s; values are equal.
            return self.kernel_init(key, (math.prod(shape[:3]), self.features)).reshape(shape)

        kernel = self.param("kernel", init)
        y = self._convolved(x.astype(dtype), kernel.astype(dtype))
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,)).astype(dtype)
            y = y + jnp.broadcast_to(bias, y.shape)
        return y

    def _convolved(self, x: Array, kernel: Array) -> Array:
        return convolve(x, kernel, self.strides, self.padding)


def convolve(x: Array, kernel: Array, strides: int | Pair = 1, padding: Padding = "SAME") -> Array:
    """The correlation of x (B, Y, X, C) with kernel (h, w, C, features).

    Differentiable in reverse mode to any order; on CPU not in forward mode alone.
    """
    strides = pair(strides)
    pads = explicit_padding(padding, x.shape[1:3], kernel.shape[:2], strides)
    if jax.default_backend() != "cpu":
        return _correlate(x, kernel, strides, pads)
    if kernel.shape[:2] == (1, 1) and pads == ((0, 0), (0, 0)):
        # 1×1, B32 28×28×256 → 64: weight gradient 22 ms as a matrix product, 37 ms as convolution.
        x = x[:, :: strides[0], :: strides[1]]
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
    return _convolve_cpu(x, kernel, strides, pads)


def pair(number: int | Pair) -> Pair:
    """(n, n) of n; a pair as it is."""
    return (number, number) if isinstance(number, int) else number


def explicit_padding(
    padding: Padding, image: tuple[int, ...], window: tuple[int, ...], strides: Pair
) -> tuple:
    """`padding` as ((top, bottom), (left, right)); `UsageError` where it cannot be understood."""
    if padding in ("SAME", "VALID"):
        return tuple(map(tuple, lax.padtype_to_pads(image, window, strides, padding)))
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    if isinstance(padding, tuple) and all(isinstance(p, tuple) and len(p) == 2 for p in padding):
        return padding
    raise UsageError(
        f"padding={padding!r} is not known; give 'SAME', 'VALID', a number or two pairs"
    )


def _correlate(
    x: Array,
    kernel: Array,
    strides: Pair,
    pads: tuple,
    lhs_dilation: Pair = (1, 1),
    rhs_dilation: Pair = (1, 1),
) -> Array:
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, strides, pads, lhs_dilation, rhs_dilation, dimension_numbers=axes
    )


def interleaved(phases: list[list[Array]]) -> Array:
    """One image (B, hY, wX, C) of h·w images (B, Y, X, C).

    `phases[i][j]` are the pixels whose row leaves i when divided by h, and whose column j by w.
    """
    b, y, x_size, c = phases[0][0].shape
    rows = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
    return rows.reshape(b, len(phases) * y, len(phases[0]) * x_size, c)


def _in_phases(dy: Array, turned: Array, pads: tuple, image: tuple[int, ...]) -> Array:
    """The input gradient of strides of 2: each second pixel is met by each second tap.

    `turned` is the kernel (h, w, features, C) turned round.
    """
    axes = list(zip(image, dy.shape[1:3], turned.shape[:2], pads, strict=True))

    def taps(n: int, m: int, k: int, before: int, phase: int) -> tuple[slice, Pair]:
        """Of one axis the taps that meet the pixels of a phase, and the padding of dy."""
        first = (phase + before) % 2
        count, shift = len(range(first, k, 2)), (phase + before) // 2
        low = count - 1 - shift
        last = first + 2 * (count - 1)
        return slice(k - 1 - last, k - first, 2), (low, (n + 1) // 2 + count - 1 - m - low)

    rows, columns = (
        [taps(n, m, k, before, phase) for phase in (0, 1)] for n, m, k, (before, _) in axes
    )
    dx = interleaved(
        [
            [
                _correlate(dy, turned[row, column], (1, 1), (row_pads, column_pads))
                for column, column_pads in columns
            ]
            for row, row_pads in rows
        ]
    )
    return dx[:, : image[0], : image[1]]


def _once(sums: Callable[[], Array], convolution: Callable[[], Array], weight: Array) -> Array:
    """The result of `sums`, computed once, which equals that of `convolution`.

    XLA on CPU fuses a sum of arrays with each of its readers and computes it again in each (6 of
    the 12.7 ms of LeNet's step, B64). It does not look into a branch. The other branch is taken
    where `weight`, one that both use, is NaN.
    """
    return lax.cond(weight == weight, sums, convolution)


def _shift_and_add(x: Array, kernel: Array, strides: Pair, pads: tuple) -> Array:
    """The convolution as a sum of shifted images."""
    h, w, channels, features = kernel.shape
    dtype, wide = x.dtype, jnp.promote_types(x.dtype, jnp.float32)
    x, kernel = jnp.pad(x, ((0, 0), *pads, (0, 0))).astype(wide), kernel.astype(wide)
    rows, columns = (
        (n - k) // s + 1 for n, k, s in zip(x.shape[1:3], (h, w), strides, strict=True)
    )
    y = jnp.zeros((x.shape[0], rows, columns, features), wide)
    for i in range(h):
        for j in range(w):
            view = x[:, i :: strides[0], j :: strides[1]][:, :rows, :columns]
            for c in range(channels):
                tap = kernel[i, j, c].reshape(1, 1, 1, features)
                y = y + view[..., c : c + 1] * tap
    return y.astype(dtype)


def _add_shifted(
    dy: Array, kernel: Array, strides: Pair, pads: tuple, image: tuple[int, ...]
) -> Array:
    """The input gradient as one matrix product, whose parts are added where they belong."""
    h, w, channels, features = kernel.shape
    wide = jnp.promote_types(dy.dtype, jnp.float32)
    matrix = kernel.transpose(3, 0, 1, 2).reshape(features, -1)
    parts = jnp.matmul(dy.reshape(-1, features), matrix, preferred_element_type=wide)
    parts = parts.reshape(*dy.shape[:3], h, w, channels)
    axes = list(zip(image, dy.shape[1:3], strides, pads, strict=True))
    whole, zero = (0, 0, 0), jnp.zeros((), wide)

    def placed(place: Pair) -> Array:
        starts = [i - a for i, (_, _, _, (a, _)) in zip(place, axes, strict=True)]
        edges = [
            (start, n - start - (m - 1) * s - 1, s - 1)
            for start, (n, m, s, _) in zip(starts, axes, strict=True)
        ]
        return lax.pad(parts[:, :, :, place[0], place[1]], zero, (whole, *edges, whole))

    places = [(i, j) for i in range(h) for j in range(w)]
    return reduce(jnp.add, [placed(place) for place in places]).astype(dy.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_cpu(x: Array, kernel: Array, strides: Pair, pads: tuple) -> Array:
    convolution = partial(_correlate, x, kernel, strides, pads)
    if math.prod(kernel.shape[:3]) > _FEW_PRODUCTS:
        return convolution()
    sums = partial(_shift_and_add, x, kernel, strides, pads)
    return _once(sums, convolution, kernel[0, 0, 0, 0])


def _kernel_gradient(x: Array, kernel: Array, dy: Array, strides: Pair, pads: tuple) -> Array:
    """Σ x[s·y + i − a, …] dy[y, …] as element i of the kernel's gradient, in sums of a few images.

    x is the image, with B for its channels, and dy the kernel, its taps s apart.
    """

    def part(x: Array, dy: Array) -> Array:
        x, dy = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)
        return _correlate(x, dy, (1, 1), pads, rhs_dilation=strides).transpose(1, 2, 0, 3)

    batch, *places = dy.shape[:3]
    divisors = [n for n in range(1, batch + 1) if batch % n == 0]
    count = max((n for n in divisors if n * math.prod(places) <= _SUMMANDS), default=1)
    if count == batch or kernel.shape[3] < _MANY_FEATURES:
        return part(x, dy)
    parts = tuple(a.reshape(-1, count, *a.shape[1:]) for a in (x, dy))
    zero = jnp.zeros(kernel.shape, jnp.promote_types(kernel.dtype, jnp.float32))
    total, _ = lax.scan(lambda total, images: (total + part(*images), None), zero, parts)
    return total.astype(kernel.dtype)


def _forward(x: Array, kernel: Array, strides: Pair, pads: tuple) -> tuple[Array, tuple]:
    return _convolve_cpu(x, kernel, strides, pads), (x, kernel)


def _backward(strides: Pair, pads: tuple, residual: tuple, dy: Array) -> tuple[Array, Array]:
    x, kernel = residual
    # Per axis: image n, window k, output m, stride s, padding before a.
    axes = [
        (x.shape[i], kernel.shape[i - 1], dy.shape[i], strides[i - 1], pads[i - 1][0])
        for i in (1, 2)
    ]
    # Padding behind makes exactly k outputs.
    behind = tuple((a, k + (m - 1) * s - n - a) for n, k, m, s, a in axes)
    dkernel = _kernel_gradient(x, kernel, dy, strides, behind)
    # dx[u] = Σ dy[(u + a − i) / s] kernel[i]: dy spread s apart, the kernel turned round.
    around = tuple((k - 1 - a, n - 1 - (m - 1) * s + a) for n, k, m, s, a in axes)
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    if strides == (2, 2) and min(kernel.shape[:2]) >= _WIDE_KERNEL:
        convolution = partial(_in_phases, dy, turned, pads, x.shape[1:3])
    else:
        convolution = partial(_correlate, dy, turned, (1, 1), around, lhs_dilation=strides)
    if kernel.shape[2] > _FEW_CHANNELS:
        return convolution(), dkernel
    sums = partial(_add_shifted, dy, kernel, strides, pads, x.shape[1:3])
    return _once(sums, convolution, kernel[0, 0, 0, 0]), dkernel


_convolve_cpu.defvjp(_forward, _backward)

"""Floating-point operations of a function, counted on its jaxpr and not by the compiler.

`cost_analysis()` of a compiled program counts the body of a loop once; here a scan counts as often
as it runs. Only matrix products and convolutions count, a multiply-add as two operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Operations of one call; `arguments` are arrays or ShapeDtypeStructs.

    The longer branch of a condition counts. A `while_loop` counts once, since nobody knows how
    often it runs, and the body of a `shard_map` counts for one device.
    """
    return sum(flops for _, flops in products(function, *arguments))


def products(function: Callable[..., Any], *arguments: Any) -> Iterator[tuple[str, int]]:
    """(name scope, operations) of every matrix product and convolution in a call."""
    return _walk(jax.make_jaxpr(function)(*arguments).jaxpr, scope="", times=1)


def _walk(jaxpr: Jaxpr, scope: str, times: int) -> Iterator[tuple[str, int]]:
    for equation in jaxpr.eqns:
        here = f"{scope}/{equation.source_info.name_stack}"
        name = equation.primitive.name
        if name == "dot_general":
            yield here, times * _dot(equation)
        elif name == "conv_general_dilated":
            yield here, times * _convolution(equation)
        elif name == "cond":
            branches = [
                list(_walk(branch.jaxpr, here, times)) for branch in equation.params["branches"]
            ]
            yield from max(branches, key=lambda branch: sum(flops for _, flops in branch))
        else:
            repeats = equation.params["length"] if name == "scan" else 1
            for inner in _inner(equation):
                yield from _walk(inner, here, times * repeats)


def _inner(equation: JaxprEqn) -> Iterator[Jaxpr]:
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _dot(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _shape(equation.invars[0])
    output = _shape(equation.outvars[0])
    return 2 * math.prod(output) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: JaxprEqn) -> int:
    """Every output element is a sum over the window and the input features of its group.

    Places in the padding count, as published figures have it; the zeros that a transposed
    convolution puts between its inputs do not.
    """
    kernel = _shape(equation.invars[1])
    output = _shape(equation.outvars[0])
    out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    inserted = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(output) * math.prod(kernel) // (out_features * inserted)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape

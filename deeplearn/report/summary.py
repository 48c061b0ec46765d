"""The model summary: output shape, parameters and operations of every module, as a text table."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
from flax import linen as nn

from deeplearn.report.flops import products
from deeplearn.report.receipt import parameter_count
from deeplearn.tasks.task import Task
from deeplearn.types import PyTree

MOST_ROWS = 40
UNITS = ("", " k", " M", " G", " T", " P")
WIDEST_NAME, WIDEST_KIND = 40, 20
NOTE = "FLOPs: forward pass of one example, products and convolutions, a multiply-add counts 2"


@dataclass(frozen=True)
class Row:
    """One module of a model.

    `path` begins with the name of the model. `output` is the shape for one example, without B.
    `parameters` and `flops` (of a forward pass in training mode, for one example) leave out what
    modules inside it have, so that rows add up.
    """

    path: tuple[str, ...]
    kind: str
    output: tuple[int, ...]
    parameters: int = 0
    flops: int = 0


def summary(task: Task, batch: Mapping[str, Any], depth: int | None = None) -> str:
    """A text table of at most 100 columns, without a line end behind it.

    `batch` maps fields to anything with a shape (B, …) and a dtype. `depth` bounds how far modules
    are taken apart; None takes the deepest that gives at most 40 lines. Modules that are alike and
    follow each other share a line. Nothing is computed or allocated.
    """
    modules = trace(task, batch)
    deepest = max((len(row.path) for row in modules), default=1) - 1
    for level in range(max(deepest, 1), 0, -1) if depth is None else [depth]:
        rows = at_depth(modules, level)
        groups = [list(group) for _, group in itertools.groupby(rows, _likeness)]
        if len(groups) <= MOST_ROWS:
            break
    prefix = 0 if len({row.path[0] for row in rows}) > 1 else 1
    table: list[tuple[str, ...]] = [("module", "type", "output", "parameters", "FLOPs")]
    table += [_cells(group, prefix) for group in groups]
    parameters, flops = sum(row.parameters for row in rows), sum(row.flops for row in rows)
    table.append(("total", "", "", f"{parameters:,}", _short(flops)))
    return f"{_align(table)}\n{NOTE}"


def trace(task: Task, batch: Mapping[str, Any]) -> list[Row]:
    """Every module that the loss calls, in the order of the calls; see `summary` for `batch`."""
    shapes = {name: jax.ShapeDtypeStruct(field.shape, field.dtype) for name, field in batch.items()}
    rng = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(task.init, rng, shapes)
    recorder = _Recorder()
    with nn.intercept_methods(recorder):
        found = list(products(task.loss, variables, shapes, rng))
    flops: Counter[int] = Counter()
    for scope, operations in found:
        marks = re.findall(r"<(\d+)>", scope)
        flops[int(marks[-1]) if marks else -1] += operations
    size = next(iter(shapes.values())).shape[0]
    rows = [
        Row(path, call.kind, call.output[1:], call.parameters, flops[call.number] // size)
        for path, call in recorder.calls.items()
    ]
    uncalled = parameter_count(variables["params"]) - sum(row.parameters for row in rows)
    if uncalled or flops[-1]:
        rows.append(Row(("outside of modules",), "", (), uncalled, flops[-1] // size))
    return rows


def at_depth(modules: Iterable[Row], depth: int) -> list[Row]:
    """Rows of at most `depth` names below the model, each with what the deeper ones have.

    Modules without parameters and operations of their own are left out.
    """
    rows: dict[tuple[str, ...], Row] = {}
    for row in modules:
        path = row.path[: depth + 1]
        if path in rows:
            old = rows[path]
            row = replace(
                old, parameters=old.parameters + row.parameters, flops=old.flops + row.flops
            )
        rows[path] = row
    return [row for row in rows.values() if row.parameters or row.flops]


@dataclass
class _Call:
    number: int
    kind: str = ""
    output: tuple[int, ...] = ()
    parameters: int = 0


class _Recorder:
    """Notes every module that is called, and marks what is traced inside it with its number."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, ...], _Call] = {}
        self._names: dict[nn.Module, str] = {}
        self._models: list[str] = []

    def __call__(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: Mapping[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        module = context.module
        # Before a lifted module is called, flax sets it up by a lambda on a copy of it.
        if context.method_name == "<lambda>":
            return function(*arguments, **options)
        if module.path == ():
            self._models.append(self._name(module))
        path = (self._models[-1], *module.path)
        call = self.calls.setdefault(path, _Call(len(self.calls)))
        # A lifted module (scan, remat) calls the plain one on the same path: that one names it.
        call.kind = type(module).__name__.lstrip("_")
        with jax.named_scope(f"<{call.number}>"):
            output = function(*arguments, **options)
        if module.path == ():
            self._share_out(path, module.variables.get("params", {}))
            self._models.pop()
        # A method may also return a module.
        arrays = [leaf for leaf in jax.tree.leaves(output) if hasattr(leaf, "shape")]
        if arrays and not call.output:
            call.output = arrays[0].shape
        return output

    def _name(self, model: nn.Module) -> str:
        """The class of a model, with a number where another model has it; equal models are one."""
        # Deep, since a bound block in a field of the model cannot be hashed.
        model = model.clone(parent=None, _deep_clone=True)
        kind = type(model).__name__
        alike = sum(type(other).__name__ == kind for other in self._names)
        return self._names.setdefault(model, f"{kind}_{alike + 1}" if alike else kind)

    def _share_out(self, model: tuple[str, ...], params: PyTree) -> None:
        """Gives every parameter to the innermost module that was called and holds it."""
        counts: dict[tuple[str, ...], int] = {}
        for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
            path = (*model, *(jax.tree_util.keystr((key,), simple=True) for key in keys))
            while path not in self.calls:
                path = path[:-1]
            counts[path] = counts.get(path, 0) + leaf.size
        for path, call in self.calls.items():
            if path[: len(model)] == model:
                call.parameters = counts.get(path, 0)


def _likeness(row: Row) -> tuple[Any, ...]:
    return len(row.path), row.kind, row.output, row.parameters, row.flops


def _cells(group: list[Row], prefix: int) -> tuple[str, ...]:
    """One line of the table for modules that are alike."""
    row, last, times = group[0], group[-1], ""
    name = "/".join(row.path[prefix:]) or row.path[0]
    if len(group) > 1:
        siblings = row.path[:-1] == last.path[:-1]
        name += f" … {last.path[-1] if siblings else '/'.join(last.path[prefix:])}"
        times = f"{len(group)} × "
    shape = "×".join(map(str, row.output))
    return name, row.kind, shape, f"{times}{row.parameters:,}", f"{times}{_short(row.flops)}"


def _short(value: float) -> str:
    """A number with three digits and a power of a thousand: 8.18 G."""
    power = 0
    while value >= 999.5 and power < len(UNITS) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g}{UNITS[power]}"


def _align(table: list[tuple[str, ...]]) -> str:
    """Columns two spaces apart, the numbers to the right, under a rule and above one."""
    table = [
        (_cut(cells[0], WIDEST_NAME), _cut(cells[1], WIDEST_KIND), *cells[2:]) for cells in table
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in table
    ]
    rule = "─" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _cut(text: str, width: int) -> str:
    """The end of a text says most: a path keeps its last names."""
    return text if len(text) <= width else f"…{text[1 - width :]}"

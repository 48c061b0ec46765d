"""Overrides: `path=value` texts that change fields of an experiment, checked by their types.

A path names fields, keys or positions: `task.model.hidden=(64,64)`, `evaluation.test.split=train`.
A field that holds an object takes a class name, `optimizer=Adam`, and keeps the fields that the two
classes share.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from flax import linen as nn

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.experiment import Experiment, public_fields


def override(experiment: Experiment, changes: Iterable[str]) -> Experiment:
    """The experiment with every `path=value` applied in order.

    Raises `UsageError` for an unknown field, a wrong type, or a text without `=`.
    """
    for change in changes:
        path, equals, text = change.partition("=")
        if path.strip().partition(".")[0] == "overrides":
            raise UsageError(f"--set {change}: 'overrides' holds these changes; make them instead")
        if not equals or not path.strip():
            raise UsageError(
                f"--set {change}: write PATH=VALUE, such as optimizer.learning_rate=0.1"
            )
        experiment = _change(experiment, Any, path.strip().split("."), text.strip(), change)
        overrides = (*experiment.overrides, change)
        experiment = dataclasses.replace(experiment, overrides=overrides)
    return experiment


def _change(owner: Any, declared: Any, path: list[str], text: str, change: str) -> Any:
    """A copy of `owner`, whose type is `declared`, with the value at `path` replaced."""
    name, *rest = path
    current = _child(owner, name, change)
    known = dataclasses.is_dataclass(owner)
    annotation = _annotation(owner, name) if known else _item_type(declared, name)
    if rest:
        value = _change(current, annotation, rest, text, change)
        return _replace(owner, name, value, change)
    bound = annotation
    if annotation is Any and not known:
        # Nothing but the value tells what an item may be: its siblings may take its place.
        annotation, bound = type(current), object
    value = _parse(text, annotation, _classes(annotation, current, bound), current, change)
    return _replace(owner, name, value, change)


def _child(owner: Any, name: str, change: str) -> Any:
    if isinstance(owner, Mapping):
        choices = {str(key): item for key, item in owner.items()}
    elif isinstance(owner, tuple):
        choices = {str(index): item for index, item in enumerate(owner)}
    elif dataclasses.is_dataclass(owner):
        choices = {field.name: getattr(owner, field.name) for field in public_fields(owner)}
    else:
        raise UsageError(f"--set {change}: {type(owner).__name__} {owner!r} has no field '{name}'")
    if name not in choices:
        kind = type(owner).__name__
        raise UsageError(
            f"--set {change}: {kind} has no field '{name}'{did_you_mean(name, choices)}"
        )
    return choices[name]


def _replace(owner: Any, name: str, value: Any, change: str) -> Any:
    if isinstance(owner, Mapping):
        return {**owner, name: value}
    if isinstance(owner, tuple):
        return tuple(value if str(index) == name else item for index, item in enumerate(owner))
    if isinstance(owner, nn.Module):
        changed = owner.clone(**{name: value})
        if getattr(changed, name) != value:
            kind = type(owner).__name__
            raise UsageError(f"--set {change}: a {kind} decides that itself; set its own field")
        return changed
    return dataclasses.replace(owner, **{name: value})


def _item_type(declared: Any, name: str) -> Any:
    """What a declared tuple or mapping says of its item; Any where it says nothing."""
    for option in _options(declared):
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return arguments[1]
        if origin is tuple:
            return arguments[0] if arguments[-1] is Ellipsis else arguments[int(name)]
    return Any


def _annotation(owner: Any, name: str) -> Any:
    """The declared type of a field; that of the current value where none is declared."""
    for cls in inspect.getmro(type(owner)):
        if name in cls.__dict__.get("__annotations__", {}):
            annotation = cls.__dict__["__annotations__"][name]
            if not isinstance(annotation, str):
                return annotation
            scope = {**vars(typing), **vars(sys.modules[cls.__module__])}
            hints = types.SimpleNamespace(__annotations__={name: annotation})
            return typing.get_type_hints(hints, globalns=scope)[name]
    return type(getattr(owner, name))


def _parse(text: str, annotation: Any, classes: dict[str, type], current: Any, change: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    if _holds_text(annotation) and value is not None and not isinstance(value, str):
        value = text
    value = _fit(value, annotation)
    if _matches(value, annotation) and not (isinstance(value, str) and _is_class(annotation)):
        return value
    if isinstance(value, str) and classes:
        return _instance(value, classes, current, change)
    raise UsageError(
        f"--set {change}: expected {_type_name(annotation)}, got {type(value).__name__} {value!r}"
    )


def _fit(value: Any, annotation: Any) -> Any:
    """An int where a float is declared, and a list where a tuple is, become what is declared.

    So do the items of a tuple.
    """
    options = _options(annotation)
    if isinstance(value, list | tuple):
        return _fit_items(tuple(value), options)
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and float in options
        and int not in options
    ):
        try:
            return float(value)
        except OverflowError:
            return math.inf  # which is refused as every infinity is
    return value


def _fit_items(items: tuple[Any, ...], options: tuple[Any, ...]) -> tuple[Any, ...]:
    for option in options:
        arguments = typing.get_args(option) if typing.get_origin(option) is tuple else ()
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = (arguments[0],) * len(items)
        if len(arguments) == len(items):
            return tuple(map(_fit, items, arguments))
    return items


def _matches(value: Any, annotation: Any) -> bool:
    if annotation is Any:
        return True
    if isinstance(value, float) and not math.isfinite(value):
        return False
    for option in _options(annotation):
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if origin is tuple and isinstance(value, tuple):
            if len(arguments) == 2 and arguments[1] is Ellipsis:
                arguments = (arguments[0],) * len(value)
            if len(arguments) == len(value) and all(map(_matches, value, arguments)):
                return True
        # Not isinstance: True is no count, though bool is a subclass of int.
        elif type(value) is option:
            return True
    return False


def _options(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _holds_text(annotation: Any) -> bool:
    return str in _options(annotation) and not {int, float, bool} & set(_options(annotation))


def _is_class(annotation: Any) -> bool:
    return any(isinstance(option, type) and _buildable(option) for option in _options(annotation))


def _buildable(value: Any) -> bool:
    return dataclasses.is_dataclass(value) or getattr(value, "_is_protocol", False)


def _classes(annotation: Any, current: Any, bound: Any) -> dict[str, type]:
    """What a name may mean: the dataclasses beside the current value, and beside its type.

    Those alone that are of the type `bound` and not abstract.
    """
    modules = [type(current).__module__] if dataclasses.is_dataclass(current) else []
    # Not beside linen's Module, whose siblings are no models.
    options = [option for option in _options(annotation) if isinstance(option, type)]
    modules += [option.__module__ for option in options if option is not nn.Module]
    found: dict[str, type] = {}
    for module in modules:
        for name, item in vars(sys.modules[module]).items():
            if (
                isinstance(item, type)
                and dataclasses.is_dataclass(item)
                and not name.startswith("_")
                and not inspect.isabstract(item)
                and any(_is_a(item, option) for option in _options(bound))
            ):
                found.setdefault(name, item)
    return found


def _is_a(item: type, bound: Any) -> bool:
    """Whether a dataclass is a subclass of `bound`, or has the members of that protocol."""
    if not getattr(bound, "_is_protocol", False):
        return isinstance(bound, type) and issubclass(item, bound)
    protocols = [base for base in bound.__mro__ if getattr(base, "_is_protocol", False)]
    members = {name for base in protocols for name in vars(base) if not name.startswith("_")}
    return members <= {*dir(item), *(field.name for field in dataclasses.fields(item))}


def _instance(name: str, classes: dict[str, type], current: Any, change: str) -> Any:
    if name not in classes:
        raise UsageError(f"--set {change}: no class '{name}'{did_you_mean(name, classes)}")
    cls = classes[name]
    shared: dict[str, Any] = {}
    if dataclasses.is_dataclass(current):
        known = {field.name for field in dataclasses.fields(cls) if field.init}
        fields = [field.name for field in public_fields(current)]
        shared = {field: getattr(current, field) for field in fields if field in known}
    try:
        return cls(**shared)
    except TypeError as error:
        raise UsageError(
            f"--set {change}: {name} needs more fields than it can keep: {error}"
        ) from None


def _type_name(annotation: Any) -> str:
    return " | ".join(
        "None"
        if option is type(None)
        else getattr(option, "__name__", str(option))
        if not typing.get_args(option)
        else str(option)
        for option in _options(annotation)
    )

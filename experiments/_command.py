"""The grammar of the command line: a mode, then flags of that mode and nothing else.

One table of modes serves parsing, help and the list of modes. absl defines and parses the flags of
the one mode that was asked for, so that every flag has its own meaning in its own mode.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from deeplearn.errors import UsageError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of a mode; `value` is what help shows after the equals sign."""

    help: str
    value: str = ""
    define: Callable[..., Any] = flags.DEFINE_string
    default: Any = None
    required: bool = False


@dataclasses.dataclass(frozen=True)
class Mode:
    """One mode; `run` gets the flag values and the words after `--` and returns the exit code.

    `rest` says what the words after `--` are; without it there are none.
    """

    help: str
    run: Callable[[Any, list[str]], int]
    flags: Mapping[str, Flag]
    rest: str = ""


def experiments() -> dict[str, str]:
    """Name → first line of the docstring of every experiment, read without importing anything."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        # Editors keep files of other names beside those that they edit.
        if path.stem != "launch" and path.stem.isidentifier():
            try:
                text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
            except SyntaxError as error:
                text = f"(cannot be read: {error.msg}, line {error.lineno})"
            except OSError as error:
                text = f"(cannot be read: {error.strerror})"
            found[path.stem] = text.partition("\n")[0]
    return found


def experiment_fields() -> set[str]:
    """The fields of an experiment's record, read without importing anything, as JAX takes long."""
    source = Path(__file__).resolve().parent.parent / "deeplearn" / "experiment.py"
    return {
        ast.unparse(line.target)
        for cls in ast.parse(source.read_bytes()).body
        if isinstance(cls, ast.ClassDef) and cls.name == "Experiment"
        for line in cls.body
        if isinstance(line, ast.AnnAssign)
    }


def describe(modes: Mapping[str, Mode], with_flags: bool) -> str:
    """The help text of the modes, and the experiments where one of the modes takes one."""
    lines = ["usage: ./launch.sh MODE --flag=value …", "", "modes"]
    for name, mode in modes.items():
        lines.append(f"  {name:<10} {mode.help}")
        if with_flags:
            for flag_name, flag in mode.flags.items():
                shown = f"--{flag_name}{'=' * bool(flag.value)}{flag.value}"
                lines.append(f"    {shown:<20} {flag.help}{' (required)' * flag.required}")
            lines += [f"    {'-- WORDS':<20} {mode.rest}"] if mode.rest else []
    defaults = {m.flags["experiment"].default for m in modes.values() if "experiment" in m.flags}
    if defaults:
        known = experiments()
        width = max(map(len, known), default=0)
        lines += ["", "experiments"]
        for name, text in known.items():
            lines.append(f"  {name:<{width}}  {text}{' (default)' * (name in defaults)}")
    if not with_flags:
        lines += ["", "flags: ./launch.sh --help, or ./launch.sh MODE --help"]
    return "\n".join(lines)


def choose(modes: Mapping[str, Mode], word: str) -> Mode:
    """The mode of that name."""
    if word in modes:
        return modes[word]
    if word.startswith("-"):
        flag = word.lstrip("-").partition("=")[0]
        for name, mode in modes.items():
            if flag in mode.flags:
                raise UsageError(f"a mode comes first; did you mean '{name} {word}'?")
        raise UsageError(f"a mode comes first, before {word}: {', '.join(modes)}")
    name = word.removeprefix("experiment=")
    if name in experiments():
        raise UsageError(f"unknown mode '{word}'; did you mean 'train --experiment={name}'?")
    raise UsageError(f"unknown mode '{word}'{did_you_mean(word, modes)}")


def parse(modes: Mapping[str, Mode], name: str, words: list[str]) -> Any:
    """The flag values of mode `name`; raises `UsageError` for whatever is not a flag of it."""
    mode = modes[name]
    values = flags.FlagValues()
    values.set_gnu_getopt()
    for flag_name, flag in mode.flags.items():
        flag.define(flag_name, flag.default, flag.help, flag_values=values)
    for word in words:
        # absl's own, which would let other flags pass or read them from a file.
        if re.match(r"--?(undefok|flagfile)\b", word):
            raise UsageError(f"{name} has no flag {word.partition('=')[0]}")
    try:
        stray = values([name, *words])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UsageError(f"{name} {_unknown_flag(modes, mode, error)}") from None
    except flags.Error as error:
        raise UsageError(f"{name}: {' '.join(str(error).split())}") from None
    if stray:
        raise UsageError(f"{name} {_stray_word(mode, stray[0])}")
    for flag_name, flag in mode.flags.items():
        if flag.required and not values[flag_name].value:
            raise UsageError(f"{name} needs --{flag_name}={flag.value}")
    return values


def _unknown_flag(modes: Mapping[str, Mode], mode: Mode, error: flags.UnrecognizedFlagError) -> str:
    name = error.flagname
    refusal = f"has no flag --{name}"
    if "set" in mode.flags and name.partition(".")[0] in experiment_fields():
        # absl calls the whole word, dashes and all, the value.
        value = error.flagvalue.partition("=")[2] or "VALUE"
        return f"{refusal}; did you mean '--set {name}={value}'?"
    others = [other for other in modes if name in modes[other].flags]
    if others:
        return f"{refusal}; it belongs to: {', '.join(others)}"
    hint = did_you_mean(f"--{name}", [f"--{known}" for known in mode.flags])
    if mode.rest:
        hint += " (pytest's own arguments go after --)"
    return refusal + hint


def _stray_word(mode: Mode, word: str) -> str:
    refusal = f"does not take the word '{word}'"
    if word.partition("=")[0] in mode.flags:
        return f"{refusal}; did you mean '--{word}'?"
    if "experiment" in mode.flags and word in experiments():
        return f"{refusal}; did you mean '--experiment={word}'?"
    if "set" in mode.flags and "=" in word:
        return f"{refusal}; did you mean '--set {word}'?"
    if mode.rest:
        return f"{refusal}; pytest's own arguments go after --"
    return f"{refusal}; everything is a flag: --name=value"

"""Errors that a user can act on; each carries the exit code of the command line.

A message is one line that says what is wrong, where, why, and what to do. The command line prints
it without a traceback. Any other exception is a bug and exits with code 70.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import signal
from collections.abc import Iterable, Iterator
from typing import Any


class Error(Exception):
    """Base of every error that is the user's to mend."""

    exit_code = 70


class UsageError(Error, ValueError):
    """A flag, a field or an argument has a value that cannot work."""

    exit_code = 2


class DataError(Error, ValueError):
    """Data is missing, empty, or outside its stated range."""

    exit_code = 3


class CheckpointError(Error):
    """No checkpoint can be used."""

    exit_code = 4


class NumericsError(Error):
    """The loss or the gradients stopped being finite."""

    exit_code = 5


class LockedError(Error):
    """Another process holds the run directory."""

    exit_code = 6


class StorageError(Error):
    """The run directory cannot be written."""

    exit_code = 7


class ResumeError(Error):
    """The run directory belongs to another experiment."""

    exit_code = 8


class Preempted(Error):
    """The run was asked to stop; its checkpoint is written and it can be started again."""

    exit_code = 75

    @classmethod
    def by(cls, number: int | None, message: str) -> Preempted:
        """The error of a signal, if of one; an interrupt from the keyboard exits with 130."""
        error = cls(message)
        if number == signal.SIGINT:
            error.exit_code = 130
        return error


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Puts the place of the data before the message of an error."""
    try:
        yield
    except Error as error:
        raise type(error)(f"{place}: {error}") from None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A hint such as "; did you mean 'relu'?", or the choices where nothing is close."""
    choices = sorted(choices)
    close = difflib.get_close_matches(word, choices, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; choose one of: {', '.join(choices)}"


def library(name: str, purpose: str) -> Any:
    """The module of a library that not every installation has.

    Raises `DataError` with the command that brings it, where it is missing.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise DataError(f"{purpose} needs {error.name}; run: pip install {error.name}") from error

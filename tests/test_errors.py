"""Exit codes are those of the documentation, and hints are close."""

import json
import re
import signal
from pathlib import Path

import pytest

from deeplearn import errors

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def classes():
    return [
        item
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, errors.Error)
    ]


def test_every_error_has_an_exit_code_of_its_own_in_the_readme():
    codes = [item.exit_code for item in classes()]
    assert len(set(codes)) == len(codes)
    documented = {int(code) for code in re.findall(r"\| (\d+)(?:, \d+)? +\|", README)}
    assert set(codes) <= documented


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_an_interrupt_is_told_from_a_preemption(number, code):
    assert errors.Preempted.by(number, "stopped").exit_code == code


def test_a_hint_names_the_closest_word_or_all():
    assert errors.did_you_mean("rellu", ["relu", "gelu"]) == "; did you mean 'relu'?"
    assert errors.did_you_mean("xyz", ["b", "a"]) == "; choose one of: a, b"


def test_a_missing_library_comes_with_the_command_that_brings_it():
    assert errors.library("json", "a test") is json
    with pytest.raises(errors.DataError, match="a test needs nonesuch; run: pip install nonesuch"):
        errors.library("nonesuch", "a test")

from __future__ import annotations

import hashlib
import sys

import pytest

from deeplearn.data.packages import package_files
from deeplearn.errors import DataError

CONTENTS = [b"one", b"two"]
SHA256 = hashlib.sha256(b"onetwo").hexdigest()


@pytest.fixture
def package(tmp_path, monkeypatch) -> str:
    """A package that carries two files and whose code would fail."""
    root = tmp_path / "carrier_of_data"
    root.mkdir()
    (root / "__init__.py").write_text("raise SystemExit('imported')")
    for name, content in zip("ab", CONTENTS, strict=True):
        (root / name).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    return root.name


def test_files_are_read_and_nothing_is_imported(package):
    assert package_files(package, "1.0", ("a", "b"), SHA256) == CONTENTS
    assert package not in sys.modules


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("b", "a"), "holds other data than carrier_of_data 1.0"),
        (("a", "c"), "c cannot be read"),
    ],
)
def test_other_files_are_refused_with_the_command_that_brings_the_right_ones(
    package, paths, message
):
    with pytest.raises(DataError, match=f"{message}.*; run: pip install {package}==1.0$"):
        package_files(package, "1.0", paths, SHA256)


def test_a_missing_package_is_named_with_its_command():
    with pytest.raises(DataError, match="not installed; run: pip install absent_carrier==2.1$"):
        package_files("absent_carrier", "2.1", ("a",), SHA256)

"""Records of TFDS by random access (`tfds.data_source`, ArrayRecord), without TensorFlow.

A dataset is read from where TFDS keeps it: `data_dir`, else `$TFDS_DATA_DIR`, else
`~/tensorflow_datasets`. What is not there is prepared by the builder of that name in
`data/builders/`, where one exists; otherwise the error says which command prepares it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deeplearn.errors import DataError, UsageError, did_you_mean

CHUNK = 4096
"""How many examples are read at a time."""


class Records:
    """The open records of a split, with every file's number of records checked.

    `identity` names the content: dataset, version, split, number of examples, and name and size of
    every file. `directory` holds them, where there are files.
    """

    def __init__(self, name: str, split: str, version: str | None, data_dir: str | None) -> None:
        self.name = f"{name}/{split}"
        root = data_root(data_dir)
        with _quiet():
            builder = _builder(name, version, root)
            self._data = _data_source(builder, name, split, root)
            files = _checked_files(builder, split)
            try:
                count = len(self._data)
            except ValueError:
                raise DataError(
                    f"dataset '{name}': the split '{split}' ends before it begins; mend its bounds"
                ) from None
            if count:
                self.read([0])
        self.directory = Path(builder.data_dir) if files else None
        self.identity = (name, str(builder.version), split, len(self._data), files)

    def __len__(self) -> int:
        return len(self._data)

    def read(self, indices: list[int] | range) -> list[dict[str, Any]]:
        """The examples at `indices`, decoded: feature name → value."""
        try:
            try:
                return self._data.__getitems__(list(indices))
            except (AttributeError, TypeError):  # a mock of TFDS reads one at a time only
                return [self._data[index] for index in indices]
        except Exception as error:
            raise DataError(
                f"an example of {self.name} from {indices[0]} to {indices[-1]} cannot be read:"
                f" {_line(error)}; remove its directory and prepare it again"
            ) from error

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every example in order."""
        for start in range(0, len(self), CHUNK):
            yield from self.read(range(start, min(start + CHUNK, len(self))))

    def feature(self, example: Mapping[str, Any], feature: str) -> Any:
        """One value of an example."""
        if feature not in example:
            hint = did_you_mean(feature, example)
            raise DataError(f"dataset {self.name} has no feature '{feature}'{hint}")
        return example[feature]

    def text(self, example: Mapping[str, Any], feature: str) -> str:
        """One value of an example, which must be text."""
        value = self.feature(example, feature)
        if isinstance(value, str):  # from a mock of TFDS
            return value
        try:
            return value.decode()
        except (AttributeError, UnicodeDecodeError) as error:
            raise DataError(
                f"feature '{feature}' of {self.name} holds {value!r:.40}, which is no text in UTF-8"
            ) from error


def _builder(name: str, version: str | None, root: Path) -> Any:
    """The builder of a dataset that is prepared, or that one of ours can prepare here and now."""
    if stated := re.search(r":([\d.*]+)$", name):
        raise UsageError(
            f"dataset '{name}': the version has a field of its own; write"
            f" name='{name[: stated.start()]}', version='{stated[1]}'"
        )
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise DataError(
            f"dataset '{name}' needs {error.name}; run: pip install tensorflow-datasets"
        ) from error

    if directory := prepared_directory(name, version, root):
        try:
            return tfds.builder_from_directory(directory)
        except Exception as error:  # damaged files raise many types
            raise DataError(
                f"dataset '{name}' in {directory} is damaged: {_line(error)}; remove that"
                " directory and prepare it again"
            ) from error
    if own := _own_builder(name):
        return _prepare(own, name, version, root)
    try:
        return tfds.builder(name, version=version, data_dir=root)
    except tfds.core.DatasetNotFoundError as error:
        close = did_you_mean(name, tfds.list_builders(with_community_datasets=False))
        hint = close if "did you mean" in close else ""  # the whole list is too long a hint
        raise DataError(f"TFDS has no dataset '{name}'{hint}") from error
    except (ValueError, AssertionError) as error:
        raise DataError(f"TFDS cannot read dataset '{name}': {_line(error)}") from error


def _prepare(own: Any, name: str, version: str | None, root: Path) -> Any:
    import tensorflow_datasets as tfds

    config = name.partition("/")[2] or None
    options = tfds.download.DownloadConfig(try_download_gcs=False, force_checksums_validation=True)
    builder = None
    try:
        builder = own(config=config, version=version, data_dir=root, file_format="array_record")
        builder.download_and_prepare(download_config=options)
    except DataError:
        raise
    except Exception as error:
        # Another process, started beside this one, may have prepared it first.
        if builder is not None and Path(builder.data_dir, "dataset_info.json").exists():
            return tfds.builder_from_directory(builder.data_dir)
        raise DataError(f"dataset '{name}' cannot be prepared: {_line(error)}") from error
    return builder


def data_root(data_dir: str | None) -> Path:
    """`data_dir`, or where TFDS keeps its datasets."""
    path = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(path).expanduser()


def prepared_directory(name: str, version: str | None, root: Path) -> Path | None:
    """The directory of the newest prepared version, or of that `version`."""
    found = {
        path.parent.name: path.parent
        for path in root.joinpath(*name.split("/")).glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    }
    if version is not None:
        return found.get(version)
    newest = max(found, key=lambda text: [int(part) for part in text.split(".")], default=None)
    return found[newest] if newest else None


def _own_builder(name: str) -> Any:
    base = name.partition("/")[0]
    module = f"deeplearn.data.builders.{base}"
    if not base.isidentifier() or importlib.util.find_spec(module) is None:
        return None
    return getattr(importlib.import_module(module), "Builder", None)


def _data_source(builder: Any, name: str, split: str, root: Path) -> Any:
    try:
        return builder.as_data_source(split)
    except NotImplementedError as error:
        state, manual = "missing", ""
        if builder.info.splits:
            state = f"prepared as {builder.info.file_format.value}, which has no random access,"
        if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            manual = f"put its source files in {root}/downloads/manual and "
        raise DataError(
            f"dataset '{name}' is {state} in {root}; {manual}run: uv run --no-project"
            " --with tensorflow-cpu --with tensorflow-datasets --with importlib_resources"
            ' python -c "import tensorflow_datasets as tfds;'
            f" tfds.builder('{name}', data_dir='{root}',"
            " file_format='array_record').download_and_prepare()\""
        ) from error
    except ValueError as error:
        raise DataError(f"dataset '{name}' has no split '{split}': {_line(error)}") from error


def _checked_files(builder: Any, split: str) -> list[tuple[str, int]]:
    """(name, bytes) of each record file; a missing or truncated one is refused.

    ArrayRecord opens a truncated file without an error and then counts 0 records.
    """
    from array_record.python import array_record_module  # type: ignore[import-untyped]

    if not builder.info.splits:  # nothing on disk: `tfds.testing.mock_data`
        return []
    files = []
    for instruction in builder.info.splits[split].file_instructions:
        path, stated = Path(instruction.filename), instruction.examples_in_shard
        exists = path.exists()
        count = array_record_module.ArrayRecordReader(str(path)).num_records() if exists else 0
        if count != stated:
            raise DataError(
                f"{path} holds {count} of {stated} records; remove its directory and prepare it"
                " again"
            )
        files.append((path.name, path.stat().st_size))
    return files


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's warnings, such as that OpenCV would be faster, out of the user's terminal."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

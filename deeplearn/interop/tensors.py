"""Directories of named tensors in the safetensors format, in one file or in several shards.

The layout is that of Hugging Face: `model.safetensors`, or `model-00001-of-00002.safetensors` and
so on beside `model.safetensors.index.json`, which says what tensor is in what file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from deeplearn.errors import DataError, StorageError, UsageError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
"""Up to so many bytes of tensors are written to one file."""
FLOATS = ("F32", "F16", "BF16")


class Tensors:
    """The tensors of a directory by name, read one at a time while the context is open.

    Raises `DataError` for a directory without them, a damaged file, and an index that names a file
    or a tensor that is not there.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self._stack = contextlib.ExitStack()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> Tensors:
        with contextlib.ExitStack() as stack:
            for file, wanted in self._contents().items():
                reader = self._open(file, stack)
                held = set(reader.keys())
                for name in held if wanted is None else wanted:
                    if name not in held:
                        raise DataError(
                            f"{self.directory / INDEX}: tensor '{name}' is not in {file}; bring"
                            " the directory anew"
                        )
                    self._files[name] = reader
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """The names of the tensors, sorted."""
        return sorted(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The dtype of a tensor in the words of the format, such as "BF16"."""
        return self._files[name].get_slice(name).get_dtype()

    def read(self, name: str) -> np.ndarray:
        """A tensor as it is stored; bfloat16 is the dtype of ml_dtypes."""
        # numpy knows the name bfloat16 once this is imported.
        import ml_dtypes  # noqa: F401

        return self._files[name].get_tensor(name)

    def _contents(self) -> dict[str, list[str] | None]:
        """File → the tensors wanted of it; None stands for all."""
        if (self.directory / INDEX).is_file():
            files: dict[str, list[str] | None] = {}
            index = read_json(self.directory / INDEX)
            for name, file in _weight_map(index, self.directory / INDEX).items():
                wanted = files.setdefault(file, [])
                assert wanted is not None
                wanted.append(name)
            return files
        if (self.directory / SINGLE).is_file():
            return {SINGLE: None}
        others = sorted(path.name for path in self.directory.glob("*.bin"))
        hint = f"; {others[0]} can run code: save it as safetensors first" if others else ""
        raise DataError(f"{self.directory} holds neither {SINGLE} nor {INDEX}{hint}")

    def _open(self, file: str, stack: contextlib.ExitStack) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return stack.enter_context(safe_open(self.directory / file, framework="numpy"))
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{self.directory / file} cannot be read: {' '.join(str(error).split())}; bring it"
                " anew"
            ) from None


def _weight_map(index: Mapping[str, Any], path: Path) -> dict[str, str]:
    names = index.get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in names.values()
    ):
        raise DataError(f"{path}: weight_map must give each tensor a file of the same directory")
    return names


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; `DataError` where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object")
    return content


def make_directory(directory: str | Path) -> Path:
    """The directory, made where it does not exist; `UsageError` where it holds anything.

    Files of another model among the new ones would be read with them.
    """
    path = Path(directory).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UsageError(f"directory {path} is not empty; choose a new one")
    except OSError as error:
        raise StorageError(f"directory {path} cannot be made: {error.strerror or error}") from None
    return path


def write_tensors(
    directory: Path, tensors: Mapping[str, Callable[[], np.ndarray]], shard_bytes: int
) -> None:
    """Writes tensors, each given by a function that makes it, into files of at most `shard_bytes`.

    At most one file's tensors are copied at a time. One larger tensor has a file of its own.
    """
    shards: list[list[str]] = [[]]
    room, total = shard_bytes, 0
    for name, make in tensors.items():
        size = make().nbytes
        if shards[-1] and size > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room, total = room - size, total + size
    if len(shards) == 1:
        return _write(directory / SINGLE, {name: make() for name, make in tensors.items()})
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(directory / file, {name: tensors[name]() for name in names})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(directory / INDEX, index)


def _write(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # The format takes the memory as it lies: a transposed view would be written untransposed.
    laid_out = {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in tensors.items()}
    try:
        save_file(laid_out, path, metadata={"format": "pt"})
        # The library makes files that only their owner may read, whatever the umask.
        path.chmod(path.parent.stat().st_mode & 0o666)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be written: {error}; free the space") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes an object as indented JSON."""
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from None

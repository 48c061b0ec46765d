"""Files that survive a kill: replaced whole, or grown by whole records."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from deeplearn.errors import StorageError


def replace(path: str | Path, data: bytes) -> None:
    """Puts `data` at `path` such that a reader finds the old content or the new, never a part.

    Raises StorageError where the directory cannot be written; the old content then still stands.
    """
    path = Path(path)
    # One fixed name: what a kill leaves behind is overwritten by the next call.
    draft = path.with_name(f"{path.name}.tmp")
    try:
        descriptor = _open_alone(draft)
        try:
            _write(descriptor, data, 0)
            os.fsync(descriptor)
            os.replace(draft, path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        finally:
            os.close(descriptor)
        _sync_directory(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; free the space or name another --workdir"
        ) from error


def _open_alone(draft: Path) -> int:
    """The empty file `draft`, which no other process writes until this one closes it."""
    while True:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # While this one waited, another may have put its draft in place.
            if os.path.samestat(os.fstat(descriptor), os.lstat(draft)):
                os.ftruncate(descriptor, 0)
                return descriptor
        except FileNotFoundError:
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


class Journal:
    """A file that grows by whole records and never stops a run.

    A write that fails is counted in `failures`, its reason kept in `error`, and its records stay in
    memory for the next flush. Everything past the last whole record is cut before a write, so a
    torn record never ends up in the middle of the file.
    """

    def __init__(self, path: str | Path, size: int = 0):
        """`size` is the length in bytes of the whole records that the file holds already."""
        self.path = Path(path)
        self.failures = 0
        self.error: str | None = None
        self._size = size
        self._pending = bytearray()

    def add(self, record: bytes) -> None:
        """Takes a record for the next flush."""
        self._pending += record

    def flush(self, *, sync: bool = False) -> None:
        """Writes what was added; with `sync` it also outlasts a power cut on return."""
        if not self._pending and not sync:
            return
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                # A file that somebody shortened is not stretched with zero bytes.
                self._size = min(self._size, os.fstat(descriptor).st_size)
                os.ftruncate(descriptor, self._size)
                _write(descriptor, bytes(self._pending), self._size)
                if sync:
                    os.fsync(descriptor)
                    _sync_directory(self.path.parent)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.failures += 1
            self.error = str(error)
            return
        self._size += len(self._pending)
        self._pending.clear()


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _sync_directory(directory: Path) -> None:
    """A rename or a new name lasts only once its directory is on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

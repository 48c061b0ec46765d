"""Scalars for TensorBoard, written without TensorFlow and without any other package.

The files hold TFRecords (length, checksum, payload, checksum), each payload a protocol buffer
`Event`; both formats are given in tensorflow/core/lib/io/record_writer.h and
tensorflow/core/util/event.proto. tensorboardX was tried and left: after a write error its queue
fills and the next scalar waits for ever, and its flush does not wait for the queue.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deeplearn.report.files import Journal


class TensorBoard:
    """Writes scalars as "split/name" below a directory.

    Every start of a run makes a new file that withdraws the scalars behind `start_step`, so a
    resumed run is seen once. A write that fails is counted in `failures` and never raises.
    """

    def __init__(self, directory: str | Path, start_step: int = 0):
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        # Viewers read the files by name: a count puts them in order even when the clock jumps.
        attempts = [
            int(path.name.split(".")[3]) for path in directory.glob(f"{_PREFIX}*.deeplearn")
        ]
        attempt = max(attempts, default=0) + 1
        self._journal = Journal(directory / f"{_PREFIX}{attempt:010d}.deeplearn")
        self._add(_text(3, "brain.Event:2"))
        self._add(_integer(2, start_step + 1) + _message(7, _integer(1, _SESSION_START)))

    @property
    def failures(self) -> int:
        """The number of flushes that could not write."""
        return self._journal.failures

    def log(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes one point to the curve of every value."""
        summary = b"".join(
            _message(1, _text(1, f"{split}/{name}") + _float(2, value))
            for name, value in values.items()
        )
        self._add(_integer(2, step) + _message(5, summary))
        self._journal.flush()

    def close(self) -> None:
        """Writes what an earlier failure left over, and makes it outlast a power cut."""
        self._journal.flush(sync=True)

    def _add(self, event: bytes) -> None:
        # Field 1 is the wall time; viewers only display it.
        self._journal.add(_record(_key(1, 1) + struct.pack("<d", time.time()) + event))


_PREFIX = "events.out.tfevents."
_SESSION_START = 1


def _record(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + _checksum(length) + payload + _checksum(payload)


def _checksum(data: bytes) -> bytes:
    """The masked CRC-32C of a TFRecord."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    rotated = (crc >> 15) | (crc << 17)
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_entry(value: int) -> int:
    for _ in range(8):
        # The Castagnoli polynomial, its bits reversed.
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_TABLE = tuple(_crc_entry(value) for value in range(256))


def _key(field: int, wire_type: int) -> bytes:
    return bytes([field << 3 | wire_type])


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(groups) + bytes([value])


def _integer(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _message(field: int, payload: bytes) -> bytes:
    return _key(field, 2) + _varint(len(payload)) + payload


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _float(field: int, value: float) -> bytes:
    with np.errstate(over="ignore"):  # a double beyond fp32 becomes an infinity
        return _key(field, 5) + np.asarray(value).astype("<f4").tobytes()

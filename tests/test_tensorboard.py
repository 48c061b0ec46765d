"""TensorBoard events, read back by a reader of our own that shares no code with the writer."""

from __future__ import annotations

import math
import struct

import numpy as np

from deeplearn.report import tensorboard
from deeplearn.report.tensorboard import TensorBoard


def fields(data):
    """(field number, value) pairs of a protocol buffer."""
    position, found = 0, []

    def varint():
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(data):
        key = varint()
        if key & 7 == 0:
            value = varint()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or varint()
            value = data[position : position + size]
            position += size
        found.append((key >> 3, value))
    return found


def events(path):
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(dict(fields(data[12 : 12 + length])))
        data = data[16 + length :]
    return found


def scalars(directory):
    """{tag: [(step, value)]} as viewers show them: in file order, a START withdraws later steps."""
    shown = {}
    for path in sorted(directory.iterdir()):
        for event in events(path):
            step = event.get(2, 0)
            if 7 in event:
                shown = {tag: [p for p in points if p[0] < step] for tag, points in shown.items()}
            for number, value in fields(event.get(5, b"")):
                assert number == 1
                entry = dict(fields(value))
                (scalar,) = struct.unpack("<f", entry[2])
                shown.setdefault(entry[1].decode(), []).append((step, scalar))
    return shown


def test_the_checksum_is_the_published_one():
    # CRC-32C of "123456789" is E3069283 (RFC 3720); a TFRecord rotates it and adds a constant.
    rotated = 0xE3069283 >> 15 | (0xE3069283 << 17) & 0xFFFFFFFF
    expected = (rotated + 0xA282EAD8) % 2**32
    assert tensorboard._checksum(b"123456789") == struct.pack("<I", expected)


def test_a_record_equals_the_one_of_the_reference_writer(tmp_path, monkeypatch):
    # Written by tensorboardX 2.6.5 for wall time 1.5, step 300 and these two values.
    reference = bytes.fromhex(
        "3800000000000000a3797d5709000000000000f83f10ac022a2a0a110a0a747261696e2f6c6f737315"
        "0000803e0a150a0e747261696e2f6163637572616379150000003f0787123a"
    )
    monkeypatch.setattr(tensorboard.time, "time", lambda: 1.5)
    board = TensorBoard(tmp_path)
    board.log(300, "train", {"loss": 0.25, "accuracy": 0.5})
    (path,) = tmp_path.iterdir()
    assert path.read_bytes().endswith(reference)


def test_scalars_read_back(tmp_path):
    board = TensorBoard(tmp_path)
    steps = [1, 127, 128, 16_384, 2**40]
    for step in steps:
        board.log(step, "train", {"loss": step / 3, "learning_rate/Größe": 0.1})
    board.log(5, "test", {"a": math.nan, "b": math.inf, "c": 1e300, "d": np.float32(0.5)})
    shown = scalars(tmp_path)
    assert shown["train/loss"] == [(step, np.float32(step / 3)) for step in steps]
    assert shown["train/learning_rate/Größe"] == [(step, np.float32(0.1)) for step in steps]
    assert math.isnan(shown["test/a"][0][1])
    assert shown["test/b"] == shown["test/c"] == [(5, math.inf)]
    assert shown["test/d"] == [(5, 0.5)]


def test_a_resumed_run_is_seen_once(tmp_path, monkeypatch):
    # The clock stands ten years back on the second start: the order must not depend on it.
    for start, clock, value in [(0, 2e9, 1.0), (50, 1.7e9, 2.0)]:
        monkeypatch.setattr(tensorboard.time, "time", lambda clock=clock: clock)
        board = TensorBoard(tmp_path, start_step=start)
        for step in range(start + 10, 110, 10):
            board.log(step, "train", {"loss": value})
    assert scalars(tmp_path)["train/loss"] == [
        (step, 1.0 if step <= 50 else 2.0) for step in range(10, 110, 10)
    ]


def test_many_starts_keep_their_order(tmp_path):
    for start in range(12):
        board = TensorBoard(tmp_path, start_step=start)
        board.log(start + 1, "train", {"loss": float(start)})
    assert len(list(tmp_path.iterdir())) == 12
    assert scalars(tmp_path)["train/loss"] == [(step + 1, step) for step in range(12)]


def test_a_full_disk_is_counted_and_does_not_stop(tmp_path, monkeypatch):
    board = TensorBoard(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    for step in range(1, 100):
        board.log(step, "train", {"loss": 1.0})
    assert board.failures == 99
    monkeypatch.undo()
    board.close()
    assert len(scalars(tmp_path)["train/loss"]) == 99

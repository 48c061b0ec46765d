"""Rows: exact numbers, whole lines, and what a resume keeps."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import DataError, UsageError
from deeplearn.report.rows import RowLog, parse_json, read_rows

ROOT = Path(__file__).parent.parent


def write(path, steps, split="train", offset=0.0):
    log = RowLog(path)
    for step in steps:
        log.append(step, split, {"loss": step / 7 + offset})
    log.flush()
    return log


def test_numbers_round_trip_to_the_last_bit(tmp_path):
    generator = random.Random(0)
    values = [generator.uniform(-1, 1) * 10.0 ** generator.randint(-300, 300) for _ in range(300)]
    values += [0.0, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3]
    log = RowLog(tmp_path / "m.jsonl")
    for step, value in enumerate(values):
        log.append(step, "train", {"loss": value})
    log.flush()
    read = [row["loss"] for row in read_rows(tmp_path / "m.jsonl")]
    assert np.array(read).tobytes() == np.array(values).tobytes()


def test_array_scalars_become_plain_numbers(tmp_path):
    log = RowLog(tmp_path / "m.jsonl")
    log.append(np.int64(3), "test", {"a": np.float32(0.1), "b": jnp.float32(0.5), "c": 2})
    log.flush()
    (line,) = (tmp_path / "m.jsonl").read_text().splitlines()
    assert line == '{"step": 3, "split": "test", "a": 0.10000000149011612, "b": 0.5, "c": 2.0}'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_null_and_reads_as_nan(tmp_path, value):
    log = RowLog(tmp_path / "m.jsonl")
    log.append(1, "train", {"loss": value})
    log.flush()
    line = (tmp_path / "m.jsonl").read_text()
    assert json.loads(line)["loss"] is None
    assert math.isnan(read_rows(tmp_path / "m.jsonl")[0]["loss"])


def test_names_cannot_break_a_line(tmp_path):
    log = RowLog(tmp_path / "m.jsonl")
    log.append(1, "te\nst\u2028", {"\x1b[31mlo\r\nss": 1.0})
    log.flush()
    text = (tmp_path / "m.jsonl").read_text()
    assert len(text.splitlines()) == 1 and "\x1b" not in text
    assert read_rows(tmp_path / "m.jsonl")[0]["\x1b[31mlo\r\nss"] == 1.0


def test_reserved_names_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be called 'step'"):
        RowLog(tmp_path / "m.jsonl").append(1, "train", {"step": 2.0})


def test_resume_equals_the_uninterrupted_file(tmp_path):
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    write(whole, range(0, 100, 10))
    write(parts, range(0, 70, 10))
    log = RowLog(parts)
    log.truncate_after(40)
    for step in range(50, 100, 10):
        log.append(step, "train", {"loss": step / 7})
    log.flush()
    assert parts.read_bytes() == whole.read_bytes()


def test_truncation_keeps_every_split_at_the_step_and_forgets_unwritten_rows(tmp_path):
    path = tmp_path / "m.jsonl"
    log = write(path, [10, 20])
    log.append(20, "test", {"loss": 1.0})
    log.append(30, "train", {"loss": 2.0})
    log.flush()
    log.append(40, "train", {"loss": 3.0})
    log.truncate_after(20)
    log.flush()
    assert [(row["step"], row["split"]) for row in read_rows(path)] == [
        (10, "train"),
        (20, "train"),
        (20, "test"),
    ]


def test_truncating_what_is_not_there_makes_no_file(tmp_path):
    log = RowLog(tmp_path / "m.jsonl")
    log.truncate_after(10)
    assert os.listdir(tmp_path) == []


def test_every_cut_of_the_file_reads_and_resumes(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, [1, 2, 3])
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(0, len(data) + 1, 3):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        assert len(read_rows(path)) == whole
        log = RowLog(path)
        log.truncate_after(2)
        log.append(9, "train", {"loss": 9.0})
        log.flush()
        assert [row["step"] for row in read_rows(path)] == [1, 2][:whole] + [9]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, [1, 2, 3])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"step": 2, "spl\n' + lines[2])
    with pytest.raises(DataError, match="line 2"):
        read_rows(path)
    with pytest.raises(DataError, match="line 2"):
        RowLog(path).truncate_after(1)
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("line", ["[1]", "{}", '{"step": "1", "split": "a"}', '{"step": 1}'])
def test_a_line_that_is_no_row_is_refused(tmp_path, line):
    (tmp_path / "m.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match="line 1"):
        read_rows(tmp_path / "m.jsonl")


def test_the_later_of_two_equal_rows_counts(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, [1, 2])
    write(path, [2, 3], offset=1.0)
    assert [(row["step"], row["loss"]) for row in read_rows(path)] == [
        (1, 1 / 7),
        (2, 2 / 7 + 1),
        (3, 3 / 7 + 1),
    ]


@pytest.mark.parametrize(
    "text",
    ['{"a": NaN}', '{"a": -Infinity}', '{"a": 1e400}', '{"a": 1, "a": 2}', "{", "[" * 100_000],
)
def test_strict_json_refuses(text):
    with pytest.raises(DataError, match="here: not valid JSON"):
        parse_json(text, "here")


def test_a_kill_while_writing_loses_nothing_that_was_flushed_before(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from deeplearn.report.rows import RowLog
log = RowLog(sys.argv[1])
for step in range(10**9):
    log.append(step, "train", {{"loss": step / 7, "name": 0.5}})
    log.flush()
    print(step, flush=True)
"""
    path = tmp_path / "m.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    while int(child.stdout.readline()) < 200:
        pass
    child.send_signal(signal.SIGKILL)
    printed = [int(line) for line in child.stdout.read().split("\n")[:-1]]
    child.wait()
    steps = [row["step"] for row in read_rows(path)]
    assert steps == list(range(len(steps)))
    assert len(steps) > max(printed, default=200)

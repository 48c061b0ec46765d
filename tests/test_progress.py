"""The live line, the plain lines and the closing table, read as text."""

from __future__ import annotations

import contextlib
import inspect
import io
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from deeplearn.report.progress import Pace, Progress, closing_table, one_line

ROOT = Path(__file__).parent.parent


def console(terminal=False, width=100):
    # A fixed `_environ` keeps TERM, COLUMNS and CI of the machine out of the test.
    return Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=width,
        height=24,
        _environ={"TERM": "xterm"} if terminal else {},
    )


def plain(console):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def paced():
    """640 examples a second, at the end of 100 steps."""
    clock = Clock()
    pace = Pace(100, 64, clock)
    for step in (0, 100):
        pace.mark(step)
        clock.now += 10
    return pace


def test_the_pace_leaves_compilation_and_evaluation_out():
    clock = Clock()
    pace = Pace(1000, 64, clock)
    clock.now += 30  # compiles
    pace.mark(100)
    assert pace.examples_per_second is None
    clock.now += 10
    pace.mark(200)
    assert pace.examples_per_second == 640
    assert pace.seconds_left == 80
    clock.now += 5  # evaluates
    pace.pause()
    clock.now += 10
    pace.mark(300)
    assert pace.examples_per_second == 640
    assert pace.seconds_left == pytest.approx(700 * 25 / 200)


def test_the_pace_of_a_resumed_run_counts_from_its_start():
    clock = Clock()
    pace = Pace(1000, 10, clock)
    for step in (900, 950):
        clock.now += 5
        pace.mark(step)
    assert pace.examples_per_second == 100
    assert pace.seconds_left == 5


def test_computed_steps_give_a_rate_until_a_period_is_measured():
    clock = Clock()
    pace = Pace(1000, 64, clock)
    for step in (2, 12):
        assert pace.examples_per_second is None
        pace.computed(step)
        clock.now += 5
    assert (pace.examples_per_second, pace.seconds_left) == (128, 494)
    assert pace.mark(100) is None
    pace.pause()  # evaluates
    clock.now += 5
    pace.computed(101)
    assert pace.examples_per_second == 128
    assert pace.mark(200) == pace.examples_per_second == 1280
    clock.now += 5
    pace.computed(300)
    assert pace.examples_per_second == 1280


def test_a_clock_that_stands_still_gives_no_rate():
    pace = Pace(10, 1, Clock())
    pace.mark(1)
    pace.mark(1)
    pace.mark(2)
    assert pace.examples_per_second is None


def test_the_default_clock_is_monotonic():
    assert inspect.signature(Pace).parameters["clock"].default is time.monotonic


def test_without_a_terminal_every_log_is_one_plain_line():
    out = console()
    progress = Progress("mlp", 100, 0, paced(), out)
    progress.log(50, "train", {"accuracy": 0.75, "loss": 0.5, "skipped": 0.0})
    progress.log(50, "test", {"accuracy": math.nan, "loss": 1e-5})
    progress.log(100, "train", {"loss": 0.25, "accuracy": 1.0, "skipped": 1.0})
    progress.close()
    lines = out.file.getvalue().splitlines()
    assert lines[:3] == [
        "mlp  step 0/100  compiling",
        "step 50/100  loss 0.5000  accuracy 0.7500  640 examples/s  ETA 0:00",
        "step 50/100  test  loss 1.000e-05  accuracy nan",
    ]
    assert re.fullmatch(
        r"step 100/100  loss 0\.2500  accuracy 1\.0000  skipped 1\.0000"
        r"  640 examples/s  ETA 0:00",
        lines[3],
    )
    assert "\x1b" not in out.file.getvalue()


def test_a_plain_line_is_never_wrapped():
    out = console(width=20)
    progress = Progress("mlp", 100, 0, paced(), out)
    progress.log(50, "train", {f"metric_{index}": 0.5 for index in range(9)})
    assert len(out.file.getvalue().splitlines()) == 2


def test_a_terminal_shows_one_moving_line_and_evaluations_above_it():
    out = console(terminal=True, width=120)
    progress = Progress("mlp", 100, 0, paced(), out)
    progress.log(50, "train", {"loss": 0.5})
    progress.log(50, "test", {"loss": 0.75})
    progress.log(100, "train", {"loss": 0.25})
    progress.close()
    text = plain(out)
    assert "compiling" in text
    assert re.search(r"mlp +━+\S* +50/100  loss 0\.5000", text)
    assert re.search(r"step 50/100  test  loss 0\.7500\n", text)
    assert re.search(r"100/100  loss 0\.2500  [\d,]+ examples/s  ETA 0:00 *\n$", text)
    assert out.file.getvalue().rstrip().endswith("\x1b[?25h"), "the cursor is shown again"


def test_the_live_line_moves_with_the_steps_and_never_back():
    out = console(terminal=True, width=120)
    clock = Clock()
    progress = Progress("mlp", 100, 0, Pace(100, 64), out, clock)
    progress.move(0)
    progress.move(1)  # too soon to be shown
    clock.now += 1
    progress.move(60)
    progress.log(50, "train", {"loss": 0.5})
    progress.close()
    shown = re.findall(r"(\d+)/100  (compiling|running|loss)", plain(out))
    steps = [("0", "compiling"), ("0", "running"), ("60", "running"), ("60", "loss")]
    assert list(dict.fromkeys(shown)) == steps


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 160])
def test_the_live_line_fits_every_width(width):
    out = console(terminal=True, width=width)
    clock = Clock()
    pace = Pace(20_000, 64, clock)
    progress = Progress("a_rather_long_name", 20_000, 0, pace, out)
    for step in (10_000, 10_050, 20_000):
        clock.now += 50 if step == 20_000 else 0.25
        pace.mark(step)
        progress.log(step, "train", {"loss": 0.5, "accuracy": 0.75, "gradient_norm": 0.125})
    progress.close()
    lines = [line for line in re.split(r"[\r\n]", plain(out)) if line]
    assert max(map(len, lines)) <= width
    assert any("20000/20000" in line for line in lines)
    if width >= 80:
        assert any(re.search("━{8}.*loss.*accuracy.*examples/s.*ETA", line) for line in lines)


def test_closing_twice_is_harmless():
    progress = Progress("mlp", 100, 0, paced(), console(terminal=True))
    progress.close()
    progress.close()
    assert progress.failures == 0


def test_the_closing_table():
    out = console()
    train = {"gradient_norm": 2.0, "loss": 0.5, "skipped": 0.0}
    metrics = {"train": train, "test": {"auc": 0.0, "loss": 0.75}}
    path = "runs/" + "long/" * 30 + "metrics.jsonl"
    closing_table("mlp", metrics, 12.34, {"metrics": Path(path), "all": "x"}, out)
    lines = [line.split() for line in out.file.getvalue().splitlines()]
    assert ["mlp", "train", "test"] in lines
    assert ["loss", "0.5000", "0.7500"] in lines
    assert [line[0] for line in lines[3:6]] == ["loss", "gradient_norm", "auc"]
    assert ["gradient_norm", "2.0000"] in lines
    assert ["auc", "0.0000"] in lines
    assert ["time", "12.3", "s"] in lines
    assert ["metrics", path] in lines


def test_long_times_are_hours():
    out = console()
    closing_table("mlp", {}, 3723.4, {}, out)
    assert out.file.getvalue() == "  time  1:02:03\n"


HOSTILE = "\x1b[2J\x1b]0;title\x07a\r\nstep 1/1\x9b31m\u202e[red]b[/red]"


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_logged_can_move_the_cursor_or_fake_a_line(terminal):
    out = console(terminal=terminal, width=200)
    progress = Progress(HOSTILE, 2, 0, Pace(2, 1), out)
    progress.log(1, HOSTILE, {HOSTILE: 1.0})
    progress.log(1, "train", {HOSTILE: 1.0})
    progress.close()
    closing_table(HOSTILE, {HOSTILE: {HOSTILE: 1.0}}, 1.0, {HOSTILE: HOSTILE}, out)
    text = out.file.getvalue()
    for forbidden in ("\x1b[2J", "\x1b]0", "\x07", "\x9b", "\u202e", "\nstep 1/1\x9b"):
        assert forbidden not in text
    assert not re.search(r"(?m)^step 1/1", plain(out))
    assert "[red]b[/red]" in text, "markup is text"
    assert progress.failures == 0


def test_one_line_keeps_what_can_be_printed():
    assert one_line("größe 数 ½") == "größe 数 ½"


CHILD = """
import sys, time
from deeplearn.report.progress import Pace, Progress, closing_table
progress = Progress("mlp", 200, 0, Pace(200, 64))
print("ready", file=sys.stderr, flush=True)
sys.stdin.read()
for step in range(1, 201):
    progress.log(step, "train", {"loss": 0.5})
progress.close()
closing_table("mlp", {"test": {"loss": 0.5}}, 1.0, {"metrics": "m.jsonl"})
print("failures", progress.failures, file=sys.stderr)
"""


@pytest.mark.parametrize("output", ["closed pipe", "full disk"])
def test_a_run_outlives_its_reader(output):
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(open("/dev/full", "w"))
        pipe = subprocess.PIPE
        stdout = full if output == "full disk" else pipe
        command = [sys.executable, "-c", CHILD]
        child = stack.enter_context(
            subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=stdout, stderr=pipe, text=True)
        )
        assert child.stderr.readline() == "ready\n"
        if child.stdout:
            child.stdout.close()
        child.stdin.close()
        errors = child.stderr.read()
        assert child.wait(timeout=30) == 0, errors
    assert errors == "failures 1\n"


def test_without_any_output_nothing_fails(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    progress = Progress("mlp", 2, 0, Pace(2, 1))
    progress.log(1, "train", {"loss": 1.0})
    progress.close()

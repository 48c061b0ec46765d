"""What a run shows while it runs and when it ends.

On a terminal one live line moves; elsewhere every log is one plain line without escapes. Showing
never stops a run: when nobody reads any more, the failures are counted and the run goes on.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

NARROWEST_BAR, WIDEST_BAR = 8, 40
MOVES_A_SECOND = 2
"""Of the live line between two rows; a move takes milliseconds of the thread that dispatches."""


class Screen:
    """A console that never raises; at its first failure, counted in `failures`, it falls silent."""

    def __init__(self, console: Console | None = None):
        from rich.console import Console

        terminal = sys.stdout is not None and sys.stdout.isatty()
        # rich also believes FORCE_COLOR and friends; a file should hold no escapes all the same.
        self.console = console or Console(force_terminal=terminal)
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal
        self.failures = 0

    def attempt(self, show: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Calls something that writes to the console."""
        try:
            show(*args, **options)
        # A full disk; a closed file; a reader that has gone, which rich turns into SystemExit.
        except (OSError, ValueError, SystemExit):
            self.failures += 1
            self.console.quiet = True

    def print(self, text: RenderableType) -> None:
        """Prints a line of text, never wrapped, or another renderable."""
        options = {"markup": False, "highlight": False, "soft_wrap": isinstance(text, str)}
        self.attempt(self.console.print, text, **options)


class Pace:
    """Examples per second and the seconds left, by a clock that no change of the date moves.

    The first period is left out, since it holds the compilation. Until the second has ended the
    steps that are known to be computed give both.
    """

    def __init__(
        self, total_steps: int, examples_per_step: int, clock: Callable[[], float] = time.monotonic
    ):
        self.examples_per_second: float | None = None
        self.seconds_left: float | None = None
        self._total, self._examples, self._clock = total_steps, examples_per_step, clock
        self._first: tuple[int, float] | None = None
        self._last = (0, 0.0)
        self._computed: tuple[int, float] | None = None
        self._measured = False

    def computed(self, step: int) -> None:
        """Learns that a step is computed by now."""
        if self._measured:
            return
        now = self._clock()
        if self._computed is None:
            self._computed = (step, now)
            return
        steps, seconds = step - self._computed[0], now - self._computed[1]
        if steps > 0 and seconds > 0:
            self.examples_per_second = steps * self._examples / seconds
            self.seconds_left = (self._total - step) * seconds / steps

    def mark(self, step: int) -> float | None:
        """Ends a period of training at a step; returns its speed, None for the first."""
        now = self._clock()
        if self._first is None:
            self._first = self._last = (step, now)
            return None
        steps, seconds = step - self._last[0], now - self._last[1]
        if steps > 0 and seconds > 0:
            self._measured = True
            self.examples_per_second = steps * self._examples / seconds
            # What is left holds evaluations too, so they count here and not in the rate above.
            step_seconds = (now - self._first[1]) / (step - self._first[0])
            self.seconds_left = (self._total - step) * step_seconds
        self._last = (step, now)
        return self.examples_per_second if self._measured else None

    def pause(self) -> None:
        """Leaves the time since the last mark, such as an evaluation, out of the rate."""
        self._last = (self._last[0], self._clock())
        self._computed = None


class Progress:
    """Shows the steps of a run; a report of the training loop.

    Computed steps and rows of the split "train" move the line, rows of other splits stay above it.
    The speed is read from `pace`, which the loop keeps.
    """

    def __init__(
        self,
        name: str,
        total_steps: int,
        start_step: int,
        pace: Pace,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.screen = Screen(console)
        self._name, self._total, self._step = one_line(name), total_steps, start_step
        self._values: Mapping[str, float] = {}
        self._pace, self._now = pace, clock
        self._state, self._moved_at = "compiling", -math.inf
        self._live: Live | None = None
        if self.screen.live:
            from rich.live import Live

            self._live = Live(
                get_renderable=self._bar, console=self.screen.console, auto_refresh=False
            )
            self.screen.attempt(self._live.start, refresh=True)
        else:
            self.screen.print(f"{self._name}  step {start_step}/{total_steps}  compiling")

    @property
    def failures(self) -> int:
        """The number of lines that could not be shown."""
        return self.screen.failures

    def move(self, step: int) -> None:
        """Shows on the live line that the steps up to this one are computed and others run."""
        if self._live is None or self._now() - self._moved_at < 1 / MOVES_A_SECOND:
            return
        self._step, self._state, self._moved_at = max(step, self._step), "running", self._now()
        self.screen.attempt(self._live.refresh)

    def log(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Shows one row of metrics."""
        if split == "train":
            # A row comes late: the line may be further.
            self._step, self._values = max(step, self._step), values
            line = f"step {step}/{self._total}  {_join(_metrics(values) + self._speed())}"
        else:
            line = f"step {step}/{self._total}  {one_line(split)}  {_join(_metrics(values))}"
        if self._live is None or split != "train":
            self.screen.print(line)
        if self._live is not None:
            self.screen.attempt(self._live.refresh)

    def close(self) -> None:
        """Ends the live line and gives the terminal back; may be called twice."""
        if self._live is not None:
            self.screen.attempt(self._live.stop)

    def _speed(self) -> list[str]:
        if self._pace.examples_per_second is None or self._pace.seconds_left is None:
            return []
        rate = self._pace.examples_per_second
        return [
            f"{rate:,.{0 if rate >= 10 else 2}f} examples/s",
            f"ETA {_clock(self._pace.seconds_left)}",
        ]

    def _bar(self) -> RenderableType:
        """The live line, without what does not fit: first the name goes, then the last metrics."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        width = self.screen.console.width
        name, metrics = [self._name], _metrics(self._values) or [self._state]
        tail = self._speed()
        while True:
            text = _join([f"{self._step}/{self._total}", *metrics, *tail])
            room = width - len(text) - 2 - sum(len(part) + 2 for part in name)
            if room >= NARROWEST_BAR or not (name or metrics):
                break
            (name or metrics).pop()
        bar = ProgressBar(self._total, self._step, width=max(1, min(room, WIDEST_BAR)))
        grid = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(len(name) + 2):
            grid.add_column(no_wrap=True)
        grid.add_row(*name, bar, text)
        return grid


def closing_table(
    name: str,
    metrics: Mapping[str, Mapping[str, float]],
    seconds: float,
    written: Mapping[str, str | Path],
    console: Console | None = None,
) -> None:
    """Prints the final metrics of each split, the wall time, and where everything was written."""
    from rich import box
    from rich.table import Table

    screen = Screen(console)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(one_line(name))
    for split in metrics:
        table.add_column(one_line(split), justify="right")
    union = {name: value for values in metrics.values() for name, value in values.items()}
    for metric in _shown(union):
        cells = [_number(values[metric]) if metric in values else "" for values in metrics.values()]
        table.add_row(one_line(metric), *cells)
    if metrics:
        screen.print(table)
    time = f"{seconds:.1f} s" if seconds < 60 else _clock(seconds)
    lines = {"time": time, **{label: str(path) for label, path in written.items()}}
    width = max(len(label) for label in lines)
    for label, text in lines.items():
        screen.print(f"  {one_line(label):{width}}  {one_line(text)}")


def one_line(text: str) -> str:
    """Text without control characters: nothing logged can move the cursor or fake a line."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _shown(values: Mapping[str, float]) -> dict[str, float]:
    """The values with the loss first; skipped steps are news only when there are some."""
    ordered = sorted(values, key=lambda name: name != "loss")
    return {name: values[name] for name in ordered if values[name] or name != "skipped"}


def _metrics(values: Mapping[str, float]) -> list[str]:
    return [f"{one_line(name)} {_number(value)}" for name, value in _shown(values).items()]


def _join(parts: list[str]) -> str:
    return "  ".join(parts)


def _number(value: float) -> str:
    value = float(value)
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4f}"
    return f"{value:.3e}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

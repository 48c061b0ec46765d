"""Interleaved timing of two functions that do the same work, and the table of results."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

WARM_UP_SECONDS = 1.0
ROUND_SECONDS = 0.2
REST_SECONDS = 0.1
"""Between rounds: idle threads of one side spin for tens of milliseconds into the other's."""
NOISY = 0.1
"""Where the peer's rounds spread more than this around their median, the row is marked."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement: the peer's time over ours (above 1 we are faster), with its spread.

    `cpu` is the ratio of process CPU times, which other load on the machine distorts less. `goal`
    is what the ratio must reach; for an overhead or a share it is what it must stay below.
    """

    name: str
    work: str
    peer: str
    ratio: float
    low: float
    high: float
    cpu: float | None
    ours_ms: float
    peer_ms: float
    goal: float
    noisy: bool = False
    below: bool = False

    @property
    def passed(self) -> bool:
        """Whether the median reaches the goal."""
        return self.ratio <= self.goal if self.below else self.ratio >= self.goal


def compare(
    name: str,
    work: str,
    peer_name: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    goal: float,
    steps: tuple[int, int] = (1, 1),
    rounds: int = 9,
) -> Row:
    """Times `ours` and `peer` in turn; each call makes the number of steps in `steps` and waits."""
    repeats = [_warm_up(function) for function in (ours, peer)]
    walls: list[list[float]] = [[], []]
    cpus: list[list[float]] = [[], []]
    for _ in range(rounds):
        for side, function in enumerate((ours, peer)):
            time.sleep(REST_SECONDS)
            function()  # wakes its threads, and is not counted
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(repeats[side]):
                function()
            count = repeats[side] * steps[side]
            walls[side].append((time.perf_counter() - wall) / count)
            cpus[side].append((time.process_time() - cpu) / count)
    ratios = [theirs / mine for mine, theirs in zip(*walls, strict=True)]
    middle = statistics.median(walls[1])
    quartiles = statistics.quantiles(walls[1], n=4)
    return Row(
        name=name,
        work=work,
        peer=peer_name,
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        cpu=statistics.median(b / max(a, 1e-9) for a, b in zip(*cpus, strict=True)),
        ours_ms=1e3 * statistics.median(walls[0]),
        peer_ms=1e3 * middle,
        goal=goal,
        noisy=(quartiles[2] - quartiles[0]) / middle > NOISY,
    )


def _warm_up(function: Callable[[], object]) -> int:
    """Calls a function for a while, and says how many calls make up a round."""
    began, calls = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < WARM_UP_SECONDS:
        function()
        calls += 1
    return max(1, round(calls * ROUND_SECONDS / seconds))


def table(rows: Sequence[Row]) -> str:
    """The rows as one aligned text table."""
    cells = [("id", "work", "peer", "ours ms", "peer ms", "ratio", "min–max", "CPU", "goal", "")]
    for row in rows:
        sign = "≤" if row.below else "≥"
        cells.append(
            (
                row.name,
                row.work,
                row.peer,
                f"{row.ours_ms:.4g}",
                f"{row.peer_ms:.4g}",
                f"{row.ratio:.3g}",
                f"{row.low:.3g}–{row.high:.3g}",
                "" if row.cpu is None else f"{row.cpu:.3g}",
                f"{sign} {row.goal:g}",
                ("pass" if row.passed else "MISS") + (" (noisy)" if row.noisy else ""),
            )
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )

"""Draws the figures of the README from the files in benchmarks/results, and from nothing else.

    python -m benchmarks.figures

Writes docs/cost.png, docs/players.png and docs/shakespeare.png; the same files give the same bytes.
It needs the `report` extra.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from deeplearn.errors import DataError, Error, UsageError

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"
FAMILIES = ("rnn", "lstm", "transformer", "mamba")
# Line → (its name, its colour, of the set of Okabe & Ito that colour-blind readers can tell).
LINES = {
    "rnn": ("RNN", "#767676"),
    "lstm": ("LSTM", "#009E73"),
    "transformer": ("Transformer", "#0072B2"),
    "mamba": ("Mamba", "#D55E00"),
    "generator": ("generator", "#0072B2"),
    "discriminator": ("discriminator", "#D55E00"),
}
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "figure.dpi": 130,
    "font.size": 9,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}


def read(name: str, command: str) -> dict[str, Any]:
    """A file of results; `UsageError` where it is missing, with the command that makes it."""
    path = RESULTS / name
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; it is made by: {command}") from None
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}; make it again by: {command}") from None


def read_curve(experiment: str, *metrics: str) -> dict[str, Any]:
    """The results of an experiment of one seed, with these metrics at every evaluation."""
    file = f"quality_{experiment}.json"
    command = f"python -m benchmarks.quality {experiment} --seeds=1"
    run = read(file, command)
    if not run.get("curve") or not all(row.keys() >= set(metrics) for row in run["curve"]):
        raise DataError(
            f"{RESULTS / file} holds no curve of {', '.join(metrics)}; make it again by: {command}"
        )
    return run


def cost() -> Figure:
    """What training and decoding take for one token, in memory and time, against the length."""
    rows = read("cost.json", "python -m benchmarks.cost")["rows"]
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    lengths = sorted({row["length"] for row in rows})
    for axes, scale, field, unit, title in zip(
        figure.subplots(2, 2).ravel(),
        ("linear", "log", "log", "log"),
        ("temporary_bytes_per_token", "step_us_per_token", "carry_bytes", "decode_us_per_token"),
        (1e3, 1e3, 1e6, 1e3),
        (
            "Memory of a train step, kB a token",
            "Time of a train step, ms a token",
            "What decoding keeps, MB",
            "Time of decoding, ms a token",
        ),
        strict=True,
    ):
        axes.set(title=title, xscale="log", yscale=scale, xlabel="length of the sequence, tokens")
        axes.set_xticks(lengths, [f"{n // 1024}k" if n >= 1024 else str(n) for n in lengths])
        axes.minorticks_off()
        ends = []
        for name in ("transformer", "mamba"):
            mine = sorted(
                (row["length"], row[field] / unit) for row in rows if row["model"] == name
            )
            _line(axes, name, *zip(*mine, strict=True), marker="o")
            ends.append((name, *mine[-1]))
        if scale == "linear":
            axes.set_ylim(bottom=0)
        else:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _label(axes, ends)
    return figure


def players() -> Figure:
    """The test losses of R3GAN's players against the step, and that of the equilibrium."""
    losses = {name: f"{name}_loss" for name in ("generator", "discriminator")}
    curve = read_curve("r3gan_fashion_mnist", *losses.values())["curve"]
    figure = Figure(figsize=(6.5, 2.6), layout="constrained")
    axes = figure.subplots()
    ends = []
    for name, loss in losses.items():
        points = sorted((row["step"], row[loss]) for row in curve)
        _line(axes, name, *zip(*points, strict=True), marker="o")
        ends.append((name, *points[-1]))
    # Where no image is told from its partner, the relativistic loss of both is ln 2.
    axes.axhline(math.log(2), color="#767676", linestyle="--", linewidth=1, zorder=0)
    axes.text(0, math.log(2), " ln 2: no image told from its partner", color="#767676", va="bottom")
    axes.set(title="Losses of R3GAN's players on the test set, nats", xlabel="step")
    axes.set_xlim(left=0)
    _label(axes, ends, "{name} {value:.2f}")
    return figure


def shakespeare() -> Figure:
    """Validation loss of the four language models against the characters they have read."""
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    ends = []
    for name in FAMILIES:
        run = read_curve(f"{name}_shakespeare", "loss")
        points = [(row["step"] * run["tokens_per_step"] / 1e6, row["loss"]) for row in run["curve"]]
        _line(axes, name, *zip(*sorted(points), strict=True))
        ends.append((name, *max(points)))
    axes.set(
        title="Validation loss on Shakespeare, nats a character",
        xlabel="characters read in training, millions",
    )
    axes.set_xlim(left=0)
    _label(axes, ends, "{name} {value:.2f}")
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "cost": cost,
    "players": players,
    "shakespeare": shakespeare,
}


def draw(name: str) -> Path:
    """Writes one figure into `DOCS` and returns its path."""
    with style.context(["default", STYLE]):
        figure = FIGURES[name]()
        DOCS.mkdir(exist_ok=True)
        path = DOCS / f"{name}.png"
        # Without the version of the library, which is what PNG would hold.
        figure.savefig(path, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return path


def _line(axes: Axes, name: str, x: Sequence[float], y: Sequence[float], marker: str = "") -> None:
    axes.plot(x, y, color=LINES[name][1], marker=marker)


def _label(
    axes: Axes, ends: Sequence[tuple[str, float, float]], text: str = "{name}", gap: float = 0.07
) -> None:
    """Names each line where it ends, at least `gap` of the axis's height apart."""
    axes.autoscale_view()  # Matplotlib puts it off until it draws; the heights need it now.
    to_axes = axes.transData + axes.transAxes.inverted()
    below = -gap
    for name, x, value in sorted(ends, key=lambda end: end[2]):
        height = max(to_axes.transform((x, value))[1], below + gap)
        below = height
        label, colour = LINES[name]
        axes.annotate(
            text.format(name=label, value=value),
            (1.0, height),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            color=colour,
            va="center",
        )


def main() -> int:
    """Draws every figure; returns the exit code."""
    try:
        for name in FIGURES:
            print(draw(name))
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

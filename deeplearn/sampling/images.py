"""What a task that generates is asked for: images, clips, or points in the plane."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.sampling.diffusion import SAMPLERS
from deeplearn.types import Array


@dataclasses.dataclass(frozen=True)
class Request:
    """`count` samples of the classes `labels` in turn, or without labels of any class.

    `shape` is that of one sample (no axis B): a denoiser fits many and needs it, a generator has
    its own. The other fields are for diffusion: `guidance`, at all levels or, `guidance_interval`
    being (low, high), where low < σ/α ≤ high; `sampler` (one of `diffusion.SAMPLERS`) and `steps`,
    which None leaves to the task. Raises `UsageError` for a field that cannot work anywhere.
    """

    count: int = 64
    labels: tuple[int, ...] = ()
    shape: tuple[int, ...] | None = None
    guidance: float = 1.0
    guidance_interval: tuple[float, float] | None = None
    sampler: str | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.sampler is not None and self.sampler not in SAMPLERS:
            hint = did_you_mean(self.sampler, SAMPLERS)
            raise UsageError(f"sampling: unknown sampler '{self.sampler}'{hint}")
        for name in ("count", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"sampling: {name}={value} must be 1 or more")
        if not math.isfinite(self.guidance):
            raise UsageError(f"sampling: guidance={self.guidance} must be finite")
        if self.guidance != 1 and not self.labels:
            raise UsageError(f"sampling: guidance={self.guidance} needs a label to guide towards")
        if self.guidance_interval is not None:
            bounds = self.guidance_interval
            pair = isinstance(bounds, tuple) and len(bounds) == 2
            if not pair or not 0 <= bounds[0] < bounds[1] < math.inf:
                raise UsageError(
                    f"sampling: guidance_interval={bounds} must be a tuple of two finite numbers,"
                    " the first 0 or more and the second larger"
                )

    def require_classes(self, classes: int, where: str) -> None:
        """Raises `UsageError` where a label is none of `classes`; 0 is a model without labels."""
        wrong = [label for label in self.labels if not 0 <= label < classes]
        if wrong and not classes:
            raise UsageError(f"{where}: its model knows no classes; leave out the label {wrong[0]}")
        if wrong:
            raise UsageError(f"{where}: the label {wrong[0]} is outside [0, {classes - 1}]")

    def require_one_pass(self, where: str) -> None:
        """Raises `UsageError` where a field is given that is for diffusion alone."""
        asked = {
            "guidance": self.guidance != 1,
            "guidance_interval": self.guidance_interval is not None,
            "sampler": self.sampler is not None,
            "steps": self.steps is not None,
        }
        for name in (name for name, given in asked.items() if given):
            raise UsageError(
                f"{where}: {name}={getattr(self, name)} is for diffusion; a generator draws in one"
                f" pass, leave out {name}"
            )

    def class_of(self) -> np.ndarray | None:
        """The label int32 (count,) of every sample; None without labels."""
        return np.resize(np.array(self.labels, np.int32), self.count) if self.labels else None

    def part(self, start: int, stop: int) -> Request:
        """The request for the samples [start, stop) of this one, which may go on beyond its end."""
        classes = len(self.labels)
        labels = tuple(self.labels[i % classes] for i in range(start, stop)) if classes else ()
        return dataclasses.replace(self, count=stop - start, labels=labels)


def interval_of(text: str) -> tuple[float, float]:
    """The numbers of "LOW,HIGH". Raises `UsageError` where the text is another."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(
            f"guidance_interval={text} is not two numbers; give them as in 0.3,3"
        ) from None
    return low, high


def labels_of(text: str) -> tuple[int, ...]:
    """The classes of "N,N…", and () of "none". Raises `UsageError` where the text is another."""
    try:
        return () if text == "none" else tuple(map(int, text.split(",")))
    except ValueError:
        raise UsageError(
            f"label={text} is not a list of classes; give numbers as in 3 or 3,5, or none for"
            " samples without a label"
        ) from None


def interpolate(first: Array, last: Array, steps: int) -> Array:
    """`steps` latents on the way from each of `first` (B, …) to its `last`: (B, steps, …).

    On a quarter of an ellipse, cos·first + sin·last, and not on the straight line: where both ends
    are independent draws of N(0, I), so is every point between.
    """
    angle = jnp.linspace(0, jnp.pi / 2, steps).reshape(1, -1, *(1,) * (first.ndim - 1))
    return jnp.cos(angle) * first[:, None] + jnp.sin(angle) * last[:, None]

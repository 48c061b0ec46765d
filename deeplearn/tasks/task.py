"""The task protocol: a pure loss over variables, with its evaluation.

A task knows the model and the loss. It knows no optimizer, no mesh, no dataset and does no input or
output; every method but `check`, `diagnose` and `collapse` can be traced by JAX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from deeplearn.sampling.images import Request
from deeplearn.types import Array, Aux, Batch, Mean, Variables


@runtime_checkable
class Task(Protocol):
    """What `train_step` needs to know about a problem."""

    def init(self, rng: Array, batch: Batch) -> Variables:
        """Fresh variables; `batch` gives shapes only, its values are never used."""
        ...

    def loss(self, variables: Variables, batch: Batch, rng: Array) -> tuple[Array, Aux]:
        """The mean loss of the batch (scalar, fp32) in training mode, and its `Aux`.

        A field `mask` (B,) in the batch gives every example a weight; where all weights are 0 the
        loss is 0, and so is `Aux.weight`. The statistics of BatchNorm take every example.
        """
        ...

    def evaluate(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Named means in evaluation mode; masked examples count nothing."""
        ...

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Raises `DataError` where a host batch holds values the loss would silently misread."""
        ...


@runtime_checkable
class Diagnosing(Task, Protocol):
    """A task of several parts that can tell which of them broke."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The subtrees of the parameters; the step adds a metric `PART_gradient_norm` of each."""
        ...

    def diagnose(self, metrics: Mapping[str, float]) -> str:
        """The name of the part that a row of training metrics shows to be broken; "" if none."""
        ...

    def collapse(self, metrics: Mapping[str, float]) -> str:
        """Which part is finite and yet ends all learning, by such a row, and why; "" if none."""
        ...


@runtime_checkable
class Compressing(Task, Protocol):
    """A task whose `loss` is the length of a text's code, so that any two vocabularies compare."""

    def bits_per_byte(self, loss: float, bytes_per_token: float) -> float:
        """The length in bits per byte of a text that has so many bytes a token."""
        ...


@runtime_checkable
class Generative(Task, Protocol):
    """A task whose model makes examples out of latents ~ N(0, I): `sample` is the two in a row."""

    @property
    def classes(self) -> int:
        """How many classes can be asked for; 0 where there are none."""
        ...

    def latents(self, rng: Array, request: Request) -> Array:
        """The latents (count, …) of a request; any others of their shape may be drawn as well."""
        ...

    def draw(self, variables: Variables, latents: Array, request: Request, rng: Array) -> Array:
        """The examples (count, …) fp32 of latents; `rng` is for what is drawn on the way."""
        ...

    def sample(self, variables: Variables, rng: Array, request: Request) -> Array:
        """Fresh examples (count, …) fp32, in the unit of the data.

        Raises `UsageError` for a request that this task or its model cannot fulfil.
        """
        ...

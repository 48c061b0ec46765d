"""One optimizer for each player of a GAN, and when each may move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from deeplearn.ema import parameter_ema
from deeplearn.errors import UsageError
from deeplearn.optimizers import RANGES, Adam, Optimizer
from deeplearn.types import Array, PyTree

NAMES = ("generator", "discriminator")


@dataclass(frozen=True)
class Players:
    """The optimizers of the parameters `generator` and `discriminator`, side by side.

    The generator moves in every `n_critic`-th step only, and at once with the discriminator: its
    gradient is taken after n_critic − 1 moves of the latter. With `alternating` the discriminator
    rests in the step in which the generator moves, so that a cycle has n_critic + 1 steps and the
    generator answers n_critic moves (Arjovsky et al., 2017, arXiv:1701.07875, algorithm 1). A
    player that rests keeps its parameters, moments and schedule: schedules count the moves of their
    own player.

    `ema_decay` keeps an average of the parameters of both (`parameter_ema`), which moves in every
    step. The statistics of BatchNorm are not averaged: evaluation and samples take the average
    with the statistics as the last step left them.
    """

    generator: Optimizer = Adam()
    discriminator: Optimizer = Adam()
    n_critic: int = 1
    alternating: bool = False
    ema_decay: float | None = None

    def build(self, steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `steps` steps; parameters are a dict of two players."""
        parts = {
            name: optax.conditionally_mask(
                getattr(self, name).build(self._moves(name, steps)), self._moves_at(name)
            )
            for name in NAMES
        }
        average = [] if self.ema_decay is None else [parameter_ema(self.ema_decay)]
        return optax.chain(optax.partition(parts, _labels), *average)

    def learning_rate_at(self, step: ArrayLike, steps: int) -> Array:
        """The rates of generator and discriminator at step 0, 1, … of `steps`: (2, …).

        That of a step in which a player rests is that of its next move.
        """
        step = jnp.asarray(step)
        return jnp.stack(
            [
                getattr(self, name).learning_rate_at(
                    self._moves(name, step), self._moves(name, steps)
                )
                for name in NAMES
            ]
        )

    def validate(self, steps: int) -> None:
        """Raises `UsageError` where a field cannot serve a run of `steps` steps."""
        if self.n_critic < 1:
            raise UsageError(
                f"optimizer Players: n_critic = {self.n_critic} must be 1 or more;"
                " set optimizer.n_critic"
            )
        if steps < self._cycle:
            raise UsageError(
                f"optimizer Players: the generator moves every {self._cycle} steps, and the run"
                f" has {steps}; set steps or optimizer.n_critic"
            )
        for name in NAMES:
            optimizer = getattr(self, name)
            if optimizer.ema_decay is not None:
                raise UsageError(
                    f"optimizer Players: {name}.ema_decay = {optimizer.ema_decay}; the average is"
                    " of both players: set optimizer.ema_decay instead"
                )
            try:
                optimizer.validate(self._moves(name, steps))
            except UsageError as error:
                # It names its fields as if it were the optimizer of the experiment.
                text = str(error).replace("optimizer.", f"optimizer.{name}.")
                raise UsageError(f"{name}: {text}") from None
        inside, text = RANGES["ema_decay"]
        if self.ema_decay is not None and not inside(self.ema_decay):
            raise UsageError(
                f"optimizer Players: ema_decay = {self.ema_decay} must be {text};"
                " set optimizer.ema_decay"
            )

    @property
    def _cycle(self) -> int:
        """The steps from one move of the generator to the next."""
        return self.n_critic + self.alternating

    def _moves(self, name: str, steps: Any) -> Any:
        """How often a player has moved after `steps` steps (a number or an array)."""
        generator = steps // self._cycle
        if name == "generator":
            return generator
        return steps - generator if self.alternating else steps

    def _moves_at(self, name: str) -> Callable[[Array], Array]:
        """Whether a player moves, as a function of the step."""

        def moves(step: Array) -> Array:
            last = (step + 1) % self._cycle == 0
            if name == "generator":
                return last
            return ~last if self.alternating else jnp.full_like(last, True)

        return moves


def _labels(params: PyTree) -> PyTree:
    """The name of the player for every parameter."""
    if not isinstance(params, dict) or set(params) != set(NAMES):
        found = ", ".join(sorted(params)) if isinstance(params, dict) else type(params).__name__
        raise UsageError(
            "optimizer Players: the parameters must be those of a generator and a discriminator,"
            f" found {found}; use it with the task Adversarial, or another optimizer"
        )
    return {name: name for name in NAMES}

"""The train state and the one train step: pure functions of a task and an optimizer.

A step is `value_and_grad(task.loss)`, then `optimizer.update`. Clipping, schedules, weight decay,
freezing and parameter averages are optax transforms; microbatches are a scan inside the step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct

from deeplearn.ema import find_ema
from deeplearn.tasks.task import Diagnosing, Task
from deeplearn.types import Array, Batch, Mean, PyTree, Variables

Metrics = dict[str, Mean]


@struct.dataclass
class Control:
    """Whatever decides the future of a run beside its parameters, so that a resumed run agrees.

    `skipped` counts the updates in which something was not finite; the first one beyond the limit,
    or the first overflow, is `halted_at` (−1 before), after which no step changes the parameters.
    `best` is the best watched value so far (smaller is better), seen at `best_step`;
    `bad_evaluations` counts the evaluations since.
    """

    skipped: Array
    halted_at: Array
    best: Array
    best_step: Array
    bad_evaluations: Array

    @classmethod
    def initial(cls) -> Control:
        integer = lambda value: jnp.asarray(value, jnp.int32)  # noqa: E731
        return cls(
            integer(0), integer(-1), jnp.asarray(jnp.inf, jnp.float32), integer(-1), integer(0)
        )


@struct.dataclass
class TrainState:
    """Everything a run needs to go on: one pytree.

    `collections` are the variables that no gradient reaches (`batch_stats`). `rng` is the constant
    key of the run: the randomness of a step is `fold_in(rng, step)`, so nothing is lost by a stop.
    """

    step: Array
    params: PyTree
    collections: Variables
    opt_state: PyTree
    rng: Array
    control: Control


def init_state(
    task: Task, optimizer: optax.GradientTransformation, rng: Array, batch: Batch
) -> TrainState:
    """The state before the first step; `batch` gives shapes only."""
    init_rng, run_rng = jax.random.split(rng)
    collections = dict(task.init(init_rng, batch))
    params = collections.pop("params")
    return TrainState(
        step=jnp.asarray(0, jnp.int32),
        params=params,
        collections=collections,
        opt_state=optimizer.init(params),
        rng=run_rng,
        control=Control.initial(),
    )


def evaluation_variables(state: TrainState) -> Variables:
    """The variables to evaluate, sample and export with: the averaged parameters where kept."""
    average = find_ema(state.opt_state)
    return {"params": state.params if average is None else average, **state.collections}


def train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    *,
    microbatches: int = 1,
    skip_limit: int = 0,
    axis: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One update of the state on one batch.

    The batch axis B is split into `microbatches` equal parts whose gradients are averaged by
    weight. Inside `jax.shard_map`, `axis` names the mesh axis that splits B over devices.
    An update with a non-finite loss, gradient or statistic is dropped, and so is one whose weight
    is 0; more than `skip_limit` non-finite ones halt the run (see `Control`). Parameters that
    overflow in the update halt it at once: such a state is never to be saved.
    The metrics are those of this step: `loss`, the task's own, `gradient_norm`, where the task has
    parts that of each, and `skipped`.
    """
    rng = jax.random.fold_in(state.rng, state.step)
    if axis is not None:
        rng = jax.random.fold_in(rng, jax.lax.axis_index(axis))
    loss, gradients, metrics, collections = _gradients(task, state, batch, rng, microbatches)
    if axis is not None:
        loss, gradients, metrics, collections = _combine(
            axis, loss, gradients, metrics, collections
        )
    gradient_norm = _norm(gradients)
    running = state.control.halted_at < 0
    finite = _finite((loss.total, gradient_norm, collections))
    applies = running & finite & (loss.weight > 0)

    def update() -> tuple[PyTree, PyTree, Variables]:
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state, collections

    unchanged = state.params, state.opt_state, dict(state.collections)
    params, opt_state, collections = _choose(applies, update, unchanged)
    # Finite gradients give such parameters only by an overflow, which no later batch mends.
    overflow = running & ~jnp.isfinite(_norm(params))
    skipped = state.control.skipped + jnp.where(running & ~finite | overflow, 1, 0)
    halts = running & (skipped > skip_limit) | overflow
    control = dataclasses.replace(
        state.control,
        skipped=skipped,
        halted_at=jnp.where(halts, state.step, state.control.halted_at),
    )
    state = TrainState(state.step + 1, params, collections, opt_state, state.rng, control)
    one = jnp.ones((), jnp.float32)
    parts = task.parts if isinstance(task, Diagnosing) else ()
    extra = {
        "gradient_norm": Mean(gradient_norm, one),
        **{f"{part}_gradient_norm": Mean(_norm(gradients[part]), one) for part in parts},
        "skipped": Mean(skipped.astype(jnp.float32), one),
    }
    return state, {"loss": loss, **metrics, **extra}


def scan_steps(
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    state: TrainState,
    batches: Batch,
) -> tuple[TrainState, Metrics]:
    """K steps as one program, over batches with a leading axis K; metrics of the last step."""
    state, metrics = jax.lax.scan(step, state, batches)
    return state, jax.tree.map(lambda metric: metric[-1], metrics)


def _gradients(
    task: Task, state: TrainState, batch: Batch, rng: Array, microbatches: int
) -> tuple[Mean, PyTree, Metrics, Variables]:
    """Loss, mean gradient, metrics and changed collections of a batch."""

    def part(
        collections: Variables, batch: Batch, rng: Array
    ) -> tuple[Mean, PyTree, Metrics, Variables]:
        def loss(params: PyTree) -> tuple[Array, tuple[Array, Metrics, Variables]]:
            mean, aux = task.loss({"params": params, **collections}, batch, rng)
            return mean, (aux.weight, aux.metrics, {**collections, **aux.mutated})

        (mean, (weight, metrics, changed)), gradients = jax.value_and_grad(loss, has_aux=True)(
            state.params
        )
        return Mean(mean * weight, weight), gradients, metrics, changed

    if microbatches == 1:
        return part(dict(state.collections), batch, rng)

    # Row r goes to microbatch r mod M, not r div (B/M): a batch axis that is sharded over devices
    # stays sharded within every microbatch, and nothing moves.
    parts = jax.tree.map(
        lambda x: x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:]).swapaxes(0, 1),
        dict(batch),
    )

    def accumulate(carry: tuple, indexed: tuple[Array, Batch]) -> tuple[tuple, None]:
        sums, collections = carry
        index, batch = indexed
        loss, gradients, metrics, collections = part(
            collections, batch, jax.random.fold_in(rng, index)
        )
        weighted = jax.tree.map(lambda gradient: loss.weight * gradient, gradients)
        sums = jax.tree.map(jnp.add, sums, (loss, weighted, metrics))
        return (sums, collections), None

    collections = dict(state.collections)
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(lambda: part(collections, first, rng)[:3])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    ((loss, weighted, metrics), collections), _ = jax.lax.scan(
        accumulate, (zeros, collections), (jnp.arange(microbatches), parts)
    )
    return loss, _divide(weighted, loss.weight), metrics, collections


def _combine(
    axis: str, loss: Mean, gradients: PyTree, metrics: Metrics, collections: Variables
) -> tuple[Mean, PyTree, Metrics, Variables]:
    """Sums over the devices of a mesh axis; statistics of the batch are averaged."""
    weighted = jax.tree.map(lambda gradient: loss.weight * gradient, gradients)
    loss, weighted, metrics = jax.lax.psum((loss, weighted, metrics), axis)
    return loss, _divide(weighted, loss.weight), metrics, jax.lax.pmean(collections, axis)


def _divide(weighted: PyTree, weight: Array) -> PyTree:
    """Σ weight·gradient over Σ weight, and 0 where there is no weight."""
    scale = jnp.where(weight > 0, 1.0 / jnp.maximum(weight, 1e-30), 0.0)
    return jax.tree.map(lambda gradient: gradient * scale.astype(gradient.dtype), weighted)


def _choose(condition: Array, new: Callable[[], PyTree], old: PyTree) -> PyTree:
    """`new()` where `condition` holds, else `old`."""
    if jax.default_backend() == "cpu":
        # A branch updates in place and never reads both: a tenth to a fifth of the step of a small
        # network, and a third of the temporaries (MLP 784-1024-1024-10 with Adam and its average,
        # B64: 7.4 MB against 21.3). On a GPU it would wait for the host.
        return jax.lax.cond(condition, new, lambda: old)
    return jax.tree.map(lambda one, other: jnp.where(condition, one, other), new(), old)


def _norm(tree: PyTree) -> Array:
    """The root of the sum of squares of all leaves, in fp32."""

    def squares(leaf: Array) -> Array:
        leaf = jnp.square(leaf.astype(jnp.float32))
        if leaf.ndim > 1 and jax.default_backend() == "cpu":
            # XLA sums one number after the other: 100,000 in 120 µs, as a matrix product 27 µs.
            leaf = leaf.reshape(-1, leaf.shape[-1]) @ jnp.ones(leaf.shape[-1], jnp.float32)
        return leaf.sum()

    return jnp.sqrt(sum(squares(leaf) for leaf in jax.tree.leaves(tree)))


def _finite(tree: PyTree) -> Array:
    """Whether every inexact leaf is finite; a sum of finite numbers that overflows is not."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.isfinite(sum(jnp.sum(jnp.abs(leaf.astype(jnp.float32))) for leaf in leaves))

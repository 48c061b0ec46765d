"""One train step against torch: the same network, initial parameters, data, loss and Adam."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn

from benchmarks.models import LeNet, share, torch_lenet, torch_mlp
from benchmarks.timing import Row, compare
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import Adam, Optimizer
from deeplearn.step import TrainState, init_state, scan_steps, train_step
from deeplearn.tasks.classification import Classification
from deeplearn.tasks.task import Task
from deeplearn.types import PyTree

RATE = 1e-3
ADAM = Adam(learning_rate=RATE)
THREADS = 2


class Ours:
    """Our step on one batch, `steps` of them in a compiled call."""

    def __init__(self, model: nn.Module, batch: dict[str, np.ndarray], steps: int):
        self.steps = steps
        self._batch = batch
        task, optimizer = Classification(model), ADAM.build(1)
        self._step = functools.partial(train_step, task, optimizer)
        self.state: TrainState = jax.jit(
            lambda: init_state(task, optimizer, jax.random.key(0), batch)
        )()
        self.params = jax.device_get(self.state.params)
        many = {name: np.stack([x] * steps) for name, x in batch.items()}
        self._batches = jax.device_put(many if steps > 1 else batch)
        body = functools.partial(scan_steps, self._step) if steps > 1 else self._step
        self._call = jax.jit(body, donate_argnums=0)

    def losses(self, count: int) -> list[float]:
        """The losses of the first steps, from the initial state."""
        state, step, found = jax.tree.map(jnp.copy, self.state), jax.jit(self._step), []
        for _ in range(count):
            state, metrics = step(state, self._batch)
            found.append(float(metrics["loss"].value))
        return found

    def __call__(self) -> None:
        self.state, _ = self._call(self.state, self._batches)
        jax.block_until_ready(self.state)


class Step:
    """Our step of any task on one batch, one step a call; returns the loss.

    It begins at `params` where they are given, else at the task's own.
    """

    def __init__(
        self,
        task: Task,
        batch: dict[str, np.ndarray],
        optimizer: Optimizer = ADAM,
        params: PyTree = None,
    ):
        chain = optimizer.build(1)
        self._batch = jax.device_put(batch)
        self._state = jax.jit(lambda: init_state(task, chain, jax.random.key(0), batch))()
        if params is not None:
            self._state = self._state.replace(params=jax.device_put(params))
        self.params = jax.device_get(self._state.params)
        self.key = jnp.copy(self._state.rng)  # the state is donated
        self._step = jax.jit(functools.partial(train_step, task, chain), donate_argnums=0)

    def __call__(self) -> float:
        self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready(self._state)
        return float(metrics["loss"].value)


def torch_step(optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor]) -> float:
    """One step of a peer; returns the loss."""
    optimizer.zero_grad(set_to_none=True)
    value = loss()
    value.backward()
    optimizer.step()
    return float(value.detach())


def fastest(
    name: str,
    work: str,
    sides: Callable[[str], tuple[Callable[[], object], Callable[[], object]]],
    forms: tuple[str, ...],
    goal: float,
    steps: tuple[int, int] = (1, 1),
) -> Row:
    """Ours against that of torch's `forms` which is fastest; `sides` makes both of a form."""
    torch.set_num_threads(THREADS)
    rows = []
    for form in forms:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours, peer = sides(form)
            rows.append(compare(name, work, f"torch {form}", ours, peer, goal, steps))
    return min(rows, key=lambda row: row.peer_ms)


class Peer:
    """Torch's step on the same batch."""

    def __init__(self, model: torch.nn.Module, batch: dict[str, np.ndarray], form: str, steps: int):
        self._steps = steps
        self._model = model
        x, self._label = torch.from_numpy(batch["x"]), torch.from_numpy(batch["label"]).long()
        if x.ndim == 4:
            x = x.permute(0, 3, 1, 2)
            x = x.contiguous(
                memory_format=torch.channels_last if "last" in form else torch.contiguous_format
            )
            if "last" in form:
                self._model = model.to(memory_format=torch.channels_last)
        self._x = x
        self._optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
        self._loss = torch.nn.functional.cross_entropy
        self._forward: Callable = torch.compile(self._model) if "compile" in form else self._model

    def step(self) -> torch.Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(self._forward(self._x), self._label)
        loss.backward()
        self._optimizer.step()
        return loss

    def losses(self, count: int) -> list[float]:
        """The losses of the first steps."""
        return [float(self.step().detach()) for _ in range(count)]

    def __call__(self) -> None:
        for _ in range(self._steps):
            self.step()


def race(
    name: str,
    work: str,
    model: nn.Module,
    peer_model: Callable[[], torch.nn.Module],
    shape: tuple[int, ...],
    classes: int,
    calls: tuple[int, int],
    forms: tuple[str, ...],
    goal: float,
) -> Row:
    """Our step against the fastest form of torch's; the first 20 losses must agree."""
    generator = np.random.default_rng(0)
    batch = {
        "x": generator.normal(size=shape).astype(np.float32),
        "label": generator.integers(0, classes, shape[0]).astype(np.int32),
    }

    def sides(form: str) -> tuple[Ours, Peer]:
        ours = Ours(model, batch, calls[0])
        theirs = peer_model()
        share(ours.params, theirs)
        peer = Peer(theirs, batch, form, calls[1])
        np.testing.assert_allclose(peer.losses(20), ours.losses(20), rtol=1e-2)
        return ours, peer

    return fastest(name, work, sides, forms, goal, calls)


def sklearn_race(goal: float) -> Row:
    """MLP 784-128-10 B64 against scikit-learn's classifier, 100 steps of Adam each."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    steps = 100
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64 * steps, 784)).astype(np.float32)
    label = generator.integers(0, 10, len(x)).astype(np.int32)
    ours = Ours(MLP(hidden=(128,), outputs=10), {"x": x[:64], "label": label[:64]}, steps)
    peer = MLPClassifier((128,), batch_size=64, max_iter=1, alpha=0.0, random_state=0)

    def fit() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            peer.fit(x, label)

    return compare("SYS-2", "MLP 784-128-10 B64", "scikit-learn", ours, fit, goal, (steps, steps))


def rows() -> Iterator[tuple[str, Callable[[], Row]]]:
    """Every measurement of this suite by its id."""
    yield (
        "SYS-1",
        lambda: race(
            "SYS-1",
            "MLP 16-32-2 B32, 1000 steps a call",
            MLP(hidden=(32,), outputs=2),
            lambda: torch_mlp(16, 32, 2),
            (32, 16),
            2,
            (1000, 200),
            ("eager",),
            12,
        ),
    )
    yield (
        "SYS-2",
        lambda: race(
            "SYS-2",
            "MLP 784-128-10 B64, 100 steps a call",
            MLP(hidden=(128,), outputs=10),
            lambda: torch_mlp(784, 128, 10),
            (64, 784),
            10,
            (100, 100),
            ("eager", "compile"),
            1.5,
        ),
    )
    yield "SYS-2-sklearn", lambda: sklearn_race(3)
    yield (
        "CNN-1",
        lambda: race(
            "CNN-1",
            "LeNet B64 28×28, 20 steps a call",
            LeNet(),
            torch_lenet,
            (64, 28, 28, 1),
            10,
            (20, 20),
            ("eager", "channels_last", "compile", "compile channels_last"),
            1.0,
        ),
    )

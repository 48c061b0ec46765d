"""Recurrent layers against torch's: a whole step of a character LSTM, and single layers.

A layer is timed forward and backward, to its parameters and its input, under one gradient of its
output. Where both sides compute the same function they start from the same parameters, and their
results must agree before any timing counts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn

from benchmarks.steps import RATE, THREADS, Step, fastest, torch_step
from benchmarks.timing import Row, compare
from deeplearn.models.lstm import LSTM, lstm
from deeplearn.models.rnn import RNN, MinGRU
from deeplearn.tasks.language import Language
from deeplearn.types import Array, Context, PyTree

VOCABULARY = 65


class PeerStep(torch.nn.Module):
    """The same step in torch; `form` says which axis leads and whether it is compiled."""

    def __init__(self, params: PyTree, batch: dict[str, np.ndarray], form: str):
        super().__init__()
        width = params["embedding"]["embedding"].shape[1]
        self._batch_first = "batch" in form
        self.embedding = torch.nn.Embedding(VOCABULARY, width)
        self.layer = torch.nn.LSTM(width, width, batch_first=self._batch_first)
        self.output = torch.nn.Linear(width, VOCABULARY, bias=False)
        (mixer,) = (leaf for leaf in _dicts(params["layers"]) if "recurrent" in leaf)
        copy_layer(jax.tree.map(lambda leaf: leaf[0], mixer), self.layer)
        with torch.no_grad():
            self.embedding.weight.copy_(_tensor(params["embedding"]["embedding"]))
            self.output.weight.copy_(_tensor(params["output"].T))
        tokens = torch.from_numpy(batch["tokens"]).long()
        if not self._batch_first:
            tokens = tokens.T
        time = 1 if self._batch_first else 0
        length = tokens.shape[time] - 1
        self._inputs = tokens.narrow(time, 0, length).contiguous()
        self._labels = tokens.narrow(time, 1, length).flatten().contiguous()
        trained = [p for p in self.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(trained, lr=RATE, fused=True)
        self._run: Callable = torch.compile(self._loss) if "compile" in form else self._loss

    def _loss(self) -> torch.Tensor:
        h, _ = self.layer(self.embedding(self._inputs))
        return torch.nn.functional.cross_entropy(self.output(h.flatten(0, 1)), self._labels)

    def __call__(self) -> float:
        return torch_step(self._optimizer, self._run)


def copy_layer(params: PyTree, layer: torch.nn.RNNBase) -> None:
    """Our kernels and bias into a torch layer, whose second bias is zero and not trained."""
    with torch.no_grad():
        layer.weight_ih_l0.copy_(_tensor(params["kernel"].T))
        layer.weight_hh_l0.copy_(_tensor(params["recurrent"].T))
        layer.bias_ih_l0.copy_(_tensor(params["bias"]))
        layer.bias_hh_l0.zero_()
    layer.bias_hh_l0.requires_grad_(False)


def step_race(name: str, goal: float, width: int = 256, rows: int = 32, time: int = 64) -> Row:
    """A whole step with Adam against torch's fastest form; the first 20 losses must agree."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, VOCABULARY, (rows, time + 1)).astype(np.int32)

    def sides(form: str) -> tuple[Step, PeerStep]:
        ours = Step(Language(lstm(VOCABULARY, width, 1)), {"tokens": tokens})
        peer = PeerStep(ours.params, {"tokens": tokens}, form)
        losses = [[side() for _ in range(20)] for side in (ours, peer)]
        np.testing.assert_allclose(*losses, rtol=1e-2)
        return ours, peer

    forms = ("batch first", "time first", "compile batch first")
    return fastest(name, f"char-LSTM step T{time} B{rows} H{width}", sides, forms, goal)


def layer_race(
    name: str,
    work: str,
    mixer: nn.Module,
    peer: Callable[..., torch.nn.RNNBase],
    shape: tuple[int, int, int],
    hidden: int,
    goal: float,
    same: bool = True,
) -> Row:
    """One layer, forward and backward, against torch's faster order of axes."""
    torch.set_num_threads(THREADS)
    generator = np.random.default_rng(0)
    x = generator.normal(size=shape).astype(np.float32)
    dy = generator.normal(size=(*shape[:2], hidden)).astype(np.float32)
    variables = _started(mixer, x)
    ours = _gradient(mixer, variables, x, dy)
    found = []
    for form in ("batch first", "time first"):
        layer = peer(shape[2], hidden, batch_first=form == "batch first")
        given, wanted = (
            torch.from_numpy(v if layer.batch_first else v.swapaxes(0, 1).copy()) for v in (x, dy)
        )
        given.requires_grad_()

        def theirs(
            layer: torch.nn.RNNBase = layer,
            given: torch.Tensor = given,
            wanted: torch.Tensor = wanted,
        ) -> torch.Tensor:
            layer.zero_grad(set_to_none=True)
            given.grad = None
            y, _ = layer(given)
            y.backward(wanted)
            return y.detach()

        if same:
            copy_layer(jax.device_get(variables["params"]), layer)
            y, (_, dx) = ours()
            both = (theirs(), y), (given.grad, dx)
            for got, expected in both:
                got = got if layer.batch_first else got.transpose(0, 1)
                np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
        found.append(compare(name, work, f"torch {form}", ours, theirs, goal))
    return min(found, key=lambda row: row.peer_ms)


def form_race(name: str, form: str, goal: float, width: int = 256) -> Row:
    """minGRU in the form that the backend is given against one of both, forward and backward."""
    generator = np.random.default_rng(0)
    x, dy = generator.normal(size=(2, 16, 512, width)).astype(np.float32)
    variables = _started(MinGRU(width), x)
    sides = [
        _gradient(MinGRU(width, implementation), variables, x, dy)
        for implementation in (None, form)
    ]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    jax.tree.map(close, *(side() for side in sides))
    return compare(name, f"minGRU {width} T512 B16", form, *sides, goal)


def _started(mixer: nn.Module, x: np.ndarray) -> PyTree:
    context = Context(None, jnp.zeros((1, 1), jnp.int32))
    return jax.jit(lambda: mixer.init(jax.random.key(0), x[:1, :1], None, context))()


def _gradient(
    mixer: nn.Module, variables: PyTree, x: np.ndarray, dy: np.ndarray
) -> Callable[[], PyTree]:
    """Computes the output of a layer and the gradients of its parameters and its input."""
    context = Context(None, jnp.arange(x.shape[1], dtype=jnp.int32)[None])

    @jax.jit
    def gradient(variables: PyTree, x: Array, dy: Array) -> PyTree:
        y, pull = jax.vjp(lambda v, x: mixer.apply(v, x, None, context)[0], variables, x)
        return y, pull(dy)

    here = jax.device_put((variables, x, dy))
    return lambda: jax.block_until_ready(gradient(*here))


def rows() -> Iterator[tuple[str, Callable[[], Row]]]:
    """Every measurement of this suite by its id."""
    yield "RNN-1", lambda: step_race("RNN-1", 0.8)
    yield (
        "RNN-2",
        lambda: layer_race(
            "RNN-2", "LSTM 400-1150 T35 B20", LSTM(1150), torch.nn.LSTM, (20, 35, 400), 1150, 0.95
        ),
    )
    yield (
        "RNN-4",
        lambda: layer_race(
            "RNN-4", "RNN tanh 256 T64 B32", RNN(256), torch.nn.RNN, (32, 64, 256), 256, 1.4
        ),
    )
    yield (
        "RNN-5",
        lambda: layer_race(
            "RNN-5",
            "minGRU against GRU, 256 T512 B16",
            MinGRU(256),
            torch.nn.GRU,
            (16, 512, 256),
            256,
            3.0,
            same=False,
        ),
    )
    # What the backend is given is not slower than either.
    yield "RNN-6", lambda: form_race("RNN-6", "associative", 0.9)
    yield "RNN-7", lambda: form_race("RNN-7", "sequential", 0.9)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def _dicts(tree: PyTree) -> Iterator[dict]:
    """The dictionaries of a tree, each before those within it."""
    if isinstance(tree, dict):
        yield tree
        for branch in tree.values():
            yield from _dicts(branch)

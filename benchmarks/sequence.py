"""The selective scan and Mamba against torch, and against the plain associative scan."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from benchmarks.steps import RATE, THREADS, Step, torch_step
from benchmarks.timing import Row, compare
from deeplearn.layers.recurrence import selective_scan
from deeplearn.models.mamba import MambaSizes, mamba
from deeplearn.tasks.language import Language
from deeplearn.types import Array, PyTree

SHAPE = (4, 256, 256, 16)
"""Rows, tokens, width and state size of a scan."""
SIZES = MambaSizes(vocabulary=256, width=128, depth=4)
WORK = "selective scan B4 L256 D256 N16, forward and backward"


def scan_inputs() -> list[np.ndarray]:
    """x, Δ, A, B, C, D as at the start of training, and the gradient of y."""
    generator = np.random.default_rng(0)
    rows, steps, width, size = SHAPE
    normal = generator.normal
    found = [
        normal(size=(rows, steps, width)),
        np.exp(generator.uniform(np.log(1e-3), np.log(1e-1), (rows, steps, width))),
        -np.broadcast_to(np.arange(1.0, size + 1), (width, size)),
        normal(size=(rows, steps, size)),
        normal(size=(rows, steps, size)),
        np.ones(width),
        normal(size=(rows, steps, width)),
    ]
    return [leaf.astype(np.float32) for leaf in found]


def plain_associative(x: Array, delta: Array, A: Array, B: Array, C: Array, D: Array) -> Array:
    """The scan as one tree over all tokens, as it is usually written in JAX."""
    decay = jnp.exp(delta[..., None] * A[None, None])
    inputs = (delta * x)[..., None] * B[:, :, None, :]

    def compose(first: tuple, second: tuple) -> tuple:
        return first[0] * second[0], second[0] * first[1] + second[1]

    _, states = lax.associative_scan(compose, (decay, inputs), axis=1)
    return jnp.einsum("btdn,btn->btd", states, C) + D[None, None] * x


def compiled(scan: Callable[..., Array], inputs: list[np.ndarray]) -> jax.stages.Compiled:
    """y and the gradient to every argument of the scan, under the last of the inputs."""

    def both(*leaves: Array) -> tuple:
        y, pullback = jax.vjp(scan, *leaves[:-1])
        return y, pullback(leaves[-1])

    return jax.jit(both).lower(*inputs).compile()


def torch_scan(x, delta, A, B, C, D, unbound: bool) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """The scan as transformers runs it without its kernels: a loop over tokens.

    `unbound` takes the tokens apart before the loop; as transformers has it, by index within, the
    gradient of each token is a whole sequence of zeros around one.
    """
    decay = torch.exp(delta[..., None] * A)
    inputs = (delta * x)[..., None] * B[:, :, None, :]
    tokens = decay, inputs, C[..., None]
    if unbound:
        steps = list(zip(*(leaf.unbind(1) for leaf in tokens), strict=True))
    h, outputs = torch.zeros_like(inputs[:, 0]), []
    for t in range(x.shape[1]):
        a, b, c = steps[t] if unbound else (leaf[:, t] for leaf in tokens)
        h = a * h + b
        outputs.append((h @ c).squeeze(-1))
    return torch.stack(outputs, dim=1) + D * x


def scan_against_torch(name: str, unbound: bool) -> Row:
    """Our scan, as chosen for this backend, against the loop; values and gradients must agree."""
    torch.set_num_threads(THREADS)
    inputs = scan_inputs()
    run = compiled(lambda *leaves: selective_scan(*leaves)[0], inputs)
    ready = jax.device_put(inputs)
    leaves = [torch.from_numpy(leaf.copy()).requires_grad_() for leaf in inputs[:-1]]
    dy = torch.from_numpy(inputs[-1])

    def peer() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        y = torch_scan(*leaves, unbound=unbound)
        return y, torch.autograd.grad(y, leaves, dy)

    y, gradients = run(*ready)
    expected, peers = peer()
    for ours, theirs in zip((y, *gradients), (expected, *peers), strict=True):
        theirs = theirs.detach().numpy()
        np.testing.assert_allclose(ours, theirs, 1e-3, 1e-4 * np.abs(theirs).max())
    form = "torch loop, unbound" if unbound else "torch loop as in transformers"
    return compare(name, WORK, form, lambda: jax.block_until_ready(run(*ready)), peer, 10)


def scan_against_tree(memory: bool) -> Row:
    """Our scan against one associative scan over all tokens, in time or in temporary memory."""
    inputs = scan_inputs()
    ours = compiled(lambda *leaves: selective_scan(*leaves)[0], inputs)
    tree = compiled(plain_associative, inputs)
    if memory:
        mine, its = (run.memory_analysis().temp_size_in_bytes / 1e6 for run in (ours, tree))
        ratio = its / mine
        return Row(
            "MAM-3-memory",
            f"{WORK}: temporary MB (not ms)",
            "associative_scan",
            ratio,
            ratio,
            ratio,
            None,
            mine,
            its,
            8,
        )
    ready = jax.device_put(inputs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-4 * np.abs(b).max()),
        ours(*ready),
        tree(*ready),
    )
    return compare(
        "MAM-3",
        WORK,
        "associative_scan",
        lambda: jax.block_until_ready(ours(*ready)),
        lambda: jax.block_until_ready(tree(*ready)),
        4,
    )


class PeerStep:
    """The same step of transformers' model from the same parameters."""

    def __init__(self, params: PyTree, batch: dict[str, np.ndarray], parallel: bool):
        from transformers import MambaConfig, MambaForCausalLM

        config = MambaConfig(
            vocab_size=SIZES.vocabulary,
            hidden_size=SIZES.width,
            state_size=SIZES.state_size,
            num_hidden_layers=SIZES.depth,
            use_mambapy=parallel,
            use_cache=False,
        )
        self._model = MambaForCausalLM(config).train()
        copy_mamba(params, self._model)
        self._tokens = torch.from_numpy(batch["tokens"]).long()
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=RATE, fused=True)

    def __call__(self) -> float:
        return torch_step(self._optimizer, self._loss)

    def _loss(self) -> torch.Tensor:
        logits = self._model(self._tokens[:, :-1]).logits
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), self._tokens[:, 1:].flatten()
        )


def copy_mamba(params: PyTree, model: torch.nn.Module) -> None:
    """Our parameters, layers stacked, into transformers' model."""
    block = params["layers"]["blocks_0"]
    stacked = block["mixer"]
    with torch.no_grad():
        _set(model.backbone.embeddings.weight, params["embedding"]["embedding"])
        _set(model.backbone.norm_f.weight, params["norm"]["scale"])
        for index, layer in enumerate(model.backbone.layers):
            ours = jax.tree.map(lambda leaf, index=index: leaf[index], stacked)
            mixer = layer.mixer
            _set(layer.norm.weight, block["mixer_norm"]["scale"][index])
            for name in ("in_proj", "x_proj", "dt_proj", "out_proj"):
                _set(getattr(mixer, name).weight, ours[name]["kernel"].T)
            _set(mixer.conv1d.weight, ours["conv"]["kernel"].T[:, None])
            _set(mixer.conv1d.bias, ours["conv"]["bias"])
            _set(mixer.dt_proj.bias, ours["dt_bias"])
            _set(mixer.A_log, ours["A_log"])
            _set(mixer.D, ours["D"])


def _set(target: torch.Tensor, value: np.ndarray) -> None:
    target.copy_(torch.from_numpy(np.array(value)))


def step_against_transformers(name: str, parallel: bool, goal: float) -> Row:
    """A step of Adam; the first 20 losses must agree."""
    torch.set_num_threads(THREADS)
    generator = np.random.default_rng(0)
    batch = {"tokens": generator.integers(0, SIZES.vocabulary, (8, 129)).astype(np.int32)}
    ours = Step(Language(mamba(SIZES)), batch)
    peer = PeerStep(ours.params, batch, parallel)
    losses = [(ours(), peer()) for _ in range(20)]
    np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-2)
    form = "transformers, mambapy" if parallel else "transformers"
    work = "Mamba L4 D128 V256 B8 T128 step"
    return compare(name, work, form, ours, peer, goal, rounds=5)


def rows() -> Iterator[tuple[str, Callable[[], Row]]]:
    """Every measurement of this suite by its id; MAM-2-mambapy where that package is installed."""
    yield "MAM-1", lambda: scan_against_torch("MAM-1", unbound=False)
    yield "MAM-1-unbound", lambda: scan_against_torch("MAM-1-unbound", unbound=True)
    yield "MAM-2", lambda: step_against_transformers("MAM-2", False, 8)
    if importlib.util.find_spec("mambapy"):
        yield "MAM-2-mambapy", lambda: step_against_transformers("MAM-2-mambapy", True, 1.5)
    yield "MAM-3", lambda: scan_against_tree(memory=False)
    yield "MAM-3-memory", lambda: scan_against_tree(memory=True)

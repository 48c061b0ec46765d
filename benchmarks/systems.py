"""What the loop and the data cost beside the step."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import jax.monitoring
import numpy as np

from benchmarks.timing import Row, compare
from deeplearn.data.dataset import Shuffled
from deeplearn.data.memory import Arrays
from deeplearn.experiment import EarlyStopping, Experiment
from deeplearn.hooks import Hook, Loop
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import Adam
from deeplearn.program import Program
from deeplearn.tasks.classification import Classification
from deeplearn.train import train


class Turns(Hook):
    """Measures a run against its bare step, in turns, since a machine's speed drifts.

    After `length` steps of the loop the compiled step runs as often, alone, on its own state.
    """

    def __init__(self, program: Program, length: int):
        self._batch = jax.device_put(next(program.batches(0)))
        self._step = program.compile(self._batch)
        self._state = program.init()
        self._length = length
        self._began: float | None = None
        self.whole: list[float] = []
        self.bare: list[float] = []

    def after(self, loop: Loop) -> None:
        if loop.step % self._length:
            return
        jax.block_until_ready(loop.state)
        if self._began is not None:
            self.whole.append((time.perf_counter() - self._began) / self._length)
        began = time.perf_counter()
        for _ in range(self._length):
            self._state, _ = self._step(self._state, self._batch)
        jax.block_until_ready(self._state)
        self.bare.append((time.perf_counter() - began) / self._length)
        self._began = time.perf_counter()


def loop_overhead(turns: int = 24, length: int = 50) -> Row:
    """The loop with logging, prefetch and checks over the bare compiled step on one batch."""
    generator = np.random.default_rng(0)
    data = Arrays(
        {
            "x": generator.normal(size=(4096, 784)).astype(np.float32),
            "label": generator.integers(0, 10, 4096),
        }
    )
    steps = turns * length
    experiment = Experiment(
        name="overhead",
        task=Classification(MLP(hidden=(1024, 1024), outputs=10)),
        train=data,
        optimizer=Adam(),
        steps=steps,
        batch_size=64,
        log_every=length,
        save_every=steps,
    )
    hook = Turns(Program(experiment), length)
    with tempfile.TemporaryDirectory() as workdir:
        train(experiment, workdir, hooks=[hook])
    # A turn of the loop stands between two of the bare step: it is compared with their mean.
    # The first turns warm up; the last ends with a save.
    beside = [(a + b) / 2 for a, b in itertools.pairwise(hook.bare)]
    pairs = list(zip(hook.whole, beside, strict=True))[2:-1]
    overheads = [loop / alone - 1 for loop, alone in pairs]
    return Row(
        name="SYS-4",
        work="loop over bare step, share of time",
        peer="itself",
        ratio=statistics.median(overheads),
        low=min(overheads),
        high=max(overheads),
        cpu=None,
        ours_ms=1e3 * statistics.median(loop for loop, _ in pairs),
        peer_ms=1e3 * statistics.median(alone for _, alone in pairs),
        goal=0.03,
        below=True,
    )


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of the functions that XLA compiles meanwhile."""
    names: list[str] = []

    def note(event: str, seconds: float, fun_name: str = "", **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def compiled_steps() -> Row:
    """How often a run compiles its step: plain, watched for an early stop, several steps a call."""
    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    data = Arrays({"x": x, "label": (x[:, 0] > 0).astype(np.int32)})
    counts = []
    for stop, steps_per_call in itertools.product((None, EarlyStopping(patience=100)), (1, 10)):
        experiment = Experiment(
            name="compilations",
            task=Classification(MLP(hidden=(8,), outputs=2)),
            train=data,
            evaluation={"validation": data},
            optimizer=Adam(),
            steps=60,
            log_every=10,
            evaluate_every=20,
            save_every=20,
            early_stopping=stop,
            steps_per_call=steps_per_call,
        )
        with tempfile.TemporaryDirectory() as workdir, compilations() as names:
            train(experiment, workdir)
        step = "jit(train_step)" if steps_per_call == 1 else "jit(scan_steps)"
        counts.append(names.count(step))
    assert all(counts), "the compiled step has another name"
    ratio = statistics.mean(counts)
    return Row(
        name="SYS-7",
        work="compilations of the step (not ms)",
        peer="runs",
        ratio=ratio,
        low=min(counts),
        high=max(counts),
        cpu=None,
        ours_ms=sum(counts),
        peer_ms=len(counts),
        goal=1,
        below=True,
    )


def batcher() -> Row:
    """Shuffled batches of 64 images of 28×28 against grain.DataLoader, which reads by record."""
    import grain.python as grain  # the DataLoader lives there
    from absl import flags

    flags.FLAGS.mark_as_parsed()
    generator = np.random.default_rng(0)
    x = generator.integers(0, 255, (60_000, 28, 28, 1)).astype(np.uint8)
    label = generator.integers(0, 10, len(x)).astype(np.int32)
    ours, count = Shuffled(Arrays({"x": x, "label": label}), 64, seed=0), 200
    ours.batch(0, slice(0, 64))

    class Records:
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, index: int) -> dict:
            return {"x": x[index].astype(np.float32) / 255, "label": label[index]}

    loader = grain.DataLoader(
        data_source=Records(),
        sampler=grain.IndexSampler(len(x), shuffle=True, seed=0, num_epochs=None),
        operations=[grain.Batch(64)],
        # Its threads only contend for data in memory: without them it is at its fastest.
        read_options=grain.ReadOptions(num_threads=0, prefetch_buffer_size=0),
    )
    batches = iter(loader)

    def read() -> None:
        for step in range(count):
            ours.batch(step, slice(0, 64))

    def peer() -> None:
        for _ in range(20):
            next(batches)

    return compare("SYS-8", "batches of 64 × 28×28", "grain.DataLoader", read, peer, 5, (count, 20))


def seek() -> Row:
    """The first batch at step 10⁷ over the batch at step 0, of a million examples, both cold."""
    data = Arrays({"x": np.zeros((1_000_000, 4), np.float32), "label": np.zeros(1_000_000)})

    def first(step: int) -> Callable[[], None]:
        seeds = iter(range(step, step + 10**6))
        return lambda: _discard(Shuffled(data, 64, seed=next(seeds)).batch(step, slice(0, 64)))

    return compare("seek", "first batch at step 10⁷", "at step 0", first(10_000_000), first(0), 0.8)


def _discard(_: object) -> None:
    return None


def rows() -> Iterator[tuple[str, Callable[[], Row]]]:
    """Every measurement of this suite by its id."""
    yield "SYS-4", loop_overhead
    yield "SYS-7", compiled_steps
    yield "SYS-8", batcher
    yield "seek", seek

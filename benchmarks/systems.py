"""What the loop and the data cost beside the step."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from benchmarks.timing import Row, compare
from deeplearn.data.dataset import Shuffled
from deeplearn.data.memory import Arrays
from deeplearn.experiment import Experiment
from deeplearn.hooks import Hook, Loop
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import Adam
from deeplearn.program import Program
from deeplearn.tasks.classification import Classification
from deeplearn.train import train


class Stopwatch(Hook):
    """The seconds a step between two steps of a run."""

    def __init__(self, first: int, last: int):
        self._first, self._last = first, last
        self._began = 0.0
        self.seconds = 0.0

    def after(self, loop: Loop) -> None:
        if loop.step in (self._first, self._last):
            jax.block_until_ready(loop.state)
            now = time.perf_counter()
            self.seconds = (now - self._began) / (self._last - self._first)
            self._began = now


def loop_overhead(rounds: int = 7) -> Row:
    """The loop with logging, prefetch and checks over the bare compiled step on one batch."""
    generator = np.random.default_rng(0)
    data = Arrays(
        {
            "x": generator.normal(size=(4096, 784)).astype(np.float32),
            "label": generator.integers(0, 10, 4096),
        }
    )
    experiment = Experiment(
        name="overhead",
        task=Classification(MLP(hidden=(1024, 1024), outputs=10)),
        train=data,
        optimizer=Adam(),
        steps=400,
        batch_size=64,
        log_every=50,
        save_every=400,
    )
    program = Program(experiment)
    batch = next(program.batches(0))
    step = program.compile(batch)
    bare, whole = [], []
    for _ in range(rounds):
        state = program.init()
        for _ in range(20):
            state, _ = step(state, batch)
        jax.block_until_ready(state)
        began = time.perf_counter()
        for _ in range(300):
            state, _ = step(state, batch)
        jax.block_until_ready(state)
        bare.append((time.perf_counter() - began) / 300)
        watch = Stopwatch(50, 350)
        with tempfile.TemporaryDirectory() as workdir:
            train(experiment, workdir, hooks=[watch])
        whole.append(watch.seconds)
    overheads = [loop / alone - 1 for loop, alone in zip(whole, bare, strict=True)]
    return Row(
        name="SYS-4",
        work="loop over bare step, share of time",
        peer="itself",
        ratio=statistics.median(overheads),
        low=min(overheads),
        high=max(overheads),
        cpu=None,
        ours_ms=1e3 * statistics.median(whole),
        peer_ms=1e3 * statistics.median(bare),
        goal=0.03,
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
    yield "SYS-8", batcher
    yield "seek", seek

"""What the four language models of Shakespeare cost: time and memory of a step, speed of decoding.

    python -m benchmarks.shakespeare

Writes benchmarks/results/shakespeare.json. Neither figure depends on the weights, so that they are
those of the first step.
"""

from __future__ import annotations

import datetime
import importlib
import statistics
import time
from pathlib import Path

import jax

from deeplearn.data.text import Windows
from deeplearn.program import Program
from deeplearn.report.receipt import cpu, devices, parameter_count, versions, write_json
from deeplearn.sampling.autoregressive import generate
from deeplearn.sampling.sampler import Sampler
from deeplearn.step import evaluation_variables

RESULTS = Path(__file__).parent / "results"
NAMES = tuple(f"{model}_shakespeare" for model in ("rnn", "lstm", "transformer", "mamba"))
PROMPT, COUNT, ROUNDS = "ROMEO:\n", 256, 7


def measure(name: str) -> dict:
    """Medians of one model: a step on two cores, and one text of 256 characters alone."""
    experiment = importlib.import_module(f"experiments.{name}").experiment()
    program = Program(experiment)
    batches = program.batches(0)
    batch = jax.device_put(next(batches))
    batches.close()
    step, state = program.compile(batch), program.init()
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        seconds.append(time.perf_counter() - began)
    source: Windows = experiment.train
    prompt, variables = source.vocabulary.encode(PROMPT), evaluation_variables(state)
    decoding = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        generate(experiment.task.model, variables, [prompt], Sampler(COUNT), jax.random.key(0))
        decoding.append(time.perf_counter() - began)
    # The first rounds compile and warm up.
    return {
        "parameters": parameter_count(state.params),
        "step_ms": 1e3 * statistics.median(seconds[2:]),
        "step_temporary_bytes": step.memory_analysis().temp_size_in_bytes,
        "decoded_characters_per_second": COUNT / statistics.median(decoding[2:]),
    }


def main() -> None:
    """Measures the models one after the other."""
    found = {name: measure(name) for name in NAMES}
    today = datetime.date.today().isoformat()
    result = {"date": today, "models": found, "versions": versions(), "devices": devices()}
    write_json(RESULTS / "shakespeare.json", {**result, "cpu": cpu()})
    for name, figures in found.items():
        print(name, *(f"{figure}={value:.4g}" for figure, value in figures.items()))


if __name__ == "__main__":
    main()

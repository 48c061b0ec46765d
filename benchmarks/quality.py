"""Trains an experiment over seeds and writes mean ± standard deviation of its test metrics.

    python -m benchmarks.quality EXPERIMENT [--seeds=5] [--set FIELD=VALUE …]

The file is benchmarks/results/quality_EXPERIMENT.json. With one seed the spread is the 95 %
bootstrap interval over the test set.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from deeplearn.overrides import override
from deeplearn.report.receipt import cpu, devices, parameter_count, versions, write_json
from deeplearn.train import train

RESULTS = Path(__file__).parent / "results"


def bootstrap_accuracy(accuracy: float, examples: int, draws: int = 10_000) -> tuple[float, float]:
    """The 95 % interval of an accuracy when the test set is drawn again.

    Resampling the hits and misses of a test set with replacement is a binomial draw.
    """
    generator = np.random.default_rng(0)
    hits = generator.binomial(examples, accuracy, draws) / examples
    low, high = np.quantile(hits, [0.025, 0.975])
    return float(low), float(high)


def measure(name: str, seeds: int, changes: list[str]) -> dict:
    """The test metrics of every seed, their mean and spread, and the seconds that a run took."""
    runs, seconds, parameters, examples = [], [], 0, 0
    for seed in range(seeds):
        experiment = importlib.import_module(f"experiments.{name}").experiment()
        experiment = override(experiment, [*changes, f"seed={seed}"])
        with tempfile.TemporaryDirectory() as workdir:
            began = time.monotonic()
            run = train(experiment, workdir)
            seconds.append(round(time.monotonic() - began, 1))
        runs.append(dict(run.metrics["test"]))
        parameters = parameter_count(run.state.params)
        examples = len(experiment.evaluation["test"])
    summary: dict = {}
    for metric in runs[0]:
        values = [run[metric] for run in runs]
        summary[metric] = {"mean": statistics.mean(values), "values": values}
        if seeds > 1:
            summary[metric]["std"] = statistics.stdev(values)
        elif metric == "accuracy":
            summary[metric]["bootstrap_95"] = bootstrap_accuracy(values[0], examples)
    return {
        "experiment": name,
        "changes": changes,
        "date": datetime.date.today().isoformat(),
        "seeds": seeds,
        "test": summary,
        "test_examples": examples,
        "seconds": seconds,
        "parameters": parameters,
        "versions": versions(),
        "devices": devices(),
        "cpu": cpu(),
    }


def main() -> None:
    """Runs one experiment and writes its result."""
    parser = argparse.ArgumentParser(description="quality of an experiment over seeds")
    parser.add_argument("experiment")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--label", default="", help="a suffix of the result file's name")
    flags = parser.parse_args()
    result = measure(flags.experiment, flags.seeds, flags.set)
    label = f"_{flags.label}" if flags.label else ""
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"quality_{flags.experiment}{label}.json", result)
    print(json.dumps(result["test"], indent=2))


if __name__ == "__main__":
    main()

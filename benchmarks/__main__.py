"""Runs the measurements and prints one table of ratios; `./launch.sh bench` calls this.

Most suites need the extra `peers`, which keeps what the lock has installed:

    .venv/bin/python -m pip install -e '.[peers]'

Results are also written to benchmarks/results/speed_SUITE_PROCESSOR.json: ratios are those of one
processor, and differ from another's. On x86 its name ends in the numbers of its family and model;
in the files without them these were not recorded.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import importlib.util
import re
import sys
from pathlib import Path

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.report.receipt import cpu, devices, versions, write_json

SUITES = ("steps", "systems", "recurrent", "sequence", "transformer", "adversarial", "denoising")
PEERS = ("mambapy", "torch", "transformers")
RESULTS = Path(__file__).parent / "results"


def main(suite: str | None = None, only: str | None = None) -> int:
    """Measures one suite or all, one row of them or all; returns the exit code 0."""
    if suite is not None and suite not in SUITES:
        raise UsageError(f"--suite={suite} is unknown{did_you_mean(suite, SUITES)}")
    from benchmarks.timing import table

    known: list[str] = []
    found = []
    for name in SUITES if suite is None else (suite,):
        try:
            module = importlib.import_module(f"benchmarks.{name}")
        except ModuleNotFoundError as error:
            missing = [peer for peer in PEERS if importlib.util.find_spec(peer) is None]
            if error.name not in missing:
                raise
            raise UsageError(
                f"suite '{name}' needs peers that are not installed: {', '.join(missing)};"
                " run: .venv/bin/python -m pip install -e '.[peers]'"
            ) from None
        measurements = list(module.rows())
        known += [row_id for row_id, _ in measurements]
        rows = []
        for row_id, measure in measurements:
            if only is None or row_id == only:
                print(f"measuring {row_id}", file=sys.stderr, flush=True)
                rows.append(measure())
        if rows and only is None:
            _write(name, rows)
        found += rows
    if not found:
        raise UsageError(f"--only={only} is unknown{did_you_mean(str(only), known)}")
    print(table(found))
    return 0


def _write(suite: str, rows: list) -> None:
    RESULTS.mkdir(exist_ok=True)
    kind, processor = devices()["kind"], f"{cpu()['model']} {cpu()['family'] or ''}"
    name = (processor if kind == "cpu" else kind).lower().replace("(r)", "")
    write_json(
        RESULTS / f"speed_{suite}_{'_'.join(re.findall('[a-z0-9]+', name))}.json",
        {
            "date": datetime.date.today().isoformat(),
            "rows": [dataclasses.asdict(row) for row in rows],
            "versions": versions(),
            "devices": devices(),
            "cpu": cpu(),
        },
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(
            "python -m benchmarks runs all; for a part: ./launch.sh bench --suite=NAME --only=ID"
        )
    sys.exit(main())

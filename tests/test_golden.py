"""The first steps of every family, to the last bit where this machine is known.

`tests/golden/first_steps.json` has one entry for each (jaxlib, instructions, cores). The
numbers of an unknown machine are compared to 1e-4 and the test says so. Where a change of numbers
is meant, `PYTHONPATH=. python tests/test_golden.py` writes those of this machine.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import jaxlib
import pytest
from families import MODELS, family

from deeplearn.program import Program
from deeplearn.report.receipt import cpu

PATH = Path(__file__).parent / "golden" / "first_steps.json"
pytestmark = pytest.mark.usefixtures("optimized")

STEPS = 3
COMMAND = "PYTHONPATH=. python tests/test_golden.py"


def machine() -> str:
    """What decides the last bits on a CPU."""
    here = cpu()
    return f"jaxlib {jaxlib.__version__}, {here['instructions']}, {here['usable_cores']} cores"


def first_steps(name: str) -> dict[str, list[str]]:
    """Loss and gradient norm of the first steps, as hexadecimal floats."""
    program = Program(family(name))
    state, step = program.init(), None
    found: dict[str, list[str]] = {"loss": [], "gradient_norm": []}
    batches = program.batches(0)
    for _, batch in zip(range(STEPS), batches, strict=False):
        step = step or program.compile(batch)
        state, metrics = step(state, batch)
        for metric, values in found.items():
            values.append(float(metrics[metric].value).hex())
    batches.close()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_first_steps_have_the_known_numbers(name):
    golden = json.loads(PATH.read_text())
    found, here = first_steps(name), machine()
    if here not in golden:
        warnings.warn(
            f"no golden numbers for {here}: compared to 1e-4 only; add them by `{COMMAND}`",
            stacklevel=1,
        )
    for metric, values in found.items():
        if here in golden:
            assert values == golden[here][name][metric], (
                f"{metric} of the first steps of '{name}' changed. If that is meant, run"
                f" `{COMMAND}` and say in the commit why; if not, the change broke what every run"
                " of this family computes."
            )
        known = [float.fromhex(value) for value in next(iter(golden.values()))[name][metric]]
        assert [float.fromhex(value) for value in values] == pytest.approx(known, rel=1e-4)


if __name__ == "__main__":
    entries = json.loads(PATH.read_text()) if PATH.exists() else {}
    entries[machine()] = {name: first_steps(name) for name in MODELS}
    PATH.write_text(json.dumps(entries, indent=1) + "\n")
    print(f"wrote {machine()} to {PATH}")

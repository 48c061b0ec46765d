"""Imports point down the levels of the design; heavy libraries load only where they are used."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module belongs to the longest name here that it starts with.
LEVELS = {
    "deeplearn.errors": 0,
    "deeplearn.types": 0,
    "deeplearn.kernels": 1,
    "deeplearn.tree_paths": 1,
    "deeplearn.adversarial_losses": 2,
    "deeplearn.clipping": 2,
    "deeplearn.ema": 2,
    "deeplearn.generative_metrics": 2,
    "deeplearn.layers": 2,
    "deeplearn.losses": 2,
    "deeplearn.metrics": 2,
    "deeplearn.mode_count": 2,
    "deeplearn.muon": 2,
    "deeplearn.trust_ratio": 2,
    "deeplearn.optimizers": 2,
    "deeplearn.players": 2,
    "deeplearn.predictions": 2,
    "deeplearn.processes": 2,
    "deeplearn.schedules": 2,
    "deeplearn.sharding": 2,
    "deeplearn.tiled_cross_entropy": 2,
    "deeplearn.text_metrics": 2,
    "deeplearn.data": 3,
    "deeplearn.models.sequence": 3,
    "deeplearn.sampling": 3,
    "deeplearn.models": 4,
    "deeplearn.tasks": 4,
    "deeplearn.step": 5,
    "deeplearn.experiment": 6,
    "deeplearn.overrides": 6,
    "deeplearn.canary": 7,
    "deeplearn.checkpoint": 7,
    "deeplearn.diagnosis": 7,
    "deeplearn.evaluate": 7,
    "deeplearn.insight": 7,
    "deeplearn.generation": 7,
    "deeplearn.interop": 7,
    "deeplearn.preflight": 7,
    "deeplearn.program": 7,
    "deeplearn.run_directory": 7,
    "deeplearn.features": 8,
    "deeplearn.report": 8,
    "deeplearn.hooks": 9,
    "deeplearn.train": 9,
    "deeplearn": 10,
    "experiments": 10,
    "benchmarks": 10,
}
# Stricter than the levels: module → what it must not import, but for the exception.
FORBIDDEN = {
    "deeplearn.tasks": (("deeplearn.models", "deeplearn.data"), ()),
    "deeplearn.experiment": (
        ("deeplearn.models", "deeplearn.tasks", "deeplearn.data"),
        ("deeplearn.tasks.task", "deeplearn.data.dataset", "deeplearn.data.source"),
    ),
}
PEERS = {"keras", "tensorflow", "torch", "torchvision", "transformers"}
# Together they take seconds to import, and accelerator images often lack some of them.
LAZY = {
    "fontTools",
    "grain",
    "orbax",
    "rich",
    "sacrebleu",
    "sklearn",
    "tensorflow_datasets",
    "tokenizers",
}
BUILDERS = "deeplearn.data.builders"


def sources() -> dict[str, ast.Module]:
    """Module name → syntax tree of every module of `deeplearn`, `experiments` and `benchmarks`."""
    trees = {}
    for package in ("deeplearn", "experiments", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            trees[name] = ast.parse(path.read_bytes(), str(path))
    return trees


def executed(tree: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    """The nodes that run: not those under `if TYPE_CHECKING`, which only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if inside_functions or not function:
            yield from executed(node, inside_functions)


def imported(tree: ast.Module, modules: set[str], inside_functions: bool = True) -> set[str]:
    """The full names of what a module imports."""
    names = set()
    for node in executed(tree, inside_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full != "deeplearn.__version__":
                    names.add(full if full in modules else str(node.module))
    return names


def covers(prefix: str, name: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def level(name: str) -> int:
    found = max((prefix for prefix in LEVELS if covers(prefix, name)), key=len)
    assert found != "deeplearn" or name == "deeplearn", f"give {name} its level in LEVELS"
    return LEVELS[found]


def violations(graph: dict[str, set[str]]) -> list[str]:
    """What is wrong with a graph of module → modules it imports."""
    wrong = []
    for name, targets in graph.items():
        for target in sorted(targets):
            if level(target) > level(name):
                wrong.append(f"{name} (level {level(name)}) → {target} (level {level(target)})")
            for prefix, (forbidden, exceptions) in FORBIDDEN.items():
                if covers(prefix, name) and target not in exceptions:
                    wrong += [f"{name} → {target}" for bad in forbidden if covers(bad, target)]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        wrong.append("circle: " + " → ".join(error.args[1]))
    return wrong


def test_imports_point_down_without_circles():
    trees = sources()
    graph = {
        name: {target for target in imported(tree, set(trees)) if target in trees}
        for name, tree in trees.items()
    }
    assert sum(map(len, graph.values())) > 50
    assert not violations(graph)


@pytest.mark.parametrize(
    "graph",
    [
        {"deeplearn.losses": {"deeplearn.data.dataset"}},
        {"deeplearn.report.rows": {"deeplearn"}},
        {"deeplearn.tasks.regression": {"deeplearn.models.sequence"}},
        {"deeplearn.experiment": {"deeplearn.tasks.regression"}},
        {"deeplearn.losses": {"deeplearn.metrics"}, "deeplearn.metrics": {"deeplearn.losses"}},
    ],
)
def test_a_wrong_import_is_seen(graph):
    assert violations(graph)


def test_only_type_checking_and_functions_are_skipped():
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "try:\n    import grain\nexcept ImportError:\n    pass\n"
        "class A:\n    import rich\n"
        "def f():\n    import orbax.checkpoint\n"
    )
    assert imported(tree, set(), inside_functions=False) == {"typing", "grain", "rich"}
    assert imported(tree, set()) == {"typing", "grain", "rich", "orbax.checkpoint"}


def test_the_package_needs_no_other_framework():
    for name, tree in sources().items():
        if covers("deeplearn", name) or covers("experiments", name):
            roots = {target.partition(".")[0] for target in imported(tree, set())}
            assert not roots & PEERS, name


def test_slow_libraries_are_imported_where_they_are_used():
    trees = sources()
    for name, tree in trees.items():
        # A TFDS builder is a subclass: its module imports TFDS, and nothing imports the module.
        if covers("deeplearn", name) and not covers(BUILDERS, name):
            targets = imported(tree, set(trees), inside_functions=False)
            assert not {target.partition(".")[0] for target in targets} & LAZY, name
            assert not any(covers(BUILDERS, target) for target in targets), name


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_no_library():
    loaded = run("import deeplearn, sys; print({name.partition('.')[0] for name in sys.modules})")
    assert not ast.literal_eval(loaded) & {"jax", "flax", "numpy", "optax", *LAZY}


def test_public_names_win_over_modules_of_the_same_name():
    run(
        "import deeplearn.train, deeplearn.evaluate\n"
        "from deeplearn import Experiment, Run, evaluate, load, train\n"
        "from deeplearn.train import train as same\n"
        "assert train is same and callable(evaluate)\n"
        "assert set(deeplearn.__all__) <= set(dir(deeplearn))\n"
    )


def test_an_unknown_public_name_is_an_attribute_error():
    run(
        "import deeplearn\n"
        "try:\n    deeplearn.nonsense\n"
        "except AttributeError as error:\n    assert 'nonsense' in str(error)\n"
        "else:\n    raise SystemExit('no error')\n"
    )


def test_training_on_arrays_needs_no_dataset_library(tmp_path):
    script = """
import sys
sys.modules.update(dict.fromkeys(("grain", "tensorflow_datasets"), None))
import numpy as np
from deeplearn import Experiment, train
from deeplearn.data.memory import Arrays
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import SGD
from deeplearn.tasks.classification import Classification

x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(32, 2)
data = Arrays({"x": x, "label": (x[:, 0] > 0).astype(np.int32)})
task = Classification(MLP(hidden=(4,), outputs=2))
run = train(
    Experiment("arrays", task, data, SGD(0.1), steps=3, batch_size=8, evaluation={"test": data}),
    sys.argv[1],
)
print(int(run.state.step))
"""
    assert run(script, str(tmp_path)).splitlines()[-1] == "3"


def test_the_readme_lists_every_module_at_its_level():
    block = re.search(r"```\n(0  types.*?)```", (ROOT / "README.md").read_text(), re.S)
    listed: dict[int, str] = {}
    level = 0
    for line in block[1].splitlines():
        number, words = line[:2].strip(), line[2:]
        level = int(number) if number else level
        listed[level] = f"{listed.get(level, '')} {words}"
    for path in sorted((ROOT / "deeplearn").iterdir()):
        name = path.stem
        if name.startswith("__") or path.suffix not in ("", ".py"):
            continue
        level = LEVELS[f"deeplearn.{name}"]
        assert re.search(rf"\b{name}\b", listed[level]), f"{name} is not at level {level}"

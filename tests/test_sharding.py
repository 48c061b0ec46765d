"""Placement: meshes and rules in this process, agreement of 1, 2, 4 and 8 devices in others."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from deeplearn.errors import UsageError
from deeplearn.sharding import (
    batch_sharding,
    make_mesh,
    process_rows,
    state_shardings,
    to_devices,
)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((("data", 3),), "mesh data=3 needs 3 devices but there are 1"),
        ((("model", 1),), "one must be 'data'"),
        ((("data", -1), ("model", -1)), "at most one"),
        ((("data", 0),), "sizes must be positive"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(axes, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        make_mesh(axes)


def test_minus_one_takes_the_rest():
    assert dict(make_mesh((("model", 1), ("data", -1))).shape) == {"model": 1, "data": 1}


def test_rows_of_the_only_process_are_all():
    assert process_rows(make_mesh((("data", 1),)), 6) == slice(0, 6)


@pytest.mark.parametrize(
    ("source", "dtype"),
    [
        (np.arange(1000, dtype=np.float32)[1:], "float32"),
        (np.arange(24, dtype=np.uint8).reshape(2, 3, 4).T, "uint8"),
        (np.array([True, False]), "bool"),
        (np.arange(7), "int32"),
        (np.linspace(0, 1, 9), "float32"),
    ],
)
def test_a_batch_of_one_cpu_is_copied_once_and_read_in_place(source, dtype):
    placed = to_devices({"x": source}, batch_sharding(make_mesh((("data", 1),))))["x"]
    np.testing.assert_array_equal(placed, source.astype(dtype))
    assert placed.dtype == dtype and not placed.flags.writeable
    assert not np.shares_memory(placed, source)
    assert jax.device_put(placed).unsafe_buffer_pointer() == placed.ctypes.data


def test_an_empty_field_is_placed():
    placed = to_devices({"x": np.zeros((4, 0))}, batch_sharding(make_mesh((("data", 1),))))
    assert placed["x"].shape == (4, 0)


def specs(rules, **shapes):
    mesh = AbstractMesh((4, 2), ("data", "model"))
    state = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    return {name: s.spec for name, s in state_shardings(state, mesh, rules).items()}


def test_the_first_rule_that_matches_decides():
    rules = (("first", (None, "model")), ("kernel", "fsdp"))
    found = specs(rules, first_kernel=(8, 6), kernel=(256, 512), bias=(64,))
    assert found["first_kernel"] == PartitionSpec(None, "model")
    assert found["kernel"] == PartitionSpec(None, "data")
    assert found["bias"] == PartitionSpec()


def test_fsdp_takes_the_largest_axis_that_divides_and_leaves_small_leaves_whole():
    found = specs(((".", "fsdp"),), odd=(514, 256), none=(515, 517), small=(8, 8), scalar=())
    assert found["odd"] == PartitionSpec(None, "data")
    assert found["none"] == found["small"] == found["scalar"] == PartitionSpec()


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        (("model", None, None), "at most 2 axis names"),
        (("data", None), "cannot split"),
        (("rows", None), "cannot split"),
        ("zero", "'zero' does not fit"),
        (("model", "model"), "uses a mesh axis twice"),
    ],
)
def test_a_rule_that_does_not_fit_names_the_leaf(partition, message):
    with pytest.raises(UsageError, match=message) as caught:
        specs((("kernel", partition),), kernel=(6, 8))
    assert "kernel" in str(caught.value)


def test_a_rule_that_decides_nothing_or_cannot_be_read_is_refused():
    with pytest.raises(UsageError, match="'bais' decides no leaf"):
        specs((("bais", "fsdp"),), kernel=(6, 8))
    with pytest.raises(UsageError, match="is no regular expression"):
        specs((("(", "fsdp"),), kernel=(6, 8))


COMMON = """
import dataclasses
import jax
import numpy as np
from deeplearn.data.memory import Arrays
from deeplearn.experiment import Experiment
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import AdamW
from deeplearn.program import Program
from deeplearn.tasks.classification import Classification

generator = np.random.default_rng(0)
data = Arrays({
    "x": generator.normal(size=(64, 12)).astype(np.float32),
    "label": generator.integers(0, 3, 64),
    "mask": generator.uniform(0.1, 1.0, 64).astype(np.float32),
})
base = Experiment(
    name="example", task=Classification(MLP(hidden=(128, 128), outputs=3)), train=data,
    optimizer=AdamW(learning_rate=0.01, ema_decay=0.9, clip_norm=1.0), steps=6, batch_size=16,
    log_every=6, save_every=6, evaluate_every=6,
)
FSDP = (("kernel", "fsdp"),)

def final(**changes):
    program = Program(dataclasses.replace(base, **changes))
    state, step = program.init(), None
    for batch in program.batches(0):
        step = step or program.compile(batch)
        state, metrics = step(state, batch)
        jax.block_until_ready(state)
    return state, step
"""


def saved(path):
    return f"""
state, _ = final()
np.savez("{path}", *map(np.asarray, jax.tree.leaves((state.params, state.opt_state))))
"""


@pytest.fixture(scope="module")
def reference(run_on_devices, tmp_path_factory):
    """The file of the leaves that one device computes."""
    path = tmp_path_factory.mktemp("reference") / "leaves.npz"
    run_on_devices(1, COMMON + saved(path))
    return path


AGREES = """
def check(name, reference, **changes):
    state, step = final(**changes)
    leaves = map(np.asarray, jax.tree.leaves((state.params, state.opt_state)))
    for value, known in zip(leaves, np.load(reference).values(), strict=True):
        np.testing.assert_allclose(value, known, rtol=1e-5, atol=1e-4, err_msg=name)
    words = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
    text = step.as_text()
    print(name, [word for word in words if f" {word}(" in text or f" {word}-start(" in text])
    return state
"""


# fp32 sums in another order: parameters agree to 1e-4, a hundredth of one step of AdamW, after 6
# steps (seen: 1.3e-5). AdamW divides by the root of a gradient that may be all rounding.
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_every_placement_gives_the_result_of_one_device(run_on_devices, reference, devices):
    script = f"""
check("data", "{reference}")
check("per_device", "{reference}", per_device=True)
check("microbatches", "{reference}", microbatches=2)
check("steps_per_call", "{reference}", steps_per_call=3)
check("per_device steps_per_call", "{reference}", per_device=True, steps_per_call=3)
check("per_device microbatches", "{reference}", per_device=True, microbatches=2)
state = check("fsdp", "{reference}", rules=FSDP)
kernels = [tree["stack_0"]["dense"]["kernel"] for tree in (state.params, state.opt_state[1][0].mu)]
print([kernel.addressable_shards[0].data.shape for kernel in kernels])
"""
    output = run_on_devices(devices, COMMON + AGREES + script)
    # Data parallelism needs one kind of collective.
    for name in ("data", "per_device", "microbatches"):
        assert f"{name} ['all-reduce']" in output
    rows = 128 // devices
    assert f"[(1, {rows}, 128), (1, {rows}, 128)]" in output
    assert "'all-gather'" in output and "'collective-permute'" not in output


def test_muon_takes_a_split_kernel_as_one_matrix(run_on_devices, tmp_path):
    path = tmp_path / "leaves.npz"
    muon = """
from deeplearn.optimizers import Muon
base = dataclasses.replace(base, optimizer=Muon(learning_rate=0.01))
"""
    run_on_devices(1, COMMON + muon + saved(path))
    check = f"""
state = check("fsdp", "{path}", rules=FSDP)
assert any("data" in str(leaf.sharding.spec) for leaf in jax.tree.leaves(state.params))
"""
    run_on_devices(4, COMMON + muon + AGREES + check)


def test_one_device_gives_its_result_in_every_form(run_on_devices, reference):
    script = f"""
check("per_device", "{reference}", per_device=True)
check("steps_per_call", "{reference}", steps_per_call=3)
check("fsdp", "{reference}", rules=FSDP)
"""
    output = run_on_devices(1, COMMON + AGREES + script)
    assert "steps_per_call []" in output and "fsdp []" in output


def test_batch_statistics_of_devices_are_averaged(run_on_devices):
    """With `per_device` each device normalizes by its own rows; the statistics are means."""
    script = """
from deeplearn.models.mlp import MLP
task = Classification(MLP(hidden=(8,), outputs=3, normalization="batch"))
program = Program(dataclasses.replace(base, task=task, per_device=True))
state, batch = program.init(), next(program.batches(0))
host = jax.device_get(batch)
half = jax.jit(task.loss)
parts = [
    half({"params": state.params, **state.collections}, jax.tree.map(lambda x: x[rows], host),
         jax.random.key(0))[1].mutated
    for rows in (slice(0, 8), slice(8, 16))
]
parts = jax.device_get(parts)
assert not np.allclose(*map(lambda part: jax.tree.leaves(part)[0], parts))
new, _ = program.compile(batch)(state, batch)
expected = jax.tree.map(lambda one, two: (one + two) / 2, *parts)
jax.tree.map(
    lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6),
    jax.device_get(new.collections), dict(expected),
)
"""
    run_on_devices(2, COMMON + script)


def test_microbatches_must_divide_the_rows_of_every_device(run_on_devices, tmp_path):
    script = f"""
import pathlib
from deeplearn import train
from deeplearn.errors import UsageError
Program(dataclasses.replace(base, microbatches=8)).require_divisible()
try:
    train(dataclasses.replace(base, microbatches=16), "{tmp_path}/run")
except UsageError as error:
    print(error)
assert not pathlib.Path("{tmp_path}/run").exists()
"""
    output = run_on_devices(2, COMMON + script)
    assert "batch_size=16 must be a multiple of 32: 16 microbatches on 2 devices" in output


TWO_STEPS = """
import dataclasses, itertools, sys
import jax
import numpy as np
import deeplearn.program
from deeplearn.optimizers import SGD
from deeplearn.sharding import make_mesh
sys.path.insert(0, "tests")
from families import family

def two_steps(name, devices):
    deeplearn.program.make_mesh = lambda axes: make_mesh(axes, jax.devices()[:devices])
    experiment = family(name)
    task = experiment.task
    if name == "alexnet":
        model = dataclasses.replace(task.model, dropout=0.0)
        task = dataclasses.replace(task, model=model)
    program = deeplearn.program.Program(dataclasses.replace(
        experiment, task=task, batch_size=16, microbatches=1, optimizer=SGD()
    ))
    state, step = program.init(), None
    for batch in itertools.islice(program.batches(0), 2):
        if devices > 1:
            sharding = batch["x"].sharding
            assert len(sharding.device_set) == devices and not sharding.is_fully_replicated
        step = step or program.compile(batch)
        state, metrics = step(state, batch)
        jax.block_until_ready(state)
    found = jax.device_get((state.params, state.collections, state.opt_state, metrics))
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(found)}
"""


# The momentum of SGD is a sum of gradients, so they are compared too; those of a residual branch
# are 0 in the first step, as is its last scale. A convolution has its own gradient on the CPU, in
# which the batch is an axis of channels. Seen: 6e-6 of the largest number of a leaf.
@pytest.mark.parametrize("name", ["resnet", "alexnet"])
def test_a_convolutional_network_takes_the_steps_of_one_device(run_on_devices, name):
    script = f"""
one, four = (two_steps("{name}", devices) for devices in (1, 4))
assert one.keys() == four.keys()
for leaf, value in four.items():
    largest = np.abs(one[leaf]).max()
    np.testing.assert_allclose(value, one[leaf], rtol=0, atol=1e-4 * largest, err_msg=leaf)
"""
    run_on_devices(4, TWO_STEPS + script)


def test_a_checkpoint_of_eight_devices_goes_on_with_one_and_four(run_on_devices, tmp_path):
    script = f"""
from pathlib import Path
from deeplearn.checkpoint import Checkpoints
from deeplearn.report.receipt import state_sha256
checkpoints = Checkpoints(Path("{tmp_path}/checkpoints"))
if jax.device_count() == 8:
    state, _ = final(rules=FSDP)
    checkpoints.save(6, state)
    checkpoints.wait()
    program = Program(dataclasses.replace(base, rules=FSDP, steps=7))
else:
    program = Program(dataclasses.replace(base, steps=7))
    state = checkpoints.restore(program.shapes)
    assert len(state.params["output"]["kernel"].sharding.device_set) == jax.device_count()
print(state_sha256(state))
(batch,) = program.batches(6)
state, _ = program.compile(batch)(state, batch)
leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.opt_state))]
if jax.device_count() == 8:
    np.savez("{tmp_path}/next.npz", *leaves)
for value, known in zip(leaves, np.load("{tmp_path}/next.npz").values(), strict=True):
    np.testing.assert_allclose(value, known, rtol=1e-5, atol=1e-4)
"""
    saved = run_on_devices(8, COMMON + script)
    assert run_on_devices(1, COMMON + script) == saved
    assert run_on_devices(4, COMMON + script) == saved


def test_a_run_is_loaded_on_devices_that_its_rules_do_not_fit(run_on_devices, tmp_path):
    script = f"""
from deeplearn import evaluate, load, train
split = dataclasses.replace(
    base, evaluation={{"test": data}},
    rules=(("output/kernel", ("data", None)), ("input/kernel", "fsdp")),
)
if jax.device_count() == 4:
    train(split, "{tmp_path}/run")
run = load("{tmp_path}/run", split)
assert len(run.state.step.sharding.device_set) == jax.device_count()
assert abs(evaluate(run)["loss"] - run.metrics["test"]["loss"]) < 1e-5
"""
    for devices in (4, 3):
        run_on_devices(devices, COMMON + script)

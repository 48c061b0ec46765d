"""The program that measures cost against length, at tiny sizes."""

import dataclasses
import json
import types

import jax
import pytest

from benchmarks import cost
from deeplearn.errors import UsageError


def small(name, length):
    return cost.models(length, width=16, depth=1)[name]


def memory(name, length):
    """Temporary bytes of a train step for each token."""
    compiled, _, _ = cost.compiled_step(small(name, length), length)
    return compiled.memory_analysis().temp_size_in_bytes / length


def test_memory_of_a_token_does_not_grow_with_the_length_in_mamba():
    assert 0.5 < memory("mamba", 1024) / memory("mamba", 128) < 1.2


def test_memory_of_a_transformer_holds_no_whole_array_of_scores():
    assert memory("transformer", 2048) < 4 * cost.HEADS * 2048


@pytest.mark.parametrize("name", ["transformer", "mamba"])
def test_a_row_has_every_figure_and_decodes_behind_the_whole_prompt(name, monkeypatch):
    begun, decode = [], cost.decode

    def spy(step, state, sampler, count):
        jax.debug.callback(lambda position: begun.append(int(position)), state.carry.position[0])
        return decode(step, state, sampler, count)

    monkeypatch.setattr(cost, "decode", spy)
    monkeypatch.setattr(cost, "COUNT", 8)
    row = cost.measure(name, small(name, 32), 32)
    jax.effects_barrier()
    assert set(begun) == {23}  # The last of 24 tokens is read by the loop.
    # Keys, values, segments and lengths; or window and state. Then segment and position.
    carry = 32 * (2 * 16 + 1) + 1 if name == "transformer" else 32 * (3 + 16)
    assert row.carry_bytes == 4 * (carry + 2)
    assert row.temporary_bytes == 32 * row.temporary_bytes_per_token > 0
    for median, (low, high) in (
        (row.step_us_per_token, row.step_us_range),
        (row.decode_us_per_token, row.decode_us_range),
    ):
        assert 0 < low <= median <= high
    assert "nan" not in json.dumps(dataclasses.asdict(row)).lower()


def test_a_step_that_cannot_fit_is_refused_before_it_runs(monkeypatch):
    analysis = types.SimpleNamespace(temp_size_in_bytes=10**18)
    compiled = types.SimpleNamespace(memory_analysis=lambda: analysis)
    monkeypatch.setattr(cost, "compiled_step", lambda *_: (compiled, None, None))
    with pytest.raises(UsageError, match="--longest=256"):
        cost.train(None, 512, 1)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Replaces the measurement; the file of results goes to the directory that is returned."""

    def measure(name, model, length):
        return cost.Row(name, length, 1, length, 1.0, 1.0, (1.0, 1.0), 1.0, (1.0, 1.0), 1)

    monkeypatch.setattr(cost, "measure", measure)
    monkeypatch.setattr(cost, "RESULTS", tmp_path)
    return tmp_path


def test_every_length_of_both_models_is_written(measured, capsys):
    cost.main([])
    written = json.loads((measured / "cost.json").read_text())
    assert {"date", "versions", "devices", "cpu"} < set(written)
    lengths = [256, 512, 1024, 2048, 4096, 8192, 16384]
    assert [(row["model"], row["length"]) for row in written["rows"]] == [
        (name, length) for name in ("mamba", "transformer") for length in lengths
    ]
    assert len(capsys.readouterr().out.splitlines()) == 15


def test_a_shorter_run_leaves_the_file_alone(measured, capsys):
    cost.main(["--longest=512"])
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert not list(measured.iterdir())
    with pytest.raises(UsageError, match="--longest=255 must be 256 or more"):
        cost.main(["--longest=255"])

"""The figures: drawn from result files alone, small, the same bytes each time."""

import json

import pytest

from benchmarks import figures
from deeplearn.errors import DataError, UsageError


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A directory of made-up results, which the figures are drawn from."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    monkeypatch.setattr(figures, "DOCS", tmp_path / "docs")
    rows = [
        {
            "model": name,
            "length": length,
            "temporary_bytes_per_token": 2e4 + 64 * length * (name == "transformer"),
            "step_us_per_token": 50.0,
            "carry_bytes": 4e4 + 2000 * length * (name == "transformer"),
            "decode_us_per_token": 300 + length * (name == "transformer"),
        }
        for name in ("transformer", "mamba")
        for length in (1024, 256)
    ]
    write(tmp_path / "cost.json", {"rows": rows})
    for place, name in enumerate(figures.FAMILIES):
        curve = [{"step": step, "loss": 2.0 - 0.2 * place + 1 / step} for step in (500, 1000)]
        write(
            tmp_path / f"quality_{name}_shakespeare.json", {"tokens_per_step": 4096, "curve": curve}
        )
    losses = [{"step": step, "generator_loss": 1.0, "discriminator_loss": 0.4} for step in (9, 5)]
    write(tmp_path / "quality_r3gan_fashion_mnist.json", {"curve": losses})
    return tmp_path


def write(path, content):
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_is_a_small_picture_with_the_same_bytes_each_time(results, name):
    first = figures.draw(name)
    assert first == results / "docs" / f"{name}.png"
    picture = first.read_bytes()
    assert picture.startswith(b"\x89PNG") and 4_000 < len(picture) <= 100_000
    assert figures.draw(name).read_bytes() == picture


def test_lines_have_the_values_of_the_files_in_the_order_of_the_length(results):
    memory, _, carry, decoding = figures.cost().axes
    transformer, mamba = (line.get_xydata().tolist() for line in memory.lines)
    assert transformer == [[256, 20 + 0.064 * 256], [1024, 20 + 0.064 * 1024]]
    assert mamba == [[256, 20], [1024, 20]]
    assert decoding.lines[0].get_ydata() == pytest.approx([0.556, 1.324])
    assert carry.lines[0].get_ydata() == pytest.approx([0.552, 2.088])
    for axes in (memory, carry, decoding):
        to_axes = axes.transData + axes.transAxes.inverted()
        ends = [to_axes.transform(line.get_xydata()[-1])[1] for line in axes.lines]
        assert sorted(text.xy[1] for text in axes.texts) == pytest.approx(sorted(ends))
    (axes,) = figures.shakespeare().axes
    assert len(axes.lines) == 4
    assert axes.lines[3].get_xydata().ravel() == pytest.approx([2.048, 1.402, 4.096, 1.401])


def test_the_losses_of_both_players_stand_beside_the_equilibrium(results):
    (axes,) = figures.players().axes
    generator, discriminator, equilibrium = axes.lines
    assert generator.get_xydata().tolist() == [[5, 1.0], [9, 1.0]]
    assert discriminator.get_xydata().tolist() == [[5, 0.4], [9, 0.4]]
    assert equilibrium.get_ydata() == pytest.approx([0.6931, 0.6931], abs=1e-4)


def test_each_line_is_named_at_its_end_apart_from_the_others(results):
    for name in ("transformer", "mamba"):
        curve = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 1.4}]
        write(
            results / f"quality_{name}_shakespeare.json", {"tokens_per_step": 4096, "curve": curve}
        )
    (axes,) = figures.shakespeare().axes
    names = {text.get_text(): text.xy[1] for text in axes.texts}
    assert set(names) == {"RNN 2.00", "LSTM 1.80", "Transformer 1.40", "Mamba 1.40"}
    heights = sorted(names.values())
    assert heights[0] >= 0 and heights[-1] <= 1
    assert all(b - a > 0.069 for a, b in zip(heights, heights[1:], strict=False))
    assert names["RNN 2.00"] == max(heights)


@pytest.mark.parametrize(
    "file, command",
    [
        ("cost.json", "python -m benchmarks.cost"),
        (
            "quality_lstm_shakespeare.json",
            "python -m benchmarks.quality lstm_shakespeare --seeds=1",
        ),
    ],
)
def test_a_missing_file_is_one_line_with_the_command_that_makes_it(results, capsys, file, command):
    (results / file).unlink()
    assert figures.main() == UsageError.exit_code
    line = capsys.readouterr().err
    assert line == f"error: {results / file} is missing; it is made by: {command}\n"


@pytest.mark.parametrize("text, reason", [("{", "is no JSON"), ("{}", "holds no curve")])
def test_a_file_of_something_else_is_refused(results, text, reason):
    (results / "quality_rnn_shakespeare.json").write_text(text)
    with pytest.raises(DataError, match=reason):
        figures.draw("shakespeare")

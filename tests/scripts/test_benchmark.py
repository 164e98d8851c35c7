"""`scripts/benchmark`: the lines of its tables, and that it starts from any folder."""

import json
import subprocess
import sys

import numpy as np
import pytest
from benchmark.measurement import compare, format_quantity, time_in_turn
from support.paths import ENVIRONMENT, SCRIPTS


def benchmark(folder, *arguments):
    command = [sys.executable, SCRIPTS / "benchmark", *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00329, "3.29 ms"), (7.25e-6, "7.25 µs"), (100, "100 s"), (2.15e9, "2.15 Gs"), (0, "0 s"), (-0.02, "-20 ms")],
)
def test_quantities_have_a_prefix_of_their_unit(value, text):
    assert format_quantity(value, "s") == text


def test_the_ratio_is_the_median_of_the_rounds():
    pair = np.array([1.0, 2.0, 90.0]), np.array([2.0, 2.0, 3.0])
    row = compare("a : b", pair, "s", at_most=1.02)
    assert row.cells() == ("a : b", "2 s : 2 s", "1", "0.75 to 15.5", "<= 1.02", "met")
    assert compare("a : b", pair, "s", at_least=30).cells()[4:] == (">= 30", "missed")
    assert compare("a : b", pair, "s").cells()[4:] == ("", "")


@pytest.mark.parametrize(
    ("target", "is_worse"),
    [({"at_most": 2}, {0.5: False, 1.0: False, 3.0: True}), ({"at_least": 2}, {0.5: True, 1.0: False, 3.0: False})],
)
def test_a_figure_is_worse_if_its_quartiles_lie_beyond_the_earlier_ones(target, is_worse):
    noise, one = np.linspace(0.9, 1.1, 9), np.ones(9)
    before = compare("a : b", (noise, one), "s", **target)
    for factor, expected in is_worse.items():
        assert compare("a : b", (factor * noise, one), "s", **target).worsens(before) == expected


@pytest.mark.slow
def test_figures_are_written_and_compared(tmp_path):
    """The figures of a file, made worse by hand, and those that are measured anew."""
    benchmark(tmp_path, "--quick", "--sections", "gradient", "--json", "new.json")
    content = json.loads((tmp_path / "new.json").read_text())
    assert {"jax", "python", "cores", "device"} <= content["machine"].keys()
    (row, *_) = content["sections"]["gradient"]
    assert row["low"] <= row["ratio"] <= row["high"]
    for name in ("low", "ratio", "high"):
        row[name] /= 10
    (tmp_path / "old.json").write_text(json.dumps(content))
    text = benchmark(tmp_path, "--quick", "--sections", "gradient", "--compare", "old.json")
    assert f"worse: gradient: {row['what']}: " in text


def test_runs_take_turns_and_the_first_round_is_not_counted():
    order = []
    seconds = time_in_turn({name: lambda name=name: order.append(name) for name in "ab"}, 2, lambda: order.append("-"))
    assert "".join(order) == "-a-b" * 3
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_it_starts_from_any_folder(tmp_path):
    text = benchmark(tmp_path, "--help")
    assert "--sections" in text
    assert "per_example: norms, noise scale and clipped mean" in text


@pytest.mark.slow
def test_sections_print_their_tables(tmp_path):
    text = benchmark(tmp_path, "--quick", "--sections", "gradient", "script", "check", "folder")
    heads = [line.split()[:3] for line in text.splitlines() if "measured" in line]
    assert heads == [[section, "measured", "ratio"] for section in ("gradient", "script", "check", "folder")]

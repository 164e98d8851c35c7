"""`scripts/notebook.py`: trained and checked once in this process, and its command line on what came of that."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import notebook  # noqa: E402
from notebook import CULPRITS, WAYS, Config, Mended  # noqa: E402


@pytest.fixture(scope="module")
def rows():
    return notebook.run(Config())


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs `main` on a command line; gives exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["notebook.py", *map(str, arguments)])
        return notebook.main(), *capsys.readouterr()

    return run


def test_there_is_a_row_for_every_way_to_mend(rows):
    assert [row.mended for row in rows] == WAYS
    assert len(set(WAYS)) == 16
    assert (WAYS[0], WAYS[-1]) == (Mended(*[False] * 4), Mended(*[True] * 4))
    assert all(row.losses.shape == (200,) for row in rows)


def test_all_four_mended_learns_and_none_mended_does_not(rows):
    assert rows[-1].learns
    assert rows[-1].accuracy >= 0.9
    assert not rows[0].learns


def test_what_learns_has_sigmoid_and_softmax_mended_whatever_the_others(rows):
    """Cross-entropy's wrong derivative is that of another loss with the same minimum, and weights do without biases."""
    assert {row.mended for row in rows if row.learns} == {way for way in WAYS if way.sigmoid and way.softmax}
    assert all(row.diverges or row.accuracy < 0.7 for row in rows if not row.learns)


@pytest.mark.parametrize("i", range(16))
def test_the_check_names_what_is_wrong_and_nothing_else(rows, i):
    wrong = [name for name, right in WAYS[i]._asdict().items() if not right]
    assert rows[i].wrong == wrong
    assert set(rows[i].report.culprits) == {path for name in wrong for path in CULPRITS[name]}


def test_the_culprits_are_the_places_in_the_network():
    layers = notebook.network(WAYS[0])[0].layers
    kinds = {"sigmoid": notebook.Sigmoid, "softmax": notebook.Softmax, "bias": notebook.Dense}
    for name, kind in kinds.items():
        leaf = "b" if name == "bias" else "dx"
        assert CULPRITS[name] == tuple(f"{i}.{leaf}" for i, layer in enumerate(layers) if isinstance(layer, kind))
    assert CULPRITS["cross_entropy"] == ("loss",)


@pytest.mark.parametrize(
    ("formula", "story"),
    [
        ("sigmoid", "sign"),
        ("softmax", "taken elsewhere"),
        ("cross_entropy", "another derivative"),
        ("bias", "sign"),
    ],
)
def test_the_check_tells_how_each_is_wrong(rows, formula, story):
    for row in rows:
        if formula in row.wrong:
            assert {row.report[path].story for path in CULPRITS[formula]} == {story}


def test_the_output_has_table_diagnoses_and_conclusion(rows, script, monkeypatch):
    monkeypatch.setattr(notebook, "run", lambda config: rows)
    code, out, _ = script()
    assert code == 0
    table, diagnoses, conclusion = out.split("\n\n")
    header, *lines = table.splitlines()
    assert header.startswith("sigmoid  softmax  cross-entropy  bias   accuracy")
    assert [line.split().count("mended") for line in lines] == [sum(way) for way in WAYS]
    assert ["diverges" in line for line in lines] == [row.diverges for row in rows]
    assert lines[0].endswith(" 0.b 1.dx 2.b 3.dx 4.b 5.dx 6.b 7.dx loss")
    assert re.search(r" 0\.\d\d +0\.\d{4}  -$", lines[-1])
    assert [line.split()[0] for line in diagnoses.splitlines()] == ["1.dx", "7.dx", "loss", "0.b"]
    assert conclusion.startswith("4 of 16 learn (accuracy 0.85 or more), all with sigmoid and softmax mended; ")
    assert "with cross-entropy or bias wrong it may learn all the same" in conclusion


def test_the_conclusion_is_that_of_the_table(rows):
    failed = [row._replace(accuracy=0.5) for row in rows]
    assert notebook.conclusion(failed) == "None of the 16 learns (accuracy 0.85 or more)."
    only_last = notebook.conclusion([*failed[:-1], rows[-1]])
    assert only_last.endswith("all with sigmoid and softmax and cross-entropy and bias mended.")
    assert not rows[-1]._replace(losses=np.array([1.0, np.nan])).learns
    assert notebook.outcome(rows[-1]._replace(losses=np.array([1.0, np.nan]))).strip() == "diverges, epoch 2"


def test_a_figure_is_saved(rows, script, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(notebook, "run", lambda config: rows)
    assert script("--figure", tmp_path / "losses.png")[0] == 0
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = script("--figure", tmp_path / "none" / "losses.png")
    assert code == 2
    assert "16 learn" in out
    assert re.match(r"notebook.py: .*No such file", err)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--epochs", 0), "epochs is 0, but at least 1 is wanted"),
        (("--seed", -1), "seed is -1, but a whole number from 0 to below 2³² is wanted"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(script, arguments, sentence):
    code, out, err = script(*arguments)
    assert code == 2
    assert not out
    assert err.splitlines()[-1] == f"notebook.py: {sentence}"


def test_without_matplotlib_a_figure_is_refused_before_anything_runs(script, monkeypatch):
    monkeypatch.setattr(notebook, "find_spec", lambda name: None)
    code, out, err = script("--figure", "losses.png")
    assert (code, out) == (2, "")
    assert err == "notebook.py: a figure takes matplotlib: pip install 'jaxann[plots]'\n"


def test_help_is_given():
    done = subprocess.run(
        [sys.executable, SCRIPTS / "notebook.py", "--help"], capture_output=True, text=True, check=True
    )
    assert "--figure" in done.stdout
    assert "Why does it not learn?" in done.stdout

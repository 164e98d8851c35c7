"""`scripts/notebook.py`: trained and checked once in this process, and its command line on what came of that."""

import re
import subprocess
import sys

import notebook
import numpy as np
import pytest
from notebook import CULPRITS, WAYS, Config, Mended
from support.paths import SCRIPTS


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


def test_only_the_last_row_learns(rows):
    assert [row.learns for row in rows] == [False] * 15 + [True]
    assert rows[-1].accuracy == pytest.approx(0.90, abs=0.005)
    accuracies = {spoiled: row.accuracy for row in rows for spoiled in [tuple(row.wrong)] if len(spoiled) == 1}
    assert accuracies.pop(("cross_entropy",)) == pytest.approx(0.78, abs=0.005)
    assert list(accuracies.values()) == pytest.approx([1 / 3] * 3)


def test_with_nothing_mended_the_loss_stands_at_log_3(rows):
    assert rows[0].epochs == 200
    np.testing.assert_allclose(rows[0].losses[-100:], np.log(3), atol=1e-3)


def test_a_run_ends_at_a_flower_whose_loss_is_above_3(rows):
    """By a plain loop over the flowers, for the network with all four mended."""
    start = notebook.beginning(47)
    W, b = ([np.array(layer[name]) for layer in start.params[::2]] for name in "Wb")
    losses, going = [], True
    for _ in range(200):
        of_epoch = []
        for first in range(0, 150, 2):
            moves = [np.zeros_like(array) for array in (*W, *b)]
            for i in (first, first + 1):
                inputs = [start.x[i]]
                for layer in range(4):
                    z = W[layer] @ inputs[-1] + b[layer]
                    inputs.append(1 / (1 + np.exp(-z)) if layer < 3 else np.exp(z) / np.exp(z).sum())
                loss = -np.sum(start.t[i] * np.log(inputs[-1]))
                of_epoch.append(loss)
                going &= loss <= 3
                delta = inputs[-1] - start.t[i]
                for layer in (3, 2, 1, 0):
                    moves[layer] += np.outer(delta, inputs[layer]) / 2
                    moves[4 + layer] += delta / 2
                    delta = W[layer].T @ delta * inputs[layer] * (1 - inputs[layer])
                if not going:
                    break
            if not going:
                break
            for array, move in zip((*W, *b), moves, strict=True):
                array -= 0.5 * move
        if not going:
            break
        losses.append(np.mean(of_epoch))
    assert rows[-1].epochs == len(losses)
    np.testing.assert_allclose(rows[-1].losses[:20], losses[:20], rtol=1e-9)


@pytest.mark.parametrize("i", range(16))
def test_the_check_names_what_is_wrong_and_nothing_else(rows, i):
    wrong = [name for name, right in WAYS[i]._asdict().items() if not right]
    assert rows[i].wrong == wrong
    assert set(rows[i].report.wrong) == {path for name in wrong for path in CULPRITS[name]}


def test_the_culprits_are_the_places_in_the_network():
    layers = notebook.network(WAYS[0])[0].layers
    kinds = {"sigmoid": notebook.Sigmoid, "softmax": notebook.Softmax, "bias": notebook.Dense}
    for name, kind in kinds.items():
        leaf = "b" if name == "bias" else "dx"
        assert CULPRITS[name] == tuple(f"{i}.{leaf}" for i, layer in enumerate(layers) if isinstance(layer, kind))
    assert CULPRITS["cross_entropy"] == ("loss",)


@pytest.mark.parametrize(
    ("formula", "cause"),
    [
        ("sigmoid", "sign"),
        ("softmax", "wrong argument"),
        ("cross_entropy", "another derivative"),
        ("bias", "sign"),
    ],
)
def test_the_check_tells_how_each_is_wrong(rows, formula, cause):
    for row in rows:
        if formula in row.wrong:
            assert {row.report[path].cause for path in CULPRITS[formula]} == {cause}


def test_the_output_has_table_diagnoses_and_conclusion(rows, script, monkeypatch):
    monkeypatch.setattr(notebook, "run", lambda config: rows)
    code, out, _ = script()
    assert code == 0
    table, diagnoses, conclusion = out.split("\n\n")
    header, *lines = table.splitlines()
    assert header.startswith("sigmoid  softmax  cross-entropy  bias    accuracy")
    assert [line.split().count("mended") for line in lines] == [sum(way) for way in WAYS]
    assert lines[0].endswith(" 0.b 1.dx 2.b 3.dx 4.b 5.dx 6.b 7.dx loss")
    assert re.search(r" 0\.90 +0\.3\d{3} +\d\d  -$", lines[-1])
    assert [line.split()[0] for line in diagnoses.splitlines()] == ["1.dx", "7.dx", "loss", "0.b"]
    assert conclusion == "1 of 16 learn (accuracy 0.85 or more): the one in which all four are mended.\n"


def test_the_conclusion_is_that_of_the_table(rows):
    failed = [row._replace(accuracy=0.5) for row in rows]
    assert notebook.conclusion(failed) == "0 of 16 learn (accuracy 0.85 or more)."
    more = [row._replace(accuracy=0.9 if row.wrong in ([], ["bias"]) else 0.5) for row in rows]
    assert notebook.conclusion(more).startswith("2 of 16 learn (accuracy 0.85 or more); with bias wrong a network may")


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

"""`scripts/notebook.py`: its networks, trained and checked once in this process, and its command line."""

import re
import subprocess
import sys

import notebook
import numpy as np
import pytest
import wrong_formulas
from notebook import NotebookSettings
from support.paths import SCRIPTS
from wrong_formulas import CULPRITS, VARIANTS, Repairs


@pytest.fixture(scope="module")
def results():
    return notebook.run_variants(NotebookSettings())


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs `main` on a command line and returns the exit code, the output and the errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["notebook.py", *map(str, arguments)])
        return notebook.main(), *capsys.readouterr()

    return run


@pytest.mark.slow
def test_every_way_to_mend_has_a_result(results):
    assert [result.repairs for result in results] == VARIANTS
    assert len(set(VARIANTS)) == 16
    assert (VARIANTS[0], VARIANTS[-1]) == (Repairs(*[False] * 4), Repairs(*[True] * 4))
    assert all(result.losses.shape == (200,) for result in results)


@pytest.mark.slow
def test_only_the_last_network_learns(results):
    assert [result.learns for result in results] == [False] * 15 + [True]
    assert results[-1].accuracy == pytest.approx(0.90, abs=0.005)
    accuracies = {
        spoiled: result.accuracy for result in results for spoiled in [tuple(result.wrong)] if len(spoiled) == 1
    }
    assert accuracies.pop(("cross_entropy",)) == pytest.approx(0.78, abs=0.005)
    assert list(accuracies.values()) == pytest.approx([1 / 3] * 3)


@pytest.mark.slow
def test_with_nothing_mended_the_loss_stays_at_log_3(results):
    assert results[0].epochs == 200
    np.testing.assert_allclose(results[0].losses[-100:], np.log(3), atol=1e-3)


@pytest.mark.slow
def test_a_run_ends_at_a_flower_whose_loss_is_above_3(results):
    """Compares with a loop over the flowers, for the network with all four formulas mended."""
    start = notebook.make_start(47)
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
    assert results[-1].epochs == len(losses)
    np.testing.assert_allclose(results[-1].losses[:20], losses[:20], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("i", range(16))
def test_the_check_names_what_is_wrong_and_nothing_else(results, i):
    wrong = [name for name, right in VARIANTS[i]._asdict().items() if not right]
    assert results[i].wrong == wrong
    assert set(results[i].report.wrong) == {path for name in wrong for path in CULPRITS[name]}


def test_the_culprits_are_the_places_in_the_network():
    layers = wrong_formulas.make_network(VARIANTS[0])[0].layers
    kinds = {"sigmoid": wrong_formulas.Sigmoid, "softmax": wrong_formulas.Softmax, "bias": wrong_formulas.Dense}
    for name, kind in kinds.items():
        leaf = "b" if name == "bias" else "dx"
        assert CULPRITS[name] == tuple(f"{i}.{leaf}" for i, layer in enumerate(layers) if isinstance(layer, kind))
    assert CULPRITS["cross_entropy"] == ("loss",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("formula", "cause"),
    [
        ("sigmoid", "sign"),
        ("softmax", "wrong argument"),
        ("cross_entropy", "another derivative"),
        ("bias", "sign"),
    ],
)
def test_the_check_tells_how_each_is_wrong(results, formula, cause):
    for result in results:
        if formula in result.wrong:
            assert {result.report[path].cause for path in CULPRITS[formula]} == {cause}


@pytest.mark.slow
def test_the_output_has_table_diagnoses_and_conclusion(results, script, monkeypatch):
    monkeypatch.setattr(notebook, "run_variants", lambda settings: results)
    code, out, _ = script()
    assert code == 0
    table, diagnoses, conclusion = out.split("\n\n")
    header, *lines = table.splitlines()
    assert header.startswith("sigmoid  softmax  cross-entropy  bias    accuracy")
    assert [line.split().count("mended") for line in lines] == [sum(way) for way in VARIANTS]
    assert lines[0].endswith(" 0.b 1.dx 2.b 3.dx 4.b 5.dx 6.b 7.dx loss")
    assert re.search(r" 0\.90 +0\.3\d{3} +\d\d  -$", lines[-1])
    assert [line.split()[0] for line in diagnoses.splitlines()] == ["1.dx", "7.dx", "loss", "0.b"]
    assert conclusion == "1 of 16 learn (accuracy 0.85 or more): the one in which all four are mended.\n"


@pytest.mark.slow
def test_the_conclusion_follows_the_table(results):
    failed = [result._replace(accuracy=0.5) for result in results]
    assert notebook.conclude(failed) == "0 of 16 learn (accuracy 0.85 or more)."
    two = [result._replace(accuracy=0.9 if result.wrong in ([], ["bias"]) else 0.5) for result in results]
    assert notebook.conclude(two).startswith("2 of 16 learn (accuracy 0.85 or more); with bias wrong a network may")


@pytest.mark.slow
def test_a_figure_is_saved(results, script, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(notebook, "run_variants", lambda settings: results)
    assert script("--figure", tmp_path / "losses.png")[0] == 0
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = script("--figure", tmp_path / "none" / "losses.png")
    assert code == 2
    assert "16 learn" in out
    assert re.match(r"notebook.py: .*No such file", err)


@pytest.mark.slow
def test_the_picture_shows_what_is_mended_the_accuracies_and_the_losses(results):
    pytest.importorskip("matplotlib")
    mended, accuracy, losses = notebook.plot_results(results).axes
    full = [[line.get_fillstyle() == "full" for line in mended.lines[4 * row : 4 * row + 4]] for row in range(16)]
    assert full == [list(variant) for variant in VARIANTS]
    np.testing.assert_allclose([bar.get_width() for bar in accuracy.patches], [result.accuracy for result in results])
    assert len({bar.get_facecolor() for bar in accuracy.patches[:15]}) == 1
    assert accuracy.patches[15].get_facecolor() != accuracy.patches[0].get_facecolor()
    assert accuracy.get_title(loc="left") == "1 of 16 networks learns"
    assert losses.get_title(loc="left") == "With nothing mended the loss ends at 1.10"
    labels = {text.get_text() for text in losses.texts if "mended:" in text.get_text()}
    wrong = {"all but cross-entropy mended: 0.78", "all but bias mended: 0.33", "none mended: 0.33"}
    assert labels == {"all four mended: 0.90", *wrong}


@pytest.mark.slow
def test_a_picture_of_runs_that_all_end_in_their_first_epoch_says_so(results):
    pytest.importorskip("matplotlib")
    ended = [result._replace(losses=np.full(200, np.nan)) for result in results]
    *_, losses = notebook.plot_results(ended).axes
    assert losses.get_title(loc="left") == "No run completes an epoch"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--epochs", 0), "expected --epochs of at least 1, got 0"),
        (("--seed", -1), "expected --seed between 0 and 4294967295, got -1"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(script, arguments, sentence):
    assert script(*arguments) == (2, "", f"notebook.py: {sentence}\n")


def test_without_matplotlib_a_figure_is_refused_before_anything_runs(script, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    sentence = "notebook.py: a picture needs matplotlib: pip install 'jaxann[plots]'\n"
    assert script("--figure", "losses.png") == (2, "", sentence)


def test_help_is_given():
    done = subprocess.run(
        [sys.executable, SCRIPTS / "notebook.py", "--help"], capture_output=True, text=True, check=True
    )
    assert "--figure" in done.stdout
    assert "Why does it not learn?" in done.stdout

"""`scripts/per_example.py`: one search in this process, and the command line."""

import subprocess
import sys

import jax
import numpy as np
import per_example as script
import pytest
from support.paths import SCRIPTS


@pytest.fixture(scope="module")
def search():
    with jax.enable_x64(False):
        return script.search(script.SearchSettings(), seed=0)


def test_it_flips_its_share_to_other_labels(search):
    assert search.wrong.sum() == 90
    assert search.given.min() == 0
    assert search.given.max() == 9
    assert len(np.unique((search.given - search.true)[search.wrong] % 10)) == 9


def test_wrong_labels_have_the_largest_gradients(search):
    worst = np.argsort(-search.scores["gradient norm"])[:90]
    assert search.wrong[worst].mean() >= 0.8
    assert (search.scores["gradient norm"] > 0).all()


def test_the_table_has_precision_against_chance(search):
    head, by_norm, by_loss, chance = script.format_precision([search]).splitlines()
    assert "precision at 90" in head
    assert by_norm.startswith("gradient norm")
    assert by_loss.startswith("loss")
    assert chance.split()[1:] == ["0.050"] * 5


def test_precision_is_that_of_the_ranking():
    true = np.zeros(8, int)
    given = np.array([1, 1, 0, 0, 0, 0, 0, 0])
    scores = {"gradient norm": np.array([8.0, 6, 7, 5, 4, 3, 2, 1])}
    row = script.format_precision([script.Search(np.zeros((8, 64)), given, true, scores)]).splitlines()[1]
    assert row.split()[2::3] == ["1.000", "0.500", "0.500", "0.833"]


def test_the_picture_shows_the_largest_gradients_with_their_labels(search):
    pytest.importorskip("matplotlib")
    figure = script.plot_largest(search)
    assert len(figure.axes) == script.SHOWN
    worst = np.argmax(search.scores["gradient norm"])
    given, true = search.given[worst], search.true[worst]
    assert figure.axes[0].get_title() == f"labeled {given}, is {true}"
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array().ravel(), search.images[worst])
    assert figure.get_suptitle().strip() == "All 25 digits with the largest gradients are mislabeled"


def test_a_label_that_is_right_is_shown_as_such(search):
    pytest.importorskip("matplotlib")
    figure = script.plot_largest(search._replace(true=search.given))
    assert figure.get_suptitle().strip() == "0 of the 25 digits with the largest gradients are mislabeled"
    assert all("is" not in axes.get_title() for axes in figure.axes)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--flipped", "0"), "expected --flipped between 0 and 1, excluding 0 and 1, got 0.0"),
        (("--seeds", "0"), "expected --seeds of at least 1, got 0"),
        (("--learning-rate", "nan"), "expected --learning-rate to be a finite number, got nan"),
        (("--epochs", "0"), "expected --epochs of at least 1, got 0"),
    ],
)
def test_bad_input_gets_a_sentence(monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr(sys, "argv", ["per_example.py", *arguments])
    assert script.main() == 2
    assert capsys.readouterr() == ("", f"per_example.py: {sentence}\n")


@pytest.mark.slow
def test_as_a_process_it_prints_a_table():
    quick = ("--seeds", "1", "--epochs", "1")
    ended = subprocess.run([sys.executable, SCRIPTS / "per_example.py", *quick], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["90", "ranked", "gradient", "loss", "chance"]

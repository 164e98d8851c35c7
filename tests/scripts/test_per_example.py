import subprocess
import sys

import jax
import numpy as np
import per_example as script
import pytest
from support.paths import SCRIPTS


@pytest.fixture(scope="module")
def found():
    with jax.enable_x64(False):
        return script.search(script.Config(), seed=0)


def test_it_flips_its_share_to_other_labels(found):
    assert found.wrong.sum() == 90
    assert found.given.min() == 0
    assert found.given.max() == 9
    assert len(np.unique((found.given - found.true)[found.wrong] % 10)) == 9


def test_wrong_labels_have_the_largest_gradients(found):
    worst = np.argsort(-found.scores["gradient norm"])[:90]
    assert found.wrong[worst].mean() >= 0.8
    assert (found.scores["gradient norm"] > 0).all()


def test_the_table_has_precision_against_chance(found):
    head, by_norm, by_loss, chance = script.table([found]).splitlines()
    assert "precision at 90" in head
    assert by_norm.startswith("gradient norm")
    assert by_loss.startswith("loss")
    assert chance.split()[1:] == ["0.050"] * 5


def test_precision_is_that_of_the_ranking():
    true = np.zeros(8, int)
    given = np.array([1, 1, 0, 0, 0, 0, 0, 0])
    scores = {"gradient norm": np.array([8.0, 6, 7, 5, 4, 3, 2, 1])}
    row = script.table([script.Search(np.zeros((8, 64)), given, true, scores)]).splitlines()[1]
    assert row.split()[2::3] == ["1.000", "0.500", "0.500", "0.833"]


def test_the_picture_shows_the_worst(found, tmp_path):
    figure = script.picture(found)
    assert len(figure.axes) == script.WORST
    worst = np.argmax(found.scores["gradient norm"])
    assert figure.axes[0].get_title().startswith(f"given {found.given[worst]}")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--flipped", "0"), "flipped is 0.0, but a share between 0 and 1 is wanted"),
        (("--seeds", "0"), "seeds is 0, but at least 1 is wanted"),
        (("--learning-rate", "nan"), "learning_rate is nan, but a finite number above 0 is wanted"),
        (("--epochs", "0"), "epochs is 0, but at least 1 is wanted"),
    ],
)
def test_bad_input_gets_a_sentence(arguments, sentence):
    ended = subprocess.run([sys.executable, SCRIPTS / "per_example.py", *arguments], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == f"per_example.py: {sentence}\n"

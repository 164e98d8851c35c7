"""Files of different runs in one folder: data, settings and checkpoints that do not belong together are refused."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.datasets import load_iris
from support.runs import BARE, QUICK, call_predict, call_train

NAMES = ["a", "b", "c", "d"]


def write_table(path, *, names=NAMES, factor=1.0, kinds=("u", "v", "w")):
    x, labels = load_iris(return_X_y=True)
    lines = [",".join([*map(str, row), kinds[label]]) for row, label in zip(x * factor, labels, strict=True)]
    path.write_text("\n".join([",".join([*names, "kind"]), *lines]))


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A folder with a table, a run "a" on it and a run "b" with another seed; tests may only read it."""
    folder = tmp_path_factory.mktemp("origins")
    write_table(folder / "mine.csv")
    for name, seed in (("a", 0), ("b", 1)):
        settings = ("--dataset", "mine.csv", "--preset", "derivation", "--seed", seed, "--split", 0, "--run", name)
        assert call_train(folder, *QUICK, *BARE, *settings, "--epochs", 2).code == 0
    return folder


@pytest.fixture
def copy(finished_run, tmp_path):
    """A copy of `finished_run` that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"names": ["b", "a", "c", "d"]}, "different names of columns"),
        ({"factor": 2.0}, "different means of the features"),
        ({"kinds": ("v", "u", "w")}, "different means of the features"),
        ({"kinds": ("x", "y", "z")}, "different names of classes"),
    ],
)
def test_a_run_is_not_resumed_with_data_that_only_look_alike(copy, changed, difference):
    write_table(copy / "mine.csv", **changed)
    ended = call_train(copy, "--resume", "a", "--epochs", 4)
    sentence = f"train.py: expected the data with which a was started, got data with {difference}"
    assert (ended.code, ended.sentence) == (2, sentence)


def change(name, **values):
    """Returns a function that changes a JSON file in a folder."""

    def change_file(folder):
        path = folder / "a" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change_file


def take_checkpoints_of_b(folder):
    shutil.rmtree(folder / "a" / "checkpoints")
    shutil.copytree(folder / "b" / "checkpoints", folder / "a" / "checkpoints")


BESIDE = "with which the checkpoint of epoch 2 in a/checkpoints was written, got one whose"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (change("config.json", activation="tanh"), f"expected the config.json {BESIDE} activation is 'tanh', not 'sig"),
        (take_checkpoints_of_b, f"expected the config.json {BESIDE} seed is 0, not 1"),
        (change("data.json", mean=[0.0] * 4), f"expected the data.json {BESIDE} digest is "),
        (change("data.json", classes=["w", "v", "u"]), f"expected the data.json {BESIDE} digest is "),
        (
            change("data.json", columns=["b", "a", "c", "d"]),
            "a/data.json is damaged: expected the features of the encoding as columns",
        ),
        (
            change("data.json", encoding={"columns": 3}),
            "a/data.json is damaged: expected the encoding of columns, got ",
        ),
        (change("data.json", mean=[0.0] * 3), "a/data.json is damaged: expected a finite mean for each of 4 columns"),
        (
            change("data.json", sd=[1, 1, 1, -1]),
            "a/data.json is damaged: expected a finite sd above 0 for each",
        ),
        (change("data.json", sd=[1, 1, 1, 10**400]), "a/data.json is damaged: "),
        (change("data.json", sd="many"), "a/data.json is damaged: expected sd to be a list in which each element is a"),
        (
            change("data.json", classes=["u", "v"]),
            "a/data.json is damaged: expected a name of its own for each",
        ),
        (
            change("data.json", columns=["a", "a", "c", "d"]),
            "a/data.json is damaged: expected a name of its own for",
        ),
        (change("data.json", targets={"loss": "cross_entropy", "deviation": 1}), "a/data.json is damaged: "),
        (
            change("data.json", targets={"loss": "cross_entropy", "classes": 3, "sd": -1.0}),
            "a/data.json is damaged: expected a finite mean and a finite sd above 0 of the targets",
        ),
        (change("data.json", targets={"loss": "cross_entropy", "classes": 3, "mean": "x"}), "a/data.json is damaged: "),
    ],
)
def test_predictions_are_made_only_with_the_files_of_the_run(copy, damage, sentence):
    damage(copy)
    ended = call_predict(copy, "a", "--input", "mine.csv")
    assert (ended.code, ended.out) == (2, "")
    assert re.match(re.escape(f"predict.py: {sentence}"), ended.err)
    assert ended.err.count("\n") == 1


def test_other_random_bits_are_noticed_when_a_run_is_resumed(copy):
    try:
        jax.config.update("jax_threefry_partitionable", not jax.config.jax_threefry_partitionable)
        ended = call_train(copy, "--resume", "a", "--epochs", 4)
    finally:
        jax.config.update("jax_threefry_partitionable", not jax.config.jax_threefry_partitionable)
    assert ended.code == 2
    sentence = (
        "train.py: expected JAX_THREEFRY_PARTITIONABLE to be True, as when the checkpoint of epoch 2 in a/checkpoints "
        "was written, got False, with which the rest of the run would draw other random numbers"
    )
    assert ended.sentence == sentence


def test_a_run_without_origins_in_its_checkpoints_still_predicts(copy, monkeypatch):
    """Checkpoints of older versions store no origin."""
    monkeypatch.setattr("jaxann.cli.record.describe_origin", lambda *_: {})
    assert (
        call_train(
            copy, *QUICK, *BARE, "--dataset", "mine.csv", "--preset", "derivation", "--epochs", 2, "--run", "old"
        ).code
        == 0
    )
    new, old = (call_predict(copy, name, "--input", "mine.csv") for name in ("a", "old"))
    assert old.code == 0
    assert np.array(old.out.splitlines())[0] == np.array(new.out.splitlines())[0]

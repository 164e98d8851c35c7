"""Scores that are not finite: a message explains them, they are never the best, and the record is still complete."""

import json
import re

import jax
import numpy as np
import pytest
from support.runs import BARE, call_train, read_rows

from jaxann.cli import task
from jaxann.cli.scorer import Scorer, Validator
from jaxann.cli.settings import Settings
from jaxann.training.loop import begin

SETTINGS = ("--hidden", 5, "--batch-size", 16, "--activation", "relu", "--learning-rate", 0.01, *BARE)


def write_table(path, outliers, value="1e30"):
    """Writes 100 examples of two classes, with a huge feature in the rows `outliers`."""
    random = np.random.default_rng(0)
    rows = [[*map(str, random.normal(size=3)), "uv"[i % 2]] for i in range(100)]
    for row in outliers:
        rows[row][0] = value
    path.write_text("\n".join(["a,b,c,kind", *(",".join(row) for row in rows)]))


def find_part(folder, name):
    """Returns the numbers of the rows that are in a part, from a table whose first feature is that number."""
    numbers = [[str(i), "0", "0", "uv"[i % 2]] for i in range(100)]
    (folder / "numbers.csv").write_text("\n".join(["a,b,c,kind", *(",".join(row) for row in numbers)]))
    settings = Settings(dataset=str(folder / "numbers.csv"), validation=0.2, scaling="none", batch_size=16)
    part = getattr(task.prepare(settings).data, name)
    return np.asarray(part.x)[:, 0].astype(int).tolist()


@pytest.mark.parametrize("value", ["1e30", "1e38"])
def test_a_validation_loss_that_is_never_finite_leaves_the_last_parameters(tmp_path, value):
    rows = find_part(tmp_path, "validation")
    write_table(tmp_path / "mine.csv", rows[6:7], value)
    run = (
        "mine.csv",
        "--preset",
        "derivation",
        "--validation",
        0.2,
        "--evaluate-every",
        2,
        "--epochs",
        6,
        "--precision",
        "float32",
    )
    ended = call_train(tmp_path, *run, *SETTINGS, "--run", "a")
    assert ended.code == 0
    explanations = [line for line in ended.err.splitlines() if "does not count as the best" in line]
    assert len(explanations) == 1  # although three evaluations were not finite
    assert re.search(r"on the validation part, expected .* for example 7 of 16; ", explanations[0])
    assert "--loss softmax_cross_entropy" in explanations[0]
    text = (tmp_path / "a" / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert [row["validation_loss"] for row in read_rows(tmp_path / "a") if "validation_loss" in row] == [None] * 3
    assert json.loads((tmp_path / "a" / "result.json").read_text())["best_epoch"] == 6
    assert "the parameters of epoch 6" in ended.out


def test_the_record_is_complete_although_outputs_for_the_test_part_are_not_finite(tmp_path):
    rows = find_part(tmp_path, "test")
    write_table(tmp_path / "mine.csv", rows[2:3], "3e38")
    run = ("--dataset", "mine.csv", "--validation", 0.2, "--epochs", 4, "--precision", "float32", "--run", "a")
    ended = call_train(tmp_path, *SETTINGS, "--loss", "softmax_cross_entropy", "--init-scale", 10, "--plots", *run)
    assert ended.code == 2
    assert ended.sentence == (
        "train.py: on the test part, expected finite outputs for every example, got -inf for example 3 of 20"
    )
    assert "held-out" not in ended.out
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert result["accuracy"] is None
    assert result["epoch"] == 4
    assert [path.name for path in (tmp_path / "a" / "checkpoints").iterdir()] == ["4"]
    assert (tmp_path / "a" / "curves.png").exists()


def test_an_r_squared_that_overflows_is_refused_as_a_score():
    scorer = Scorer(task.prepare(Settings(dataset="diabetes", precision="float64")))
    y = np.array([[0.0], [1e200], [0.0]])
    with pytest.raises(FloatingPointError, match=r"^expected a finite R², got -inf$"):
        scorer.score(np.array([1.0, 2.0, 3.0]), y)


def test_the_criterion_decides_whether_an_infinite_loss_counts():
    prepared = task.prepare(Settings(validation=0.2, precision="float64"))
    params = begin(prepared.recipe, jax.random.key(0)).best
    last = params[-2]  # before the softmax
    saturated = (*params[:-2], last | {"b": last["b"].at[0].set(1e4)}, params[-1])  # probabilities 1, 0, 0
    for criterion, finite in (("accuracy", True), ("loss", False)):
        better, metrics = Validator(prepared, Scorer(prepared), criterion)(saturated)
        assert np.isfinite(better) == finite
        assert metrics["validation_loss"] == np.inf
        assert metrics["validation_accuracy"] == pytest.approx(1 / 3)

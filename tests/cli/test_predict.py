"""The program predict: predictions of a run for new examples, and what it refuses."""

import csv
import re

import numpy as np
import pytest
from sklearn.datasets import load_iris
from support.runs import BARE, QUICK, call_predict, call_train


def test_predictions_are_those_of_the_run_by_the_names_of_its_columns(tmp_path):
    assert call_train(tmp_path, "--hidden", 20, "--epochs", 50, *BARE, "--run", "a").code == 0
    x, labels = load_iris(return_X_y=True)
    names = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
    order = [2, 0, 3, 1]
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[names[i] for i in order], *x[:, order].tolist()])
    code, out, _ = call_predict(tmp_path, "a", "--input", "in.csv")
    assert code == 0
    rows = list(csv.DictReader(out.splitlines()))
    kinds = ["setosa", "versicolor", "virginica"]
    assert np.mean([row["target"] == kinds[label] for row, label in zip(rows, labels, strict=True)]) > 0.93
    for row in rows:
        shares = [float(row[f"P({kind})"]) for kind in kinds]
        assert sum(shares) == pytest.approx(1)
        assert row["target"] == kinds[int(np.argmax(shares))]
    assert call_predict(tmp_path, "a", "--input", "in.csv", "--output", "out.csv").code == 0
    assert (tmp_path / "out.csv").read_text() == out
    np.savez(tmp_path / "in.npz", x=x)
    assert call_predict(tmp_path, "a", "--input", "in.npz").out == out
    for arguments, sentence in {
        ("a", "--input", "in.csv", "--output", "out.csv"): "expected a new file, got one that exists: out.csv",
        ("a", "--input", "none.csv"): "no such file: none.csv",
        ("b", "--input", "in.csv"): "expected the folder of a run, with a config.json in it, got b",
        (
            "a",
            "--input",
            "in.csv",
            "--checkpoint",
            3,
        ): "expected a checkpoint of epoch 3 in a/checkpoints, got those of 50",
    }.items():
        ended = call_predict(tmp_path, *arguments)
        assert ended.code == 2
        assert re.match(f"predict.py: {sentence}", ended.sentence), ended.sentence
    (tmp_path / "in.csv").write_text((tmp_path / "in.csv").read_text().replace("petal width (cm)", "width"))
    ended = call_predict(tmp_path, "a", "--input", "in.csv")
    assert ended.code == 2
    assert re.search(r"in in\.csv, got a table that lacks petal width \(cm\)$", ended.sentence)


def test_numbers_are_predicted_in_their_unit_from_a_csv(tmp_path):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(200, 2)) * [1, 100]
    t = 5000 + 30 * x[:, 0] - 2 * x[:, 1]
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["a", "price", "b"], *np.column_stack([x[:, 0], t, x[:, 1]]).tolist()])
    settings = ("--hidden", 8, "--activation", "tanh", "--epochs", 100, "--learning-rate", 0.05, "--batch-size", 8)
    named = ("--dataset", "mine.csv", "--target", "price", "--checkpoint-seconds", 99, "--run", "a")
    assert call_train(tmp_path, *settings, *BARE, *named).code == 0
    code, out, _ = call_predict(tmp_path, "a", "--input", "mine.csv")
    assert code == 0
    assert out.splitlines()[0] == "price"
    predicted = [float(line) for line in out.splitlines()[1:]]
    assert np.corrcoef(predicted, t)[0, 1] > 0.995
    assert np.mean(predicted) == pytest.approx(t.mean(), rel=0.01)


@pytest.mark.slow
def test_weights_of_0_are_left_out_and_predicting_does_not_mind_the_column(tmp_path):
    x, labels = load_iris(return_X_y=True)
    rows = [[*map(str, row), "abc"[label], i % 3] for i, (row, label) in enumerate(zip(x, labels, strict=True))]
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "c", "d", "kind", "w"], *rows])
    named = (*QUICK, *BARE, "--epochs", 2, "--dataset", "mine.csv", "--target", "kind", "--weights", "w")
    code, out, _ = call_train(tmp_path, *named, "--validation", 0.2, "--run", "a")
    assert code == 0
    assert "(20 examples" in out
    assert len(call_predict(tmp_path, "a", "--input", "mine.csv").out.splitlines()) == 151
    (tmp_path / "in.csv").write_text("a,b,c,d\n1,2,3,1e300\n")
    assert call_predict(tmp_path, "a", "--input", "in.csv").code == 0  # this run is in float64
    assert call_train(tmp_path, *named, "--precision", "float32", "--run", "b").code == 0
    ended = call_predict(tmp_path, "b", "--input", "in.csv")
    assert (ended.code, ended.out) == (2, "")
    sentence = r"expected finite float32 numbers in features, got inf at \[0, 3\]"
    assert re.match(f"predict.py: {sentence}", ended.sentence)

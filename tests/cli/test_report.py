"""Scores by name: each against its formula, the baseline beside it, what it decides, and how it is shown and stored."""

import json
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from support.programs import call
from support.runs import BARE, call_train, read_rows
from support.sweeps import call_sweep

from jaxann.cli import overfitting, report, sweep, task, train
from jaxann.cli.scorer import Scorer, Validator
from jaxann.cli.scores import LOSS, SCORES, Predictions, find_score, list_scores, name_score, predict_constants
from jaxann.cli.settings import ScoreKey, Settings
from jaxann.cli.summary import Summary
from jaxann.data.batches import Examples
from jaxann.data.targets import Targets
from jaxann.nn.hyperparameters import SettingError
from jaxann.training.loop import begin

WEIGHTS = np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.5, 1.0])
TWO = Targets("softmax_cross_entropy", 2)
THREE = Targets("softmax_cross_entropy", 3)
NUMBERS = Targets("squared_error", 0, 0.0, 100.0, 20.0)


def area(positive, score, weights):
    """Returns the share of pairs of a positive and a negative example that the score orders rightly."""
    pairs = [(i, j) for i in np.flatnonzero(positive) for j in np.flatnonzero(~positive)]
    mass = np.array([weights[i] * weights[j] for i, j in pairs])
    right = np.array([(score[i] > score[j]) + 0.5 * (score[i] == score[j]) for i, j in pairs])
    return mass @ right / mass.sum()


def softmax(y):
    return np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)


def rates(t, predicted, label, weights):
    """Returns the precision, the recall and the F1 of a class."""
    hits = weights @ ((t == label) & (predicted == label))
    precision, recall = hits / (weights @ (predicted == label)), hits / (weights @ (t == label))
    return precision, recall, 2 * precision * recall / (precision + recall)


def measure(targets, t, y, weights):
    predictions = Predictions.from_outputs(targets, t, y, weights)
    return {score.key: score.measure(predictions) for score in list_scores(targets)}


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("targets", [TWO, THREE])
def test_scores_of_classes_are_their_formulas_with_the_weights(targets, weights):
    m, draw = targets.classes, np.random.default_rng(0)
    t = np.array([0, 1, 2, 1, 0, 2, 1, 0]) % m
    y = draw.normal(size=(8, m)) + np.eye(m)[t]
    y[1] = y[0]  # a tie between two classes
    scores, w, p, predicted = measure(targets, t, y, weights), np.ones(8), softmax(y), y.argmax(axis=1)
    w = w if weights is None else weights
    by_class = np.array([rates(t, predicted, label, w) for label in range(m)])
    expected = {
        "accuracy": w @ (predicted == t) / w.sum(),
        "balanced_accuracy": by_class[:, 1].mean(),
        "log_loss": -(w @ np.log(p[range(8), t])) / w.sum(),
        "roc_auc": np.mean([area(t == label, p[:, label], w) for label in range(m)]),
        **dict(zip(("precision", "recall", "f1"), by_class[1] if m == 2 else by_class.mean(axis=0), strict=True)),
    }
    assert scores == pytest.approx(expected)
    of_sklearn = p[:, 1] if m == 2 else p
    assert scores["roc_auc"] == pytest.approx(roc_auc_score(t, of_sklearn, sample_weight=weights, multi_class="ovr"))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_scores_of_numbers_are_their_formulas_in_the_unit_of_the_data(weights):
    draw = np.random.default_rng(0)
    t, y = 100 + 20 * draw.normal(size=8), draw.normal(size=(8, 1))
    w, error = np.ones(8) if weights is None else weights, y[:, 0] * 20 + 100 - t
    mean = w @ t / w.sum()
    expected = {
        "r2": 1 - w @ error**2 / (w @ (t - mean) ** 2),
        "mae": w @ np.abs(error) / w.sum(),
        "rmse": np.sqrt(w @ error**2 / w.sum()),
    }
    assert measure(NUMBERS, t, y, weights) == pytest.approx(expected)


def test_probabilities_that_do_not_sum_to_1_are_divided_by_their_sum():
    sigmoid, y = Targets("sigmoid_cross_entropy", 2), np.array([[2.0, -1.0], [0.5, 1.0], [-1e4, -1e4]])
    p = 1 / (1 + np.exp(-np.maximum(y, -700)))
    shares = [p[0, 0] / p[0].sum(), p[1, 1] / p[1].sum(), 0.5]
    assert measure(sigmoid, np.array([0, 1, 1]), y, None)["log_loss"] == pytest.approx(-np.mean(np.log(shares)))


def test_the_baseline_is_the_best_constant_of_the_training_part_with_its_weights():
    train_part = Examples(np.zeros((5, 1)), np.array([0, 1, 1, 1, 2]), np.array([9.0, 1.0, 1.0, 1.0, 2.0]))
    constants = predict_constants(THREE, train_part, np.array([0, 1]), None)
    assert set(constants) == {score.key for score in list_scores(THREE)}
    assert constants["accuracy"].values.tolist() == [0, 0]
    np.testing.assert_allclose(constants["log_loss"].probabilities, [np.array([9, 3, 2]) / 14] * 2)
    numbers = Examples(np.zeros((4, 1)), np.array([0.0, 10.0, 20.0, 100.0]), np.array([1.0, 1.0, 1.0, 4.0]))
    constants = predict_constants(NUMBERS, numbers, np.array([1.0, 2.0]), None)
    for key, expected in {"r2": 430 / 7, "rmse": 430 / 7, "mae": 100.0}.items():
        np.testing.assert_allclose(NUMBERS.decode(constants[key].values[:, None]), [expected] * 2)


def test_every_score_has_a_setting_and_a_direction():
    assert set(ScoreKey.__args__) == {"loss", *SCORES}
    lower = {key for key, score in (SCORES | {"loss": LOSS}).items() if score.lower_is_better}
    assert lower == {"loss", "log_loss", "mae", "rmse", "bits_per_character", "perplexity"}
    for score in (*SCORES.values(), LOSS):
        assert score.orient(2.0) == (-2.0 if score.lower_is_better else 2.0)
        better, worse = (1.0, 2.0) if score.lower_is_better else (2.0, 1.0)
        summaries = [Summary({}, [worse], [0.5], 0), Summary({}, [better], [0.9], 0), Summary({}, [], [], 1)]
        assert sorted(summaries, key=lambda summary, score=score: summary.rank(score))[0].scores == [better]
        assert sorted(summaries, key=lambda summary, score=score: summary.rank(score))[2].scores == []


def test_names_say_of_which_classes_a_score_is():
    assert name_score(SCORES["f1"], ("no", "yes")) == "F1 of yes"
    assert name_score(SCORES["precision"], ("a", "b", "c")) == "precision, mean over classes"
    assert name_score(SCORES["roc_auc"], ("a", "b", "c")) == "ROC AUC, mean over classes"
    assert name_score(SCORES["roc_auc"], ("no", "yes")) == "ROC AUC"
    assert name_score(SCORES["mae"], ()) == "MAE"


@pytest.mark.parametrize(
    ("key", "targets", "sentence"),
    [
        (
            "f1",
            NUMBERS,
            "expected score to be loss, r2, mae or rmse for targets that are numbers, got 'f1'",
        ),
        ("rmse", TWO, "expected score to be loss, accuracy, .*, recall or f1 for classes, got 'rmse'"),
        (
            "log_loss",
            Targets("hinge", 2),
            "expected score to be loss, accuracy, balanced_accuracy, precision, recall or f1 for the loss hinge, which "
            "gives no probabilities, got 'log_loss'",
        ),
    ],
)
def test_a_score_that_does_not_fit_the_targets_or_their_loss_is_refused(key, targets, sentence):
    with pytest.raises(SettingError, match=f"^{sentence}$"):
        find_score(key, targets)


def test_accuracy_stands_for_r_squared_as_in_stored_runs_on_numbers():
    assert find_score("accuracy", NUMBERS) is SCORES["r2"]


@pytest.mark.parametrize(
    ("main", "arguments", "sentence"),
    [
        (train.main, ("diabetes", "--score", "f1"), "expected --score to be loss, r2, mae or rmse for targets that"),
        (sweep.main, ("diabetes", "--score", "f1"), "expected --score to be loss, r2, mae or rmse for targets that"),
        (
            sweep.main,
            ("wine", "--score", "roc_auc", "--grid", "loss=none,hinge"),
            "expected --score to be loss, .* for the loss hinge, which gives no probabilities, got 'roc_auc'",
        ),
        (train.main, ("iris", "--score", "f1"), "expected --score only together with --validation, got 'f1'"),
    ],
)
def test_the_programs_refuse_such_a_score_in_one_sentence(main, arguments, sentence):
    code, out, err = call(main, *arguments, name="program.py")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert re.match(f"program.py: {sentence}", err), err


def test_an_area_that_no_example_defines_is_refused_and_left_out_of_the_table():
    prepared = task.prepare(Settings(validation=0.2, precision="float64"))
    examples, t = prepared.shown
    with pytest.raises(SettingError, match=r"expected score to be defined \(the examples .* of one class\), got 'roc_"):
        Scorer(prepared._replace(shown=(examples, np.zeros_like(t))), "roc_auc")
    data = prepared.data._replace(test=prepared.data.test._replace(t=np.zeros(30, int)))
    scores = report.measure_scores(prepared.targets, data, np.full((30, 3), 1 / 3))
    assert np.isnan(scores["roc_auc"]["network"])
    lines = report.format_scores(scores, list_scores(prepared.targets), data.classes)
    assert re.search(r"ROC AUC.* +- +-$", "\n".join(lines), re.MULTILINE)


@pytest.mark.parametrize(("dataset", "key"), [("iris", "f1"), ("iris", "log_loss"), ("diabetes", "mae")])
def test_the_score_decides_which_parameters_are_best(dataset, key):
    prepared = task.prepare(Settings(dataset=dataset, validation=0.2, precision="float64", learning_rate=0.01))
    params = begin(prepared.recipe, jax.random.key(0)).best
    validate = Validator(prepared, Scorer(prepared), key)
    better, metrics = validate(params)
    expected = Scorer(prepared, key)(params, *prepared.shown)[0]
    assert metrics[f"validation_{key}"] == expected
    assert better == (expected if key == "f1" else -expected)
    assert set(metrics) == {"validation_loss", f"validation_{Scorer(prepared).key}", f"validation_{key}"}
    assert validate.shown == key


def test_a_run_on_numbers_prints_stores_and_draws_its_scores(tmp_path):
    arguments = ("diabetes", "--score", "mae", "--hidden", 4, "--epochs", 20, "--no-tensorboard", "--run", "a")
    code, out, err = call_train(tmp_path, *arguments)
    assert code == 0, err
    assert "train_loss=" in err
    assert "validation_mae=" in err
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert set(result) == {"epoch", "best_epoch", "r2", "scores"}
    assert set(result["scores"]) == {"r2", "mae", "rmse"}
    assert result["scores"]["r2"]["network"] == result["r2"]
    rows = [row for row in read_rows(tmp_path / "a") if "validation_mae" in row]
    assert result["best_epoch"] == min(rows, key=lambda row: row["validation_mae"])["epoch"]
    for name, key in {"R²": "r2", "MAE": "mae", "RMSE": "rmse"}.items():
        network, baseline = re.search(rf"^{name} +(\S+) +(\S+)$", out, re.MULTILINE).groups()
        pair = {"network": float(network), "baseline": float(baseline)}
        assert result["scores"][key] == pytest.approx(pair, rel=1e-3, abs=1e-3)
    assert (tmp_path / "a" / "predictions.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "a" / "confusion.png").exists()


def test_a_run_on_two_classes_says_of_which_one_its_scores_are(tmp_path):
    code, out, _ = call_train(tmp_path, "breast_cancer", "--hidden", 4, "--epochs", 20, *BARE, "--run", "a")
    assert code == 0
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert set(result["scores"]) == {key for key, score in SCORES.items() if score.kind == "classes"}
    assert result["accuracy"] == result["scores"]["accuracy"]["network"]
    shown = f"{result['scores']['recall']['network']:.3f}"
    assert re.search(rf"^recall of benign +{re.escape(shown)} +1\.000$", out, re.MULTILINE)
    assert "The baseline always predicts the most frequent class of the training part, benign." in out


def test_a_sweep_ranks_by_the_score_in_its_direction(tmp_path):
    grid = ("--grid", "learning_rate=0.0001,0.01,0.1", "--seeds", 1, "--no-plots")
    for key, name in {"mae": "MAE", "r2": "R²", "loss": "loss"}.items():
        arguments = ("--dataset", "diabetes", *grid, "--score", key, "--out", tmp_path / key)
        code, out, err = call_sweep(*arguments)
        assert code == 0, err
        assert f"best validation_{key}=" in err or "network" not in err
        header, *lines = out.splitlines()
        assert header.split()[1:3] == ["validation", name]
        assert header.count("loss") == 1
        values = [float(line.split()[1]) for line in lines]
        assert values == sorted(values, reverse=key == "r2")
        assert len(set(values)) == 3
    ended = call_sweep("--dataset", "diabetes", *grid, "--score", "mae", "--out", tmp_path / "r2")
    assert ended.sentence == f"sweep.py: expected --score to be r2, as in the sweep in {tmp_path}/r2, got 'mae'"
    config = json.loads((tmp_path / "r2" / "config.json").read_text())
    del config["score"]  # older sweeps stored none, and were ranked by R² for numbers
    (tmp_path / "r2" / "config.json").write_text(json.dumps(config))
    assert call_sweep("--dataset", "diabetes", *grid, "--out", tmp_path / "r2").code == 0


def overfit(prepared, settings, wrong):
    """Returns the advice for a network that is right on the training part and `wrong` on that many test examples."""
    y = np.eye(3)[prepared.data.test.t]
    y[:wrong] = np.roll(y[:wrong], 1, axis=1)
    params = begin(prepared.recipe, jax.random.key(0)).best
    return overfitting.describe_overfitting(prepared, params, y, Scorer(prepared), settings)


def test_where_the_training_score_is_better_by_more_than_chance_a_line_says_what_to_try(monkeypatch):
    settings = Settings(precision="float64")
    prepared = task.prepare(settings)
    monkeypatch.setattr(overfitting, "compute_outputs", lambda *_: np.eye(3)[prepared.data.train.t])
    assert overfit(prepared, settings, 0) == []
    assert overfit(prepared, settings, 5) == []  # 25 of 30 right is what some networks of the derivation reach on Iris
    (line,) = overfit(prepared, settings, 12)
    assert line == (
        "The network overfits: accuracy is 1.000 on the training part, but 0.600 on held-out examples. "
        "Try --dropout 0.2, --weight-decay 0.01, fewer --hidden units or --validation 0.2 with --patience 20."
    )
    (line,) = overfit(prepared, replace(settings, dropout=0.1, weight_decay=0.1, validation=0.2, patience=9), 12)
    assert line.endswith("Try fewer --hidden units.")
    (line,) = overfit(prepared, replace(settings, hidden=(), weight_decay=0.1, validation=0.2, patience=9), 12)
    assert line.endswith("Try more examples.")

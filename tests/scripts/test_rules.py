"""`scripts/rules.py`: a small run in this process, the command line, and, slow, what the README says about it."""

import json
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
import rules
from support.paths import SCRIPTS

from jaxann import fit, predict
from jaxann.data import load_dataset
from jaxann.nn import SoftmaxCrossEntropy, mlp, tanh
from jaxann.rules import RULES

QUICK = rules.ComparisonSettings(
    rules=("feedback_alignment", "output_layer_only"), seeds=2, hidden=(16,), epochs=3, weight_decay=0.0
)


@pytest.fixture(scope="module")
def outcomes():
    return rules.compare_rules(QUICK)


def test_its_names_are_the_rules():
    assert set(rules.NAMES) == {*RULES, "kolen_pollack"}


def test_a_row_a_rule_with_angles_and_the_control_named(outcomes):
    head, aligned, control = rules.format_outcomes(outcomes).splitlines()
    assert head.split()[:2] == ["rule", "accuracy"]
    assert aligned.startswith("feedback_alignment")
    assert control.endswith("the control")
    assert outcomes["output_layer_only"].last_angles("gradient") == pytest.approx([90, 0])
    assert outcomes["output_layer_only"].last_angles("feedback") == []
    assert len(outcomes["feedback_alignment"].last_angles("feedback")) == 2


def test_every_seed_is_the_run_that_it_would_be_alone(outcomes):
    """A seed has its own split. Measuring the angles, which is left out here, does not change a run."""
    model, opt, rule = mlp((64, 16, 10), tanh), optax.sgd(QUICK.learning_rate), RULES["feedback_alignment"]
    accuracy, loss, _ = outcomes["feedback_alignment"]
    for seed in range(2):
        data, key = load_dataset("digits", seed=seed), jax.random.key(seed)
        settings = {"key": key, "epochs": 3, "batch_size": QUICK.batch_size, "gradient": rule}
        params, history = fit(model, SoftmaxCrossEntropy(), opt, data.train.x, data.train.t, **settings)
        right = np.mean(predict(model, params, data.test.x).argmax(axis=1) == data.test.t)
        np.testing.assert_allclose(loss[seed], history.loss, rtol=1e-10)  # the rounding of 135 steps
        assert accuracy[seed] == pytest.approx(right)
    assert abs(loss[0] - loss[1]).min() > 1e-4


def test_a_diverged_seed_is_named_and_left_out_of_the_mean(outcomes):
    outcome = outcomes["feedback_alignment"]
    diverged = outcome._replace(accuracy=np.array([np.nan, 0.5]))
    row = rules.format_outcomes({"feedback_alignment": diverged}).splitlines()[1]
    assert "0.500" in row
    assert row.endswith("seeds [0] diverged")
    assert rules.to_json({"x": diverged})["x"]["accuracy"] == [None, 0.5]


def test_a_seed_that_diverges_in_its_last_step_has_diverged():
    """The only step takes the whole training part, and its loss is from before the update."""
    settings = {"learning_rate": 1e39, "weight_decay": 0.0, "epochs": 1, "batch_size": 1437}
    with jax.enable_x64(False), np.errstate(over="ignore"):  # this rate is infinite in float32
        (outcome,) = rules.compare_rules(
            rules.ComparisonSettings(rules=("output_layer_only",), seeds=2, hidden=(4,), **settings)
        ).values()
    assert np.isfinite(outcome.loss).all()
    assert np.isnan(outcome.accuracy).all()
    assert rules.format_outcomes({"x": outcome}).endswith("seeds [0, 1] diverged")


def test_angles_are_in_the_order_of_the_matrices():
    """The last of the six is 10.W, which would come before 2.W in the order of text."""
    deep = rules.ComparisonSettings(rules=("output_layer_only",), seeds=1, hidden=(4,) * 5, epochs=1, batch_size=500)
    (outcome,) = rules.compare_rules(deep).values()
    assert outcome.last_angles("gradient") == pytest.approx([90, 90, 90, 90, 90, 0])
    assert [metric.split()[-1] for metric in outcome.angles] == ["0.W", "2.W", "4.W", "6.W", "8.W", "10.W"]
    assert " ± " not in rules.format_outcomes({"x": outcome})  # one seed has no spread


def test_the_picture_and_the_numbers_are_saved(outcomes, monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(rules, "compare_rules", lambda settings: outcomes)
    picture, numbers = tmp_path / "rules.png", tmp_path / "rules.json"
    monkeypatch.setattr(sys, "argv", ["rules.py", "--figure", str(picture), "--json", str(numbers)])
    assert rules.main() == 0
    assert capsys.readouterr().out == rules.format_outcomes(outcomes) + "\n"
    assert picture.read_bytes().startswith(b"\x89PNG")
    stored = json.loads(numbers.read_text())
    assert list(stored) == list(QUICK.rules)
    for name, outcome in outcomes.items():
        for kept, values in {"accuracy": outcome.accuracy, "loss": outcome.loss, **outcome.angles}.items():
            np.testing.assert_array_equal(stored[name][kept], values)


def test_the_picture_has_a_line_for_every_rule_and_says_which_is_best(outcomes):
    pytest.importorskip("matplotlib")
    loss, angle = rules.plot_outcomes(outcomes).axes
    for axes, values in (loss, [o.loss for o in outcomes.values()]), (angle, [o.angles for o in outcomes.values()]):
        names = {text.get_text() for text in axes.texts}
        assert {"feedback alignment", "output layer only, the control"} <= names
        assert "mean ± one standard deviation of 2 seeds" in names
        assert not any("_" in name for name in names)
        for line, of_rule in zip(axes.lines, values, strict=True):
            mean = of_rule if axes is loss else of_rule["gradient angle 0.W"]  # of the only hidden layer
            np.testing.assert_allclose(line.get_ydata(), mean.mean(axis=0))
    assert loss.get_title(loc="left").startswith("Feedback alignment ends with the lowest training loss")
    assert angle.get_title(loc="left").replace("\n", " ").startswith("Feedback alignment ends nearest the true")


def test_where_every_seed_diverged_there_is_a_picture_without_lines(outcomes, tmp_path):
    pytest.importorskip("matplotlib")
    diverged = outcomes["feedback_alignment"]._replace(accuracy=np.full(2, np.nan))
    figure = rules.plot_outcomes({"feedback_alignment": diverged})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["No rule to compare"] * 2
    figure.savefig(tmp_path / "rules.png")


def test_without_matplotlib_a_figure_is_refused_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(sys, "argv", ["rules.py", "--figure", "rules.png"])
    assert rules.main() == 2
    assert capsys.readouterr() == ("", "rules.py: a picture needs matplotlib: pip install 'jaxann[plots]'\n")


@pytest.mark.slow
def test_as_a_process_it_prints_a_row_a_rule():
    quick = ("--rules", "kolen_pollack", "output_layer_only", "--seeds", "2", "--epochs", "1", "--hidden", "8")
    ended = subprocess.run([sys.executable, SCRIPTS / "rules.py", *quick], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["rule", "kolen_pollack", "output_layer_only"]


def test_help_names_the_rules():
    ended = subprocess.run([sys.executable, SCRIPTS / "rules.py", "--help"], capture_output=True, text=True, check=True)
    assert all(name in ended.stdout for name in rules.NAMES)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--rules", "hebb"), "expected --rules to be among backprop, "),
        (("--rules",), "expected --rules to name at least one rule, got ()"),
        (("--seeds", "0"), "expected --seeds of at least 1, got 0"),
        (("--learning-rate", "-1"), "expected --learning-rate above 0, got -1.0"),
        (("--batch-size", "5000"), "expected --batch-size between 1 and 1437 (the number of examples), got 5000"),
        (("--weight-decay", "nan"), "expected --weight-decay to be a finite number, got nan"),
    ],
)
def test_bad_input_gets_a_sentence(monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr(sys, "argv", ["rules.py", "--seeds", "1", *arguments])
    assert rules.main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"rules.py: {sentence}")
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_the_published_order():
    """The standard error of the difference to backprop is below 0.002 for each rule, and 0.003 for the control."""
    with jax.enable_x64(False):
        outcomes = rules.compare_rules(rules.ComparisonSettings())
    accuracy = {name: outcome.accuracy.mean() for name, outcome in outcomes.items()}
    assert accuracy["backprop"] >= 0.97
    for name in set(accuracy) - {rules.CONTROL}:
        assert abs(accuracy[name] - accuracy["backprop"]) <= 0.01, name
        assert accuracy[name] >= accuracy[rules.CONTROL] + 0.03, name
    _, hidden, output = outcomes["feedback_alignment"].last_angles("feedback")
    assert hidden < 85
    assert output < 60

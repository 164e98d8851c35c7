"""`scripts/rules.py`: a small run in this process, the command line, and, slow, what the README tells of it."""

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
from jaxann.data import load
from jaxann.nn import SoftmaxCrossEntropy, mlp, tanh
from jaxann.rules import RULES

QUICK = rules.Config(
    rules=("feedback_alignment", "output_layer_only"), seeds=2, hidden=(16,), epochs=3, weight_decay=0.0
)


@pytest.fixture(scope="module")
def found():
    return rules.run(QUICK)


def test_its_names_are_the_rules():
    assert set(rules.NAMES) == {*RULES, "kolen_pollack"}


def test_a_row_a_rule_with_angles_and_the_control_named(found):
    head, aligned, control = rules.table(found).splitlines()
    assert head.split()[:2] == ["rule", "accuracy"]
    assert aligned.startswith("feedback_alignment")
    assert control.endswith("the control")
    assert found["output_layer_only"].last("gradient") == pytest.approx([90, 0])
    assert found["output_layer_only"].last("feedback") == []
    assert len(found["feedback_alignment"].last("feedback")) == 2


def test_every_seed_is_the_run_that_it_would_be_alone(found):
    """On its own split, and the angles, which are left out here, only look on."""
    model, opt, rule = mlp((64, 16, 10), tanh), optax.sgd(QUICK.learning_rate), RULES["feedback_alignment"]
    accuracy, loss, _ = found["feedback_alignment"]
    for seed in range(2):
        data, key = load("digits", seed=seed), jax.random.key(seed)
        settings = {"key": key, "epochs": 3, "batch_size": QUICK.batch_size, "gradient": rule}
        params, history = fit(model, SoftmaxCrossEntropy(), opt, data.train.x, data.train.t, **settings)
        right = np.mean(predict(model, params, data.test.x).argmax(axis=1) == data.test.t)
        np.testing.assert_allclose(loss[seed], history.loss, rtol=1e-10)  # 135 steps' roundings
        assert accuracy[seed] == pytest.approx(right)
    assert abs(loss[0] - loss[1]).min() > 1e-4


def test_a_diverged_seed_is_named_and_left_out_of_the_mean(found):
    outcome = found["feedback_alignment"]
    diverged = outcome._replace(accuracy=np.array([np.nan, 0.5]))
    row = rules.table({"feedback_alignment": diverged}).splitlines()[1]
    assert "0.500" in row
    assert row.endswith("seeds [0] diverged")
    assert rules.to_json({"x": diverged})["x"]["accuracy"] == [None, 0.5]


def test_a_seed_that_diverges_in_its_last_step_has_diverged():
    """One step of the whole training part, whose loss is from before it."""
    settings = {"learning_rate": 1e39, "weight_decay": 0.0, "epochs": 1, "batch_size": 1437}
    with jax.enable_x64(False), np.errstate(over="ignore"):  # to float32 that rate is infinite
        (outcome,) = rules.run(rules.Config(rules=("output_layer_only",), seeds=2, hidden=(4,), **settings)).values()
    assert np.isfinite(outcome.loss).all()
    assert np.isnan(outcome.accuracy).all()
    assert rules.table({"x": outcome}).endswith("seeds [0, 1] diverged")


def test_angles_stand_in_the_order_of_the_matrices():
    """Of six, the last being 10.W, which text has before 2.W."""
    deep = rules.Config(rules=("output_layer_only",), seeds=1, hidden=(4,) * 5, epochs=1, batch_size=500)
    (outcome,) = rules.run(deep).values()
    assert outcome.last("gradient") == pytest.approx([90, 90, 90, 90, 90, 0])
    assert [metric.split()[-1] for metric in outcome.angles] == ["0.W", "2.W", "4.W", "6.W", "8.W", "10.W"]
    assert " ± " not in rules.table({"x": outcome})  # one seed has no spread


def test_the_picture_and_the_numbers_are_saved(found, monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(rules, "run", lambda config: found)
    picture, numbers = tmp_path / "rules.png", tmp_path / "rules.json"
    monkeypatch.setattr(sys, "argv", ["rules.py", "--figure", str(picture), "--json", str(numbers)])
    assert rules.main() == 0
    assert capsys.readouterr().out == rules.table(found) + "\n"
    assert picture.read_bytes().startswith(b"\x89PNG")
    stored = json.loads(numbers.read_text())
    assert list(stored) == list(QUICK.rules)
    for name, outcome in found.items():
        for kept, values in {"accuracy": outcome.accuracy, "loss": outcome.loss, **outcome.angles}.items():
            np.testing.assert_array_equal(stored[name][kept], values)


def test_where_every_seed_diverged_there_is_a_picture_without_lines(found, tmp_path):
    pytest.importorskip("matplotlib")
    rules.draw({"x": found["feedback_alignment"]._replace(accuracy=np.full(2, np.nan))}, tmp_path / "rules.png")
    assert (tmp_path / "rules.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_figure_is_refused_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setattr(rules, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["rules.py", "--figure", "rules.png"])
    assert rules.main() == 2
    assert capsys.readouterr() == ("", "rules.py: a figure takes matplotlib: pip install 'jaxann[plots]'\n")


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
        (("--rules", "hebb"), "there is no rule hebb, only backprop, "),
        (("--rules",), "rules are none, but at least one is wanted"),
        (("--seeds", "0"), "seeds is 0, but at least 1 is wanted"),
        (("--learning-rate", "-1"), "learning_rate is -1.0, but a finite number above 0 is wanted"),
        (("--batch-size", "5000"), "batch_size is 5000, but 1 to 1437, the number of examples, is wanted"),
        (("--weight-decay", "nan"), "weight_decay is nan, but a finite number of at least 0 is wanted"),
    ],
)
def test_bad_input_gets_a_sentence(arguments, sentence):
    ended = subprocess.run(
        [sys.executable, SCRIPTS / "rules.py", "--seeds", "1", *arguments], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"rules.py: {sentence}")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_published_order():
    """Seed by seed, a rule's difference to backprop has a standard error below 0.002, the control's of 0.003."""
    with jax.enable_x64(False):
        found = rules.run(rules.Config())
    accuracy = {name: outcome.accuracy.mean() for name, outcome in found.items()}
    assert accuracy["backprop"] >= 0.97
    for name in set(accuracy) - {rules.CONTROL}:
        assert abs(accuracy[name] - accuracy["backprop"]) <= 0.01, name
        assert accuracy[name] >= accuracy[rules.CONTROL] + 0.03, name
    _, hidden, output = found["feedback_alignment"].last("feedback")
    assert hidden < 85
    assert output < 60

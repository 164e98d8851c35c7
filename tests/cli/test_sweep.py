"""The program sweep: its members are runs of train, its table and its top are what comes of them."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from support.programs import call
from support.runs import read_rows
from support.sweeps import GRID, QUICK, assert_same_members, call_sweep

from jaxann import fit, predict
from jaxann.cli import members, scorer, sweep, task, train
from jaxann.data import load_dataset
from jaxann.nn import ACTIVATIONS, CrossEntropy, mlp, softmax
from jaxann.training import optimizer
from jaxann.training.sweep import Outcome


def read_members(out):
    return read_rows(out, "members.jsonl")


def test_the_table_is_of_the_members_and_sorted(finished):
    head, *lines = (finished / "table.txt").read_text().splitlines()
    assert head.split() == [
        *("learning_rate", "activation", "validation", "accuracy", "validation", "loss", "diverged"),
    ]
    rows = read_members(finished)
    assert len(rows) == 12
    expected = []
    for rate in (0.1, 1.0):
        for activation in ("tanh", "sigmoid"):
            same = [row for row in rows if row["settings"] == {"learning_rate": rate, "activation": activation}]
            assert sorted(row["seed"] for row in same) == [0, 1]
            score, loss = (np.array([row[f"validation_{name}"] for row in same]) for name in ("score", "loss"))
            spread = abs(score[0] - score[1]) / np.sqrt(2)
            text = [str(rate), activation, f"{score.mean():.3f}", "±", f"{spread:.3f}", f"{loss.mean():.4f}"]
            expected.append((-score.mean(), loss.mean(), text))
    assert [line.split() for line in lines[:4]] == [text for *_, text in sorted(expected)]
    assert {score for score, *_ in expected} != {expected[0][0]}
    assert [line.split() for line in lines[4:]] == [["1e+200", name, "2", "of", "2"] for name in ("tanh", "sigmoid")]


@pytest.mark.slow
def test_a_diverged_member_is_marked_and_disturbs_no_other_and_several_devices_come_to_the_same(finished, tmp_path):
    rows = read_members(finished)
    assert [row for row in rows if row["diverged"]] == [
        row for row in rows if row["settings"]["learning_rate"] == 1e200
    ]
    assert {row["validation_score"] for row in rows if row["diverged"]} == {None}
    good = [row for row in rows if row["settings"]["activation"] == "tanh" and not row["diverged"]]
    assert len(jax.local_devices()) > 1
    for devices in (1, 2):
        grid = ("--grid", "learning_rate=0.1,1", "activation=tanh", "--seeds", 2, "--devices", devices)
        out = tmp_path / str(devices)
        assert call_sweep(*grid, "--out", out, "--no-plots").code == 0
        assert_same_members(read_members(out), good)
        assert not (out / "sweep.png").exists()


def test_a_member_is_what_train_py_makes_of_its_settings(finished, tmp_path):
    settings = ("--learning-rate", 1, "--activation", "sigmoid", "--validation", 0.25, "--split", 0, "--seed", 1)
    run = ("--run", tmp_path / "run", "--no-plots", "--no-tensorboard", "--evaluate-every", 4)
    quick = [argument for argument in QUICK if argument not in ("--devices", "1")]
    assert call(train.main, *quick, *settings, *run, name="train.py").code == 0
    alone = read_rows(tmp_path / "run")[-1]
    swept = {"learning_rate": 1.0, "activation": "sigmoid"}
    (row,) = (row for row in read_members(finished) if (row["settings"], row["seed"]) == (swept, 1))
    assert row["loss"] == pytest.approx(alone["loss"], rel=1e-12)
    assert row["validation_loss"] == pytest.approx(alone["validation_loss"], rel=1e-12)
    assert row["validation_score"] == alone["validation_accuracy"]


def train_alone(settings, row):
    """The same numbers of the run that `prepare` makes of a member's settings, by `fit`."""
    alone = task.prepare(replace(settings, **row["settings"], split=settings.seed))
    recipe, (x, t, weights) = alone.recipe, alone.examples
    key, epochs = jax.random.key(row["seed"]), alone.plan.epochs
    options = {"batch_size": recipe.batch_size, "gradient": recipe.gradient, "weights": weights}
    params, history = fit(*recipe[:3], x, t, key=key, epochs=epochs, **options)
    return float(history.loss[-1]), *scorer.Scorer(alone)(params, *alone.shown)[::-1]


MANY = {
    "dropout=0.2 weight_decay=0.01 clip=0.5 init_scale=1.5": {"seeds": 1},
    "dropout=0,0.2 hidden=none,4,4-3": {},
    "dropout=0.1,0.2 clip=none,0.1": {"precision": "bfloat16"},
    "learning_rate=0.1,0.5 weight_decay=none,0,0.01 clip=none,0.5": {},
    "init_scale=0.5,1.5 schedule=cosine,constant epochs=3,5": {},
    "label_smoothing=none,0,0.1,0.2": {"loss": "softmax_cross_entropy"},
    "label_smoothing=none,0,0.1 loss=none,softmax_cross_entropy,sigmoid_cross_entropy": {},
    "weight_decay=0,0.01,none optimizer=adamw,adam": {"learning_rate": 0.01},
    "class_weights=balanced,none,1-2-3 validation=0.2,0.3 scaling=all,feature batch_size=8,16": {},
    "loss=none,huber held_out=0.2,0.3": {"dataset": "diabetes", "learning_rate": 0.01},
}


@pytest.mark.parametrize(("grid", "options"), [pytest.param(*item, marks=pytest.mark.slow) for item in MANY.items()])
def test_whatever_is_swept_a_member_is_the_run_alone(grid, options):
    quick = {"seeds": 2, "epochs": 4, "batch_size": 16, "hidden": (4,), "precision": "float64", "devices": 1}
    settings = sweep.SweepSettings(**quick | options, grid=tuple(grid.split()))
    with jax.enable_x64(settings.precision == "float64"):
        rows, _ = sweep.run(settings)
        by_hand = [train_alone(settings, row) for row in rows]
    assert len(rows) == settings.seeds * len({json.dumps(row["settings"]) for row in rows})
    for row, expected in zip(rows, by_hand, strict=True):
        numbers = row["loss"], row["validation_loss"], row["validation_score"]
        assert numbers == pytest.approx(expected, rel=1e-9 if settings.precision == "float64" else 1e-5), row
    # At least half of the networks differ: of some settings several are the same, as Adam with a decay and AdamW are.
    assert len({row["loss"] for row in rows}) >= len(rows) / 2


@pytest.mark.slow
def test_the_top_is_retrained_on_both_parts_and_scored_once(copy, trained):
    """It is compared with a training by hand, which shares no code with the program."""
    code, out, _ = call_sweep(*GRID, "--out", copy, "--top", 2)
    assert code == 0
    assert len(trained) == 4  # two seeds of two combinations, and no finished member again
    best = [line.split()[:2] for line in (copy / "table.txt").read_text().splitlines()[1:3]]
    table = out.splitlines()[out.splitlines().index("the best, retrained on the training and validation parts:") + 1 :]
    assert table[0].split() == ["learning_rate", "activation", "test", "accuracy", "test", "loss", "diverged"]
    data = load_dataset("iris", seed=0)
    x, t = data.train.x, 0.97 * np.eye(3)[data.train.t] + 0.01
    for (rate, activation), line in zip(best, table[1:3], strict=True):
        model, update = mlp((4, 4, 3), ACTIVATIONS[activation], softmax), optimizer("sgd", float(rate))
        right, losses = [], []
        for seed in range(2):
            options = {"key": jax.random.key(seed), "epochs": 4, "batch_size": 16}
            params, _ = fit(model, CrossEntropy(), update, x, t, **options)
            y = predict(model, params, data.test.x)
            right.append(np.mean(y.argmax(axis=1) == data.test.t))
            losses.append(-np.mean(np.sum((0.97 * np.eye(3)[data.test.t] + 0.01) * np.log(y), axis=1)))
        numbers = [f"{np.mean(right):.3f}", "±", f"{np.std(right, ddof=1):.3f}", f"{np.mean(losses):.4f}"]
        assert line.split() == [rate, activation, *numbers]
    trained.clear()
    assert call_sweep(*GRID, "--out", copy, "--top", 2)[:2] == (0, out)  # the stored scores
    assert trained == []
    ended = call_sweep(*GRID, "--out", copy, "--top", 1)
    assert ended.code == 2
    sentence = f"expected --top as before, because {copy}/top.json already holds scores on the test part, got 1"
    assert ended.sentence == f"sweep.py: {sentence}"


def test_without_top_the_test_part_is_not_used(monkeypatch):
    def prepare(settings):
        complete = task.prepare(settings)
        return complete._replace(data=complete.data._replace(test=None))

    monkeypatch.setattr(members, "prepare", prepare)
    assert call_sweep("--seeds", 1).code == 0


def test_one_seed_has_no_spread_and_numbers_have_r_squared(tmp_path):
    arguments = ("--dataset", "diabetes", "--learning-rate", 0.01, "--seeds", 1, "--out", tmp_path / "one")
    code, out, _ = call_sweep(*arguments)
    assert code == 0
    head, line = out.splitlines()
    assert head.split() == ["validation", "R²", "validation", "loss", "diverged"]
    assert "±" not in line
    (row,) = read_members(tmp_path / "one")
    assert line.split() == [f"{row['validation_score']:.3f}", f"{row['validation_loss']:.4f}"]
    assert not (tmp_path / "one" / "sweep.png").exists()  # a single combination makes no picture


@pytest.mark.parametrize(
    ("finite", "worst", "diverged"),
    [(True, 0.5, False), (False, 0.5, True), (True, np.nan, True), (True, np.inf, True)],
)
def test_what_is_not_finite_has_diverged_though_labels_can_be_read_from_it(finite, worst, diverged):
    swept = task.prepare(sweep.SweepSettings(precision="float64"))
    y = np.eye(3)[swept.shown[1]]
    y[0, 0] = worst
    row = members.score_member(Outcome(0, np.array([2.0, 1.0]), {}, (y, np.inf), finite, 0), swept, "test", "accuracy")
    score = None if diverged else pytest.approx(1.0)
    assert row == {"loss": 1.0, "test_loss": None, "test_score": score, "diverged": diverged}

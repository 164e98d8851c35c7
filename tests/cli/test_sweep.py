"""`scripts/sweep.py` as its user meets it: mostly through `main` in this process, what is killed as one of its own."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.datasets import load_iris
from support.paths import SCRIPTS

from jaxann import fit, predict
from jaxann.cli import members, sweep, task, train
from jaxann.cli.grid import format_value, parse_grid
from jaxann.cli.members import score_member
from jaxann.data import load
from jaxann.nn import CrossEntropy, mlp, softmax
from jaxann.runs.folder import Folder
from jaxann.runs.plots import plot_scores
from jaxann.training import optimizer
from jaxann.training.sweep import Outcome

QUICK = ("--precision", "float64", "--devices", "1", "--epochs", "4", "--batch-size", "16", "--hidden", "4")
GRID = ("--grid", "learning_rate=0.1,1e200,1", "activation=tanh,sigmoid", "--seeds", "2")  # of which one diverges
COLUMNS = {"settings", "seed", "loss", "validation_loss", "validation_score", "diverged"}


@pytest.fixture(scope="module", autouse=True)
def _devices():
    """All that conftest asks for, before the script may ask for fewer."""
    jax.local_devices()


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs `main` on a command line; gives exit code, output and errors."""

    def run(*arguments, main=sweep.main):
        monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, (*QUICK, *arguments))])
        code = main()
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished sweep, only to be looked at."""
    out = tmp_path_factory.mktemp("sweeps") / "made"
    before, sys.argv = sys.argv, ["sweep.py", *QUICK, *GRID, "--out", str(out)]
    try:
        assert sweep.main() == 0
    finally:
        sys.argv = before
    return out


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "copy"))


@pytest.fixture
def asked(monkeypatch):
    """All members that are trained from here on."""
    seen, trained = [], sweep.trained

    def watched(config, members, *rest):
        seen.extend(members)
        return trained(config, members, *rest)

    monkeypatch.setattr(sweep, "trained", watched)
    return seen


def rows_of(out, name="members.jsonl"):
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def by_member(rows):
    found = {sweep.identity(row): row for row in rows}
    assert len(found) == len(rows)
    return found


def assert_same(rows, others, rtol=1e-9):
    """Each member once in both, with the same numbers but for rounding."""
    rows, others = by_member(rows), by_member(others)
    assert rows.keys() == others.keys()
    for name, row in rows.items():
        assert row.keys() == COLUMNS
        for column in COLUMNS - {"settings"}:
            other = others[name][column]
            assert row[column] == (other if other is None else pytest.approx(other, rel=rtol))


def process(*arguments):
    command = [sys.executable, SCRIPTS / "sweep.py", *QUICK, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_lines(child, out, count):
    while not (out / "members.jsonl").exists() or (out / "members.jsonl").read_bytes().count(b"\n") < count:
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)


def test_help_does_not_wait_for_jax():
    code = "import sys, sweep\nsys.argv = ['sweep.py', '--help']\ntry: sweep.main()\nexcept SystemExit: pass\n"
    code += "assert not {'jax', 'sklearn', 'jaxann'} & set(sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, check=True, capture_output=True, text=True)
    assert "--grid" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--grid", "lr=0.1"), r"there is no setting lr, only held_out, .*learning_rate, .*batch_size"),
        (("--grid", "learning_rate=0.1,fast"), "learning_rate is 'fast', but a number is wanted"),
        (("--grid", "batch_size=2.5"), "batch_size is '2.5', but a whole number is wanted"),
        (("--grid", "hidden=64-x"), "hidden is '64-x', but one such as 64-32 is wanted"),
        (("--grid", "activation=swish"), "activation is 'swish', but identity or sigmoid or .* is wanted"),
        (("--grid", "clip=1,all"), "clip is 'all', but a number or none is wanted"),
        (("--grid", "learning_rate=0.1,,1"), "learning_rate is '', but a number is wanted"),
        (("--grid", "learning_rate="), "grid has 'learning_rate=', but a setting and its values are wanted: "),
        (("--grid", "0.2"), "grid has '0.2', but a setting and its values are wanted: learning_rate=0.01,0.1"),
        (("--grid", "dropout=0", "dropout=0.1"), "grid has dropout twice"),
        (("--grid", "learning_rate=0.1,0.10"), "learning_rate has the value 0.1 twice"),
        *(
            (("--grid", f"{name}=1"), f"{name} cannot be swept, only ")
            for name in ("seed", "split", "precision", "dataset", "target", "weights", "kind", "tensorboard", "plots")
        ),
        *(
            (("--grid", f"{name}=1"), f"{name} cannot be swept, only ")
            for name in ("checkpoint_seconds", "evaluate_every", "patience", "score", "run", "devices")
        ),
        *((("--grid", f"{name}=1"), f"there is no setting {name}, only ") for name in ("rate", "seeds", "grid")),
        (("--grid", "learning_rate=0.1,-1"), "learning_rate is -1.0, but a finite number above 0 is wanted"),
        (("--grid", "learning_rate=nan"), "learning_rate is nan, but a finite number above 0 is wanted"),
        (("--grid", "dropout=0.1,1"), "expected dropout between 0 and 1, excluding 1, got 1.0"),
        (("--grid", "init_scale=0"), "init_scale is 0.0, but a finite number above 0 is wanted"),
        (("--grid", "validation=0.2,0"), "validation is 0.0, but a share above 0 is wanted, for it is what is scored"),
        (("--validation", 0), "validation is 0.0, but a share above 0 is wanted, for it is what is scored"),
        (("--grid", "batch_size=16,100"), r"expected batch_size between 1 and 90 \(the number of examples\), got 100"),
        (("--grid", "epochs=0"), "expected epochs of at least 1, got 0"),
        (("--grid", "label_smoothing=0.1,1"), "label_smoothing is 1.0, but a share from 0 to below 1 is wanted"),
        (
            ("--grid", "label_smoothing=0.1,1", "--loss", "softmax_cross_entropy"),
            "label_smoothing is 1.0, but a share from 0 to below 1 is wanted",
        ),
        (("--grid", "loss=none,hinge", "--dataset", "diabetes"), "the loss hinge is for classes; for numbers there"),
        (("--seeds", 0), "seeds is 0, but at least 1 is wanted"),
        (("--seeds", 3, "--seed", 2**32 - 2), "seeds is 3, but from seed 4294967294 on there are 2"),
        (("--seed", -1), "seed is -1, but a whole number from 0 to below 2³² is wanted"),
        (("--top", -1), "top is -1, but at least 0 is wanted"),
        (("--top", 3, "--grid", "dropout=0,0.1"), "top is 3, but the grid has 2 combinations"),
        (("--budget", "nan"), "budget is nan, but a finite number above 0 is wanted"),
        (
            ("--budget", 0.001, "--seeds", 1),
            "budget is 1,073,74. bytes, of which .* are left, but a member for each of 1 devices",
        ),
        (("--devices", 0), "devices is 0, but at least 1 is wanted"),
        (("--devices", 4096), r"devices is 4096, but there are \d+"),
        (("--run", "x"), "run is x, but only train.py takes it"),
        (("--patience", 3), "patience is 3, but only train.py takes it"),
        (("--distributed",), "distributed is True, but only train.py takes it"),
        (("--dataset", "mnist"), "there is no dataset mnist, only iris"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(script, arguments, sentence):
    code, out, err = script(*arguments)
    assert code == 2
    assert not out
    assert re.match(f"sweep.py: {sentence}", err)
    assert len(err.splitlines()) == 1


def test_values_are_read_as_their_setting_has_them():
    grid = ("hidden=64-32,128,none", "learning-rate=1,1e-3", "clip=none,1", "batch_size=8", "loss=none,hinge")
    found = parse_grid((*grid, "class_weights=balanced,1-2-3,none"))
    assert found == {
        "hidden": [(64, 32), (128,), ()],
        "learning_rate": [1.0, 1e-3],
        "clip": [None, 1.0],
        "batch_size": [8],
        "loss": [None, "hinge"],
        "class_weights": ["balanced", (1.0, 2.0, 3.0), None],
    }
    assert type(found["learning_rate"][0]) is float  # a whole number would be no traced one
    for name, these in found.items():
        assert parse_grid([f"{name}={','.join(map(format_value, these))}"]) == {name: these}


def test_the_table_is_of_the_members_and_sorted(made):
    head, *lines = (made / "table.txt").read_text().splitlines()
    assert head.split() == [
        *("learning_rate", "activation", "validation", "accuracy", "validation", "loss", "diverged"),
    ]
    rows = rows_of(made)
    assert len(rows) == 12
    expected = []
    for rate in (0.1, 1.0):
        for activation in ("tanh", "sigmoid"):
            here = [row for row in rows if row["settings"] == {"learning_rate": rate, "activation": activation}]
            assert sorted(row["seed"] for row in here) == [0, 1]
            score, loss = (np.array([row[f"validation_{name}"] for row in here]) for name in ("score", "loss"))
            spread = abs(score[0] - score[1]) / np.sqrt(2)
            text = [str(rate), activation, f"{score.mean():.3f}", "±", f"{spread:.3f}", f"{loss.mean():.4f}"]
            expected.append((-score.mean(), loss.mean(), text))
    assert [line.split() for line in lines[:4]] == [text for *_, text in sorted(expected)]
    assert {score for score, *_ in expected} != {expected[0][0]}
    assert [line.split() for line in lines[4:]] == [["1e+200", name, "2", "of", "2"] for name in ("tanh", "sigmoid")]


def test_a_diverged_member_is_marked_and_disturbs_no_other(made, script, tmp_path):
    rows = rows_of(made)
    assert [row for row in rows if row["diverged"]] == [
        row for row in rows if row["settings"]["learning_rate"] == 1e200
    ]
    assert {row["validation_score"] for row in rows if row["diverged"]} == {None}
    grid = ("--grid", "learning_rate=0.1,1", "activation=tanh", "--seeds", 2)
    assert script(*grid, "--out", tmp_path / "others", "--no-plots")[0] == 0
    good = [row for row in rows if row["settings"]["activation"] == "tanh" and not row["diverged"]]
    assert_same(rows_of(tmp_path / "others"), good)
    assert not (tmp_path / "others" / "sweep.png").exists()


def test_a_member_is_what_train_py_makes_of_its_settings(made, script, tmp_path):
    settings = ("--learning-rate", 1, "--activation", "sigmoid", "--validation", 0.25, "--split", 0, "--seed", 1)
    run = ("--run", tmp_path / "run", "--no-plots", "--no-tensorboard", "--evaluate-every", 4)
    without = [argument for argument in QUICK if argument not in ("--devices", "1")]
    before, sys.argv = sys.argv, ["train.py", *map(str, (*without, *settings, *run))]
    assert train.main() == 0
    sys.argv = before
    alone = rows_of(tmp_path / "run", "metrics.jsonl")[-1]
    (row,) = (
        row
        for row in rows_of(made)
        if (row["settings"], row["seed"]) == ({"learning_rate": 1.0, "activation": "sigmoid"}, 1)
    )
    assert row["loss"] == pytest.approx(alone["loss"], rel=1e-12)
    assert row["validation_loss"] == pytest.approx(alone["validation_loss"], rel=1e-12)
    assert row["validation_score"] == alone["validation_accuracy"]


def alone(config, row):
    """The same numbers of the run that `prepare` makes of a member's settings, in `fit`."""
    made = task.prepare(replace(config, **row["settings"], split=config.seed))
    recipe, (x, t, weights) = made.recipe, made.examples
    key, epochs = jax.random.key(row["seed"]), made.plan.epochs
    params, history = fit(
        *recipe[:3],
        x,
        t,
        key=key,
        epochs=epochs,
        batch_size=recipe.batch_size,
        gradient=recipe.gradient,
        weights=weights,
    )
    return float(history.loss[-1]), *task.Scorer(made)(params, *made.shown)[::-1]


SOME = {"dropout=0.2 weight_decay=0.01 clip=0.5 init_scale=1.5": {"seeds": 1}}
MANY = {
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


@pytest.mark.parametrize(
    ("grid", "settings"), [*SOME.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in MANY.items())]
)
def test_whatever_is_swept_a_member_is_the_run_alone(grid, settings):
    quick = {"seeds": 2, "epochs": 4, "batch_size": 16, "hidden": (4,), "precision": "float64", "devices": 1}
    config = sweep.SweepSettings(**quick | settings, grid=tuple(grid.split()))
    with jax.enable_x64(config.precision == "float64"):
        rows, _ = sweep.run(config)
        by_hand = [alone(config, row) for row in rows]
    assert len(rows) == config.seeds * len({json.dumps(row["settings"]) for row in rows})
    for row, expected in zip(rows, by_hand, strict=True):
        found = row["loss"], row["validation_loss"], row["validation_score"]
        assert found == pytest.approx(expected, rel=1e-9 if config.precision == "float64" else 1e-5), row
    assert len({row["loss"] for row in rows}) > len(rows) / 2


def test_the_top_is_retrained_on_both_parts_and_scored_once(copy, script, asked):
    """Against a training by hand, which knows nothing of the script."""
    code, out, _ = script(*GRID, "--out", copy, "--top", 2)
    assert code == 0
    assert len(asked) == 4  # and none of the finished ones
    best = [line.split()[:2] for line in (copy / "table.txt").read_text().splitlines()[1:3]]
    table = out.splitlines()[out.splitlines().index("the best, retrained on the training and validation parts:") + 1 :]
    assert table[0].split() == ["learning_rate", "activation", "test", "accuracy", "test", "loss", "diverged"]
    data = load("iris", validation=0.25, seed=0)
    x, labels = (np.concatenate([getattr(part, name) for part in data[:2]]) for name in "xt")
    t = 0.97 * np.eye(3)[labels] + 0.01
    for (rate, activation), line in zip(best, table[1:], strict=True):
        model, update = mlp((4, 4, 3), vars(sys.modules["jaxann"])[activation], softmax), optimizer("sgd", float(rate))
        right, losses = [], []
        for seed in range(2):
            settings = {"key": jax.random.key(seed), "epochs": 4, "batch_size": 16}
            params, _ = fit(model, CrossEntropy(), update, x, t, **settings)
            y = predict(model, params, data.test.x)
            right.append(np.mean(y.argmax(axis=1) == data.test.t))
            losses.append(-np.mean(np.sum((0.97 * np.eye(3)[data.test.t] + 0.01) * np.log(y), axis=1)))
        numbers = [f"{np.mean(right):.3f}", "±", f"{np.std(right, ddof=1):.3f}", f"{np.mean(losses):.4f}"]
        assert line.split() == [rate, activation, *numbers]
    asked.clear()
    assert script(*GRID, "--out", copy, "--top", 2)[:2] == (0, out)  # as stored
    assert asked == []
    code, _, err = script(*GRID, "--out", copy, "--top", 1)
    assert code == 2
    assert err == f"sweep.py: {copy}/top.json has scored the test part already, for another number of best\n"


def test_weights_and_standardised_numbers_are_of_both_parts():
    config = sweep.SweepSettings(dataset="diabetes", hidden=(3,), precision="float64")
    before = task.prepare(config)
    ones = [part._replace(weights=np.arange(1.0, len(part.t) + 1)) for part in before.data[:2]]
    before = before._replace(data=before.data._replace(train=ones[0], validation=ones[1]))
    after = sweep.joined(config, before)
    t = np.concatenate([part.t for part in ones])
    np.testing.assert_allclose(after.examples.t[:, 0], (t - t.mean()) / t.std())
    np.testing.assert_allclose(after.examples.weights, np.concatenate([part.weights for part in ones]))
    np.testing.assert_allclose(after.shown[0].t[:, 0], (before.data.test.t - t.mean()) / t.std())
    np.testing.assert_array_equal(after.shown[1], before.data.test.t)
    np.testing.assert_array_equal(after.shown[0].x, before.data.test.x)


def test_without_top_nobody_looks_at_the_test_part(script, monkeypatch):
    def without(config):
        made = task.prepare(config)
        return made._replace(data=made.data._replace(test=None))

    monkeypatch.setattr(members, "prepare", without)
    assert script("--seeds", 1)[0] == 0


def test_one_seed_has_no_spread_and_numbers_have_r_squared(script, tmp_path):
    code, out, _ = script("--dataset", "diabetes", "--learning-rate", 0.01, "--seeds", 1, "--out", tmp_path / "one")
    assert code == 0
    head, line = out.splitlines()
    assert head.split() == ["validation", "R²", "validation", "loss", "diverged"]
    assert "±" not in line
    (row,) = rows_of(tmp_path / "one")
    assert line.split() == [f"{row['validation_score']:.3f}", f"{row['validation_loss']:.4f}"]
    assert not (tmp_path / "one" / "sweep.png").exists()  # of one combination there is nothing to draw


def test_a_finished_sweep_is_not_trained_again(copy, script, asked):
    before = (copy / "members.jsonl").read_bytes()
    code, out, _ = script(*GRID, "--out", copy)
    assert (code, asked) == (0, [])
    assert out == (copy / "table.txt").read_text()
    assert (copy / "members.jsonl").read_bytes() == before


def test_a_line_that_a_kill_cut_short_is_trained_again(copy, made, script, asked):
    (copy / "members.jsonl").write_bytes((made / "members.jsonl").read_bytes()[:-9])
    assert script(*GRID, "--out", copy)[0] == 0
    assert [sweep.identity(member) for member in asked] == [sweep.identity(rows_of(made)[-1])]
    assert_same(rows_of(copy), rows_of(made))
    assert (copy / "table.txt").read_text() == (made / "table.txt").read_text()


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"settings": {}, "seed": 0}', "3"])
def test_a_damaged_line_is_refused(copy, script, line):
    with (copy / "members.jsonl").open("a") as file:
        file.write(f"{line}\n")
    code, out, err = script(*GRID, "--out", copy)
    assert (code, out) == (2, "")
    assert err == f"sweep.py: {copy}/members.jsonl is damaged: line 13 tells of no network of this sweep\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--seeds", 3), "seeds is 3, but the sweep in .* has 2"),
        (("--epochs", 5), "epochs is 5, but the sweep in .* has 4"),
        (("--grid", "learning_rate=0.1"), r"grid is \{'learning_rate': \[0.1\]\}, but the sweep in .* has \{'learn"),
        (("--split", 3), "split is 3, but the sweep in .* has 0"),
    ],
)
def test_other_settings_are_refused(copy, script, arguments, sentence):
    code, out, err = script(*GRID, "--out", copy, *arguments)
    assert (code, out) == (2, "")
    assert re.match(f"sweep.py: {sentence}", err)
    Folder(copy).close()  # it is free again


def test_other_data_are_refused(script, tmp_path):
    x, t = load_iris(return_X_y=True)
    arguments = ("--dataset", tmp_path / "table.npz", "--seeds", 1, "--out", tmp_path / "out", "--no-plots")
    np.savez(tmp_path / "table.npz", x=x, t=t)
    assert script(*arguments)[0] == 0
    x[3, 2] += 1
    np.savez(tmp_path / "table.npz", x=x, t=t)
    code, _, err = script(*arguments)
    assert (code, err) == (2, f"sweep.py: the data are not those that {tmp_path}/out was begun with\n")


def test_a_folder_of_something_else_or_in_use_is_refused(copy, script, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    code, _, err = script(*GRID, "--out", tmp_path / "full")
    assert (code, err) == (2, f"sweep.py: {tmp_path}/full is there already, but holds no sweep\n")
    held = Folder(copy)
    code, _, err = script(*GRID, "--out", copy)
    held.close()
    assert code == 2
    assert err.startswith(f"sweep.py: {copy} is in use: another process")


def test_without_matplotlib_it_is_said_before_anything_runs(script, monkeypatch, tmp_path):
    monkeypatch.setattr(sweep, "find_spec", lambda name: None)
    code, out, err = script(*GRID, "--out", tmp_path / "new")
    assert (code, out) == (2, "")
    assert err == "sweep.py: a picture takes matplotlib: pip install 'jaxann[plots]' (or give --no-plots)\n"
    assert not (tmp_path / "new").exists()


def test_killed_and_begun_again_it_comes_to_the_same(made, tmp_path, script, asked):
    """Between its two groups, of which the second takes about a second to compile."""
    out = tmp_path / "killed"
    child = process(*GRID, "--out", out)
    wait_for_lines(child, out, 1)
    child.kill()
    child.communicate()
    before = (out / "members.jsonl").read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    assert 1 <= before.count(b"\n") < 12
    assert not (out / "table.txt").exists()
    assert script(*GRID, "--out", out)[:2] == (0, (made / "table.txt").read_text())
    assert (out / "members.jsonl").read_bytes().startswith(before)
    assert len(asked) == 12 - before.count(b"\n")
    assert_same(rows_of(out), rows_of(made))


def test_control_c_ends_it_with_what_is_finished(tmp_path):
    child = process("--grid", "hidden=2,3,4,5,6,7,8,9", "--seeds", 2, "--out", tmp_path / "out")
    wait_for_lines(child, tmp_path / "out", 2)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert child.returncode == 130
    done = len(rows_of(tmp_path / "out"))
    assert 2 <= done < 16
    assert re.search(rf"^sweep.py: interrupted after {done} of 16 networks$", err, re.MULTILINE)
    assert "Traceback" not in err
    head, *lines = out.splitlines()
    assert head.startswith("hidden  validation accuracy")
    assert len(lines) == (done + 1) // 2
    assert not (tmp_path / "out" / "table.txt").exists()


def test_the_picture_has_a_line_for_each_other_setting(made, script, copy, monkeypatch):
    assert (made / "sweep.png").read_bytes().startswith(b"\x89PNG")
    drawn, figures = [], []

    def seen(lines, x, y):
        drawn.append((lines, x, y))
        figures.append(plot_scores(lines, x, y))
        return figures[-1]

    monkeypatch.setattr("jaxann.runs.plots.plot_scores", seen)
    assert script(*GRID, "--out", copy)[0] == 0
    ((lines, x, y),) = drawn
    assert (set(lines), x, y) == ({"activation tanh", "activation sigmoid"}, "learning_rate", "validation accuracy")
    for row in rows_of(made):
        scores = lines[f"activation {row['settings']['activation']}"][row["settings"]["learning_rate"]]
        assert scores == [] if row["diverged"] else row["validation_score"] in scores
    assert [line.get_label() for line in figures[0].axes[0].lines] == list(lines)


def test_where_every_network_diverged_there_is_a_table_and_no_top(copy, script, asked):
    worst = {"validation_loss": None, "validation_score": None, "diverged": True}
    lines = [json.dumps(row | worst) for row in rows_of(copy)]
    (copy / "members.jsonl").write_text("\n".join([*lines, ""]))
    code, out, err = script(*GRID, "--out", copy, "--top", 1)
    assert code == 2
    assert [line.split()[2:] for line in out.splitlines()[1:]] == [["2", "of", "2"]] * 6
    assert err == "sweep.py: top is 1, but every network diverged\n"
    assert asked == []


def test_over_several_devices_it_comes_to_the_same(made, script, tmp_path):
    assert len(jax.local_devices()) > 1
    grid = ("--grid", "learning_rate=0.1,1", "activation=tanh", "--seeds", 2)
    assert script(*grid, "--out", tmp_path / "two", "--no-plots", "--devices", 2)[0] == 0
    rows = [row for row in rows_of(made) if row["settings"]["activation"] == "tanh" and not row["diverged"]]
    assert_same(rows_of(tmp_path / "two"), rows)


@pytest.mark.parametrize(
    ("finite", "worst", "diverged"),
    [(True, 0.5, False), (False, 0.5, True), (True, np.nan, True), (True, np.inf, True)],
)
def test_what_is_not_finite_has_diverged_though_labels_can_be_read_from_it(finite, worst, diverged):
    made = task.prepare(sweep.SweepSettings(precision="float64"))
    y = np.eye(3)[made.shown[1]]
    y[0, 0] = worst
    row = score_member(Outcome(0, np.array([2.0, 1.0]), {}, (y, np.inf), finite, 0), made, "test")
    score = None if diverged else pytest.approx(1.0)
    assert row == {"loss": 1.0, "test_loss": None, "test_score": score, "diverged": diverged}

"""Run folders as a user meets them: `scripts/train.py` and `predict.py`, killed, resumed, fed bad input."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.datasets import load_iris
from support.paths import SCRIPTS
from support.runs import logged

from jaxann.cli import predict, train
from jaxann.runs.checkpoints import Checkpoints

QUICK = ("--hidden", 5, "--epochs", 20, "--batch-size", 16, "--checkpoint-seconds", 0)
BARE = ("--no-plots", "--no-tensorboard")
EVERYTHING = (  # that a run can depend on
    *(
        "--validation",
        0.2,
        "--hidden",
        16,
        "--dropout",
        0.2,
        "--batch-size",
        16,
        "--evaluate-every",
        1,
        "--patience",
        900,
    ),
    *("--optimizer", "adam", "--learning-rate", 0.003, "--schedule", "cosine", "--warmup", 2, "--weight-decay", 0.01),
    *("--clip", 1, "--class-weights", "balanced", "--loss", "softmax_cross_entropy", "--no-plots"),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def script(tmp_path, cache):
    """Starts a script in an empty folder, its programs compiled once for all tests."""

    def begin(name, *arguments, files_of="unlimited"):
        command = [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, arguments)]
        return subprocess.Popen(
            ["bash", "-c", f'ulimit -f {files_of} && exec "$@"', "bash", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ
            | (
                {}
                if files_of != "unlimited"
                else {
                    "JAX_COMPILATION_CACHE_DIR": str(cache),
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
                }
            ),
        )

    return begin


@pytest.fixture
def ended(script):
    """Runs a script to its end; exit code, output and the last line of errors."""

    def run(*arguments, **limits):
        child = script(*arguments, **limits)
        out, err = child.communicate(timeout=300)
        assert "Traceback" not in err, err
        return child.returncode, out, err.splitlines()[-1] if err else ""

    return run


def parameters(folder):
    """All arrays of a run's last checkpoint, by name."""
    checkpoints = Checkpoints(folder / "checkpoints", reader=True)
    restored = checkpoints._manager.restore(checkpoints.epochs()[-1])
    return {f"{item}{name}": np.asarray(a) for item in ("state", "best") for name, a in restored[item].items()}


def same(folder, other):
    assert (folder / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    assert (folder / "result.json").read_bytes() == (other / "result.json").read_bytes()
    ours, theirs = parameters(folder), parameters(other)
    assert ours.keys() == theirs.keys()
    assert len(ours) >= 10  # parameters, best parameters, key and epoch, and what the optimiser has
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    ("kills", "epochs"), [pytest.param(1, 40, id="1"), pytest.param(50, 1000, id="50", marks=pytest.mark.slow)]
)
def test_a_run_killed_at_any_moment_and_resumed_is_the_run(script, ended, tmp_path, kills, epochs):
    settings = (*EVERYTHING, "--epochs", epochs, "--checkpoint-seconds", 0)
    assert ended("train", *settings, "--run", "whole")[0] == 0
    moment, lost, arguments = random.Random(0), [], (*settings, "--run", "killed")
    for kill in range(kills):
        before = logged(tmp_path / "killed")
        child = script("train", *arguments)
        if kill % 5 == 4:
            time.sleep(moment.uniform(0, 5))  # most of it importing and compiling
        else:
            while logged(tmp_path / "killed") in (0, before) and child.poll() is None:
                time.sleep(0.001)
            time.sleep(moment.uniform(0, 1.5 * epochs / 1000))  # most of it writing checkpoints
        child.send_signal(signal.SIGKILL)
        child.communicate()
        if (tmp_path / "killed").exists():
            arguments = ("--resume", "killed")
            stored = tmp_path / "killed" / "checkpoints"
            done = [int(step.name) for step in stored.iterdir() if step.name.isdecimal()] if stored.exists() else []
            lost.append(logged(tmp_path / "killed") - max(done, default=0))
    assert ended("train", *arguments)[0] == 0
    print(f"{kills} kills; epochs that were to be done again: {sorted(lost)}")
    assert max(lost) <= 1  # there is a checkpoint after every epoch here
    same(tmp_path / "whole", tmp_path / "killed")


@pytest.fixture
def main(monkeypatch, capsys, tmp_path):
    """Runs a script's `main` in an empty folder, in float64 as all tests are; exit code, output, last error."""
    monkeypatch.chdir(tmp_path)

    def run(script, *arguments):
        given = {"--precision", "--resume", "--config"} & set(arguments)
        precision = ("--precision", "float64") if script is train and not given else ()
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, (*arguments, *precision))])
        code = script.main()
        out, err = capsys.readouterr()
        return code, out, err.splitlines()[-1] if err else ""

    return run


def test_a_run_folder_holds_what_it_says(main, tmp_path):
    code, out, _ = main(train, *QUICK, "--run", "runs/iris", "--validation", 0.2, "--evaluate-every", 5)
    assert code == 0
    folder = tmp_path / "runs" / "iris"
    names = {"config.json", "data.json", "metrics.jsonl", "result.json", "lock"}
    assert {path.name for path in folder.iterdir()} == names | {
        *("checkpoints", "tensorboard", "curves.png", "confusion.png"),
    }
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 21))
    assert [row["epoch"] for row in rows if "validation_loss" in row] == [5, 10, 15, 20]
    result = json.loads((folder / "result.json").read_text())
    best = min((row for row in rows if "validation_loss" in row), key=lambda row: row["validation_loss"])
    assert result["best_epoch"] == best["epoch"]
    assert f"held-out accuracy: {result['accuracy']:.3f} (30 examples, the parameters of epoch {best['epoch']})" in out
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name.split(".")[0] for path in (folder / "tensorboard").iterdir()] == ["events"]


def test_its_config_makes_the_same_run_again_and_the_command_line_goes_before_it(main, tmp_path):
    assert (
        main(train, *QUICK, *EVERYTHING[2:], "--validation", 0.3, "--optimizer-settings", "b1", 0.8, "--run", "a")[0]
        == 0
    )
    assert main(train, "--config", "a/config.json", "--run", "b")[0] == 0
    same(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "config.json").read_bytes() == (tmp_path / "b" / "config.json").read_bytes()
    assert main(train, "--config", "a/config.json", "--run", "c", "--seed", 1)[0] == 0
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() != (tmp_path / "c" / "metrics.jsonl").read_bytes()
    assert json.loads((tmp_path / "c" / "config.json").read_text())["optimizer_settings"] == {"b1": 0.8}


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("--batch-size", 120),
        ("--validation", 0.2, "--evaluate-every", 4),
        ("--precision", "bfloat16", "--dropout", 0.1),
    ],
    ids=["plain", "one step an epoch", "validation", "bfloat16"],
)
def test_more_epochs_go_on_as_if_they_had_been_asked_for_at_once(main, tmp_path, settings):
    begun = (*QUICK, *BARE, "--checkpoint-seconds", 99, "--optimizer", "adam", "--precision", "float64", *settings)
    assert main(train, *begun, "--run", "a")[0] == 0
    assert main(train, "--resume", "a", "--epochs", 130)[0] == 0  # in pieces of another length
    assert main(train, *begun, "--epochs", 130, "--run", "b")[0] == 0
    same(tmp_path / "a", tmp_path / "b")
    code, out, _ = main(train, "--resume", "a")  # nothing is left to do but to say what came of it
    assert (code, "0 steps in" in out) == (0, True)


def test_control_c_stores_where_the_run_stands(script, ended, tmp_path):
    """And SIGTERM, with which machines are taken away. A checkpoint is not otherwise due."""
    arguments = ("--epochs", 100_000, *BARE, "--run")
    for number, name in ((signal.SIGINT, "a"), (signal.SIGTERM, "b")):
        child = script("train", *arguments, name)
        while not logged(tmp_path / name):
            assert child.poll() is None
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
        assert child.returncode == 128 + number
        epoch = int(re.search(r"interrupted after epoch (\d+)", err)[1])
        assert logged(tmp_path / name) == epoch
        assert parameters(tmp_path / name)["state.epoch"] == epoch
        assert ended("train", "--resume", name, "--epochs", epoch)[0] == 0


BAD = [
    (("--run", "a"), "a is there already; a run of that name goes on with --resume a"),
    (("--run", "file"), "file is there already"),
    (("--run", "file/a"), r".*Not a directory: 'file/"),
    (("--run", "/proc/a"), r".*No such file or directory: '/proc/"),
    (("--resume", "b"), "b holds no run: there is no config.json in it"),
    (("--resume", "a", "--hidden", 7), r"hidden is \(7,\), but the run that is to be resumed has \(5,\)"),
    (("--resume", "a", "--run", "b"), "resume goes on in its own folder, with its own settings"),
    (("--resume", "a", "--checkpoint", 7), "there is no checkpoint of epoch 7 in a/checkpoints, only of "),
    (("--resume", "a", "--checkpoint", 7, "--epochs", 99), "there is no checkpoint of epoch 7 in a/checkpoints"),
    (("--resume", "a", "--epochs", 7), "epochs is 7, but the run has come to 20 already"),
    (("--run", "b", "--checkpoint", 3), "checkpoint is 3, but there is no run to resume"),
    (("--run", "b", "--checkpoint-seconds", "nan"), "checkpoint_seconds is nan, but a finite number of at least 0 is"),
    (("--run", "."), r"\. is no name for a new folder"),
    (("--config", "file"), "file cannot be read as settings"),
    (("--config", "odd.json"), "odd.json: hidden is 'many', but tuple.* is wanted"),
    (("--config", "unknown.json"), "unknown.json: there is no setting size"),
    (("--config", "list.json"), "list.json holds a list, but names and values of settings are wanted"),
    (("--dataset", "nan.csv"), "nan.csv, row 3, column b is 'nan', but a finite number is wanted"),
    (("--dataset", "none.csv"), "no such file: none.csv"),
    (("--dataset", "images"), "images.*-ubyte.* bytes"),
]


def test_bad_input_gets_one_sentence_and_overwrites_nothing(main, tmp_path):
    assert main(train, *QUICK, *BARE, "--run", "a")[0] == 0
    (tmp_path / "file").write_text("mine")
    (tmp_path / "odd.json").write_text('{"hidden": "many"}')
    (tmp_path / "unknown.json").write_text('{"size": 3}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "nan.csv").write_text("a,b,t\n1,2,x\n2,3,y\n3,nan,x\n4,5,y\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, *[0, 0, 0, 2] * 3, 1, 2, 3]))
    (tmp_path / "images" / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 1]))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for arguments, sentence in BAD:
        code, out, err = main(train, *arguments)
        assert (code, out) == (2, ""), arguments
        assert re.match(f"train.py: {sentence}", err), err
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before, arguments


def test_a_run_is_not_resumed_with_other_data(main, tmp_path):
    x, labels = load_iris(return_X_y=True)
    rows = [[*map(str, row), "abc"[label]] for row, label in zip(x, labels, strict=True)]
    for change, code in ((None, 0), (3, 2)):
        if change is not None:
            rows[change][0] = "9.9"
        with (tmp_path / "mine.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["a", "b", "c", "d", "kind"], *rows])
        arguments = ("--resume", "a") if change else (*QUICK, *BARE, "--dataset", "mine.csv", "--run", "a")
        found, _, err = main(train, *arguments)
        assert found == code, err
    assert err == "train.py: the data are not those that a was begun with"


def test_the_interval_of_evaluations_stays_that_of_the_beginning(main, tmp_path):
    assert main(train, *QUICK, *BARE, "--epochs", 100, "--validation", 0.2, "--run", "a")[0] == 0
    assert json.loads((tmp_path / "a" / "config.json").read_text())["evaluate_every"] == 2
    assert main(train, "--resume", "a", "--epochs", 200)[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if "validation_loss" in row] == list(range(2, 201, 2))


def test_patience_ends_a_run_at_an_evaluation_with_the_best_parameters(main, tmp_path):
    settings = ("--validation", 0.2, "--evaluate-every", 4, "--patience", 2, "--learning-rate", 1e-30)
    assert main(train, *QUICK, *BARE, *settings, "--run", "a")[0] == 0
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert (result["epoch"], result["best_epoch"]) == (8, 4)  # which is as good, and no better


def test_a_damaged_description_of_the_data_is_refused(main, tmp_path):
    assert main(train, *QUICK, *BARE, "--run", "a")[0] == 0
    for content in ("[1]", "{}", "{"):
        (tmp_path / "a" / "data.json").write_text(content)
        for script, arguments in ((train, ("--resume", "a")), (predict, ("a", "--input", "in.csv"))):
            code, _, err = main(script, *arguments)
            assert code == 2
            assert re.search(r"a/data.json (is damaged|cannot be read)", err)


def test_weights_of_0_are_left_out_and_predicting_does_not_mind_the_column(main, tmp_path):
    x, labels = load_iris(return_X_y=True)
    rows = [[*map(str, row), "abc"[label], i % 3] for i, (row, label) in enumerate(zip(x, labels, strict=True))]
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "c", "d", "kind", "w"], *rows])
    named = ("--dataset", "mine.csv", "--target", "kind", "--weights", "w", "--validation", 0.2)
    code, out, _ = main(train, *QUICK, *BARE, *named, "--run", "a")
    assert code == 0
    assert "(20 examples" in out
    assert len(main(predict, "a", "--input", "mine.csv")[1].splitlines()) == 151
    (tmp_path / "in.csv").write_text("a,b,c,d\n1,2,3,1e300\n")
    code, out, err = main(predict, "a", "--input", "in.csv")
    assert code == 0  # in float64, as this run was
    assert main(train, *QUICK, *BARE, *named, "--precision", "float32", "--run", "b")[0] == 0
    code, out, err = main(predict, "b", "--input", "in.csv")
    assert (code, out) == (2, "")
    assert re.match(r"predict.py: expected finite float32 numbers in features, got inf at \[0, 3\]", err)


def test_two_processes_do_not_go_on_with_one_run(script, ended, tmp_path):
    child = script("train", "--epochs", 10_000_000, *BARE, "--run", "a")
    while not logged(tmp_path / "a"):
        assert child.poll() is None
    try:
        code, _, err = ended("train", "--resume", "a")
    finally:
        child.kill()
        child.communicate()
    assert (code, err) == (2, "train.py: a is in use: another process goes on with that run")


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_offered(main, tmp_path):
    assert main(train, *QUICK, *BARE, "--epochs", 3, "--run", "whole")[0] == 0
    assert main(train, *QUICK, *BARE, "--epochs", 3, "--run", "a")[0] == 0
    for file in (tmp_path / "a" / "checkpoints" / "3").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:-50])
    code, _, err = main(train, "--resume", "a")
    assert code == 2
    assert re.match(
        r"train.py: the checkpoint of epoch 3 in a/checkpoints is damaged \(.*--checkpoint 2 takes the one", err
    )
    assert main(train, "--resume", "a", "--checkpoint", 2)[0] == 0
    same(tmp_path / "whole", tmp_path / "a")


def test_a_checkpoint_of_another_model_is_refused(main, tmp_path):
    assert main(train, *QUICK, *BARE, "--run", "a")[0] == 0
    assert main(train, *QUICK, *BARE, "--hidden", 7, "--run", "b")[0] == 0
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    shutil.copytree(tmp_path / "b" / "checkpoints", tmp_path / "a" / "checkpoints")
    code, _, err = main(train, "--resume", "a")
    assert code == 2
    assert re.match(
        r"train.py: the checkpoint of epoch 20 in a/checkpoints is of another model: state.* is float64\[7", err
    )


@pytest.mark.parametrize(
    ("kilobytes", "settings", "sentence"),
    [
        (1, ("--no-plots", "--epochs", 200, "--checkpoint-seconds", 999), r".*File too large"),
        (
            60,
            ("--hidden", 200, 200, "--epochs", 20),
            r"the checkpoint of epoch \d+ cannot be written in a/checkpoints",
        ),
    ],
)
def test_a_full_disk_ends_it_with_a_sentence(script, ended, tmp_path, kilobytes, settings, sentence):
    command = ("--no-tensorboard", "--checkpoint-seconds", 0, "--batch-size", 16, *settings, "--run", "a")
    child = script("train", *command, files_of=kilobytes)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 2
    # Not only the last line: which of orbax's tasks fail besides, and what they log after it, is a matter of chance.
    assert re.search(f"^train.py: {sentence}", err, re.MULTILINE), err
    assert ended("train", "--resume", "a", "--epochs", 201)[0] == 0  # once there is room


@pytest.mark.parametrize(
    ("package", "sentence"),
    [
        ("orbax", r"a run folder needs orbax.*: pip install 'jaxann\[checkpoints\]'$"),
        (
            "tensorboardX",
            r"a run folder needs tensorboardX: pip install 'jaxann\[logging\]' \(or give --no-tensorboard\)$",
        ),
        ("matplotlib", r"a run folder needs matplotlib.*: pip install 'jaxann\[plots\]' \(or give --no-plots\)$"),
    ],
)
def test_what_is_not_installed_is_named_before_anything_is_made(main, tmp_path, monkeypatch, package, sentence):
    for name in [name for name in sys.modules if name.split(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = main(train, *QUICK, "--run", "a")
    assert code == 2
    assert re.match(f"train.py: {sentence}", err), err
    assert not list(tmp_path.iterdir())


def test_a_plain_run_imports_none_of_them():
    code = "import sys, train\nsys.argv = ['train.py', '--epochs', '1']\ntrain.main()\n"
    code += "assert not {'orbax', 'tensorboardX', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, check=True, capture_output=True)


def test_predictions_are_those_of_the_run_by_the_names_of_its_columns(main, tmp_path):
    assert main(train, "--hidden", 20, "--epochs", 50, *BARE, "--run", "a")[0] == 0
    x, labels = load_iris(return_X_y=True)
    names = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
    order = [2, 0, 3, 1]
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[names[i] for i in order], *x[:, order].tolist()])
    code, out, _ = main(predict, "a", "--input", "in.csv")
    assert code == 0
    rows = list(csv.DictReader(out.splitlines()))
    kinds = ["setosa", "versicolor", "virginica"]
    assert np.mean([row["target"] == kinds[label] for row, label in zip(rows, labels, strict=True)]) > 0.93
    for row in rows:
        shares = [float(row[f"P({kind})"]) for kind in kinds]
        assert sum(shares) == pytest.approx(1)
        assert row["target"] == kinds[int(np.argmax(shares))]
    assert main(predict, "a", "--input", "in.csv", "--output", "out.csv")[0] == 0
    assert (tmp_path / "out.csv").read_text() == out
    np.savez(tmp_path / "in.npz", x=x)
    assert main(predict, "a", "--input", "in.npz")[1] == out
    for arguments, sentence in {
        ("a", "--input", "in.csv", "--output", "out.csv"): r".*File exists: .*out.csv",
        ("a", "--input", "none.csv"): "no such file: none.csv",
        ("b", "--input", "in.csv"): "b holds no run",
        ("a", "--input", "in.csv", "--checkpoint", 3): "there is no checkpoint of epoch 3 in a/checkpoints, only of 50",
    }.items():
        code, _, err = main(predict, *arguments)
        assert code == 2
        assert re.match(f"predict.py: {sentence}", err), err
    (tmp_path / "in.csv").write_text((tmp_path / "in.csv").read_text().replace("petal width (cm)", "width"))
    code, _, err = main(predict, "a", "--input", "in.csv")
    assert code == 2
    assert re.search(r"lacks petal width \(cm\) and has unknown width", err)


def test_numbers_are_predicted_in_their_unit_from_a_csv(main, tmp_path):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(200, 2)) * [1, 100]
    t = 5000 + 30 * x[:, 0] - 2 * x[:, 1]
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["a", "price", "b"], *np.column_stack([x[:, 0], t, x[:, 1]]).tolist()])
    settings = ("--hidden", 8, "--activation", "tanh", "--epochs", 100, "--learning-rate", 0.05, "--batch-size", 8)
    assert main(train, *settings, *BARE, "--dataset", "mine.csv", "--target", "price", "--run", "a")[0] == 0
    code, out, _ = main(predict, "a", "--input", "mine.csv")
    assert code == 0
    assert out.splitlines()[0] == "price"
    assert np.corrcoef([float(line) for line in out.splitlines()[1:]], t)[0, 1] > 0.995
    assert np.mean([float(line) for line in out.splitlines()[1:]]) == pytest.approx(t.mean(), rel=0.01)

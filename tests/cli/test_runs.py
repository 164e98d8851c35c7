"""Run folders as a user of the program train meets them: made, made again, continued, and refused."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris
from support.runs import BARE, QUICK, assert_same_run, call_predict, call_train, read_rows

from jaxann.runs import Checkpoints

EVERY_EPOCH = ("--checkpoint-seconds", 0)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A folder with a finished run "a", of which the checkpoints of epochs 19 and 20 are left; only to be read."""
    folder = tmp_path_factory.mktemp("finished")
    assert call_train(folder, *QUICK, *BARE, *EVERY_EPOCH, "--run", "a").code == 0
    return folder


@pytest.fixture
def copy(finished_run, tmp_path):
    """A copy of `finished_run` that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "copy"))


def test_a_run_folder_holds_what_it_says(tmp_path):
    settings = (*QUICK, "--validation", 0.2, "--evaluate-every", 5, "--run", "runs/iris")
    code, out, _ = call_train(tmp_path, *settings)
    assert code == 0
    folder = tmp_path / "runs" / "iris"
    names = {"config.json", "data.json", "metrics.jsonl", "result.json", "lock"}
    assert {path.name for path in folder.iterdir()} == names | {
        *("checkpoints", "tensorboard", "curves.png", "confusion.png"),
    }
    rows = read_rows(folder)
    assert [row["epoch"] for row in rows] == list(range(1, 21))
    evaluated = [row for row in rows if "validation_loss" in row]
    assert [row["epoch"] for row in evaluated] == [5, 10, 15, 20]
    result = json.loads((folder / "result.json").read_text())
    best = min(evaluated, key=lambda row: row["validation_loss"])
    assert result["best_epoch"] == best["epoch"]
    assert f"held-out accuracy: {result['accuracy']:.3f} (30 examples, the parameters of epoch {best['epoch']})" in out
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name.split(".")[0] for path in (folder / "tensorboard").iterdir()] == ["events"]


@pytest.mark.slow
def test_its_config_makes_the_same_run_again_and_the_command_line_goes_before_it(tmp_path):
    settings = (*QUICK, *BARE, "--validation", 0.3, "--dropout", 0.2, "--evaluate-every", 1, "--patience", 900)
    settings += ("--optimizer", "adam", "--learning-rate", 0.003, "--schedule", "cosine", "--warmup", 2)
    settings += ("--weight-decay", 0.01, "--clip", 1, "--class-weights", "balanced", "--loss", "softmax_cross_entropy")
    assert call_train(tmp_path, *settings, "--optimizer-settings", "b1", 0.8, "--run", "a").code == 0
    assert call_train(tmp_path, "--config", "a/config.json", "--run", "b").code == 0
    a, b, c = (tmp_path / name for name in "abc")
    assert_same_run(a, b)
    assert (a / "config.json").read_bytes() == (b / "config.json").read_bytes()
    assert call_train(tmp_path, "--config", "a/config.json", "--run", "c", "--seed", 1).code == 0
    assert (a / "metrics.jsonl").read_bytes() != (c / "metrics.jsonl").read_bytes()
    assert json.loads((c / "config.json").read_text())["optimizer_settings"] == {"b1": 0.8}


@pytest.mark.parametrize(
    "settings",
    [
        (),
        pytest.param(("--batch-size", 120), marks=pytest.mark.slow),
        pytest.param(("--validation", 0.2, "--evaluate-every", 4), marks=pytest.mark.slow),
        pytest.param(("--precision", "bfloat16", "--dropout", 0.1), marks=pytest.mark.slow),
    ],
    ids=["plain", "one step an epoch", "validation", "bfloat16"],
)
def test_more_epochs_go_on_as_if_they_had_been_asked_for_at_once(tmp_path, settings):
    begun = (*QUICK, *BARE, "--optimizer", "adam", "--precision", "float64", *settings)
    assert call_train(tmp_path, *begun, "--run", "a").code == 0
    assert call_train(tmp_path, "--resume", "a", "--epochs", 130).code == 0  # in pieces of another length
    assert call_train(tmp_path, *begun, "--epochs", 130, "--run", "b").code == 0
    assert_same_run(tmp_path / "a", tmp_path / "b")
    code, out, _ = call_train(tmp_path, "--resume", "a")  # nothing is left to do but to report
    assert (code, "0 steps in" in out) == (0, True)


def test_a_run_of_a_version_that_stored_none_is_resumed_and_predicts(copy):
    config = json.loads((copy / "a" / "config.json").read_text())
    assert config.pop("version")
    (copy / "a" / "config.json").write_text(json.dumps(config))
    (copy / "in.csv").write_text("sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)\n5,3,1,0\n")
    predicted = call_predict(copy, "a", "--input", "in.csv")
    assert (predicted.code, len(predicted.out.splitlines())) == (0, 2)
    assert call_train(copy, "--resume", "a", "--epochs", 22).code == 0
    assert "version" in json.loads((copy / "a" / "config.json").read_text())
    assert len(read_rows(copy / "a")) == 22


BAD = [
    (("--run", "a"), r"expected --run to be a new folder \(--resume a continues the run in it\), got a$"),
    (("--run", "file"), "expected a new or an empty folder, got file, which is not empty"),
    (("--run", "file/a"), r".*Not a directory: 'file/"),
    (("--run", "/proc/a"), r".*No such file or directory: '/proc/"),
    (("--resume", "b"), "expected the folder of a run, with a config.json in it, got b"),
    (("--resume", "a", "--hidden", 7), r"expected --hidden to be \(5,\), as in the run that is resumed, got \(7,\)"),
    (
        ("--resume", "a", "--run", "b"),
        "expected --resume without --run and --config, because a run continues in .*, got a",
    ),
    (("--resume", "a", "--checkpoint", 7), "expected a checkpoint of epoch 7 in a/checkpoints, got those of 19 and 20"),
    (("--resume", "a", "--checkpoint", 7, "--epochs", 99), "expected a checkpoint of epoch 7 in a/checkpoints"),
    (("--resume", "a", "--epochs", 7), "expected --epochs of at least 20, which the run has reached, got 7"),
    (("--run", "b", "--checkpoint", 3), "expected --checkpoint only together with --resume, got 3"),
    (("--run", "b", "--keep", 0), "expected --keep of at least 1, got 0"),
    (("--resume", "a", "--keep", -1), "expected --keep of at least 1, got -1"),
    (("--run", "b", "--checkpoint-seconds", "nan"), "expected --checkpoint-seconds to be a finite number, got nan"),
    (("--run", "."), r"expected a name for a new folder, got '\.'"),
    (("--config", "file"), "file cannot be read"),
    (("--config", "odd.json"), "odd.json: expected hidden to be a list .*, got 'many'"),
    (("--dataset", "nan.csv"), "expected a finite number in nan.csv, row 3, column b, got 'inf'"),
    (("--dataset", "none.csv"), "no such file: none.csv"),
    (("--dataset", "images"), "expected 24 bytes in images/train-images-idx3-ubyte, for shape .*, got 19"),
]


def test_bad_input_gets_one_sentence_and_overwrites_nothing(copy):
    (copy / "file").write_text("mine")
    (copy / "odd.json").write_text('{"hidden": "many"}')
    (copy / "nan.csv").write_text("a,b,t\n1,2,x\n2,3,y\n3,inf,x\n4,5,y\n")
    (copy / "images").mkdir()
    (copy / "images" / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, *[0, 0, 0, 2] * 3, 1, 2, 3]))
    (copy / "images" / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 1]))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    for arguments, sentence in BAD:
        ended = call_train(copy, *arguments)
        assert (ended.code, ended.out) == (2, ""), arguments
        assert re.match(f"train.py: {sentence}", ended.sentence), ended.sentence
        assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before, arguments


def test_a_run_is_not_resumed_with_other_data(tmp_path):
    x, labels = load_iris(return_X_y=True)
    rows = [[*map(str, row), "abc"[label]] for row, label in zip(x, labels, strict=True)]
    begin = (*QUICK, *BARE, "--dataset", "mine.csv", "--run", "a")
    for value, arguments in ((rows[3][0], begin), ("9.9", ("--resume", "a"))):
        rows[3][0] = value
        with (tmp_path / "mine.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["a", "b", "c", "d", "kind"], *rows])
        ended = call_train(tmp_path, *arguments)
        assert ended.code == (0 if arguments == begin else 2), ended.err
    assert ended.sentence == "train.py: expected the data with which a was started, got data with different examples"


def test_the_interval_of_evaluations_stays_that_of_the_beginning(tmp_path):
    assert call_train(tmp_path, *QUICK, *BARE, "--epochs", 100, "--validation", 0.2, "--run", "a").code == 0
    assert json.loads((tmp_path / "a" / "config.json").read_text())["evaluate_every"] == 2
    assert call_train(tmp_path, "--resume", "a", "--epochs", 200).code == 0
    rows = read_rows(tmp_path / "a")
    assert [row["epoch"] for row in rows if "validation_loss" in row] == list(range(2, 201, 2))


def test_patience_ends_a_run_at_an_evaluation_with_the_best_parameters(tmp_path):
    settings = ("--validation", 0.2, "--evaluate-every", 4, "--patience", 2, "--learning-rate", 1e-30)
    assert call_train(tmp_path, *QUICK, *BARE, *settings, "--run", "a").code == 0
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert (result["epoch"], result["best_epoch"]) == (8, 4)  # epoch 8 is as good as epoch 4, and not better


def test_a_damaged_description_of_the_data_is_refused(copy):
    for content in ("[1]", "{}", "{"):
        (copy / "a" / "data.json").write_text(content)
        for ended in (call_train(copy, "--resume", "a"), call_predict(copy, "a", "--input", "in.csv")):
            assert ended.code == 2
            assert re.search(r"a/data.json (is damaged|cannot be read)", ended.sentence)


def test_a_run_keeps_as_many_checkpoints_as_it_is_told_and_each_can_be_used(copy):
    stored = Checkpoints(copy / "a" / "checkpoints", reader=True)
    assert call_train(copy, "--resume", "a", "--epochs", 24, *EVERY_EPOCH, "--keep", 3).code == 0
    assert stored.epochs() == [22, 23, 24]
    np.savez(copy / "in.npz", x=load_iris().data[::50])
    ended = [call_predict(copy, "a", "--input", "in.npz", "--checkpoint", epoch) for epoch in stored.epochs()]
    assert [predicted.code for predicted in ended] == [0, 0, 0]
    assert len({predicted.out for predicted in ended}) == 3
    assert call_train(copy, "--resume", "a", "--checkpoint", 22, *EVERY_EPOCH, "--keep", 1).code == 0
    assert stored.epochs() == [24]
    assert call_predict(copy, "a", "--input", "in.npz") == ended[-1]


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_offered(copy, finished_run):
    for file in (copy / "a" / "checkpoints" / "20").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:-50])
    ended = call_train(copy, "--resume", "a")
    assert ended.code == 2
    sentence = r"the checkpoint of epoch 20 in a/checkpoints is damaged \(.*\); the one of epoch 19 is still there"
    assert re.match(f"train.py: {sentence}", ended.sentence)
    assert call_train(copy, "--resume", "a", "--checkpoint", 19).code == 0
    assert_same_run(finished_run / "a", copy / "a")


def test_a_checkpoint_of_another_model_is_refused(copy):
    assert call_train(copy, *QUICK, *BARE, "--hidden", 7, "--epochs", 1, "--run", "b").code == 0
    shutil.rmtree(copy / "a" / "checkpoints")
    shutil.copytree(copy / "b" / "checkpoints", copy / "a" / "checkpoints")
    ended = call_train(copy, "--resume", "a")
    assert ended.code == 2
    sentence = (
        "expected the config.json with which the checkpoint of epoch 1 in a/checkpoints was written, "
        "got one whose hidden is [5], not [7]"
    )
    assert ended.sentence == f"train.py: {sentence}"


@pytest.mark.parametrize(
    ("package", "sentence"),
    [
        ("orbax", r"a run folder needs orbax-checkpoint: pip install 'jaxann\[checkpoints\]'$"),
        (
            "tensorboardX",
            r"a run folder needs tensorboardX: pip install 'jaxann\[logging\]' \(or give --no-tensorboard\)$",
        ),
        ("matplotlib", r"a run folder needs matplotlib: pip install 'jaxann\[plots\]' \(or give --no-plots\)$"),
    ],
)
def test_what_is_not_installed_is_named_before_anything_is_made(tmp_path, monkeypatch, package, sentence):
    for name in [name for name in sys.modules if name.split(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, name, None)
    ended = call_train(tmp_path, *QUICK, "--run", "a")
    assert ended.code == 2
    assert re.match(f"train.py: {sentence}", ended.sentence), ended.sentence
    assert not list(tmp_path.iterdir())

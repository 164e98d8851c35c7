"""Presets: which defaults hold for which data, what overrides them, and what is refused beside them."""

import json
import re
from dataclasses import replace

import pytest
from support.programs import call
from support.runs import BARE, call_train

from jaxann.cli import gradcheck, sweep, train
from jaxann.cli.presets import PRESETS, SWEEP_TABLE, TABLE, find_preset
from jaxann.cli.program import name_first, parse_settings
from jaxann.cli.settings import Settings
from jaxann.cli.task import prepare
from jaxann.nn.hyperparameters import SettingError

SMALL = ("--hidden", 4, "--epochs", 4)


def parse(*arguments):
    """Returns the settings of train for a command line."""
    return parse_settings(Settings, None, name_first([*map(str, arguments)], "dataset"), train.find_defaults)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), Settings()),
        (("iris",), Settings()),
        (("wine",), Settings(dataset="wine", **TABLE)),
        (("mine.csv", "--target", "churn"), Settings(dataset="mine.csv", target="churn", **TABLE)),
        (("wine", "--preset", "derivation"), Settings(dataset="wine", preset="derivation")),
        (("--preset", "table"), Settings(preset="table", **TABLE)),
        (("wine", "--hidden", 8, "--patience", 3), Settings(dataset="wine", **TABLE | {"hidden": (8,), "patience": 3})),
        (
            ("wine", "--batch-size", 2, "--learning-rate", 0.5),
            Settings(dataset="wine", **TABLE | {"batch_size": 2, "learning_rate": 0.5}),
        ),
        (
            ("wine", "--validation", 0),
            Settings(dataset="wine", **TABLE | {"validation": 0.0, "patience": None}),
        ),
        (("wine", "--patience", "None"), Settings(dataset="wine", **TABLE | {"patience": None})),
    ],
)
def test_the_dataset_decides_the_defaults_and_flags_override_them(arguments, expected):
    assert parse(*arguments) == expected


def test_the_presets_are_the_derivations_own_settings_and_those_for_a_table():
    assert PRESETS["derivation"] == {}
    assert Settings() == Settings(
        hidden=(50, 20, 10), activation="sigmoid", optimizer="sgd", learning_rate=0.5, batch_size=2, epochs=500
    )
    assert TABLE == {
        "hidden": (64, 64),
        "activation": "relu",
        "loss": "automatic",
        "label_smoothing": 0.0,
        "optimizer": "adam",
        "learning_rate": 0.001,
        "batch_size": None,
        "validation": 0.2,
        "patience": 20,
        "epochs": 300,
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("wine", "--validation", 0, "--patience", 20), "expected --patience only together with --validation, got 20"),
        (
            ("wine", "--dataset", "iris"),
            "expected the dataset once, got 'wine' as the first argument and then '--dataset'$",
        ),
        (("wine", "--dataset=iris"), "expected the dataset once, got 'wine' as the first .* then '--dataset=iris'$"),
        (("whine",), "expected a dataset, which is one of iris, .*, got 'whine'"),
        (
            ("--config", "config.json", "--preset", "table"),
            "expected --preset without --config, whose settings are the defaults, got 'table'",
        ),
        (("--resume", "none"), "expected the folder of a run, with a config.json in it, got none"),
    ],
)
def test_what_does_not_go_together_gets_one_sentence(tmp_path, arguments, sentence):
    (tmp_path / "config.json").write_text("{}")
    code, out, err = call(train.main, *arguments, name="train.py", folder=tmp_path)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert re.match(f"train.py: {sentence}", err), err


def test_a_stored_run_holds_the_values_of_the_preset_and_no_preset_changes_it(tmp_path):
    wine = ("wine", *SMALL, *BARE, "--run", "a")
    ended = call_train(tmp_path, *wine)
    assert ended.code == 0, ended.err
    assert "validation_accuracy=" in ended.err
    stored = json.loads((tmp_path / "a" / "config.json").read_text())
    assert "preset" not in stored
    values = json.loads(json.dumps(TABLE | {"hidden": (4,), "epochs": 4}))
    assert {name: stored[name] for name in values} == values
    assert call_train(tmp_path, "--resume", "a", "--epochs", 5).code == 0
    assert json.loads((tmp_path / "a" / "config.json").read_text())["patience"] == 20
    ended = call_train(tmp_path, "--resume", "a", "--preset", "table")
    assert (
        ended.sentence == "train.py: expected --preset without --resume, whose settings are the defaults, got 'table'"
    )
    (tmp_path / "config.json").write_text('{"dataset": "wine", "epochs": 3}')
    stored = parse_settings(Settings, None, ["--config", str(tmp_path / "config.json")], train.find_defaults)
    assert replace(stored, config=None) == Settings(dataset="wine", epochs=3)  # what is not stored has its old default


def test_a_sweep_has_the_network_and_the_optimizer_of_the_preset_but_no_early_stopping():
    def parse(*arguments):
        find_defaults = lambda settings: find_preset(settings, sweep.SWEEP_PRESETS)  # noqa: E731
        return parse_settings(sweep.SweepSettings, None, [*arguments], find_defaults)

    assert parse() == sweep.SweepSettings()
    expected = sweep.SweepSettings(dataset="wine", **SWEEP_TABLE)
    assert parse("--dataset", "wine") == expected
    assert (expected.validation, expected.patience, expected.hidden) == (0.25, None, (64, 64))
    ended = call(sweep.main, "wine", *SMALL, "--seeds", 1, "--devices", 1, name="sweep.py")
    assert ended.code == 0, ended.err
    ended = call(sweep.main, "wine", *SMALL, "--patience", 3, name="sweep.py")
    assert ended.sentence == "sweep.py: expected --patience only for `jaxann train`, got 3"


def test_gradcheck_checks_the_network_that_train_would_train(monkeypatch):
    checked = []
    monkeypatch.setattr(gradcheck, "run_checks", lambda settings: checked.append(settings) or {})
    for arguments in (("--dataset", "wine"), ("--preset", "table")):
        assert call(gradcheck.main, *arguments, name="gradcheck.py").code == 0
    assert checked == [gradcheck.GradcheckSettings(dataset=name, **TABLE) for name in ("wine", "iris")]


def test_the_help_lists_the_presets_and_shows_the_defaults_of_the_one_that_holds():
    for program in (train, sweep, gradcheck):
        _, out, _ = call(program.main, "--help", name="program.py")
        text = " ".join(out.split())
        assert "derivation: hidden 50 20 10, activation sigmoid, " in text
        assert "table: hidden 64 64, activation relu, loss automatic, label-smoothing 0.0, optimizer adam, " in text
        assert ("patience 20" in text) == (program is not sweep)
    _, out, _ = call(train.main, "wine", "--help", name="train.py")
    text = " ".join(out.replace("│", " ").split())
    assert (
        "Number of units of each hidden layer of mlp, or of each recurrent layer of gru and lstm. (default: 64 64)"
        in text
    )


def test_in_python_a_preset_is_a_dictionary_of_settings():
    with pytest.raises(SettingError, match="expected preset only on the command line, where it changes the defaults"):
        Settings(preset="table").check()
    Settings(dataset="wine", **TABLE).check()


@pytest.mark.parametrize(("held_out", "size"), [(0.2, 32), (0.9, 15)])
def test_a_batch_has_32_examples_or_all_if_there_are_fewer(held_out, size):
    task = prepare(Settings(batch_size=None, held_out=held_out, precision="float64"))
    assert task.recipe.batch_size == size

"""Settings: what a file of them stores, and how an error names a setting that the caller has written."""

import json
import sys
from importlib.metadata import version
from typing import get_type_hints

import pytest
from support.programs import call

from jaxann.cli import predict, train
from jaxann.cli.annotations import describe_annotation, matches
from jaxann.cli.errors import flags, format_error, require_optional_packages
from jaxann.cli.settings import UNSTORED, Settings
from jaxann.nn.hyperparameters import SettingError

ANNOTATIONS = get_type_hints(Settings)


def test_a_file_holds_all_settings_but_those_of_place_and_devices_and_comes_back_as_they_were(tmp_path):
    settings = Settings(hidden=(3, 2), class_weights=(1.0, 2.5), optimizer_settings={"b1": 0.8}, clip=0.5, patience=2)
    stored = settings.to_json()
    assert set(stored) == {"version", *ANNOTATIONS} - {*UNSTORED}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(stored))
    assert Settings.from_file(path) == settings


def test_the_version_is_stored_and_need_not_be_there(tmp_path):
    path = tmp_path / "config.json"
    assert Settings().to_json()["version"] == version("jaxann")
    for content in ({"version": version("jaxann"), "seed": 3}, {"seed": 3}):
        path.write_text(json.dumps(content))
        assert Settings.from_file(path) == Settings(seed=3)
    for stored in ("999.0", 3):
        path.write_text(json.dumps({"version": stored}))
        with pytest.raises(ValueError, match=r"version|jaxann") as error:
            Settings.from_file(path)
        assert str(stored) in str(error.value)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("mine", r"cannot be read: "),
        ("[]", r": expected an object with names and values of settings, got \[\]"),
        ('{"size": 3}', r": expected names of settings, got 'size'"),
        ('{"run": "a"}', r": expected names of settings, got 'run'"),
        ('{"hidden": "many"}', r": expected hidden to be a list in which each element is a whole number, got 'many'"),
        ('{"hidden": [5, 0.5]}', r": expected hidden to be a list .*, got \[5, 0.5\]"),
        ('{"epochs": true}', r": expected epochs to be a whole number, got True"),
        ('{"clip": "all"}', r": expected clip to be a number or null, got 'all'"),
        ('{"plots": 1}', r": expected plots to be true or false, got 1"),
        ('{"schedule": "cos"}', r": expected schedule to be 'constant' or 'linear' or .*, got 'cos'"),
        (
            '{"optimizer_settings": {"b1": "x"}}',
            r": expected optimizer_settings to be an object in which each value is",
        ),
    ],
)
def test_a_file_of_anything_else_is_refused(tmp_path, content, sentence):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"config\.json ?{sentence}"):
        Settings.from_file(tmp_path / "config.json")


def test_every_default_matches_its_annotation():
    for name, value in json.loads(json.dumps(Settings().to_json())).items():
        if name != "version":
            assert matches(value, ANNOTATIONS[name]), name
            assert describe_annotation(ANNOTATIONS[name])


def test_a_setting_is_named_as_it_was_written(tmp_path):
    (tmp_path / "config.json").write_text('{"clip": 0.0, "epochs": 3, "patience": 4}')

    def sentence(*arguments):
        code, out, err = call(train.main, "--config", "config.json", *arguments, name="jaxann train", folder=tmp_path)
        assert (code, out) == (2, "")
        return err

    assert sentence() == "jaxann train: expected patience only together with --validation, got 4\n"
    assert sentence("--validation", 0.2) == "jaxann train: expected clip above 0, got 0.0\n"
    assert sentence("--validation", 0.2, "--clip", -1) == "jaxann train: expected --clip above 0, got -1.0\n"


def test_only_the_settings_of_a_program_are_spelled_as_flags():
    assert flags(predict.PredictSettings)["checkpoint"] == "--checkpoint"
    names = flags(Settings)
    assert format_error(SettingError("batch_size", "of at least 1", 0), names) == (
        "expected --batch-size of at least 1, got 0"
    )
    assert format_error(SettingError("b1", "below 1", 2), names) == "expected b1 below 1, got 2"
    assert format_error(OSError("no room"), names) == "no room"


def test_missing_packages_are_named_together_with_the_flags_that_do_without_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    both = {"tensorboardX": "--no-tensorboard", "matplotlib.figure": "--no-plots"}
    with pytest.raises(ImportError, match=r"^A needs tensorboardX and matplotlib: pip install 'jaxann\[runs\]' \(or "):
        require_optional_packages("A", ("orbax.checkpoint",), both)
    with pytest.raises(ImportError, match=r"\(or give --no-tensorboard and --no-plots\)$"):
        require_optional_packages("A", (), both)
    with pytest.raises(ImportError, match=r"^A needs matplotlib: pip install 'jaxann\[plots\]'$"):
        require_optional_packages("A", ("matplotlib.figure",), {})
    require_optional_packages("A", (), {})

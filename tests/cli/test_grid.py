"""Grids and settings of the program sweep: how they are read, and what is refused."""

import re
import sys

import pytest
from support.sweeps import GRID, call_sweep

from jaxann.cli.grid import format_value, parse_grid


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--grid", "lr=0.1"), r"expected --grid to hold only settings that can be swept: held_out, .*, got 'lr'"),
        (("--grid", "learning_rate=0.1,fast"), "expected learning_rate to be a number, got 'fast'"),
        (("--grid", "batch_size=2.5"), "expected batch_size to be a whole number or none, got '2.5'"),
        (("--grid", "batch-size=2.5"), "expected batch-size to be a whole number or none, got '2.5'"),
        (("--grid", "hidden=64-x"), "expected hidden to be numbers such as 64-32, got '64-x'"),
        (("--grid", "activation=swish"), "expected activation to be identity or sigmoid or .*, got 'swish'"),
        (("--grid", "clip=1,all"), "expected clip to be a number or none, got 'all'"),
        (("--grid", "learning_rate=0.1,,1"), "expected learning_rate to be a number, got ''"),
        (("--grid", "learning_rate="), "expected --grid to hold settings and values such as .*, got 'learning_rate='"),
        (("--grid", "0.2"), "expected --grid to hold settings and values such as learning_rate=0.01,0.1, got '0.2'"),
        (("--grid", "dropout=0", "dropout=0.1"), "expected --grid to hold each setting once, got 'dropout twice'"),
        (("--grid", "learning_rate=0.1,0.10"), "expected learning_rate to have each value once, got '0.1 twice'"),
        *(
            (("--grid", f"{name}=1"), f"expected --grid to hold only settings that can be swept: .*, got '{name}'")
            for name in (
                *("seed", "split", "precision", "dataset", "target", "weights", "kind", "tensorboard", "plots"),
                *("header", "ignore", "id", "categorical", "numeric"),
                *("checkpoint_seconds", "keep", "evaluate_every", "patience", "score", "run", "devices"),
                *("rate", "seeds", "grid"),
            )
        ),
        (("--grid", "learning_rate=0.1,-1"), "expected learning_rate above 0, got -1.0"),
        (("--grid", "learning-rate=0.1,-1"), "expected learning-rate above 0, got -1.0"),
        (("--learning-rate", -1), "expected --learning-rate above 0, got -1.0"),
        (("--grid", "learning_rate=nan"), "expected learning_rate to be a finite number, got nan"),
        (("--grid", "dropout=0.1,1"), "expected dropout between 0 and 1, excluding 1, got 1.0"),
        (("--grid", "init_scale=0"), r"expected init_scale between 0 and 1e\+150, excluding 0, got 0.0"),
        (("--grid", "validation=0.2,0"), "expected validation between 0 and 1, .* on which networks .*, got 0.0"),
        (("--validation", 0), "expected --validation between 0 and 1, excluding 0 and 1 .*, got 0.0"),
        (("--grid", "batch_size=16,100"), r"expected batch_size between 1 and 90 \(the number of examples\), got 100"),
        (("--grid", "epochs=0"), "expected epochs of at least 1, got 0"),
        (("--grid", "label_smoothing=0.1,1"), "expected label_smoothing between 0 and 1, excluding 1, got 1.0"),
        (
            ("--grid", "label_smoothing=0.1,1", "--loss", "softmax_cross_entropy"),
            "expected label_smoothing between 0 and 1, excluding 1, got 1.0",
        ),
        (
            ("--grid", "loss=none,hinge", "--dataset", "diabetes"),
            "expected loss to be squared_error, .* for targets that are numbers, got 'hinge'",
        ),
        (("--seeds", 0), "expected --seeds of at least 1, got 0"),
        (("--seeds", 3, "--seed", 2**32 - 2), r"expected --seeds of at most 2 \(the number of seeds .*\), got 3"),
        (("--seed", -1), "expected --seed between 0 and 4294967295, got -1"),
        (("--top", -1), "expected --top of at least 0, got -1"),
        (("--top", 3, "--grid", "dropout=0,0.1"), r"expected --top of at most 2 \(the number of comb.*\), got 3"),
        (("--budget", "nan"), "expected --budget to be a finite number, got nan"),
        (
            ("--budget", 0.001, "--seeds", 1),
            "expected a budget that leaves .* bytes for a member on each of 1 devices, got 1,073,742, of which 0",
        ),
        (("--devices", 0), "expected --devices of at least 1, got 0"),
        (("--devices", 4096), r"expected --devices of at most \d+ \(the number of devices\), got 4096"),
        (("--run", "x"), "expected --run only for `jaxann train`, got x"),
        (("--patience", 3), "expected --patience only for `jaxann train`, got 3"),
        (("--distributed",), "expected --distributed only for `jaxann train`, got True"),
        (("--dataset", "mnist"), "expected a dataset, which is one of iris, .*, got 'mnist'"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(arguments, sentence):
    code, out, err = call_sweep(*arguments)
    assert (code, out) == (2, "")
    assert re.match(f"sweep.py: {sentence}", err), err
    assert len(err.splitlines()) == 1


def test_values_are_read_as_their_setting_has_them():
    texts = ("hidden=64-32,128,none", "learning-rate=1,1e-3", "clip=none,1", "batch_size=8", "loss=none,hinge")
    grid = parse_grid((*texts, "class_weights=balanced,1-2-3,none"))
    assert grid == {
        "hidden": [(64, 32), (128,), ()],
        "learning_rate": [1.0, 1e-3],
        "clip": [None, 1.0],
        "batch_size": [8],
        "loss": [None, "hinge"],
        "class_weights": ["balanced", (1.0, 2.0, 3.0), None],
    }
    assert type(grid["learning_rate"][0]) is float
    for name, values in grid.items():
        assert parse_grid([f"{name}={','.join(map(format_value, values))}"]) == {name: values}


def test_without_matplotlib_it_is_said_before_anything_runs(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ended = call_sweep(*GRID, "--out", tmp_path / "new")
    sentence = "a picture needs matplotlib: pip install 'jaxann[plots]' (or give --no-plots)"
    assert ended == (2, "", f"sweep.py: {sentence}\n")
    assert not (tmp_path / "new").exists()

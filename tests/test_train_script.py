"""`scripts/train.py` as its user meets it: most through `main` in this process, the rest as a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest

from jaxann import ACTIVATIONS, LOSSES
from jaxann.data import DATASETS

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import train  # noqa: E402


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs `main` on a command line, in float64 as all tests are; gives exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", "--precision", "float64", *map(str, arguments)])
        try:
            code = train.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def process(*arguments):
    return subprocess.Popen(
        [sys.executable, SCRIPTS / "train.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def test_names_on_the_command_line_are_those_of_the_package():
    assert set(get_args(train.Dataset)) == set(DATASETS)
    assert set(get_args(train.Activation)) == set(ACTIVATIONS)
    assert set(get_args(train.Loss)) == set(LOSSES)


def test_without_arguments_iris_is_learned():
    out, err = process().communicate(timeout=120)
    accuracy = re.search(r"held-out accuracy: (\d\.\d+) \(30 examples\)", out)
    assert accuracy
    assert float(accuracy[1]) >= 0.93
    assert re.search(r" versicolor( +\d+){3}\n", out)
    assert re.search(r"30000 steps in .* s: .* steps a second; compiling took .* s", out)
    assert "500/500" in err
    assert re.search(r"loss=0\.\d+, accuracy=[01]\.\d+", err)
    assert "Traceback" not in err


@pytest.mark.parametrize("after", ["import", "training"])
def test_control_c_ends_it_with_what_it_has(after):
    child = process("--epochs", "10000000")
    if after == "training":
        while "epoch/s" not in child.stderr.readline(200):
            assert child.poll() is None
    else:
        time.sleep(0.7)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in err
    if after == "training":
        assert "interrupted after epoch" in err
        assert "held-out accuracy" in out


def test_help_does_not_wait_for_jax():
    code = "import sys, train\nsys.argv = ['train.py', '--help']\ntry: train.main()\nexcept SystemExit: pass\n"
    code += "assert not {'jax', 'sklearn', 'jaxann'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, check=True, capture_output=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dataset", "wine", "--loss", "softmax_cross_entropy", "--optimizer", "adam", "--learning-rate", 0.01),
        ("--dataset", "breast_cancer", "--loss", "hinge", "--activation", "relu", "--learning-rate", 0.01),
        ("--dataset", "digits", "--loss", "sigmoid_cross_entropy", "--optimizer", "momentum", "--learning-rate", 0.05),
        ("--activation", "tanh", "--loss", "squared_error", "--gradient", "autodiff", "--learning-rate", 0.1),
    ],
)
def test_other_datasets_losses_and_optimisers(script, arguments):
    code, out, _ = script(*arguments, "--hidden", 20, "--epochs", 20, "--batch-size", 16)
    assert code == 0
    assert float(re.search(r"accuracy: (\S+)", out)[1]) > 0.85


@pytest.mark.parametrize("loss", ["squared_error", "huber", "poisson"])
def test_numbers_are_predicted_in_their_own_unit(script, loss):
    rate = 0.0001 if loss == "poisson" else 0.01
    settings = ("--hidden", 20, "--epochs", 60, "--batch-size", 16, "--learning-rate", rate)
    code, out, _ = script("--dataset", "diabetes", "--loss", loss, *settings)
    assert code == 0
    assert float(re.search(r"R²: (\S+)", out)[1]) > 0.2
    assert "confusion" not in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--batch-size", 0), "batch_size is 0, but 1 to 120, the number of examples, is wanted"),
        (("--batch-size", 121), "batch_size is 121, but 1 to 120"),
        (("--epochs", 0), "epochs is 0, but at least 1 is wanted"),
        (("--hidden", 5, 0), r"Dense\(5, 0\) has a size below 1"),
        (("--learning-rate", "nan"), "learning_rate is nan, but a number above 0 is wanted"),
        (("--held-out", 1.5), "held_out is 1.5, but a share between 0 and 1 is wanted"),
        (("--label-smoothing", 1), "label_smoothing is 1.0, but a share from 0 to below 1 is wanted"),
        (("--dataset", "diabetes", "--loss", "hinge"), "the loss hinge is for classes; for numbers there are squared"),
        (
            ("--loss", "squared_error", "--learning-rate", 1e9),
            r"epoch \d, step \d+: the first value that is not finite",
        ),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(script, arguments, sentence):
    code, out, err = script(*arguments)
    assert code == 2
    assert not out
    last = err.splitlines()[-1]
    assert re.match(f"train.py: {sentence}", last)


@pytest.mark.parametrize(
    "arguments",
    [("--dataset", "mnist"), ("--loss", "mse"), ("--activation", "swish"), ("--optimizer", "sgdd"), ("--epoch", 5)],
)
def test_unknown_names_are_refused_with_the_known_ones(script, arguments):
    code, _, err = script(*arguments)
    assert code == 2
    assert str(arguments[0]) in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_iris_in_the_mean_over_a_hundred_seeds():
    """At least 0.95 held out; a hundred, since over ten the luck of the split is worth 0.01."""
    import jax
    import numpy as np

    from jaxann.training import fit, predict

    with jax.enable_x64(False):
        tasks = [train.prepare(train.Config(seed=seed)) for seed in range(100)]
        x, t = (np.stack([getattr(task, name) for task in tasks]) for name in ("x", "t"))
        model, loss, optimizer, *_ = tasks[0].recipe
        keys = jax.vmap(jax.random.key)(np.arange(100))
        run = jax.vmap(lambda *data: fit(model, loss, optimizer, *data[1:], key=data[0], epochs=500, batch_size=2)[0])
        params = jax.jit(run)(keys, x, t)
        held_out = np.stack([task.data.x_test for task in tasks]).astype(np.float32)
        y = jax.vmap(lambda params, x: predict(model, params, x))(params, held_out)
    assert np.mean(np.argmax(y, axis=-1) == np.stack([task.data.t_test for task in tasks])) >= 0.95

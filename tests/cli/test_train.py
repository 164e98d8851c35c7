"""`scripts/train.py` as its user meets it: most through `main` in this process, the rest as a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.paths import SCRIPTS

from jaxann import autodiff, backprop, fit, predict
from jaxann.cli import settings as config
from jaxann.cli import train
from jaxann.cli.settings import Settings
from jaxann.cli.task import prepare
from jaxann.nn import ACTIVATIONS, LOSSES
from jaxann.training.optimizers import OPTIMIZERS, SCHEDULES


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
    assert set(get_args(config.Activation)) == set(ACTIVATIONS)
    assert set(get_args(config.Loss)) == set(LOSSES)
    assert set(get_args(config.Optimizer)) == set(OPTIMIZERS)
    assert set(get_args(config.Schedule)) == set(SCHEDULES)


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


def test_control_c_ends_it_with_what_it_has():
    child = process("--epochs", "10000000")
    while "epoch/s" not in child.stderr.readline(200):
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in err
    assert "interrupted after epoch" in err
    assert "held-out accuracy" in out


@pytest.mark.parametrize("after", [0.5, 1.0, 2.0, 2.5, 3.0])
def test_control_c_before_training_ends_it_without_a_word(after):
    child = process("--epochs", "10000000")
    time.sleep(after)  # importing or compiling
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode in (-signal.SIGINT, 130)  # 130 where the machine is so fast that training has begun
    assert "Traceback" not in err
    assert "Fatal" not in err


def test_help_does_not_wait_for_jax():
    code = "import sys, train\nsys.argv = ['train.py', '--help']\ntry: train.main()\nexcept SystemExit: pass\n"
    code += "assert not {'jax', 'sklearn', 'jaxann'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, check=True, capture_output=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dataset", "wine", "--loss", "softmax_cross_entropy", "--optimizer", "adam", "--learning-rate", 0.01),
        ("--dataset", "wine", "--activation", "tanh", "--optimizer", "nesterov", "--learning-rate", 0.1),
        ("--dataset", "wine", "--activation", "tanh", "--optimizer", "rmsprop", "--learning-rate", 0.01),
        ("--dataset", "wine", "--activation", "tanh", "--optimizer", "adagrad", "--learning-rate", 0.1),
        ("--dataset", "wine", "--activation", "tanh", "--optimizer", "adamw", "--learning-rate", 0.01),
        ("--dataset", "wine", "--activation", "tanh", "--optimizer", "lion", "--learning-rate", 0.01),
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
        (("--devices", 0), "devices is 0, but at least 1 is wanted"),
        (("--model-devices", 0), "model_devices is 0, but at least 1 is wanted"),
        (
            ("--devices", 16),
            "expected at least 16 devices for a mesh of 16 x 1, got 8 .JAX_NUM_CPU_DEVICES=16 makes a CPU count as 16",
        ),
        (("--model-devices", 4), "expected outputs that divide over 4 model devices, got 50 in 0.W"),
        (("--process", 1), "process is 1, but only with distributed it has an effect"),
        (("--batch-size", 0), r"expected batch_size between 1 and 120 \(the number of examples\), got 0"),
        (("--batch-size", 121), r"expected batch_size between 1 and 120 \(the number of examples\), got 121"),
        (("--epochs", 0), "expected epochs of at least 1, got 0"),
        (("--hidden", 5, 0), r"expected sizes\[2\] of at least 1, got 0"),
        (("--learning-rate", "nan"), "learning_rate is nan, but a finite number above 0 is wanted"),
        (("--learning-rate", "1e400"), "learning_rate is inf, but a finite number above 0 is wanted"),
        (("--held-out", 1.5), "held_out is 1.5, but a share between 0 and 1 is wanted"),
        (("--held-out", 0.99), "held_out is 0.99, but each part of iris's 150 examples wants 3 or more"),
        (("--dataset", "diabetes", "--held-out", 0.002), "held_out is 0.002, but each part .* wants 2 or more"),
        (("--seed", -1), "seed is -1, but a whole number from 0 to below 2³² is wanted"),
        (("--label-smoothing", 1), "label_smoothing is 1.0, but a share from 0 to below 1 is wanted"),
        (
            ("--label-smoothing", 0.1, "--loss", "hinge"),
            "label_smoothing is 0.1, but the loss hinge has no distribution",
        ),
        (
            ("--label-smoothing", 0.1, "--dataset", "diabetes"),
            "label_smoothing is 0.1, but numbers have no distribution",
        ),
        (("--dataset", "mnist"), "there is no dataset mnist, only iris, wine, .*, openml:NAME, .csv, .npz and folders"),
        (("--dataset", "data/mine.csv"), "no such file: data/mine.csv"),
        (("--target", "y"), "target is 'y', but only a .csv's columns go by name"),
        (("--dropout", 1), "expected dropout between 0 and 1, excluding 1, got 1.0"),
        (("--validation", 1), "validation is 1.0, but a share from 0 to below 1 is wanted"),
        (("--patience", 3), "patience is 3, but a share for validation is wanted for that"),
        (("--patience", 0, "--validation", 0.2), "patience is 0, but at least 1 epoch is wanted"),
        (("--score", "accuracy"), "score is accuracy, but a share for validation is wanted for that"),
        (("--warmup", "inf"), "warmup is inf, but a finite number of at least 0 is wanted"),
        (("--evaluate-every", 0, "--validation", 0.2), "expected evaluate_every of at least 1, got 0"),
        (("--optimizer-settings", "b1", 0.5), "sgd has no setting b1, only momentum, nesterov"),
        (("--weight-decay", -1), "weight_decay is -1.0, but a finite number of at least 0 is wanted"),
        (("--clip", 0), "clip is 0.0, but a finite number above 0 is wanted"),
        (("--warmup", 500), r"expected warmup between 0 and 29999 \(in steps; the run has 30000\), got 30000"),
        (("--schedule", "exponential", "--final", 0), "final is 0.0, but for the schedule exponential a share above 0"),
        (("--class-weights", 1, 2), "class_weights are 2, but one for each of 3 classes is wanted"),
        (("--class-weights", 1, 2, 0), r"expected finite numbers above 0 in weights, got 0.0 at \[\d+\]"),
        (
            ("--class-weights", "balanced", "--dataset", "diabetes"),
            "class_weights are given, but the targets are numbers",
        ),
        (("--checkpoint", 3), "checkpoint is 3, but there is no run to resume"),
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
    ("option", "found", "known"),
    [
        ("--loss", "mse", "squared_error"),
        ("--activation", "swish", "silu"),
        ("--optimizer", "sgdd", "sgd"),
        ("--epoch", "", "--epochs"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(script, option, found, known):
    code, out, err = script(option, found)
    assert code == 2
    assert not out
    assert option in err
    assert found in err
    assert known in err
    assert "Traceback" not in err


def test_the_report_is_of_the_held_out_part(capsys):
    """Accuracy and matrix by hand from a training run that knows nothing of the script."""
    settings = Settings(epochs=3, batch_size=7, seed=5, held_out=0.4, precision="float64")
    task = prepare(settings)
    outcome = train.run(task, settings)
    params, _ = fit(*task.recipe[:3], task.examples.x, task.examples.t, key=jax.random.key(5), epochs=3, batch_size=7)
    predicted = np.argmax(predict(task.recipe.model, params, jnp.asarray(task.data.test.x)), axis=1)
    truth = task.data.test.t
    assert outcome.score == pytest.approx(np.mean(predicted == truth))
    assert (outcome.epochs, outcome.steps) == (3, 3 * 13)
    matrix = re.findall(r"^ +[a-z]+((?: +\d+){3})$", capsys.readouterr().out, re.MULTILINE)
    counts = [[int(np.sum((truth == i) & (predicted == j))) for j in range(3)] for i in range(3)]
    assert [[int(count) for count in row.split()] for row in matrix] == counts
    assert counts != np.transpose(counts).tolist()


def test_a_number_of_epochs_that_pieces_do_not_divide():
    settings = Settings(epochs=503, batch_size=2, precision="float64")  # pieces of ten
    outcome = train.run(prepare(settings), settings)
    assert (outcome.epochs, outcome.steps) == (503, 503 * 60)


def test_settings_reach_the_run():
    assert prepare(Settings(gradient="autodiff", precision="float64")).recipe.gradient is autodiff
    assert prepare(Settings(precision="float64")).recipe.gradient is backprop
    first, second = (prepare(Settings(seed=seed, precision="float64")) for seed in (0, 1))
    assert not np.array_equal(first.examples.x, second.examples.x)


@pytest.mark.slow
def test_iris_in_the_mean_over_a_hundred_seeds():
    """At least 0.95 held out; a hundred, since over ten the luck of the split is worth 0.01."""
    with jax.enable_x64(False):
        tasks = [prepare(Settings(seed=seed)) for seed in range(100)]
        x, t = (np.stack([getattr(task.examples, name) for task in tasks]) for name in ("x", "t"))
        model, loss, optimizer, *_ = tasks[0].recipe
        keys = jax.vmap(jax.random.key)(np.arange(100))
        run = jax.vmap(lambda *data: fit(model, loss, optimizer, *data[1:], key=data[0], epochs=500, batch_size=2)[0])
        params = jax.jit(run)(keys, x, t)
        held_out = np.stack([task.data.test.x for task in tasks]).astype(np.float32)
        y = jax.vmap(lambda params, x: predict(model, params, x))(params, held_out)
    assert np.mean(np.argmax(y, axis=-1) == np.stack([task.data.test.t for task in tasks])) >= 0.95

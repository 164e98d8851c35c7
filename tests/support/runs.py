"""Runs: how tests start the programs train and predict in this process, and what a run leaves in its folder."""

import json

import numpy as np
from support.programs import call

from jaxann.cli import predict, train
from jaxann.runs.checkpoints import Checkpoints

QUICK = ("--hidden", 5, "--epochs", 20, "--batch-size", 16, "--checkpoint-seconds", 99)
BARE = ("--no-plots", "--no-tensorboard")


def call_train(folder, *arguments):
    """Calls the program in a folder, in float64 as all tests are unless the arguments decide on the precision."""
    decided = {"--precision", "--resume", "--config"} & set(arguments)
    precision = () if decided else ("--precision", "float64")
    return call(train.main, *arguments, *precision, name="train.py", folder=folder)


def call_predict(folder, *arguments):
    return call(predict.main, *arguments, name="predict.py", folder=folder)


def logged(folder):
    """The epoch that the metrics of a run, which may be in progress, have come to."""
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def read_rows(folder, name="metrics.jsonl"):
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def read_parameters(folder):
    """All arrays of a run's last checkpoint, by name."""
    checkpoints = Checkpoints(folder / "checkpoints", reader=True)
    restored = checkpoints._manager.restore(checkpoints.epochs()[-1])
    return {f"{item}{name}": np.asarray(a) for item in ("state", "best") for name, a in restored[item].items()}


def assert_equal_arrays(arrays, others):
    assert arrays.keys() == others.keys()
    assert len(arrays) >= 10  # parameters, best parameters, key, epoch, and the optimizer's state
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], others[name])


def assert_same_run(folder, other):
    """Metrics, result and the last checkpoint are the same to the bit."""
    for name in ("metrics.jsonl", "result.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    assert_equal_arrays(read_parameters(folder), read_parameters(other))

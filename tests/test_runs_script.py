"""Run folders as a user meets them: `scripts/train.py` and `predict.py` as processes, killed, resumed, fed bad input."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxann.checkpoints import Checkpoints

SCRIPTS = Path(__file__).parents[1] / "scripts"
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

    def begin(name, *arguments, **settings):
        return subprocess.Popen(
            [sys.executable, SCRIPTS / f"{name}.py", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ
            | {
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            },
            **settings,
        )

    return begin


@pytest.fixture
def ended(script):
    """Runs a script to its end; exit code, output and the last line of errors."""

    def run(*arguments, **settings):
        child = script(*arguments, **settings)
        out, err = child.communicate(timeout=300)
        assert "Traceback" not in err, err
        return child.returncode, out, err.splitlines()[-1] if err else ""

    return run


def parameters(folder):
    """All arrays of a run's last checkpoint, by name."""
    checkpoints = Checkpoints(folder / "checkpoints", reader=True)
    restored = checkpoints._manager.restore(checkpoints.epochs()[-1])
    return {f"{item}{name}": np.asarray(a) for item in ("state", "best") for name, a in restored[item].items()}


def logged(folder):
    """The epoch that the metrics have come to."""
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def same(folder, other):
    assert (folder / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    assert (folder / "result.json").read_bytes() == (other / "result.json").read_bytes()
    ours, theirs = parameters(folder), parameters(other)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 15  # parameters, moments, counts, key, epoch; best parameters
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    ("kills", "epochs"), [pytest.param(2, 150, id="2"), pytest.param(50, 1000, id="50", marks=pytest.mark.slow)]
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

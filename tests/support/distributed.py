"""Runs of several processes: how tests start them, wait for them and compare what they leave."""

import json
import os
import re
import socket
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from support.paths import ENVIRONMENT, SCRIPTS
from support.runs import assert_equal_arrays, logged, read_rows

from jaxann.runs.checkpoints import Checkpoints

LAUNCHERS = re.compile("JAX_|XLA_|SLURM_|OMPI_|PMIX_|KUBERNETES_|.*_proxy", re.IGNORECASE)
BARE = ("--hidden", 8, "--batch-size", 16, "--no-plots", "--no-tensorboard")
EVERYTHING = (  # that a run can depend on; the batch does not divide over two processes
    *(*BARE, "--checkpoint-seconds", 0, "--epochs", 6, "--precision", "float64", "--validation", 0.2, "--dropout", 0.2),
    *("--evaluate-every", 1, "--optimizer", "adam", "--learning-rate", 0.01, "--schedule", "cosine", "--clip", 1),
    *("--loss", "softmax_cross_entropy", "--class-weights", "balanced", "--batch-size", 15),
)
JOIN = ("--distributed", "--coordinator", "127.0.0.1:9", "--processes", 2, "--process")
GONE = "train.py: another process of this run is gone, or has given no sign of life for 20 s"


class Started:
    """A process of train.py that writes to files, so that it goes on without a reader."""

    def __init__(self, folder, arguments, environment):
        self._files = [folder / f".{name}.{time.monotonic_ns()}" for name in ("out", "err")]
        with self._files[0].open("w") as out, self._files[1].open("w") as err:
            command = [sys.executable, str(SCRIPTS / "train.py"), *map(str, arguments)]
            self.child = subprocess.Popen(command, stdout=out, stderr=err, cwd=folder, env=environment)

    def ended(self, timeout=120):
        """Exit code, what it printed, and the last line of errors."""
        code = self.child.wait(timeout)
        out, self.errors = (file.read_text() for file in self._files)
        assert "Traceback" not in self.errors, self.errors
        out = "".join(line for line in out.splitlines(keepends=True) if not line.startswith("[Gloo]"))  # by jaxlib
        lines = self.errors.splitlines()
        return code, out, lines[-1] if lines else ""


def clean_environment(settings):
    """The environment of a process on one device, without what a launcher or JAX's user has set, but `settings`."""
    clean = {name: value for name, value in (os.environ | ENVIRONMENT).items() if not LAUNCHERS.match(name)}
    own = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    return clean | own | {name: str(value) for name, value in settings.items()}


def kill(children):
    for child in children:
        child.kill()
        child.wait()


def by_hand(port=None):
    """The settings by which two processes find each other."""
    address = f"127.0.0.1:{port or find_port()}"
    return [("--distributed", "--coordinator", address, "--processes", 2, "--process", i) for i in range(2)]


def find_port(ports=(0,)):
    """The first of some ports that is free; 0 stands for any."""
    for port in ports:
        with socket.socket() as bound:
            try:
                bound.bind(("127.0.0.1", port))
            except OSError:
                continue
            return bound.getsockname()[1]
    raise OSError("no port is free")


def succeeded(processes):
    """What the first process printed, where all have ended as they should, and the others silently."""
    results = [process.ended() for process in processes]
    assert [code for code, _, _ in results] == [0] * len(results), [process.errors for process in processes]
    assert all(out == "" for _, out, _ in results[1:])
    return results[0][1]


def wait_for_epochs(folder, epochs, *processes):
    """Waits until a run has logged so many epochs."""
    end = time.monotonic() + 60
    while logged(folder) < epochs:
        assert all(process.child.poll() is None for process in processes), [process.ended() for process in processes]
        assert time.monotonic() < end
        time.sleep(0.005)


def scores(out):
    """What a program printed of the result, without how long it took."""
    return out[: out.index(" steps in ")].rpartition("\n")[0]


def read_gathered_parameters(folder):
    """All arrays of a run's last checkpoint, by name, as one device reads them, with the digest verified."""
    checkpoints = Checkpoints(folder / "checkpoints", reader=True)
    epoch = checkpoints.epochs()[-1]
    shapes = json.loads((folder / "checkpoints" / str(epoch) / "about" / "metadata").read_text())["shapes"]

    def zeros(shape):
        dtype, sizes = shape.rstrip("]").split("[")
        return jnp.zeros([int(size) for size in sizes.split(",") if size], dtype)

    like = {item: {name: zeros(shape) for name, shape in leaves.items()} for item, leaves in shapes.items()}
    trees, _ = checkpoints._read(epoch, like)
    return {f"{item}{name}": np.asarray(array) for item, tree in trees.items() for name, array in tree.items()}


def assert_close_runs(folder, other, most):
    """Metrics, result and the last checkpoint are equal but for rounding. Returns how far metrics differ."""
    ours, theirs = read_rows(folder), read_rows(other)
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    ours, theirs = ([list(row.values()) for row in rows] for rows in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=most)
    result, expected = (json.loads((run / "result.json").read_text()) for run in (folder, other))
    scores, expected_scores = result.pop("scores"), expected.pop("scores")
    assert result == pytest.approx(expected)
    assert scores.keys() == expected_scores.keys()
    for key, pair in scores.items():
        assert pair == pytest.approx(expected_scores[key])
    arrays = read_gathered_parameters(other)
    for name, array in read_gathered_parameters(folder).items():
        np.testing.assert_allclose(array, arrays[name], rtol=0, atol=100 * most * max(1, np.abs(array).max()))
    return np.abs(np.array(ours) / theirs - 1).max()


def assert_same_distributed_run(folder, other):
    """All files and the last checkpoint are the same to the bit."""
    for name in ("metrics.jsonl", "result.json", "config.json", "data.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    assert_equal_arrays(read_gathered_parameters(folder), read_gathered_parameters(other))

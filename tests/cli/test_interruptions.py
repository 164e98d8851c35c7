"""Runs of the program train that are killed, interrupted or out of room, each in a process of its own."""

import random
import re
import signal
import sys
import time

import pytest
from support.examples import write_images, write_text
from support.programs import call, compile_cache, end, start
from support.runs import assert_same_run, logged, read_parameters

from jaxann.cli import train

BARE = ("--no-plots", "--no-tensorboard")
EVERYTHING = (  # that a run can depend on
    *("--validation", 0.2, "--hidden", 16, "--dropout", 0.2, "--batch-size", 16, "--evaluate-every", 1),
    *("--patience", 900, "--optimizer", "adam", "--learning-rate", 0.003, "--schedule", "cosine", "--warmup", 2),
    *("--weight-decay", 0.01, "--clip", 1, "--class-weights", "balanced", "--loss", "softmax_cross_entropy"),
    *("--checkpoint-seconds", 0, "--no-plots"),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return compile_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def begin(tmp_path, cache):
    """Starts train.py in an empty folder, its programs compiled once for all tests; at the end none is left."""
    started = []

    def run(*arguments, kilobytes="unlimited"):
        limit = ("bash", "-c", f'ulimit -f {kilobytes} && exec "$@"', "bash")
        shared = cache if kilobytes == "unlimited" else {}  # a process out of room would leave halves of programs
        process = start("train.py", *arguments, folder=tmp_path, environment=shared, command=(*limit, sys.executable))
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_for_metrics(process, folder, after=0):
    """Waits until a run has logged more epochs than `after`, or has ended."""
    while logged(folder) in (0, after) and process.poll() is None:
        time.sleep(0.001)


IMAGES = (
    *("images.npz", "--network", "lenet", "--crop", 1, "--flip", "--batch-size", 16, "--checkpoint-seconds", 0),
    *("--schedule", "cosine", "--evaluate-every", 1, *BARE),
)
TEXT = (
    *("text.txt", "--network", "transformer", "--width", 8, "--heads", 2, "--blocks", 1, "--context", 12),
    *("--dropout", 0.1, "--batch-size", 16, "--checkpoint-seconds", 0, "--evaluate-every", 1, *BARE),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "kills", "epochs"),
    [
        pytest.param(EVERYTHING, 1, 40, id="1"),
        pytest.param(EVERYTHING, 50, 1000, id="50"),
        pytest.param(IMAGES, 20, 400, id="lenet"),
        pytest.param(TEXT, 20, 200, id="transformer"),
    ],
)
def test_a_run_killed_at_any_moment_and_resumed_is_the_run(begin, tmp_path, settings, kills, epochs):
    write_images(tmp_path / "images.npz")
    write_text(tmp_path / "text.txt")
    settings, killed = (*settings, "--epochs", epochs), tmp_path / "killed"
    undisturbed = begin(*settings, "--run", "undisturbed")
    moment, lost, arguments = random.Random(0), [], (*settings, "--run", "killed")
    for kill in range(kills):
        before = logged(killed)
        process = begin(*arguments)
        if kill % 5 == 4:
            time.sleep(moment.uniform(0, 5))  # most of it importing and compiling
        else:
            wait_for_metrics(process, killed, before)
            time.sleep(moment.uniform(0, 1.5 * epochs / 1000))  # most of it writing checkpoints
        process.kill()
        process.communicate()
        if killed.exists():
            arguments, stored = ("--resume", "killed"), killed / "checkpoints"
            done = [int(step.name) for step in stored.iterdir() if step.name.isdecimal()] if stored.exists() else []
            lost.append(logged(killed) - max(done, default=0))
    assert end(begin(*arguments)).code == 0
    assert end(undisturbed).code == 0
    print(f"{kills} kills; epochs that were to be done again: {sorted(lost)}")
    assert max(lost) <= 1  # there is a checkpoint after every epoch here
    assert_same_run(tmp_path / "undisturbed", killed)


@pytest.mark.slow
def test_control_c_and_sigterm_store_where_the_run_stands_and_report_it(begin, tmp_path):
    """No checkpoint is due otherwise. As long as a run goes on, no other process goes on with it."""
    signals = {"a": signal.SIGINT, "b": signal.SIGTERM}
    runs = {name: begin("--epochs", 10_000_000, *BARE, "--run", name) for name in signals}
    for name, process in runs.items():
        wait_for_metrics(process, tmp_path / name)
    refused = call(train.main, "--resume", "a", name="train.py", folder=tmp_path)
    assert refused.code == 2
    assert refused.sentence == "train.py: a is in use: another process is writing to it"
    for name, process in runs.items():
        process.send_signal(signals[name])
        ended = end(process, timeout=60)
        assert ended.code == 128 + signals[name]
        assert "held-out accuracy" in ended.out
        epoch = int(re.search(r"interrupted after epoch (\d+)", ended.err)[1])
        assert logged(tmp_path / name) == epoch
        assert read_parameters(tmp_path / name)["state.epoch"] == epoch
        resumed = call(train.main, "--resume", name, "--epochs", epoch, name="train.py", folder=tmp_path)
        assert (resumed.code, "0 steps in" in resumed.out) == (0, True)


def test_control_c_before_training_ends_it_without_a_word(begin):
    moments = (0.5, 1.5, 2.5)  # it imports or compiles
    processes, began = [begin("--epochs", 10_000_000) for _ in moments], time.monotonic()
    for process, moment in zip(processes, moments, strict=True):
        time.sleep(max(0, began + moment - time.monotonic()))
        process.send_signal(signal.SIGINT)
    for process in processes:
        ended = end(process, timeout=60)
        assert ended.code in (-signal.SIGINT, 130)  # 130 where the machine is so fast that training has begun
        assert "Fatal" not in ended.err


@pytest.mark.parametrize(
    ("kilobytes", "settings", "sentence"),
    [
        pytest.param(
            12,
            ("--tensorboard", "--validation", 0.2, "--evaluate-every", 1, "--epochs", 200, "--checkpoint-seconds", 999),
            "(a/metrics.jsonl|the scalars in a/tensorboard) cannot be written: File too large",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            60,
            ("--hidden", 200, 200, "--epochs", 20),
            r"the checkpoint of epoch \d+ cannot be written in a/checkpoints",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_full_disk_ends_it_with_a_sentence(begin, tmp_path, kilobytes, settings, sentence):
    command = (*BARE, "--checkpoint-seconds", 0, "--batch-size", 16, *settings, "--run", "a")
    ended = end(begin(*command, kilobytes=kilobytes))
    assert ended.code == 2
    # The sentence need not be the last line: some of orbax's tasks may fail after it, and log that.
    assert re.search(f"^train.py: {sentence}", ended.err, re.MULTILINE), ended.err
    if "--tensorboard" in settings:
        assert "Exception" not in ended.err
    resume = ("--resume", "a", "--epochs", 201, "--checkpoint-seconds", 999)
    assert call(train.main, *resume, name="train.py", folder=tmp_path).code == 0  # now there is room

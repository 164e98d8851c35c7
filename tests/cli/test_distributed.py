"""`scripts/train.py --distributed` as two processes: the run of one, killed, resumed, stopped, fed bad input."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from support.paths import SCRIPTS
from support.runs import logged

from jaxann.runs.checkpoints import Checkpoints

TRAIN = SCRIPTS / "train.py"
LAUNCHERS = re.compile("JAX_|XLA_|SLURM_|OMPI_|PMIX_|KUBERNETES_|.*_proxy", re.IGNORECASE)
BARE = ("--hidden", 8, "--batch-size", 16, "--no-plots", "--no-tensorboard")
STORED = (*BARE, "--checkpoint-seconds", 0)
EVERYTHING = (  # that a run can depend on
    *(*STORED, "--epochs", 6, "--precision", "float64", "--validation", 0.2, "--dropout", 0.2),
    *("--evaluate-every", 1, "--optimizer", "adam", "--learning-rate", 0.01, "--schedule", "cosine", "--clip", 1),
    *("--loss", "softmax_cross_entropy", "--class-weights", "balanced"),
)
GONE = "train.py: another process of this run is gone, or has given no sign of life for 20 s"


class Started:
    """A process of train.py, what it prints going to files, so that nobody has to read for it to go on."""

    def __init__(self, folder, arguments, environment):
        self._files = [folder / f".{name}.{time.monotonic_ns()}" for name in ("out", "err")]
        with self._files[0].open("w") as out, self._files[1].open("w") as err:
            command = [sys.executable, str(TRAIN), *map(str, arguments)]
            self.child = subprocess.Popen(command, stdout=out, stderr=err, cwd=folder, env=environment)

    def ended(self, timeout=120):
        """Exit code, what it printed, and the last line of errors."""
        code = self.child.wait(timeout)
        out, self.errors = (file.read_text() for file in self._files)
        assert "Traceback" not in self.errors, self.errors
        out = "".join(line for line in out.splitlines(keepends=True) if not line.startswith("[Gloo]"))  # by jaxlib
        lines = self.errors.splitlines()
        return code, out, lines[-1] if lines else ""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def begin(cache):
    """Starts a process in a folder, programs compiled once for all tests; at the end none is left."""
    started = []

    def run(folder, *arguments, **environment):
        clean = {name: value for name, value in os.environ.items() if not LAUNCHERS.match(name)}
        process = Started(
            folder,
            arguments,
            clean
            | {
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": "1",
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
            | {name: str(value) for name, value in environment.items()},
        )
        started.append(process.child)
        return process

    run.started = started
    yield run
    _kill(started)


def _kill(children):
    for child in children:
        child.kill()
        child.wait()


@pytest.fixture
def start(begin, tmp_path):
    """`begin` in the test's own folder; what the test leaves running is killed after it."""
    before = len(begin.started)
    yield lambda *arguments, **environment: begin(tmp_path, *arguments, **environment)
    _kill(begin.started[before:])


@pytest.fixture
def pair(start):
    """Starts both processes of a run by hand."""
    return lambda *arguments: [start(*arguments, *which) for which in by_hand()]


def by_hand(port=None):
    """The settings by which two processes find each other."""
    address = f"127.0.0.1:{port or free()}"
    return [("--distributed", "--coordinator", address, "--processes", 2, "--process", i) for i in range(2)]


def free(ports=(0,)):
    """A port that nobody has now."""
    for port in ports:
        with socket.socket() as bound:
            try:
                bound.bind(("127.0.0.1", port))
            except OSError:
                continue
            return bound.getsockname()[1]
    raise OSError("no port is free")


def succeeded(processes):
    """What the first of them printed, all having ended as they should, and the others silently."""
    found = [process.ended() for process in processes]
    assert [code for code, _, _ in found] == [0] * len(found), [process.errors for process in processes]
    assert all(out == "" for _, out, _ in found[1:])
    return found[0][1]


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def parameters(folder):
    """All arrays of a run's last checkpoint, by name, as one device takes them; their digest is that of the run."""
    checkpoints = Checkpoints(folder / "checkpoints", reader=True)
    epoch = checkpoints.epochs()[-1]
    shapes = json.loads((folder / "checkpoints" / str(epoch) / "about" / "metadata").read_text())["shapes"]

    def zeros(shape):
        dtype, sizes = shape.rstrip("]").split("[")
        return jnp.zeros([int(size) for size in sizes.split(",") if size], dtype)

    like = {item: {name: zeros(shape) for name, shape in leaves.items()} for item, leaves in shapes.items()}
    trees, _ = checkpoints._read(epoch, like)
    return {f"{item}{name}": np.asarray(array) for item, tree in trees.items() for name, array in tree.items()}


def same(folder, other):
    for name in ("metrics.jsonl", "result.json", "config.json", "data.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    ours, theirs = parameters(folder), parameters(other)
    assert ours.keys() == theirs.keys()
    assert len(ours) >= 10  # parameters, best parameters, key and epoch, and what the optimiser has
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def close(folder, other, most):
    """All metrics, the result and the last checkpoint's arrays are equal but for rounding; how far metrics differ."""
    ours, theirs = rows(folder), rows(other)
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    ours, theirs = ([list(row.values()) for row in of] for of in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=most)
    result, expected = (json.loads((of / "result.json").read_text()) for of in (folder, other))
    assert result == pytest.approx(expected)
    arrays = parameters(other)
    for name, array in parameters(folder).items():
        np.testing.assert_allclose(array, arrays[name], rtol=0, atol=100 * most * max(1, np.abs(array).max()))
    return np.abs(np.array(ours) / theirs - 1).max()


@pytest.fixture(scope="module")
def whole(begin, tmp_path_factory):
    """The folder of an undisturbed run of two processes, and what the first one printed."""
    folder = tmp_path_factory.mktemp("whole")
    processes = [begin(folder, *EVERYTHING, "--run", "two", *which) for which in by_hand()]
    return folder / "two", succeeded(processes)


@pytest.fixture(scope="module")
def alone(begin, tmp_path_factory):
    """The folder of the same run of one process, and what it printed."""
    folder = tmp_path_factory.mktemp("alone")
    return folder / "one", succeeded([begin(folder, *EVERYTHING, "--run", "one")])


def until(folder, epochs, *processes):
    """Waits for the run to come so far."""
    end = time.monotonic() + 60
    while logged(folder) < epochs:
        assert all(process.child.poll() is None for process in processes), [process.ended() for process in processes]
        assert time.monotonic() < end
        time.sleep(0.005)


def scores(out):
    """What is printed of the result, without how long it took."""
    return out[: out.index(" steps in ")].rpartition("\n")[0]


def test_two_processes_make_the_run_of_one_and_record_it_once(whole, alone):
    (two, out), (one, expected) = whole, alone
    assert [row["epoch"] for row in rows(two)] == list(range(1, 7))
    print(f"metrics differ by {close(two, one, 1e-12):.1e} at most")
    assert scores(out) == scores(expected)
    for name in ("config.json", "data.json"):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert {int(path.name) for path in (two / "checkpoints").iterdir()} == {5, 6}


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        pytest.param(("--batch-size", 15), 1e-6, id="float32, 15"),
        pytest.param((), 1e-6, id="float32, 16", marks=pytest.mark.slow),
        pytest.param(("--batch-size", 15, "--precision", "float64"), 1e-12, id="float64, 15", marks=pytest.mark.slow),
        pytest.param(("--batch-size", 1, "--precision", "float64"), 1e-12, id="float64, 1", marks=pytest.mark.slow),
    ],
)
def test_a_batch_need_not_divide(start, pair, tmp_path, settings, most):
    arguments = (*BARE, "--epochs", 10, *settings, "--run")
    printed = succeeded(pair(*arguments, "two"))
    assert scores(printed) == scores(succeeded([start(*arguments, "one")]))
    print(f"metrics differ by {close(tmp_path / 'two', tmp_path / 'one', most):.1e} at most")


@pytest.mark.slow
def test_a_run_of_two_has_its_pictures_and_predicts(pair, tmp_path):
    succeeded(pair("--hidden", 8, "--batch-size", 16, "--epochs", 20, "--run", "a"))
    names = {"config.json", "data.json", "metrics.jsonl", "result.json", "lock", "checkpoints"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names | {"tensorboard", "curves.png", "confusion.png"}
    assert len(list((tmp_path / "a" / "tensorboard").iterdir())) == 1  # the others write none
    (tmp_path / "in.csv").write_text("sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)\n5,3,1,0\n")
    command = [sys.executable, str(TRAIN.with_name("predict.py")), "a", "--input", "in.csv"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "setosa" in found.stdout.splitlines()[1]


@pytest.mark.parametrize(
    ("killed", "left"),
    [(0, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 2), (0, 1), (1, 1)))],
)
def test_one_killed_ends_the_other_and_what_is_resumed_is_the_run(start, pair, whole, tmp_path, killed, left):
    processes = pair(*EVERYTHING, "--run", "a")
    until(tmp_path / "a", 2, *processes)
    processes[killed].child.kill()
    began = time.monotonic()
    assert processes[1 - killed].ended(60) == (2, "", GONE)
    print(f"without process {killed} the other ended after {time.monotonic() - began:.2f} s")
    assert 2 <= logged(tmp_path / "a") < 6
    if left == 2:
        assert scores(succeeded(pair("--resume", "a"))) == scores(whole[1])
        same(tmp_path / "a", whole[0])
    else:
        assert scores(succeeded([start("--resume", "a")])) == scores(whole[1])
        print(f"metrics differ by {close(tmp_path / 'a', whole[0], 1e-12):.1e} at most")


@pytest.mark.slow
def test_killed_at_any_moment_it_is_the_run(pair, whole, tmp_path):
    moment, arguments, lost = random.Random(0), (*EVERYTHING, "--run", "a"), []
    for kill in range(10):
        processes, before = pair(*arguments, "--connect-seconds", 15), logged(tmp_path / "a")
        if kill % 4 == 3:
            time.sleep(moment.uniform(0, 6))  # most of it importing, joining and compiling
        else:
            while logged(tmp_path / "a") in (0, before) and processes[0].child.poll() is None:
                time.sleep(0.001)
            time.sleep(moment.uniform(0, 0.6))  # most of it writing checkpoints
        processes[kill % 2].child.kill()
        code, _, err = processes[1 - kill % 2].ended()
        # The run may have come to its end, or the one that was killed may not have joined it yet.
        assert (code, err) == (2, GONE) or code == 0 or "did not answer within" in err, (code, err)
        if (tmp_path / "a").exists():
            arguments = ("--resume", "a")
            stored = tmp_path / "a" / "checkpoints"
            done = [int(step.name) for step in stored.iterdir() if step.name.isdecimal()] if stored.exists() else []
            lost.append(logged(tmp_path / "a") - max(done, default=0))
    succeeded(pair(*arguments))
    print(f"epochs that were to be done again: {sorted(lost)}")
    assert max(lost) <= 1  # there is a checkpoint after every epoch here
    same(tmp_path / "a", whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_one_without_a_sign_of_life_ends_the_other(pair, tmp_path, stopped):
    processes = pair(*EVERYTHING, "--run", "a")
    until(tmp_path / "a", 2, *processes)
    processes[stopped].child.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert processes[1 - stopped].ended(100) == (2, "", GONE)
    print(f"with process {stopped} stopped the other ended after {time.monotonic() - began:.2f} s")
    processes[stopped].child.send_signal(signal.SIGCONT)
    assert processes[stopped].ended(60) == (2, "", GONE)


@pytest.mark.slow
@pytest.mark.parametrize("told", [(0,), (1,), (0, 1), (1, 0)], ids=str)
def test_sigterm_to_one_or_to_all_stops_all_after_the_same_epoch(pair, whole, tmp_path, told):
    processes = pair(*EVERYTHING, "--run", "a", "--checkpoint-seconds", 99)  # one is not otherwise due
    until(tmp_path / "a", 2, *processes)
    for process in told:
        processes[process].child.terminate()
        time.sleep(0.1)  # as where a launcher tells them one after another
    found = [process.ended(60) for process in processes]
    assert [code for code, _, _ in found] == [143 if process in told else 0 for process in range(2)]
    epoch = logged(tmp_path / "a")
    assert 2 <= epoch < 6
    assert [re.findall(r"interrupted after epoch (\d+)", process.errors) for process in processes] == [[str(epoch)]] * 2
    assert ("held-out accuracy" in found[0][1], found[1][1]) == (True, "")
    assert parameters(tmp_path / "a")["state.epoch"] == epoch
    succeeded(pair("--resume", "a", "--checkpoint-seconds", 0))
    same(tmp_path / "a", whole[0])


def slurm(job, process):
    names = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST")
    return dict(zip(names, (2, process, process, job, "127.0.0.1"), strict=True))


def open_mpi(job, process):
    names = ("SIZE", "RANK", "LOCAL_RANK")
    sizes = {f"OMPI_COMM_WORLD_{name}": of for name, of in zip(names, (2, process, process), strict=True)}
    return sizes | {"OMPI_MCA_orte_hnp_uri": f"{job * 4096}.0;tcp://127.0.0.1:34911"}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [slurm, open_mpi])
def test_what_a_launcher_has_set_is_enough(start, whole, tmp_path, launcher):
    port = free(random.Random(os.getpid()).sample(range(61440, 65536), 100))
    job, address = 3 * 4096 + port - 61440, f"127.0.0.1:{port}"
    processes = [
        start(
            *EVERYTHING, "--run", "a", "--distributed", JAX_COORDINATOR_BIND_ADDRESS=address, **launcher(job, process)
        )
        for process in range(2)
    ]
    assert scores(succeeded(processes)) == scores(whole[1])
    same(tmp_path / "a", whole[0])


@pytest.mark.slow
def test_hidden_layers_over_both_processes_are_the_run(start, pair, whole, tmp_path):
    arguments = (*EVERYTHING, "--run", "a", "--model-devices", 2)
    processes = pair(*arguments)
    until(tmp_path / "a", 2, *processes)
    processes[1].child.kill()
    assert processes[0].ended(60) == (2, "", GONE)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for folder, resumed in (
        ("a", pair("--resume", "a", "--model-devices", 2)),
        ("b", [start("--resume", "b")]),
    ):
        assert scores(succeeded(resumed)) == scores(whole[1])
        print(f"metrics differ by {close(tmp_path / folder, whole[0], 1e-12):.1e} at most")
    succeeded(pair(*arguments[:-4], "--run", "c", "--model-devices", 2))
    same(tmp_path / "a", tmp_path / "c")


JOIN = ("--distributed", "--coordinator", "127.0.0.1:9", "--processes", 2, "--process")
BAD = [
    (("--distributed",), "expected a launcher, such as Slurm or Open MPI, or coordinator, processes and process"),
    (
        ("--distributed", "--process", 1),
        "expected coordinator, processes and process together, or none of them under",
    ),
    (("--distributed", "--coordinator", "127.0.0.1:9", "--processes", 2), "coordinator, processes and process are"),
    (("--coordinator", "127.0.0.1:9"), "coordinator is 127.0.0.1:9, but only with distributed it has an effect"),
    (("--process", 0), "process is 0, but only with distributed it has an effect"),
    ((*JOIN, 2), "expected process between 0 and 1 (they are numbered from 0), got 2"),
    ((*JOIN, -1), "expected process between 0 and 1 (they are numbered from 0), got -1"),
    ((*JOIN, 1, "--coordinator", "127.0.0.1:65536"), "expected coordinator to be HOST:PORT, got '127.0.0.1:65536'"),
    ((*JOIN, 0, "--connect-seconds", "nan"), "connect_seconds is nan, but a finite number of at least 0 is wanted"),
]


def test_bad_input_gets_one_sentence(start):
    for arguments, sentence in BAD:
        code, out, err = start(*arguments).ended()
        assert (code, out) == (2, ""), arguments
        assert err.startswith(f"train.py: {sentence}"), err


def test_a_launcher_that_says_too_little_is_named(start):
    few = {name: value for name, value in open_mpi(1, 0).items() if "RANK" not in name}
    assert start("--distributed", **few).ended() == (2, "", "train.py: the launcher has not set 'OMPI_COMM_WORLD_RANK'")


def test_a_port_that_is_taken_is_named(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        code, _, err = start(*JOIN, 0, "--coordinator", address).ended()
    assert (code, err) == (2, f"train.py: process 0 cannot listen at {address}: Address already in use")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 5])
def test_nobody_waits_for_ever_for_the_others(start, seconds):
    settings, began = (*BARE, "--connect-seconds", seconds), time.monotonic()
    ports = [free(), free()]
    processes = [start(*settings, *by_hand(port)[process]) for process, port in enumerate(ports)]
    whom = ("all processes", f"the coordinator at 127.0.0.1:{ports[1]}")
    for process, of in zip(processes, whom, strict=True):
        assert process.ended(40) == (2, "", f"train.py: {of} did not answer within {seconds} s")
    print(f"after {time.monotonic() - began:.1f} s")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--devices", 1), "1 devices are asked for, but 2 are there, and each is to take part"),
        (("--devices", 3), "expected at least 3 devices for a mesh of 3 x 1, got 2"),
        (("--hidden", 7, "--model-devices", 2), "expected outputs that divide over 2 model devices, got 7 in 0.W"),
        (("--run", "there"), "there is there already; a run of that name goes on with --resume there"),
        (("--resume", "there"), "there holds no run: there is no config.json in it"),
        (("--dataset", "none.csv"), "no such file: none.csv"),
    ],
    ids=lambda of: " ".join(map(str, of)) if isinstance(of, tuple) else "",
)
def test_what_is_wrong_for_all_ends_all(pair, tmp_path, arguments, sentence):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("mine")
    begun = BARE if "--resume" not in arguments else ()
    (code, out, err), (other, silent, later) = (process.ended(60) for process in pair(*begun, *arguments))
    assert (code, out, other, silent) == (2, "", 2, "")
    assert err.startswith(f"train.py: {sentence}") or err == GONE, err
    assert later.startswith(f"train.py: {sentence}") or later == GONE, later
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["mine"]


NOT_FINITE = ("--activation", "relu", "--scaling", "none", "--split", 0, "--no-plots", "--no-tensorboard")


EVERYWHERE = ("--hidden", 8, "--batch-size", 16, "--learning-rate", 1e38)
ONE_UNIT = ("--hidden", 2, "--batch-size", 120, "--model-devices", 2)  # a step an epoch, after which it is so


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "where"),
    [
        pytest.param(EVERYWHERE, "epoch 1, step 2: .* is in the output of layer", id="data"),
        pytest.param((*EVERYWHERE, "--model-devices", 2), "epoch 1, step 2: .* is in the output of layer", id="model"),
        *(
            pytest.param(
                (*ONE_UNIT, "--seed", seed, "--learning-rate", rate),
                "epoch 1, step 1: .* is in the parameters, after the optimizer's update",
                id=f"one unit, of process {process}",
            )
            for process, seed, rate in ((0, 24, 8e37), (1, 10, 1.4e38))
        ),
    ],
)
def test_a_loss_that_stops_being_finite_ends_all(pair, settings, where):
    found = [process.ended(60) for process in pair(*NOT_FINITE, "--epochs", 5, *settings)]
    assert [(code, out) for code, out, _ in found] == [(2, "")] * 2
    print([err for _, _, err in found])
    sentences = [err for _, _, err in found if err != GONE]
    assert sentences, "nobody says why"
    assert all(re.match(f"train.py: {where}", sentence) for sentence in sentences), sentences

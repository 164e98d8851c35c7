"""`train.py --distributed` as two processes, in cases that take long: launchers, and all that can end a process."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from support.distributed import (
    BARE,
    EVERYTHING,
    GONE,
    assert_close_runs,
    assert_same_distributed_run,
    by_hand,
    find_port,
    read_gathered_parameters,
    scores,
    succeeded,
    wait_for_epochs,
)
from support.paths import ENVIRONMENT, SCRIPTS
from support.runs import logged

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        pytest.param(("--batch-size", 15), 1e-6, id="float32, 15"),
        pytest.param((), 1e-6, id="float32, 16"),
        pytest.param(("--precision", "float64"), 1e-12, id="float64, 16"),
        pytest.param(("--batch-size", 1, "--precision", "float64"), 1e-12, id="float64, 1"),
    ],
)
def test_a_batch_may_divide_over_the_processes_or_not(start, pair, tmp_path, settings, most):
    arguments = (*BARE, "--epochs", 10, *settings, "--run")
    printed = succeeded(pair(*arguments, "two"))
    assert scores(printed) == scores(succeeded([start(*arguments, "one")]))
    print(f"metrics differ by {assert_close_runs(tmp_path / 'two', tmp_path / 'one', most):.1e} at most")


def test_a_run_of_two_has_its_pictures_and_predicts(pair, tmp_path):
    succeeded(pair("--hidden", 8, "--batch-size", 16, "--epochs", 20, "--run", "a"))
    names = {"config.json", "data.json", "metrics.jsonl", "result.json", "lock", "checkpoints"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names | {"tensorboard", "curves.png", "confusion.png"}
    assert len(list((tmp_path / "a" / "tensorboard").iterdir())) == 1  # the others write none
    (tmp_path / "in.csv").write_text("sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)\n5,3,1,0\n")
    command = [sys.executable, str(SCRIPTS / "predict.py"), "a", "--input", "in.csv"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert "setosa" in ended.stdout.splitlines()[1]


def test_killed_at_any_moment_it_is_the_run(pair, undisturbed, tmp_path):
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
    assert_same_distributed_run(tmp_path / "a", undisturbed[0])


@pytest.mark.parametrize("stopped", [0, 1])
def test_one_without_a_sign_of_life_ends_the_other(pair, tmp_path, stopped):
    processes = pair(*EVERYTHING, "--run", "a")
    wait_for_epochs(tmp_path / "a", 2, *processes)
    processes[stopped].child.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert processes[1 - stopped].ended(100) == (2, "", GONE)
    print(f"with process {stopped} stopped the other ended after {time.monotonic() - began:.2f} s")
    processes[stopped].child.send_signal(signal.SIGCONT)
    assert processes[stopped].ended(60) == (2, "", GONE)


@pytest.mark.parametrize("targets", [(0,), (1,), (0, 1), (1, 0)], ids=str)
def test_sigterm_to_one_or_to_all_stops_all_after_the_same_epoch(pair, undisturbed, tmp_path, targets):
    processes = pair(*EVERYTHING, "--run", "a", "--checkpoint-seconds", 99)  # no checkpoint is due otherwise
    wait_for_epochs(tmp_path / "a", 2, *processes)
    for process in targets:
        processes[process].child.terminate()
        time.sleep(0.1)  # a launcher, too, sends signals one after another
    results = [process.ended(60) for process in processes]
    assert [code for code, _, _ in results] == [143 if process in targets else 0 for process in range(2)]
    epoch = logged(tmp_path / "a")
    assert 2 <= epoch < 6
    assert [re.findall(r"interrupted after epoch (\d+)", process.errors) for process in processes] == [[str(epoch)]] * 2
    assert ("held-out accuracy" in results[0][1], results[1][1]) == (True, "")
    assert read_gathered_parameters(tmp_path / "a")["state.epoch"] == epoch
    succeeded(pair("--resume", "a", "--checkpoint-seconds", 0))
    assert_same_distributed_run(tmp_path / "a", undisturbed[0])


def slurm(job, process):
    names = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST")
    return dict(zip(names, (2, process, process, job, "127.0.0.1"), strict=True))


def open_mpi(job, process):
    names = ("SIZE", "RANK", "LOCAL_RANK")
    sizes = {f"OMPI_COMM_WORLD_{name}": n for name, n in zip(names, (2, process, process), strict=True)}
    return sizes | {"OMPI_MCA_orte_hnp_uri": f"{job * 4096}.0;tcp://127.0.0.1:34911"}


@pytest.mark.parametrize("launcher", [slurm, open_mpi])
def test_what_a_launcher_has_set_is_enough(start, undisturbed, tmp_path, launcher):
    port = find_port(random.Random(os.getpid()).sample(range(61440, 65536), 100))
    job, address = 3 * 4096 + port - 61440, f"127.0.0.1:{port}"
    processes = [
        start(
            *EVERYTHING, "--run", "a", "--distributed", JAX_COORDINATOR_BIND_ADDRESS=address, **launcher(job, process)
        )
        for process in range(2)
    ]
    assert scores(succeeded(processes)) == scores(undisturbed[1])
    assert_same_distributed_run(tmp_path / "a", undisturbed[0])


def test_hidden_layers_over_both_processes_are_the_run(start, pair, undisturbed, tmp_path):
    arguments = (*EVERYTHING, "--run", "a", "--model-devices", 2)
    processes = pair(*arguments)
    wait_for_epochs(tmp_path / "a", 2, *processes)
    processes[1].child.kill()
    assert processes[0].ended(60) == (2, "", GONE)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for folder, resumed in (
        ("a", pair("--resume", "a", "--model-devices", 2)),
        ("b", [start("--resume", "b")]),
    ):
        assert scores(succeeded(resumed)) == scores(undisturbed[1])
        print(f"metrics differ by {assert_close_runs(tmp_path / folder, undisturbed[0], 1e-12):.1e} at most")
    succeeded(pair(*arguments[:-4], "--run", "c", "--model-devices", 2))
    assert_same_distributed_run(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize("seconds", [0, 5])
def test_nobody_waits_for_ever_for_the_others(start, seconds):
    settings, began = (*BARE, "--connect-seconds", seconds), time.monotonic()
    ports = [find_port(), find_port()]
    processes = [start(*settings, *by_hand(port)[process]) for process, port in enumerate(ports)]
    missing = ("all processes", f"the coordinator at 127.0.0.1:{ports[1]}")
    for process, name in zip(processes, missing, strict=True):
        assert process.ended(40) == (2, "", f"train.py: {name} did not answer within {seconds} s")
    print(f"after {time.monotonic() - began:.1f} s")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--devices", 1),
            "expected --devices times --model-devices to be 2, the number of devices of all processes, got 1",
        ),
        (("--devices", 3), "expected at least 3 devices for a mesh of 3 x 1, got 2"),
        (("--hidden", 7, "--model-devices", 2), "expected outputs that divide over 2 model devices, got 7 in 0.W"),
        (("--run", "there"), "expected a new or an empty folder, got there, which is not empty"),
        (("--resume", "there"), "expected the folder of a run, with a config.json in it, got there"),
        (("--dataset", "none.csv"), "no such file"),
    ],
    ids=lambda values: " ".join(map(str, values)) if isinstance(values, tuple) else "",
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
ONE_UNIT = (
    "--hidden",
    2,
    "--batch-size",
    120,
    "--model-devices",
    2,
)  # one step an epoch, after which the parameters are not finite


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
    results = [process.ended(60) for process in pair(*NOT_FINITE, "--epochs", 5, *settings)]
    assert [(code, out) for code, out, _ in results] == [(2, "")] * 2
    print([err for _, _, err in results])
    sentences = [err for _, _, err in results if err != GONE]
    assert sentences, "no process says why"
    assert all(re.match(f"train.py: {where}", sentence) for sentence in sentences), sentences

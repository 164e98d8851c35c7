"""`train.py --distributed` as two processes: the run of one, killed, resumed, and fed bad input."""

import socket
import time

import pytest
from support.distributed import (
    EVERYTHING,
    GONE,
    JOIN,
    assert_close_runs,
    assert_same_distributed_run,
    scores,
    succeeded,
    wait_for_epochs,
)
from support.programs import call
from support.runs import logged, read_rows

from jaxann.cli import train


@pytest.fixture
def call_train(monkeypatch):
    """Calls the program in this process, which does not end when the program ends itself at once."""

    def stop(code):
        raise SystemExit(code)

    monkeypatch.setattr(train, "exit_now", stop)
    return lambda *arguments: call(train.main, *arguments, name="train.py")


@pytest.mark.slow
def test_two_processes_make_the_run_of_one_and_record_it_once(undisturbed, tmp_path):
    two, out = undisturbed
    one = tmp_path / "one"
    alone = call(train.main, *EVERYTHING, "--run", one, name="train.py")
    assert alone.code == 0
    assert [row["epoch"] for row in read_rows(two)] == list(range(1, 7))
    print(f"metrics differ by {assert_close_runs(two, one, 1e-12):.1e} at most")
    assert scores(out) == scores(alone.out)
    for name in ("config.json", "data.json"):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert {int(path.name) for path in (two / "checkpoints").iterdir()} == {5, 6}


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "left"), [(0, 2), (1, 2), (0, 1), (1, 1)])
def test_one_killed_ends_the_other_and_what_is_resumed_is_the_run(start, pair, undisturbed, tmp_path, killed, left):
    processes = pair(*EVERYTHING, "--run", "a")
    wait_for_epochs(tmp_path / "a", 2, *processes)
    processes[killed].child.kill()
    began = time.monotonic()
    assert processes[1 - killed].ended(60) == (2, "", GONE)
    print(f"without process {killed} the other ended after {time.monotonic() - began:.2f} s")
    assert 2 <= logged(tmp_path / "a") < 6
    if left == 2:
        assert scores(succeeded(pair("--resume", "a"))) == scores(undisturbed[1])
        assert_same_distributed_run(tmp_path / "a", undisturbed[0])
    else:
        assert scores(succeeded([start("--resume", "a")])) == scores(undisturbed[1])
        print(f"metrics differ by {assert_close_runs(tmp_path / 'a', undisturbed[0], 1e-12):.1e} at most")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--distributed", "--process", 1),
            "expected --process only together with --coordinator and --processes, got 1",
        ),
        (
            ("--distributed", "--coordinator", "127.0.0.1:9", "--processes", 2),
            "expected --coordinator only together with --processes and --process, got '127.0.0.1:9'",
        ),
        (("--coordinator", "127.0.0.1:9"), "expected --coordinator only together with --distributed, got '127.0.0.1:9"),
        (("--process", 0), "expected --process only together with --distributed, got 0"),
        ((*JOIN, 2), "expected --process between 0 and 1 (they are numbered from 0), got 2"),
        ((*JOIN, -1), "expected --process between 0 and 1 (they are numbered from 0), got -1"),
        (
            (*JOIN, 1, "--coordinator", "127.0.0.1:65536"),
            "expected --coordinator to be HOST:PORT, got '127.0.0.1:65536'",
        ),
        ((*JOIN, 0, "--connect-seconds", "nan"), "expected --connect-seconds to be a finite number, got nan"),
        ((*JOIN, 0, "--learning-rate", 0), "expected --learning-rate above 0, got 0.0"),
    ],
)
def test_bad_input_gets_one_sentence(call_train, arguments, sentence):
    ended = call_train(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"train.py: {sentence}"), ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_port_that_is_taken_is_named(call_train):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        ended = call_train(*JOIN, 0, "--coordinator", address)
    assert ended == (2, "", f"train.py: process 0 cannot listen at {address}: Address already in use\n")


def test_without_a_launcher_or_with_one_that_says_too_little_it_ends_itself_at_once(start):
    few = {"OMPI_COMM_WORLD_SIZE": 2, "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:34911"}
    processes = [start("--distributed"), start("--distributed", **few)]
    code, out, sentence = processes[0].ended()
    assert (code, out) == (2, "")
    assert sentence.startswith(
        "train.py: expected a launcher, such as Slurm or Open MPI, or coordinator, processes and"
    )
    assert processes[1].ended() == (2, "", "train.py: the launcher has not set 'OMPI_COMM_WORLD_RANK'")

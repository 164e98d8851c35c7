"""Fixtures that several files of tests share: a finished sweep, and runs of two processes of train.py."""

import shutil
from pathlib import Path

import pytest
from support.distributed import EVERYTHING, Started, by_hand, clean_environment, kill, succeeded
from support.programs import compile_cache
from support.sweeps import GRID, call_sweep

from jaxann.cli import sweep


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished sweep, only to be read."""
    out = tmp_path_factory.mktemp("sweeps") / "finished"
    assert call_sweep(*GRID, "--out", out).code == 0
    return out


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished sweep that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def trained(monkeypatch):
    """All members that are trained from here on."""
    members, train_members = [], sweep.train_members

    def watch(settings, group, *arguments, **options):
        members.extend(group)
        return train_members(settings, group, *arguments, **options)

    monkeypatch.setattr(sweep, "train_members", watch)
    return members


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """Starts a process in a folder, its programs compiled once for all tests; at the end none is left."""
    started, cache = [], compile_cache(tmp_path_factory.mktemp("cache"))

    def run(folder, *arguments, **environment):
        process = Started(folder, arguments, clean_environment(cache | environment))
        started.append(process.child)
        return process

    run.started = started
    yield run
    kill(started)


@pytest.fixture
def start(begin, tmp_path):
    """`begin` in the test's own folder; what the test leaves running is killed after it."""
    before = len(begin.started)
    yield lambda *arguments, **environment: begin(tmp_path, *arguments, **environment)
    kill(begin.started[before:])


@pytest.fixture
def pair(start):
    """Starts both processes of a run by hand."""
    return lambda *arguments: [start(*arguments, *which) for which in by_hand()]


@pytest.fixture(scope="module")
def undisturbed(begin, tmp_path_factory):
    """The folder of an undisturbed run of two processes, and what the first one printed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    processes = [begin(folder, *EVERYTHING, "--run", "two", *which) for which in by_hand()]
    return folder / "two", succeeded(processes)

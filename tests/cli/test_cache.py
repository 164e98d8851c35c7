"""The folder of compiled programs: later runs load them, and what a killed run left is deleted."""

import re
import sys

import pytest
from support.programs import end, start

from jaxann.cli.cache import find_folder, use_cache

QUICK = ("--hidden", 5, "--epochs", 2, "--batch-size", 16, "--cache")


def test_the_folder_is_in_the_users_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert find_folder() == tmp_path / "jaxann"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform != "win32":
        assert find_folder() == tmp_path / ".cache" / "jaxann"


@pytest.mark.slow
def test_a_second_run_compiles_less_and_damage_does_no_harm(tmp_path):
    """Two runs at once, a run after them, and one after a run that was killed while it wrote."""
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    begin = lambda: start("train.py", *QUICK, folder=tmp_path, environment=environment)  # noqa: E731
    first = [end(process) for process in [begin(), begin()]]
    again = end(begin())
    outputs = [ended.out.splitlines() for ended in (*first, again)]
    assert all(ended.code == 0 for ended in (*first, again))
    assert len({tuple(lines[:-1]) for lines in outputs}) == 1
    seconds = [float(re.search(r"compiling took ([\d.]+) s", lines[-1])[1]) for lines in outputs]
    assert seconds[2] < 0.6 * min(seconds[:2])
    programs = sorted((tmp_path / "jaxann").glob("*-cache"))
    assert programs
    for program in programs[::2]:
        program.write_bytes(program.read_bytes()[:50])
        program.with_name(program.name.removesuffix("-cache") + "-atime").unlink()
    mended = end(begin())
    assert mended.code == 0
    assert "UserWarning" not in mended.err
    assert mended.out.splitlines()[:-1] == outputs[0][:-1]
    assert {*(tmp_path / "jaxann").glob("*-cache")} <= {*programs}


def test_programs_without_a_time_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    for name in ("a-cache", "a-atime", "b-cache"):
        (tmp_path / "jaxann" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "jaxann" / name).write_bytes(b"x")
    use_cache(tmp_path / "jaxann")
    assert sorted(path.name for path in (tmp_path / "jaxann").glob("?-*")) == ["a-atime", "a-cache"]

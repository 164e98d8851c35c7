"""The folder of a run: its files, its lock, and the versions that can read it."""

import gc
import os
import signal
from importlib import metadata
from threading import Thread

import pytest
from support.progress import listing, start_python

from jaxann.runs import Folder
from jaxann.runs.folder import require_readable_version

IN_USE = r"run is in use: another process is writing to it$"


def test_a_new_folder_holds_its_files_and_the_folders_above_it_are_made(tmp_path):
    path = tmp_path / "runs" / "today" / "first"
    folder = Folder.create(path, config={"loss": "über", "rate": 0.1}, data=[1, 2])
    assert folder.path == path
    assert folder.json("config") == {"loss": "über", "rate": 0.1}
    assert folder.json("data") == [1, 2]
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "data.json", "lock"]
    assert [file.name for file in path.parent.iterdir()] == ["first"]


@pytest.mark.parametrize(
    ("files", "error"),
    [({"config": {}, "data": {1, 2}}, TypeError), ({"config": {}, "x" * 300: 0}, OSError)],
    ids=["no JSON", "a name too long"],
)
def test_a_folder_whose_files_cannot_be_written_does_not_appear(tmp_path, files, error):
    with pytest.raises(error):
        Folder.create(tmp_path / "run", **files)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_can_become_the_folder_of_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    assert Folder.create(tmp_path / "run", config={}).json("config") == {}
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("run", "which already holds a run"), ("folder", "which is not empty"), ("file", "which is not empty")],
)
def test_a_path_that_holds_something_is_refused_and_stays_as_it_is(tmp_path, content, sentence):
    path = tmp_path / "run"
    if content == "run":
        folder = Folder.create(path, config={"first": True})
        folder.log([{"epoch": 1}])
    elif content == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    else:
        path.write_text("mine")
    before = listing(tmp_path)
    with pytest.raises(ValueError, match=rf"^expected a new or an empty folder, got .*run, {sentence}$"):
        Folder.create(path, config={"first": False})
    assert listing(tmp_path) == before


def test_a_path_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"^expected a name for a new folder, got '\.'$"):
        Folder.create(".", config={})


def test_a_folder_without_a_run_is_refused_and_nothing_is_made(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=r"^expected the folder of a run, with a config\.json in it, got /"):
            Folder(path)
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time_writes_and_others_read(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    folder.log([{"epoch": 1, "loss": 0.5}])
    for _ in range(2):  # being refused leaves the lock as it is
        with pytest.raises(ValueError, match=IN_USE):
            Folder(tmp_path / "run")
    before = listing(tmp_path)
    reader = Folder(tmp_path / "run", reader=True)
    assert reader.rows() == [{"epoch": 1, "loss": 0.5}]
    assert reader.json("config") == {}
    assert listing(tmp_path) == before
    assert folder.path.is_dir()


def test_a_reader_keeps_nobody_from_writing(tmp_path):
    Folder.create(tmp_path / "run", config={})
    gc.collect()
    reader = Folder(tmp_path / "run", reader=True)
    assert Folder(tmp_path / "run").json("config") == reader.json("config")
    reader.close()


@pytest.mark.parametrize("give_up", ["close", "close in another thread", "collect"])
def test_the_lock_is_given_up(tmp_path, give_up):
    folder = Folder.create(tmp_path / "run", config={"a": 1})
    if give_up == "collect":
        del folder
        gc.collect()
    else:
        thread = Thread(target=folder.close)
        thread.start() if "thread" in give_up else thread.run()
        if "thread" in give_up:
            thread.join()
    again = Folder(tmp_path / "run")
    assert again.json("config") == {"a": 1}
    if give_up == "close":
        folder.close()  # closing twice gives up nothing that another object holds
        with pytest.raises(ValueError, match=IN_USE):
            Folder(tmp_path / "run")


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    Folder.create(tmp_path / "run", config={}).close()
    program = "import sys, time; from jaxann.runs.folder import Folder; folder = Folder(sys.argv[1]); "
    program += "print('locked', flush=True); time.sleep(60)"
    with start_python(program, tmp_path / "run") as other:
        assert other.stdout.readline() == "locked\n", other.stderr.read()
        with pytest.raises(ValueError, match=IN_USE):
            Folder(tmp_path / "run")
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert Folder(tmp_path / "run").json("config") == {}


def test_json_is_replaced_at_once(tmp_path, monkeypatch):
    folder = Folder.create(tmp_path / "run", config={"a": 1})
    folder.write("result", {"epoch": 3})
    folder.write("config", {"a": 2})
    assert (folder.json("result"), folder.json("config")) == ({"epoch": 3}, {"a": 2})
    with pytest.raises(TypeError):
        folder.write("config", {1, 2})

    def kill(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        folder.write("config", {"a": 3})
    assert folder.json("config") == {"a": 2}


@pytest.mark.parametrize("content", [b'{"a": ', b"", b'{"a": "\xff"}', None], ids=["half", "empty", "no UTF-8", "none"])
def test_json_that_cannot_be_read_is_named(tmp_path, content):
    folder = Folder.create(tmp_path / "run", config={}, data={})
    path = tmp_path / "run" / "data.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run/data\.json cannot be read: "):
        folder.json("data")


def test_metrics_are_appended_and_read(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    assert folder.rows() == []
    folder.log([{"epoch": 1, "loss": 0.1}, {"epoch": 2, "loss": 1 / 3, "validation_R²": 0.5}])
    folder.log([])
    folder.log([{"epoch": 3, "loss": 1e-300}])
    assert folder.rows() == [
        {"epoch": 1, "loss": 0.1},
        {"epoch": 2, "loss": 1 / 3, "validation_R²": 0.5},
        {"epoch": 3, "loss": 1e-300},
    ]


@pytest.mark.parametrize("half", ["{", '{"epoch": 3, "lo', '{"epoch": 3, "loss": 0.1}'])
def test_a_last_line_that_was_cut_short_is_left_out_and_rewinding_removes_it(tmp_path, half):
    folder = Folder.create(tmp_path / "run", config={})
    folder.log([{"epoch": 1}, {"epoch": 2}])
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write(half)
    assert folder.rows() == [{"epoch": 1}, {"epoch": 2}]
    folder.rewind(2)
    folder.log([{"epoch": 3, "loss": 0.2}])
    assert folder.rows() == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3, "loss": 0.2}]


def test_rewinding_removes_later_epochs_alone(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    rows = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 3, 4)]
    folder.log(rows)
    folder.rewind(9)
    assert folder.rows() == rows
    folder.rewind(2)
    assert folder.rows() == rows[:2]
    folder.rewind(0)
    assert folder.rows() == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"epoch": 1}\n{"epo\n{"epoch": 3}\n', ""),
        (b"\x00\x00\x00\n", ""),
        (b'{"epoch": "\xff"}\n', ""),
        (b"3\n", r"expected the row of an epoch in line 1, got 3$"),
        (b'{"epoch": 1}\n{"loss": 1}\n', r"expected the row of an epoch in line 2, got \{'loss': 1\}$"),
        (b'{"epoch": 1, "loss": "x"}\n', "expected the row of an epoch in line 1, got "),
        (b'{"epoch": 1, "loss": [1]}\n', "expected the row of an epoch in line 1, got "),
        (b'{"epoch": 1, "loss": %d}\n' % 10**400, "expected the row of an epoch in line 1, got "),
    ],
    ids=["half a line", "zeros", "no UTF-8", "a number", "no epoch", "text", "a list", "too large"],
)
def test_metrics_that_are_damaged_are_named(tmp_path, content, sentence):
    folder = Folder.create(tmp_path / "run", config={})
    (tmp_path / "run" / "metrics.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=rf"run/metrics\.jsonl is damaged: {sentence}"):
        folder.rewind(3)


@pytest.mark.parametrize(
    ("version", "installed"),
    [(None, "0.1.0"), ("0.1.0", "0.1.0"), ("0.1", "0.1.0"), ("0.1.0.0", "0.1"), ("0.9.9", "0.10.0"), ("1.0rc1", "1.0")],
)
def test_runs_of_older_versions_can_be_read(monkeypatch, tmp_path, version, installed):
    monkeypatch.setattr(metadata, "version", {"jaxann": installed}.__getitem__)
    assert require_readable_version(tmp_path, version) is None


@pytest.mark.parametrize(("version", "installed"), [("0.3.0", "0.2.0"), ("0.10.0", "0.9.9"), ("0.1.1.dev1", "0.1")])
def test_a_run_of_a_newer_version_is_refused(monkeypatch, tmp_path, version, installed):
    monkeypatch.setattr(metadata, "version", {"jaxann": installed}.__getitem__)
    sentence = rf"^expected a run of jaxann {installed} or older, got one of {version} in {tmp_path}$"
    with pytest.raises(ValueError, match=sentence):
        require_readable_version(tmp_path, version)


def test_what_is_not_a_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match=rf"^expected the version of jaxann .*, got 'new' in {tmp_path}$"):
        require_readable_version(tmp_path, "new")

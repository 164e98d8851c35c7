"""Files of runs: they are written atomically, follow no link and survive a power cut, and bad JSON is refused."""

import os
import stat

import pytest

from jaxann.runs.files import format_json, parse_json, read_json, write_file


@pytest.fixture
def synced(monkeypatch):
    """The inodes synchronized with the disk, in order, and "replace" for each file that took its place."""
    events, fsync, replace = [], os.fsync, os.replace

    def record_sync(descriptor):
        events.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def record_replace(old, new):
        events.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    return events


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_name_after_that(tmp_path, synced):
    write_file(tmp_path / "a", "é")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9"
    assert synced == [(tmp_path / "a").stat().st_ino, "replace", tmp_path.stat().st_ino]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "usual").write_text("")
    write_file(tmp_path / "a", "")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_a_link_in_its_place_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "precious")
    write_file(tmp_path / "a", "new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / "a").is_symlink()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_file(tmp_path / "a", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_a_folder_that_cannot_be_synchronized_costs_no_file(tmp_path, monkeypatch):
    fsync = os.fsync

    def fail_for_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError("not supported")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    write_file(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


def test_a_new_file_replaces_nothing(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").symlink_to(tmp_path / "nowhere")
    for name in "ab":
        with pytest.raises(FileExistsError, match=f"^expected a new file, got one that exists: {tmp_path}/{name}$"):
            write_file(tmp_path / name, "new", new=True)
    assert (tmp_path / "a").read_text() == "old"
    with pytest.raises(FileNotFoundError, match=f"^no such folder: {tmp_path}/c$"):
        write_file(tmp_path / "c" / "a", "new", new=True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "expected each key once in a JSON object, got 'c' twice"),
        ("[" * 100_000, "expected JSON that is not nested deeply, got too many brackets inside one another"),
        ('{"a": ' * 100_000, "expected JSON that is not nested deeply, got too many brackets inside one another"),
        ("9" * 10_000, "Exceeds the limit"),
    ],
    ids=["a key twice", "lists", "objects", "digits"],
)
def test_bad_json_is_refused(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_json(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=f"^{tmp_path}/a.json cannot be read: {sentence}"):
        read_json(tmp_path / "a.json")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"^expected a regular file, got a pipe, a socket or a device: .*/a.json$"):
        read_json(tmp_path / "a.json")


def test_json_has_no_numbers_that_are_not_finite():
    with pytest.raises(ValueError, match="not JSON compliant"):
        format_json({"score": float("nan")})

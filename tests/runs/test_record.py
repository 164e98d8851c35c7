"""The record of a run: what it writes when, and where a run that was killed resumes."""

import numpy as np
import pytest
from support.progress import bits, listing, make_progress

from jaxann.runs import Checkpoints, Folder, Record

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def clock(monkeypatch):
    """The time that the record reads, in seconds."""
    now = [1000.0]
    monkeypatch.setattr("jaxann.runs.record.monotonic", lambda: now[0])
    return now


def open_record(folder, epoch=None, *, tensorboard=False, seconds=10.0):
    return Record.open(folder, make_progress(0), epoch, tensorboard=tensorboard, seconds=seconds)


def make_rows(*epochs):
    return [{"epoch": epoch, "loss": 1 / epoch} for epoch in epochs]


def test_a_new_record_begins_where_the_run_does(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    begun = make_progress(0)
    _, progress = Record.open(folder, begun, tensorboard=False, seconds=10.0)
    assert progress is begun
    assert folder.rows() == []
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_metrics_are_written_after_each_piece_and_checkpoints_after_some_seconds(tmp_path, clock):
    folder = Folder.create(tmp_path / "run", config={})
    record, _ = open_record(folder, seconds=10.0)
    kept = []
    for epoch, now in [(1, 1009), (2, 1010), (3, 1019.9), (4, 1020), (5, 1029), (6, 1045), (7, 1050), (8, 1055)]:
        clock[0] = now
        record.add(make_progress(epoch), make_rows(epoch))
        assert folder.rows() == make_rows(*range(1, epoch + 1))
        kept.append(Checkpoints(folder.path / "checkpoints", reader=True).epochs())
    assert kept == [[], [2], [2], [2, 4], [2, 4], [4, 6], [4, 6], [6, 8]]


def test_with_no_seconds_between_them_every_piece_has_a_checkpoint(tmp_path):
    record, _ = open_record(folder := Folder.create(tmp_path / "run", config={}), seconds=0.0)
    for epoch in (1, 2, 3):
        record.add(make_progress(epoch), make_rows(epoch))
        assert Checkpoints(folder.path / "checkpoints").epochs()[-1] == epoch


def test_a_killed_run_resumes_at_its_last_checkpoint_without_the_metrics_after_it(tmp_path, clock):
    folder = Folder.create(tmp_path / "run", config={})
    record, _ = open_record(folder)
    record.add(make_progress(2), make_rows(1, 2))
    clock[0] += 10
    record.add(make_progress(4), make_rows(3, 4))
    clock[0] += 9
    record.add(make_progress(6), make_rows(5, 6))
    record, progress = open_record(folder)
    assert bits(progress) == bits(make_progress(4))
    assert folder.rows() == make_rows(1, 2, 3, 4)
    clock[0] += 9
    record.add(make_progress(6), make_rows(5, 6))
    assert folder.rows() == make_rows(1, 2, 3, 4, 5, 6)
    assert Checkpoints(folder.path / "checkpoints").epochs() == [4]  # the time counts from when the run was resumed


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path, clock):
    folder = Folder.create(tmp_path / "run", config={})
    record, _ = open_record(folder)
    record.add(make_progress(2), make_rows(1, 2))
    _, progress = open_record(folder)
    assert progress.state.epoch == 0
    assert folder.rows() == []


def test_a_run_resumes_at_the_checkpoint_of_a_given_epoch(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    record, _ = open_record(folder, seconds=0.0)
    for epoch in (2, 4):
        record.add(make_progress(epoch), make_rows(epoch - 1, epoch))
    with pytest.raises(ValueError, match=r"^expected a checkpoint of epoch 3 in .*, got those of 2 and 4$"):
        open_record(folder, 3)
    assert folder.rows() == make_rows(1, 2, 3, 4)
    record, progress = open_record(folder, 2, seconds=0.0)
    assert bits(progress) == bits(make_progress(2))
    assert folder.rows() == make_rows(1, 2)
    record.add(make_progress(4), make_rows(3, 4))
    assert Checkpoints(folder.path / "checkpoints").epochs() == [2, 4]


def end_run(folder, epochs, *, plots, tensorboard=False, counts=None):
    record, _ = open_record(folder, tensorboard=tensorboard, seconds=1e9)
    if epochs:
        record.add(make_progress(epochs), make_rows(*range(1, epochs + 1)))
    record.end(make_progress(epochs), {"epoch": epochs, "accuracy": 0.5}, counts, ["a", "$b"], plots=plots)
    record.close()
    return record


@pytest.mark.parametrize("counts", [None, np.array([[3, 1], [0, 2]])], ids=["numbers", "classes"])
def test_the_end_of_a_run_leaves_a_checkpoint_a_result_and_pictures(tmp_path, counts):
    folder = Folder.create(tmp_path / "run", config={})
    end_run(folder, 3, plots=True, counts=counts)
    assert folder.json("result") == {"epoch": 3, "accuracy": 0.5}
    assert bits(Checkpoints(folder.path / "checkpoints").restore(make_progress(0))) == bits(make_progress(3))
    pictures = {path.name: path.read_bytes() for path in folder.path.glob("*.png")}
    assert sorted(pictures) == (["curves.png"] if counts is None else ["confusion.png", "curves.png"])
    for content in pictures.values():
        assert content.startswith(PNG)
        assert content.rstrip().endswith(b"IEND\xaeB`\x82")


def test_the_end_of_a_run_on_numbers_leaves_a_picture_of_its_predictions(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    record, progress = open_record(folder)
    predictions = np.array([1.0, 2.0]), np.array([1.5, 2.0]), None
    record.end(progress, {"epoch": 0}, None, [], plots=True, predictions=predictions, target="price")
    assert [path.name for path in folder.path.glob("*.png")] == ["predictions.png"]


def test_a_record_that_is_closed_gives_up_the_lock_of_the_folder(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    record, _ = open_record(folder)
    with pytest.raises(ValueError, match=r"is in use: another process is writing to it$"):
        Folder(folder.path)
    record.close()
    Folder(folder.path).close()


def test_pictures_are_only_made_on_request(tmp_path):
    end_run(folder := Folder.create(tmp_path / "run", config={}), 3, plots=False, counts=np.eye(2, dtype=int))
    assert list(folder.path.glob("*.png")) == []


def test_a_finished_run_ends_again_without_another_checkpoint(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    end_run(folder, 3, plots=False)
    before = listing(folder.path / "checkpoints")
    record, progress = open_record(folder)
    record.end(progress, {"epoch": 3}, None, [], plots=True)
    assert listing(folder.path / "checkpoints") == before
    assert (folder.path / "curves.png").exists()
    assert folder.json("result") == {"epoch": 3}


def test_scalars_for_tensorboard_are_only_written_on_request(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    end_run(folder, 3, plots=False, tensorboard=True)
    (events,) = (folder.path / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents.")
    assert events.read_bytes().count(b"loss") == 3
    assert b"epoch" not in events.read_bytes()
    other = Folder.create(tmp_path / "other", config={})
    end_run(other, 3, plots=False)
    assert not (other.path / "tensorboard").exists()

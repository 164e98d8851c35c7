"""Checkpoints of a run: restored to the bit, complete or known to be damaged, and quiet about what orbax abandons."""

import gc
import os
import re
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.progress import bits, listing, make_progress, start_python

from jaxann.nn.hyperparameters import SettingError
from jaxann.runs import Checkpoints
from jaxann.runs import checkpoints as checkpoints_module
from jaxann.runs.late_errors import hush_late_errors
from jaxann.training import optimizer, schedule


def test_progress_is_restored_to_the_bit(tmp_path):
    written = make_progress(3)
    Checkpoints(tmp_path).save(written)
    restored = Checkpoints(tmp_path).restore(make_progress(0))
    assert bits(restored) == bits(written)
    assert isinstance(restored.best_score, float)
    assert isinstance(restored.best_epoch, int)
    assert jax.random.key_impl(restored.state.key) == jax.random.key_impl(written.state.key)
    np.testing.assert_array_equal(jax.random.normal(restored.state.key, 3), jax.random.normal(written.state.key, 3))


@pytest.mark.parametrize("score", [-np.inf, 0.1 + 0.2, -1e-300])
def test_any_score_is_restored(tmp_path, score):
    written = make_progress(3)._replace(best_score=score)
    Checkpoints(tmp_path).save(written)
    assert Checkpoints(tmp_path).restore(make_progress(0)).best_score == score


def test_the_state_of_a_composed_optimizer_is_restored(tmp_path):
    update = optimizer("momentum", schedule("cosine", 0.1, 9, warmup=2), weight_decay=0.1, clip=1.0)
    Checkpoints(tmp_path).save(written := make_progress(3, update))
    assert bits(Checkpoints(tmp_path).restore(make_progress(0, update))) == bits(written)


def test_a_key_of_another_generator_is_restored(tmp_path):
    def rbg(epoch):
        progress = make_progress(epoch)
        return progress._replace(state=progress.state._replace(key=jax.random.key(epoch, impl="rbg")))

    Checkpoints(tmp_path).save(written := rbg(3))
    assert bits(Checkpoints(tmp_path).restore(rbg(0))) == bits(written)


def test_the_last_two_are_kept_and_any_of_them_restored(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.epochs() == []
    for epoch, kept in [(2, [2]), (4, [2, 4]), (10, [4, 10])]:
        checkpoints.save(make_progress(epoch))
        assert checkpoints.epochs() == kept
        assert Checkpoints(tmp_path / "checkpoints").epochs() == kept
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "4"]
    assert bits(Checkpoints(tmp_path / "checkpoints", reader=True).best(make_progress(0).best)) == bits(
        make_progress(10).best
    )
    assert bits(checkpoints.best(make_progress(0).best, 4)) == bits(make_progress(4).best)
    assert bits(checkpoints.restore(make_progress(0))) == bits(make_progress(10))
    assert bits(checkpoints.restore(make_progress(0), 4)) == bits(make_progress(4))


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_as_asked_for_are_kept_and_deleted_only_once_the_new_one_is_on_the_disk(tmp_path, monkeypatch, keep):
    stored = []
    sync = checkpoints_module._sync_tree
    monkeypatch.setattr(checkpoints_module, "_sync_tree", lambda path: (stored.append(len(listdir())), sync(path)))

    def listdir():
        return sorted(path.name for path in tmp_path.iterdir())

    checkpoints = Checkpoints(tmp_path, keep=keep)
    for epoch in range(1, 6):
        checkpoints.save(make_progress(epoch))
        assert checkpoints.epochs() == list(range(max(1, epoch - keep + 1), epoch + 1))
        assert listdir() == list(map(str, checkpoints.epochs()))
    assert stored == [min(epoch, keep + 1) for epoch in range(1, 6)]
    Checkpoints(tmp_path, keep=2).save(make_progress(9))
    assert Checkpoints(tmp_path, reader=True).epochs() == [5, 9]


@pytest.mark.parametrize("keep", [0, -1, 1.5, True, "2"])
def test_fewer_than_one_are_not_kept(tmp_path, keep):
    with pytest.raises(SettingError, match=r"^expected keep "):
        Checkpoints(tmp_path / "checkpoints", keep=keep)
    assert not (tmp_path / "checkpoints").exists()


def test_the_best_parameters_alone_are_read_but_not_resumed_from(tmp_path):
    progress = make_progress(3)
    Checkpoints(tmp_path).save_best(progress.best, 3)
    assert bits(Checkpoints(tmp_path, reader=True).best(make_progress(0).best)) == bits(progress.best)
    sentence = (
        "expected a checkpoint from which a run goes on, got that of epoch 3 in .*, which holds the best parameters"
    )
    with pytest.raises(ValueError, match=sentence):
        Checkpoints(tmp_path).restore(make_progress(0))


def test_a_reader_takes_a_later_checkpoint_if_the_run_deletes_the_one_being_read(tmp_path, monkeypatch):
    run, reader = Checkpoints(tmp_path), Checkpoints(tmp_path, reader=True)
    run.save(make_progress(1))
    read = reader._read

    def save_then_read(epoch, like):
        for later in (epoch + 1, epoch + 2) if epoch < 5 else ():
            run.save(make_progress(later))
        return read(epoch, like)

    monkeypatch.setattr(reader, "_read", save_then_read)
    assert bits(reader.best(make_progress(0).best)) == bits(make_progress(5).best)
    assert Checkpoints(tmp_path, reader=True).epochs() == [4, 5]
    with pytest.raises(ValueError, match=r"^expected a checkpoint of epoch 1 in .*, got those of 4 and 5$"):
        reader.best(make_progress(0).best, 1)


def test_a_checkpoint_is_on_the_disk_before_saving_returns(tmp_path, monkeypatch):
    synced, fsync = set(), os.fsync

    def record(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    Checkpoints(tmp_path).save(make_progress(1))
    made = {path.stat().st_ino: path for path in (tmp_path, *tmp_path.rglob("*"))}
    assert len(made) > 5
    assert not [path for number, path in made.items() if number not in synced]


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path):
    Checkpoints(tmp_path, origin={"config.json": {"seed": 1, "hidden": (5,)}}).save(make_progress(1))
    for same in (
        None,
        {},
        {"config.json": {}},
        {"config.json": {"seed": 1, "hidden": [5], "new": 3}},
        {"data.json": {}},
    ):
        assert Checkpoints(tmp_path, origin=same).restore(make_progress(0)).state.epoch == 1
    sentence = (
        f"expected the config.json with which the checkpoint of epoch 1 in {tmp_path} was written, "
        "got one whose seed is 2, not 1"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Checkpoints(tmp_path, origin={"config.json": {"seed": 2}}).restore(make_progress(0))


def test_untrained_parameters_of_an_older_version_are_no_result(tmp_path):
    Checkpoints(tmp_path).save(make_progress(7)._replace(best_score=-np.inf, best_epoch=0))
    restored = Checkpoints(tmp_path).restore(make_progress(0))
    assert bits(restored.best) == bits(restored.state.params) == bits(make_progress(7).state.params)
    assert restored.best_epoch == 7
    with pytest.raises(ValueError, match=r"^expected trained parameters in the checkpoint of epoch 7 in .*, got those"):
        Checkpoints(tmp_path, reader=True).best(make_progress(0).best)


def test_checkpoints_after_the_restored_one_are_deleted_and_can_be_written_again(tmp_path):
    for epoch in (2, 4):
        Checkpoints(tmp_path).save(make_progress(epoch))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.restore(make_progress(0), 2)
    assert checkpoints.epochs() == Checkpoints(tmp_path).epochs() == [2]
    other = make_progress(4)._replace(best_score=7.0)
    for written in (make_progress(3), other):
        checkpoints.save(written)
    assert Checkpoints(tmp_path).epochs() == [3, 4]
    assert bits(Checkpoints(tmp_path).restore(make_progress(0))) == bits(other)


def test_a_missing_checkpoint_is_named_with_the_stored_ones(tmp_path):
    with pytest.raises(ValueError, match=r"^expected a checkpoint in .*checkpoints, got none$"):
        Checkpoints(tmp_path / "checkpoints").restore(make_progress(0))
    for epoch in (2, 4):
        Checkpoints(tmp_path).save(make_progress(epoch))
    with pytest.raises(ValueError, match=r"^expected a checkpoint of epoch 3 in .*, got those of 2 and 4$"):
        Checkpoints(tmp_path).restore(make_progress(0), 3)
    with pytest.raises(ValueError, match=r"^expected a checkpoint of epoch 0 in .*, got those of 2 and 4$"):
        Checkpoints(tmp_path).best(make_progress(0).best, 0)
    assert Checkpoints(tmp_path).epochs() == [2, 4]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"sizes": (4, 2)}, r"float64\[4, 2\] for state\.params\['W'\], got float64\[3, 2\]"),
        ({"update": optax.sgd(0.1)}, r"no such leaf for state\.opt_state\[0\]\.count, got int32\[\]"),
        (
            {"update": optax.sgd(0.1, momentum=0.9)},
            r"float64\[3, 2\] for state\.opt_state\[0\]\.trace\['W'\], got no such leaf",
        ),
    ],
    ids=["sizes", "less", "more"],
)
def test_a_checkpoint_of_another_model_is_named_by_its_leaf_and_kept(tmp_path, other, sentence):
    for epoch in (2, 4):
        Checkpoints(tmp_path).save(make_progress(epoch))
    before = listing(tmp_path)
    with pytest.raises(
        ValueError, match=rf"^expected {sentence}: the checkpoint of epoch 4 in .* is of another model$"
    ):
        Checkpoints(tmp_path).restore(make_progress(0, **other))
    assert listing(tmp_path) == before


def test_best_parameters_of_another_precision_are_refused(tmp_path):
    Checkpoints(tmp_path).save(make_progress(2))
    like = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), make_progress(0).best)
    with pytest.raises(ValueError, match=r"^expected float32\[3, 2\] for best\['W'\], got float64\[3, 2\]: "):
        Checkpoints(tmp_path, reader=True).best(like)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints of epochs 1 and 2, which tests copy and damage."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for epoch in (1, 2):
        checkpoints.save(make_progress(epoch))
    return folder


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def outcome(folder):
    """Returns "damaged" if restoring says so in the right sentence, or the epoch that was restored to the bit."""
    last = Checkpoints(folder).epochs()[-1]
    try:
        restored = Checkpoints(folder).restore(make_progress(0))
    except ValueError as error:
        sentence = r"the checkpoint of epoch 2 in \S+ is damaged \([^\n]+\); the one of epoch 1 is still there"
        return "damaged" if re.fullmatch(sentence, str(error)) else str(error)
    assert bits(restored) == bits(make_progress(last))
    return last


@pytest.mark.parametrize(
    "damage",
    [pytest.param(halve, marks=pytest.mark.slow), flip, pytest.param(Path.unlink, marks=pytest.mark.slow)],
    ids=["halved", "flipped", "deleted"],
)
def test_damage_to_any_file_is_noticed_or_harmless(two, tmp_path, damage):
    """Without the file that says that it is complete, a checkpoint does not count, and the one before is the last."""
    files = [path.relative_to(two) for path in sorted((two / "2").rglob("*")) if path.is_file()]
    outcomes = {}
    for i, file in enumerate(files):
        folder = tmp_path / str(i)
        shutil.copytree(two, folder)
        damage(folder / file)
        outcomes[str(file)] = outcome(folder)
    assert len(files) > 10
    assert set(outcomes.values()) <= {"damaged", 1, 2}
    assert list(outcomes.values()).count("damaged") >= 5
    assert "2/about/metadata" in outcomes  # the next test changes it
    if damage is not Path.unlink:
        assert 1 not in outcomes.values()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"best_score": 2.25', b'"best_score": 3.25'),
        (b'"best_epoch": 1', b'"best_epoch": 0'),
        (b'"best_epoch"', b'"best_epoci"'),
        (b'"shapes"', b'"shapez"'),
        (b'"digests"', b'"digestz"'),
        (b'"float64[3, 2]"', b'"float64[3, 3]"'),
        (b".nu['W']", b".nu['V']"),
        (b'"state": "', b'"stats": "'),
    ],
)
def test_no_byte_of_the_description_can_change_unnoticed(two, tmp_path, old, new):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    path = folder / "2" / "about" / "metadata"
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    assert outcome(folder) == "damaged"


@pytest.mark.parametrize("part", ["", "state", "best", "about", "state/d"])
def test_a_missing_folder_is_noticed(two, tmp_path, part):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    shutil.rmtree(folder / "2" / part)
    assert outcome(folder) == ("damaged" if part else 1)


@pytest.mark.parametrize("part", ["state", "best"])
def test_a_part_of_another_checkpoint_is_noticed(two, tmp_path, part):
    """orbax finds nothing wrong with it, because it is complete in itself."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    shutil.rmtree(folder / "2" / part)
    shutil.copytree(two / "1" / part, folder / "2" / part)
    with pytest.raises(
        ValueError, match=r"the checkpoint of epoch 2 .* is damaged \(the digest of its content differs"
    ):
        Checkpoints(folder).restore(make_progress(0))


def test_the_run_can_be_resumed_from_the_checkpoint_before_a_damaged_one(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    shutil.rmtree(folder / "2" / "state" / "d")
    checkpoints = Checkpoints(folder)
    assert bits(checkpoints.restore(make_progress(0), 1)) == bits(make_progress(1))
    checkpoints.save(make_progress(2))
    assert bits(Checkpoints(folder).restore(make_progress(0))) == bits(make_progress(2))


def test_the_sentence_says_if_no_checkpoint_is_left_before_a_damaged_one(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two / "2", folder / "2")
    halve(folder / "2" / "about" / "metadata")
    with pytest.raises(ValueError, match=r"the checkpoint of epoch 2 .* is damaged \(.*\); no earlier one is left$"):
        Checkpoints(folder).restore(make_progress(0))


def test_an_unfinished_checkpoint_does_not_count_and_the_next_run_deletes_it(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    shutil.copytree(two / "2", folder / "3.orbax-checkpoint-tmp")
    (folder / "3.orbax-checkpoint-tmp" / "commit_success.txt").unlink(missing_ok=True)  # older versions write none
    assert Checkpoints(folder, reader=True).epochs() == [1, 2]
    assert (folder / "3.orbax-checkpoint-tmp").is_dir()
    checkpoints = Checkpoints(folder)
    assert checkpoints.epochs() == [1, 2]
    checkpoints.save(make_progress(3))
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]
    assert bits(Checkpoints(folder).restore(make_progress(0))) == bits(make_progress(3))


def test_a_reader_changes_nothing_in_the_folder(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    (folder / "3.orbax-checkpoint-tmp").mkdir()
    before = listing(tmp_path)
    reader = Checkpoints(folder, reader=True)
    assert reader.epochs() == [1, 2]
    for epoch in (None, 1):
        reader.best(make_progress(0).best, epoch)
    assert listing(tmp_path) == before
    none = Checkpoints(tmp_path / "none", reader=True)
    with pytest.raises(ValueError, match=r"^expected a checkpoint in .*none, got none$"):
        none.best(make_progress(0).best)
    assert listing(tmp_path) == before


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import jax
from jaxann.runs import Checkpoints
from support.progress import make_progress

jax.config.update("jax_enable_x64", True)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for size in map(int, sys.argv[2:]):
    checkpoints = Checkpoints(Path(sys.argv[1]) / str(size))
    checkpoints.save(make_progress(1, sizes=(100, 100)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        checkpoints.save(make_progress(2, sizes=(100, 100)))
    except OSError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert sys.unraisablehook is sys.__unraisablehook__
"""


def test_a_checkpoint_on_a_full_disk_fails_in_a_sentence_and_leaves_the_one_before(tmp_path):
    """The disk has room for nothing, or for a few files. As after any failure, another process resumes the run."""
    sizes = (0, 10_000)
    with start_python(FULL_DISK, tmp_path, *sizes) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    first, second, third = (make_progress(epoch, sizes=(100, 100)) for epoch in (1, 2, 0))
    for size, sentence in zip(sizes, out.splitlines(), strict=True):
        folder = tmp_path / str(size)
        assert sentence.startswith(f"the checkpoint of epoch 2 cannot be written in {folder}: ")
        checkpoints = Checkpoints(folder)
        assert checkpoints.epochs() == [1]
        assert bits(checkpoints.restore(third)) == bits(first)
        checkpoints.save(second)
        assert checkpoints.epochs() == [1, 2]
        assert bits(checkpoints.restore(third)) == bits(second)


@pytest.fixture
def reports(monkeypatch):
    """What Python reports to a hook that was set before, as the exceptions that it could not raise."""
    reports = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reports.append(unraisable.exc_value))
    return reports


def test_a_failed_restore_reports_nothing_more_and_leaves_the_hook_as_it_was(two, tmp_path, reports):
    hook = sys.unraisablehook
    for file in ("best", "state"):
        folder = tmp_path / file
        shutil.copytree(two, folder)
        for path in (folder / "2" / file / "d").iterdir():
            halve(path)
        with pytest.raises(ValueError, match="is damaged"):
            Checkpoints(folder).restore(make_progress(0))
        assert sys.unraisablehook is hook
    gc.collect()
    assert reports == []


def test_reports_that_do_not_come_from_orbax_are_passed_on(reports):
    class Broken:
        def __del__(self):
            raise ArithmeticError("not from orbax")

    with hush_late_errors():
        Broken()
        gc.collect()
    with pytest.raises(KeyError), hush_late_errors():  # noqa: PT012
        Broken()
        raise KeyError
    assert [repr(report) for report in reports] == ["ArithmeticError('not from orbax')"] * 2


def test_without_orbax_a_sentence_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    sentence = r"^a checkpoint needs orbax-checkpoint: pip install 'jaxann\[checkpoints\]'$"
    with pytest.raises(ImportError, match=sentence):
        Checkpoints(tmp_path / "checkpoints")
    assert list(tmp_path.iterdir()) == []

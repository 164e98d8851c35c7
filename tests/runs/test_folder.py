"""What a run leaves on the disk: its folder and lock, checkpoints that are whole or known to be damaged, the record."""

import gc
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.paths import ENVIRONMENT

from jaxann.runs.checkpoints import Checkpoints
from jaxann.runs.folder import Folder
from jaxann.runs.plots import plot_confusion, plot_curves
from jaxann.runs.record import Record, require_packages
from jaxann.training import optimizer, schedule
from jaxann.training.loop import Progress
from jaxann.training.recipe import TrainState

ADAM = optax.adam(0.1)
PNG = b"\x89PNG\r\n\x1a\n"


def standing(epoch, update=ADAM, sizes=(3, 2), score=0.25):
    """Where a run could be after so many epochs; another one's is different in every leaf."""
    random = np.random.default_rng(epoch)
    params = {
        "W": jnp.asarray(random.normal(size=sizes)),
        "b": jnp.asarray(random.normal(size=3), jnp.float32),
        "half": jnp.asarray(random.normal(size=3), jnp.bfloat16),
    }
    grads = jax.tree.map(lambda leaf: leaf / 2, params)
    _, state = update.update(grads, update.init(params), params)
    state = TrainState(params, state, jax.random.key(epoch), jnp.asarray(epoch))
    return Progress(state, jax.tree.map(lambda leaf: -leaf, params), score + epoch, max(epoch - 1, 0))


def bits(tree):
    """All that is in a tree, to the bit."""

    def leaf(a):
        key = isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        a = np.asarray(jax.random.key_data(a) if key else a)
        return str(a.dtype), a.shape, a.tobytes()

    return jax.tree.structure(tree), [leaf(a) for a in jax.tree.leaves(tree)]


def listing(folder):
    """What is in a folder, when it was changed last and with which content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


def python(program, *arguments):
    """A process of its own that runs a program."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


# The folder


def test_a_new_folder_holds_what_it_is_given_and_its_parents_are_made(tmp_path):
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
def test_a_folder_whose_files_cannot_be_written_is_not_there_at_all(tmp_path, files, error):
    with pytest.raises(error):
        Folder.create(tmp_path / "run", **files)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    assert Folder.create(tmp_path / "run", config={}).json("config") == {}
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("what", ["run", "folder", "file"])
def test_what_is_there_already_is_refused_and_stays_as_it_is(tmp_path, what):
    path = tmp_path / "run"
    if what == "run":
        folder = Folder.create(path, config={"first": True})
        folder.log([{"epoch": 1}])
    elif what == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    else:
        path.write_text("mine")
    before = listing(tmp_path)
    with pytest.raises(ValueError, match=r"run is there already; a run of that name goes on with --resume .*run$"):
        Folder.create(path, config={"first": False})
    assert listing(tmp_path) == before


def test_a_folder_without_a_run_is_refused_and_nothing_is_made(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=r"holds no run: there is no config\.json in it"):
            Folder(path)
    assert list(tmp_path.iterdir()) == []


def test_one_at_a_time_writes_and_others_read(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    folder.log([{"epoch": 1, "loss": 0.5}])
    for _ in range(2):  # the refused one leaves the lock as it is
        with pytest.raises(ValueError, match="run is in use: another process goes on with that run"):
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


def test_the_lock_is_free_once_nobody_has_the_folder(tmp_path):
    folder = Folder.create(tmp_path / "run", config={"a": 1})
    del folder
    gc.collect()
    again = Folder(tmp_path / "run")
    assert again.json("config") == {"a": 1}


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    Folder.create(tmp_path / "run", config={})
    gc.collect()
    program = "import sys, time; from jaxann.folder import Folder; folder = Folder(sys.argv[1]); "
    program += "print('mine', flush=True); time.sleep(60)"
    with python(program, tmp_path / "run") as other:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(ValueError, match="is in use: another process goes on with that run"):
            Folder(tmp_path / "run")
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert Folder(tmp_path / "run").json("config") == {}


def test_json_is_written_anew_as_a_whole(tmp_path, monkeypatch):
    folder = Folder.create(tmp_path / "run", config={"a": 1})
    folder.write("result", {"epoch": 3})
    folder.write("config", {"a": 2})
    assert (folder.json("result"), folder.json("config")) == ({"epoch": 3}, {"a": 2})
    with pytest.raises(TypeError):
        folder.write("config", {1, 2})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
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


def test_rewinding_forgets_later_epochs_alone(tmp_path):
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
    "damaged",
    [b'{"epoch": 1}\n{"epo\n{"epoch": 3}\n', b"\x00\x00\x00\n", b'{"epoch": "\xff"}\n', b"3\n", b'{"loss": 1}\n'],
    ids=["half a line", "zeros", "no UTF-8", "a number", "no epoch"],
)
def test_metrics_that_are_damaged_are_named(tmp_path, damaged):
    folder = Folder.create(tmp_path / "run", config={})
    (tmp_path / "run" / "metrics.jsonl").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"run/metrics\.jsonl is damaged: "):
        folder.rewind(3)


# Checkpoints


def test_a_standing_comes_back_to_the_bit(tmp_path):
    written = standing(3)
    Checkpoints(tmp_path).save(written)
    found = Checkpoints(tmp_path).restore(standing(0))
    assert bits(found) == bits(written)
    assert isinstance(found.best_score, float)
    assert isinstance(found.best_epoch, int)
    assert jax.random.key_impl(found.state.key) == jax.random.key_impl(written.state.key)
    np.testing.assert_array_equal(jax.random.normal(found.state.key, 3), jax.random.normal(written.state.key, 3))


@pytest.mark.parametrize("score", [-np.inf, 0.1 + 0.2, -1e-300])
def test_any_score_comes_back(tmp_path, score):
    written = standing(3)._replace(best_score=score)
    Checkpoints(tmp_path).save(written)
    assert Checkpoints(tmp_path).restore(standing(0)).best_score == score


def test_the_state_of_a_composed_optimiser_comes_back(tmp_path):
    update = optimizer("momentum", schedule("cosine", 0.1, 9, warmup=2), weight_decay=0.1, clip=1.0)
    Checkpoints(tmp_path).save(written := standing(3, update))
    assert bits(Checkpoints(tmp_path).restore(standing(0, update))) == bits(written)


def test_a_key_of_another_generator_comes_back(tmp_path):
    def rbg(epoch):
        it = standing(epoch)
        return it._replace(state=it.state._replace(key=jax.random.key(epoch, impl="rbg")))

    Checkpoints(tmp_path).save(written := rbg(3))
    assert bits(Checkpoints(tmp_path).restore(rbg(0))) == bits(written)


def test_the_last_two_are_kept_and_any_of_them_restored(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.epochs() == []
    for epoch, there in [(2, [2]), (4, [2, 4]), (10, [4, 10])]:
        checkpoints.save(standing(epoch))
        assert checkpoints.epochs() == there
        assert Checkpoints(tmp_path / "checkpoints").epochs() == there
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "4"]
    assert bits(Checkpoints(tmp_path / "checkpoints", reader=True).best(standing(0).best)) == bits(standing(10).best)
    assert bits(checkpoints.best(standing(0).best, 4)) == bits(standing(4).best)
    assert bits(checkpoints.restore(standing(0))) == bits(standing(10))
    assert bits(checkpoints.restore(standing(0), 4)) == bits(standing(4))


def test_what_comes_after_the_restored_one_is_forgotten_and_can_be_written_anew(tmp_path):
    for epoch in (2, 4):
        Checkpoints(tmp_path).save(standing(epoch))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.restore(standing(0), 2)
    assert checkpoints.epochs() == Checkpoints(tmp_path).epochs() == [2]
    other = standing(4)._replace(best_score=7.0)
    for written in (standing(3), other):
        checkpoints.save(written)
    assert Checkpoints(tmp_path).epochs() == [3, 4]
    assert bits(Checkpoints(tmp_path).restore(standing(0))) == bits(other)


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(ValueError, match=r"there is no checkpoint in .*checkpoints$"):
        Checkpoints(tmp_path / "checkpoints").restore(standing(0))
    for epoch in (2, 4):
        Checkpoints(tmp_path).save(standing(epoch))
    with pytest.raises(ValueError, match=r"there is no checkpoint of epoch 3 in .*, only of 2 and 4$"):
        Checkpoints(tmp_path).restore(standing(0), 3)
    with pytest.raises(ValueError, match=r"there is no checkpoint of epoch 0 in .*, only of 2 and 4$"):
        Checkpoints(tmp_path).best(standing(0).best, 0)
    assert Checkpoints(tmp_path).epochs() == [2, 4]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"sizes": (4, 2)}, r"state\.params\['W'\] is float64\[3, 2\], but float64\[4, 2\] is wanted"),
        ({"update": optax.sgd(0.1)}, r"state\.opt_state\[0\]\.count is int32\[\], but none is wanted"),
        ({"update": optax.sgd(0.1, momentum=0.9)}, r"state\.opt_state\[0\]\.trace\['W'\] is not there, but float64"),
    ],
    ids=["sizes", "less", "more"],
)
def test_a_checkpoint_of_another_model_is_named_by_its_leaf_and_kept(tmp_path, other, sentence):
    for epoch in (2, 4):
        Checkpoints(tmp_path).save(standing(epoch))
    before = listing(tmp_path)
    with pytest.raises(ValueError, match=rf"the checkpoint of epoch 4 in .* is of another model: {sentence}"):
        Checkpoints(tmp_path).restore(standing(0, **other))
    assert listing(tmp_path) == before


def test_best_parameters_of_another_precision_are_not_taken(tmp_path):
    Checkpoints(tmp_path).save(standing(2))
    like = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), standing(0).best)
    with pytest.raises(ValueError, match=r"of another model: best\['W'\] is float64\[3, 2\], but float32\[3, 2\] is"):
        Checkpoints(tmp_path, reader=True).best(like)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints of epochs 1 and 2, to be copied."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for epoch in (1, 2):
        checkpoints.save(standing(epoch))
    return folder


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def outcome(folder):
    """What restoring gives: damaged, by the sentence that it is to get, or the epoch that was restored exactly."""
    there = Checkpoints(folder).epochs()
    try:
        found = Checkpoints(folder).restore(standing(0))
    except ValueError as error:
        sentence = r"the checkpoint of epoch 2 in \S+ is damaged \([^\n]+\); --checkpoint 1 takes the one before it"
        return "damaged" if re.fullmatch(sentence, str(error)) else str(error)
    epoch = there[-1]
    assert bits(found) == bits(standing(epoch))
    return epoch


@pytest.mark.parametrize("damage", [halved, flipped, Path.unlink], ids=["halved", "flipped", "deleted"])
def test_damage_of_any_file_is_found_or_does_no_harm(two, tmp_path, damage):
    """A checkpoint without what says that it is whole is none, and then the one before is the last."""
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
    assert "2/about/metadata" in outcomes  # for the test below
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
def test_no_byte_beside_the_arrays_can_change_unseen(two, tmp_path, old, new):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    path = folder / "2" / "about" / "metadata"
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    assert outcome(folder) == "damaged"


@pytest.mark.parametrize("part", ["", "state", "best", "about", "state/d"])
def test_a_folder_that_is_missing_is_found_too(two, tmp_path, part):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    shutil.rmtree(folder / "2" / part)
    assert outcome(folder) == ("damaged" if part else 1)


@pytest.mark.parametrize("part", ["state", "best"])
def test_a_part_of_another_checkpoint_is_not_taken_for_its_own(two, tmp_path, part):
    """It is whole, so that orbax finds nothing wrong with it."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    shutil.rmtree(folder / "2" / part)
    shutil.copytree(two / "1" / part, folder / "2" / part)
    with pytest.raises(ValueError, match=r"the checkpoint of epoch 2 .* is damaged \(its digest is not that of its"):
        Checkpoints(folder).restore(standing(0))


def test_the_one_before_a_damaged_checkpoint_can_be_taken_and_gone_on_from(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    shutil.rmtree(folder / "2" / "state" / "d")
    checkpoints = Checkpoints(folder)
    assert bits(checkpoints.restore(standing(0), 1)) == bits(standing(1))
    checkpoints.save(standing(2))
    assert bits(Checkpoints(folder).restore(standing(0))) == bits(standing(2))


def test_where_there_is_none_before_a_damaged_checkpoint_that_is_said(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two / "2", folder / "2")
    halved(folder / "2" / "about" / "metadata")
    with pytest.raises(ValueError, match=r"the checkpoint of epoch 2 .* is damaged \(.*\); there is none before it$"):
        Checkpoints(folder).restore(standing(0))


def test_what_a_kill_left_unfinished_is_no_checkpoint_and_the_next_run_clears_it_away(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    shutil.copytree(two / "2", folder / "3.orbax-checkpoint-tmp")
    (folder / "3.orbax-checkpoint-tmp" / "commit_success.txt").unlink()
    assert Checkpoints(folder, reader=True).epochs() == [1, 2]
    assert (folder / "3.orbax-checkpoint-tmp").is_dir()
    checkpoints = Checkpoints(folder)
    assert checkpoints.epochs() == [1, 2]
    checkpoints.save(standing(3))
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]
    assert bits(Checkpoints(folder).restore(standing(0))) == bits(standing(3))


def test_a_reader_creates_and_deletes_nothing(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    (folder / "3.orbax-checkpoint-tmp").mkdir()
    before = listing(tmp_path)
    reader = Checkpoints(folder, reader=True)
    assert reader.epochs() == [1, 2]
    for epoch in (None, 1):
        reader.best(standing(0).best, epoch)
    assert listing(tmp_path) == before
    none = Checkpoints(tmp_path / "none", reader=True)
    with pytest.raises(ValueError, match=r"there is no checkpoint in .*none$"):
        none.best(standing(0).best)
    assert listing(tmp_path) == before


FULL_DISK = """
import resource, signal, sys
import jax, jax.numpy as jnp, numpy as np
from jaxann.runs.checkpoints import Checkpoints
from jaxann.training.loop import Progress
from jaxann.training.recipe import TrainState

def standing(epoch):
    params = {"W": jnp.asarray(np.random.default_rng(epoch).normal(size=(100, 100)), jnp.float32)}
    return Progress(TrainState(params, (), jax.random.key(epoch), jnp.asarray(epoch)), params, float(epoch), epoch)

def same(a, b):
    return (a.best["W"] == b.best["W"]).all() and a.state.epoch == b.state.epoch and a.best_score == b.best_score

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(standing(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    checkpoints.save(standing(2))
except OSError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(Checkpoints(sys.argv[1]).epochs(), same(Checkpoints(sys.argv[1]).restore(standing(0)), standing(1)))
again = Checkpoints(sys.argv[1])
again.save(standing(2))
print(again.epochs(), same(again.restore(standing(0)), standing(2)))
"""


@pytest.mark.parametrize("size", [0, 10_000], ids=["full", "full after some files"])
def test_a_checkpoint_on_a_full_disk_fails_in_a_sentence_and_leaves_the_one_before(tmp_path, size):
    with python(FULL_DISK, tmp_path / "checkpoints", size) as process:
        out, _ = process.communicate(timeout=60)
    sentence, *rest = out.splitlines()
    assert sentence.startswith(f"the checkpoint of epoch 2 cannot be written in {tmp_path / 'checkpoints'}: ")
    assert rest == ["[1] True", "[1, 2] True"]


def test_without_orbax_a_sentence_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"checkpoints need orbax-checkpoint: pip install 'jaxann\[checkpoints\]'"):
        Checkpoints(tmp_path / "checkpoints")
    assert list(tmp_path.iterdir()) == []


# The record


@pytest.fixture
def clock(monkeypatch):
    """The time that the record sees, in seconds."""
    now = [1000.0]
    monkeypatch.setattr("jaxann.runs.record.monotonic", lambda: now[0])
    return now


def recorded(folder, epoch=None, *, tensorboard=False, seconds=10.0):
    return Record.of(folder, standing(0), epoch, tensorboard=tensorboard, seconds=seconds)


def rows_of(*epochs):
    return [{"epoch": epoch, "loss": 1 / epoch} for epoch in epochs]


def test_a_new_record_begins_where_the_run_does(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    begun = standing(0)
    _, found = Record.of(folder, begun, tensorboard=False, seconds=10.0)
    assert found is begun
    assert folder.rows() == []
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_metrics_are_there_after_each_piece_and_checkpoints_when_it_is_time(tmp_path, clock):
    folder = Folder.create(tmp_path / "run", config={})
    record, _ = recorded(folder, seconds=10.0)
    there = []
    for epoch, now in [(1, 1009), (2, 1010), (3, 1019.9), (4, 1020), (5, 1029), (6, 1045), (7, 1050), (8, 1055)]:
        clock[0] = now
        record.after(standing(epoch), rows_of(epoch))
        assert folder.rows() == rows_of(*range(1, epoch + 1))
        there.append(Checkpoints(folder.path / "checkpoints", reader=True).epochs())
    assert there == [[], [2], [2], [2, 4], [2, 4], [4, 6], [4, 6], [6, 8]]


def test_with_no_seconds_between_them_every_piece_has_a_checkpoint(tmp_path):
    record, _ = recorded(folder := Folder.create(tmp_path / "run", config={}), seconds=0.0)
    for epoch in (1, 2, 3):
        record.after(standing(epoch), rows_of(epoch))
        assert Checkpoints(folder.path / "checkpoints").epochs()[-1] == epoch


def test_a_killed_run_goes_on_at_its_last_checkpoint_and_forgets_the_metrics_after_it(tmp_path, clock):
    folder = Folder.create(tmp_path / "run", config={})
    record, _ = recorded(folder)
    record.after(standing(2), rows_of(1, 2))
    clock[0] += 10
    record.after(standing(4), rows_of(3, 4))
    clock[0] += 9
    record.after(standing(6), rows_of(5, 6))
    record, found = recorded(folder)
    assert bits(found) == bits(standing(4))
    assert folder.rows() == rows_of(1, 2, 3, 4)
    clock[0] += 9
    record.after(standing(6), rows_of(5, 6))
    assert folder.rows() == rows_of(1, 2, 3, 4, 5, 6)
    assert Checkpoints(folder.path / "checkpoints").epochs() == [4]  # counted from when it went on


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path, clock):
    folder = Folder.create(tmp_path / "run", config={})
    record, _ = recorded(folder)
    record.after(standing(2), rows_of(1, 2))
    _, found = recorded(folder)
    assert found.state.epoch == 0
    assert folder.rows() == []


def test_a_run_goes_on_at_the_checkpoint_that_is_named(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    record, _ = recorded(folder, seconds=0.0)
    for epoch in (2, 4):
        record.after(standing(epoch), rows_of(epoch - 1, epoch))
    with pytest.raises(ValueError, match=r"there is no checkpoint of epoch 3 in .*, only of 2 and 4"):
        recorded(folder, 3)
    assert folder.rows() == rows_of(1, 2, 3, 4)
    record, found = recorded(folder, 2, seconds=0.0)
    assert bits(found) == bits(standing(2))
    assert folder.rows() == rows_of(1, 2)
    record.after(standing(4), rows_of(3, 4))
    assert Checkpoints(folder.path / "checkpoints").epochs() == [2, 4]


def ended(folder, epochs, *, plots, tensorboard=False, counts=None):
    record, _ = recorded(folder, tensorboard=tensorboard, seconds=1e9)
    if epochs:
        record.after(standing(epochs), rows_of(*range(1, epochs + 1)))
    record.end(standing(epochs), {"epoch": epochs, "accuracy": 0.5}, counts, ["a", "$b"], plots=plots)
    record.close()
    return record


@pytest.mark.parametrize("counts", [None, np.array([[3, 1], [0, 2]])], ids=["numbers", "classes"])
def test_at_the_end_there_are_a_checkpoint_a_result_and_pictures(tmp_path, counts):
    folder = Folder.create(tmp_path / "run", config={})
    ended(folder, 3, plots=True, counts=counts)
    assert folder.json("result") == {"epoch": 3, "accuracy": 0.5}
    assert bits(Checkpoints(folder.path / "checkpoints").restore(standing(0))) == bits(standing(3))
    pictures = {path.name: path.read_bytes() for path in folder.path.glob("*.png")}
    assert sorted(pictures) == (["curves.png"] if counts is None else ["confusion.png", "curves.png"])
    for content in pictures.values():
        assert content.startswith(PNG)
        assert content.rstrip().endswith(b"IEND\xaeB`\x82")


def test_pictures_are_only_made_when_they_are_asked_for(tmp_path):
    ended(folder := Folder.create(tmp_path / "run", config={}), 3, plots=False, counts=np.eye(2, dtype=int))
    assert list(folder.path.glob("*.png")) == []


def test_a_run_that_was_done_already_ends_again_without_another_checkpoint(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    ended(folder, 3, plots=False)
    before = listing(folder.path / "checkpoints")
    record, found = recorded(folder)
    record.end(found, {"epoch": 3}, None, [], plots=True)
    assert listing(folder.path / "checkpoints") == before
    assert (folder.path / "curves.png").exists()
    assert folder.json("result") == {"epoch": 3}


def test_tensorboard_has_the_scalars_when_it_is_asked_for(tmp_path):
    folder = Folder.create(tmp_path / "run", config={})
    ended(folder, 3, plots=False, tensorboard=True)
    (events,) = (folder.path / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents.")
    assert events.read_bytes().count(b"loss") == 3
    assert b"epoch" not in events.read_bytes()
    other = Folder.create(tmp_path / "other", config={})
    ended(other, 3, plots=False)
    assert not (other.path / "tensorboard").exists()


@pytest.mark.parametrize(
    ("missing", "wanted", "sentence"),
    [
        ("orbax.checkpoint", {}, r"a run folder needs orbax: pip install 'jaxann\[checkpoints\]'$"),
        (
            "tensorboardX",
            {"tensorboard": True},
            r"needs tensorboardX: pip install 'jaxann\[logging\]' \(or give --no-tensorboard\)$",
        ),
        (
            "matplotlib.figure",
            {"plots": True},
            r"needs matplotlib: pip install 'jaxann\[plots\]' \(or give --no-plots\)$",
        ),
    ],
)
def test_what_a_record_needs_and_is_missing_is_named_with_how_to_get_it(monkeypatch, missing, wanted, sentence):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=sentence):
        require_packages(**{"plots": False, "tensorboard": False, **wanted})
    if wanted:
        require_packages(plots=False, tensorboard=False)


def test_where_everything_is_installed_nothing_is_said():
    assert require_packages(plots=True, tensorboard=True) is None


# The pictures


def drawn(figure):
    """The figure's axes, once it has been drawn without a warning."""
    figure.canvas.draw()
    return figure.axes


def test_curves_have_losses_on_the_left_and_scores_on_the_right():
    rows = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 3, 4)]
    for row in rows[1::2]:
        row |= {"validation_loss": 2 / row["epoch"], "validation_accuracy": 0.1 * row["epoch"]}
    losses, scores = drawn(plot_curves(rows))
    lines = {line.get_label(): line.get_xydata().tolist() for axes in (losses, scores) for line in axes.lines}
    assert [line.get_label() for line in losses.lines] == ["loss", "validation_loss"]
    assert [line.get_label() for line in scores.lines] == ["validation_accuracy"]
    assert lines["loss"] == [[epoch, 1 / epoch] for epoch in (1, 2, 3, 4)]
    assert lines["validation_loss"] == [[2, 1.0], [4, 0.5]]
    assert lines["validation_accuracy"] == [[2, 0.1 * 2], [4, 0.1 * 4]]
    assert (losses.get_yscale(), scores.get_yscale()) == ("log", "linear")
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["loss", "validation_loss"]
    assert losses.get_xlabel() == scores.get_xlabel() == "epoch"


@pytest.mark.parametrize("loss", [0.0, -0.5])
def test_losses_that_have_no_logarithm_are_drawn_on_a_plain_scale(loss):
    (axes,) = drawn(plot_curves([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": loss}]))
    assert axes.get_yscale() == "linear"


def test_curves_without_rows_are_refused():
    with pytest.raises(ValueError, match="the run has no metrics to draw"):
        plot_curves([])


def test_the_confusion_matrix_has_true_classes_down_and_predicted_ones_across():
    counts = np.array([[8, 1, 1], [0, 2, 2], [0, 0, 0]])  # of a class without examples too
    (axes,) = drawn(plot_confusion(counts, ["a", "b$c$", "c" * 40]))
    texts = {text.get_position(): text for text in axes.texts}
    assert {place: text.get_text() for place, text in texts.items()} == {
        (column, row): str(counts[row, column]) for row in range(3) for column in range(3)
    }
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0.1, 0.1], [0, 0.5, 0.5], [0, 0, 0]])
    assert texts[0, 0].get_color() == "white"
    assert texts[1, 0].get_color() == texts[1, 1].get_color() == "black"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", r"b\$c\$", "c" * 20]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")


@pytest.mark.parametrize(
    "picture", [lambda: plot_curves([{"epoch": 1, "loss": 1.0}]), lambda: plot_confusion(np.eye(2), ["a", "b"])]
)
def test_without_matplotlib_a_sentence_says_how_to_install_it(monkeypatch, picture):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pictures need matplotlib: pip install 'jaxann\[plots\]'"):
        picture()

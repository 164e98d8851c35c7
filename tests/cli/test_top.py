"""The networks that a sweep retrains: run folders that predict what the sweep scored, and that a later sweep keeps."""

import json
import re
import shutil
import signal
import sys

import jax
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, r2_score
from support.programs import call
from support.progress import listing
from support.runs import BARE, call_predict, call_train, read_rows
from support.sweeps import GRID, QUICK, call_sweep

import jaxann
from jaxann.cli import sweep, top
from jaxann.data import load_dataset
from jaxann.runs.checkpoints import Checkpoints

NAMES = [f"{rank}-seed{seed}" for rank in (1, 2, 3) for seed in (0, 1)]


@pytest.fixture(scope="module")
def retrained(finished, tmp_path_factory):
    """A finished sweep with the networks of its three best combinations, only to be read, and what it printed."""
    out = shutil.copytree(finished, tmp_path_factory.mktemp("retrained") / "sweep")
    ended = call_sweep(*GRID, "--out", out, "--top", 3)
    assert ended.code == 0, ended.err
    return out, ended.out


@pytest.fixture
def copy_retrained(retrained, tmp_path):
    """A copy of the sweep with networks that a test may change."""
    return shutil.copytree(retrained[0], tmp_path / "sweep")


def read_json(*path):
    return json.loads(path[0].joinpath(*path[1:]).read_text())


def test_each_network_predicts_exactly_what_the_sweep_scored(retrained):
    out, printed = retrained
    sentence = f"each of these networks is a run folder in {out}/top, such as 1-seed0 for line 1 and seed 0"
    assert printed.splitlines()[-1] == sentence
    assert sorted(path.name for path in (out / "top").iterdir()) == NAMES
    test, classes = load_dataset("iris", scaling="none", seed=0).test, load_dataset("iris").classes
    best = [line.split()[:2] for line in (out / "table.txt").read_text().splitlines()[1:4]]
    for name, row in zip(NAMES, read_json(out, "top.json"), strict=True):
        network, result = jaxann.load(out / "top" / name), read_json(out, "top", name, "result.json")
        assert network.predict(test.x).shape == (30,)
        accuracy = accuracy_score(np.array(classes)[test.t], network.predict(test.x))
        assert accuracy == result["accuracy"] == result["scores"]["accuracy"]["network"] == row["test_score"]
        stored = result["scores"]["log_loss"]["network"]
        assert stored == pytest.approx(log_loss(test.t, network.predict_proba(test.x)), rel=1e-9)
        settings = network.settings
        assert [str(settings.learning_rate), settings.activation] == best[int(name[0]) - 1]
        assert (f"seed{settings.seed}", settings.validation) == (name[2:], 0)
        assert network.history["loss"].iloc[-1] == pytest.approx(row["loss"], rel=1e-12)
        assert network.history["epoch"].tolist() == [1, 2, 3, 4] == list(range(1, result["epoch"] + 1))


def test_the_command_line_takes_a_network_as_a_run_folder_and_trains_it_again_but_not_further(copy_retrained):
    path = copy_retrained / "top" / "1-seed1"
    np.savez(copy_retrained / "in.npz", x=load_dataset("iris", scaling="none").test.x)
    assert call_predict(copy_retrained, "top/1-seed1", "--input", "in.npz").out.count("\n") == 31
    assert call_train(copy_retrained, "--config", "top/1-seed1/config.json", *BARE, "--run", "again").code == 0
    assert (copy_retrained / "again" / "data.json").read_bytes() == (path / "data.json").read_bytes()
    params = (jaxann.load(folder).params for folder in (path, copy_retrained / "again"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *params)
    before = listing(path)
    ended = call_train(copy_retrained, "--resume", "top/1-seed1", "--epochs", 9, *BARE)
    assert ended.code == 2
    assert ended.sentence == (
        "train.py: expected a checkpoint from which a run goes on, got that of epoch 4 in top/1-seed1/checkpoints, "
        "which holds the best parameters alone, to predict with"
    )
    assert {name: content for name, (_, content) in listing(path).items()} == {
        name: content for name, (_, content) in before.items()
    }


@pytest.mark.slow
def test_interrupted_and_begun_again_it_keeps_its_networks_and_comes_to_the_same(retrained, copy, trained, monkeypatch):
    """The first network that is stored interrupts the sweep, and the network with a sigmoid is in a later chunk."""
    store, interrupted = sweep.store_network, []

    def store_and_interrupt(*arguments):
        store(*arguments)
        if not interrupted:
            interrupted.append(True)
            signal.raise_signal(signal.SIGINT)  # a second signal would end it at once

    monkeypatch.setattr(sweep, "store_network", store_and_interrupt)
    (copy / "top" / ".1-seed0" / "checkpoints").mkdir(parents=True)  # as a kill leaves it
    ended = call_sweep(*GRID, "--out", copy, "--top", 3)
    assert (ended.code, ended.sentence) == (130, "sweep.py: interrupted while retraining")
    assert "test accuracy" not in ended.out
    assert not (copy / "top.json").exists()
    kept = sorted(path.name for path in (copy / "top").iterdir())
    assert len(kept) == 4
    before = {name: listing(copy / "top" / name) for name in kept}
    monkeypatch.setattr(sweep, "store_network", store)
    trained.clear()
    code, out, _ = call_sweep(*GRID, "--out", copy, "--top", 3)
    assert (code, out) == (0, retrained[1].replace(str(retrained[0]), str(copy)))
    assert len(trained) == 2
    assert sorted(path.name for path in (copy / "top").iterdir()) == NAMES
    assert {name: listing(copy / "top" / name) for name in kept} == before
    for row, other in zip(read_json(copy, "top.json"), read_json(retrained[0], "top.json"), strict=True):
        assert row == {name: pytest.approx(value, rel=1e-9) for name, value in other.items() if name != "settings"} | {
            "settings": other["settings"]
        }
    for name in NAMES:
        params = (jaxann.load(folder / "top" / name).params for folder in (copy, retrained[0]))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *params)


def test_something_else_in_the_place_of_a_network_is_refused(copy_retrained, trained):
    (copy_retrained / "top.json").unlink()
    member, path = read_json(copy_retrained, "top", "2-seed0", "member.json"), copy_retrained / "top" / "2-seed0"
    sentence = (
        f"sweep.py: expected {path} to be the network of this sweep with seed 0, or not to exist, got a folder whose "
        "member.json does not describe that network"
    )
    for content in ("{", "[]", json.dumps(member | {"seed": 1}), json.dumps(member | {"test_score": "high"})):
        (path / "member.json").write_text(content)
        ended = call_sweep(*GRID, "--out", copy_retrained, "--top", 3)
        assert (ended.code, ended.sentence) == (2, sentence)
    shutil.rmtree(path)
    path.mkdir()
    assert call_sweep(*GRID, "--out", copy_retrained, "--top", 3).sentence == sentence
    assert trained == []


def test_scores_without_networks_are_printed_alone(copy_retrained, retrained, trained):
    shutil.rmtree(copy_retrained / "top")  # sweeps of older versions have none
    ended = call_sweep(*GRID, "--out", copy_retrained, "--top", 3)
    assert (ended.code, trained) == (0, [])
    assert ended.out.splitlines() == retrained[1].splitlines()[:-1]


def test_networks_need_orbax_only_where_they_are_stored(copy, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "orbax"] + ["orbax"]:
        monkeypatch.setitem(sys.modules, name, None)
    ended = call_sweep(*GRID, "--out", copy, "--top", 1)
    assert ended.code == 2
    sentence = r"sweep.py: a network that --top keeps in --out needs orbax-checkpoint: pip install 'jaxann\[.*\]'"
    assert re.match(sentence, ended.sentence)
    assert call_sweep(*GRID, "--out", copy).code == 0


def test_a_network_is_retrained_on_all_examples_outside_the_test_part():
    settings = sweep.SweepSettings(dataset="diabetes", hidden=(3,), precision="float64", split=2)
    own = top.make_settings(settings, {"settings": {"validation": 0.3, "hidden": (2,)}, "seed": 5})
    assert (own.seed, own.split, own.validation, own.hidden, own.score) == (5, 2, 0, (2,), "loss")
    task, before = top.prepare_retraining(own), load_dataset("diabetes", validation=0.25, seed=2, scaling="none")
    t = np.concatenate([part.t for part in before[:2]])
    np.testing.assert_allclose(np.sort(task.examples.t[:, 0]), np.sort((t - t.mean()) / t.std()))
    x = np.concatenate([part.x for part in before[:2]])
    np.testing.assert_allclose(task.shown[0].x, (before.test.x - x.mean(axis=0)) / x.std(axis=0), atol=1e-12)
    np.testing.assert_allclose(task.shown[0].t[:, 0], (before.test.t - t.mean()) / t.std())
    np.testing.assert_array_equal(task.shown[1], before.test.t)


@pytest.mark.slow
def test_without_a_folder_nothing_is_stored(tmp_path):
    ended = call(sweep.main, *QUICK, "--seeds", 1, "--top", 1, name="sweep.py", folder=tmp_path)
    assert ended.code == 0
    assert "run folder" not in ended.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("--grid", "label_smoothing=none,0,0.1", "dropout=0,0.2", "--loss", "softmax_cross_entropy"),
        ("--grid", "class_weights=balanced,1-2-3", "validation=0.2,0.3", "scaling=all,feature", "--score", "log_loss"),
        ("--dataset", "diabetes", "--grid", "loss=none,huber", "held_out=0.2,0.3", "--learning-rate", 0.01),
        ("--grid", "init_scale=0.5,1.5", "--devices", 2, "--optimizer", "adam", "--learning-rate", 0.01),
    ],
    ids=["smoothing", "class weights", "numbers", "adam"],
)
def test_whatever_is_swept_its_config_trains_the_network_again(tmp_path, arguments):
    ended = call_sweep(*arguments, "--seeds", 1, "--top", 4 if "adam" not in arguments else 2, "--out", tmp_path / "s")
    assert ended.code == 0, ended.err
    for path in sorted((tmp_path / "s" / "top").iterdir()):
        again = tmp_path / path.name
        assert call_train(tmp_path, "--config", path / "config.json", *BARE, "--run", again).code == 0
        for name in ("data.json", "config.json"):
            changed = {"tensorboard": True, "plots": True} if name == "config.json" else {}
            assert read_json(again, name) | changed == read_json(path, name)
        networks = [jaxann.load(folder) for folder in (path, again)]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10), *(run.params for run in networks)
        )
        result, same = read_json(path, "result.json"), read_json(again, "result.json")
        for score, pair in same["scores"].items():
            assert result["scores"][score] == {who: pytest.approx(value, rel=1e-7) for who, value in pair.items()}
        settings = networks[0].settings
        test = load_dataset(settings.dataset, scaling="none", held_out=settings.held_out, seed=0).test
        if not networks[0].classes:
            assert r2_score(test.t, networks[0].predict(test.x)) == pytest.approx(result["r2"], rel=1e-9)
        assert Checkpoints(path / "checkpoints", reader=True).epochs() == [read_rows(path)[-1]["epoch"]]

"""A run of the command line in Python: its network, predictions, history and settings."""

import csv

import jax
import numpy as np
import pandas
import pytest
from sklearn.datasets import load_iris
from support.runs import BARE, QUICK, call_predict, call_train

import jaxann

X, LABELS = load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    assert call_train(path, *QUICK, *BARE, "--precision", "float32", "--run", "a").code == 0
    return path


def test_a_run_predicts_what_the_command_line_predicts(folder):
    run = jaxann.load(folder / "a")
    np.savez(folder / "in.npz", x=X)
    rows = list(csv.DictReader(call_predict(folder, "a", "--input", "in.npz").out.splitlines()))
    jax.config.update("jax_enable_x64", True)  # as in all tests: the run itself is in float32
    assert run.predict(X).tolist() == [row["target"] for row in rows]
    shares = [[float(row[f"P({name})"]) for name in run.classes] for row in rows]
    np.testing.assert_array_equal(run.predict_proba(X), shares)
    assert run.settings.epochs == 20
    assert [len(run.columns), run.target] == [4, "target"]
    assert {leaf.dtype for leaf in jax.tree.leaves(run.params)} == {np.dtype("float32")}
    jaxann.save(folder / "network.npz", run.model, run.params)
    assert jaxann.load(folder / "network.npz").model == run.model == jaxann.load(folder / "a").model


def test_the_history_is_a_row_for_each_epoch(folder):
    history = jaxann.load(folder / "a").history
    assert history["epoch"].tolist() == list(range(1, 21))
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_a_frame_has_the_columns_by_name(folder):
    run = jaxann.load(folder / "a")
    frame = pandas.DataFrame(X, columns=run.columns).assign(id=range(150))
    np.testing.assert_array_equal(run.predict(frame[frame.columns[::-1]]), run.predict(X))
    for change, sentence in (
        (
            frame.drop(columns=run.columns[1]),
            "in the features, got a table that lacks sepal width",
        ),
        (
            pandas.concat([frame, frame.iloc[:, :1]], axis=1),
            "column of the table, got the name 'sepal length .* 2 of",
        ),
        (frame.iloc[:0], "expected at least one row in the table, got none"),
        (
            frame.assign(**{run.columns[2]: "long"}),
            "in the features, row 1, column petal length .* 'long'",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            run.predict(change)


def test_what_is_no_run_and_what_does_not_fit_is_refused(folder, tmp_path):
    run = jaxann.load(folder / "a")
    with pytest.raises(ValueError, match=r"expected features of shape \(N, 4\): sepal .*; got shape \(150, 3\)"):
        run.predict(X[:, :3])
    with pytest.raises(ValueError, match=r"expected the folder of a run, with a config\.json in it, got"):
        jaxann.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"the folder of a run of jaxann train, with a data\.json in it, got"):
        jaxann.load(tmp_path)
    (tmp_path / "data.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"version": "999.0"}')
    with pytest.raises(ValueError, match=r"expected a run of jaxann .* or older, got one of 999.0 in"):
        jaxann.load(tmp_path)

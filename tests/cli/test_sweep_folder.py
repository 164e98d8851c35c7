"""Folders of sweeps as a user of the program sweep meets them: gone on with after a kill or Ctrl-C, and refused."""

import json
import re
import signal
import time

import jax
import numpy as np
import pytest
from sklearn.datasets import load_iris
from support.programs import end, start
from support.runs import read_rows
from support.sweeps import GRID, QUICK, assert_same_members, call_sweep

from jaxann.cli import summary
from jaxann.cli.sweep_folder import member_key
from jaxann.runs.folder import Folder
from jaxann.runs.plots import plot_scores


def read_members(out):
    return read_rows(out, "members.jsonl")


def wait_for_lines(process, out, count):
    while not (out / "members.jsonl").exists() or (out / "members.jsonl").read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_a_finished_sweep_is_not_trained_again(copy, trained):
    before = (copy / "members.jsonl").read_bytes()
    code, out, _ = call_sweep(*GRID, "--out", copy)
    assert (code, trained) == (0, [])
    assert out == (copy / "table.txt").read_text()
    assert (copy / "members.jsonl").read_bytes() == before


def test_a_line_that_a_kill_cut_short_is_trained_again(copy, finished, trained):
    (copy / "members.jsonl").write_bytes((finished / "members.jsonl").read_bytes()[:-9])
    assert call_sweep(*GRID, "--out", copy).code == 0
    assert [member_key(member) for member in trained] == [member_key(read_members(finished)[-1])]
    assert_same_members(read_members(copy), read_members(finished))
    assert (copy / "table.txt").read_text() == (finished / "table.txt").read_text()


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"settings": {}, "seed": 0}', "3"])
def test_a_damaged_line_is_refused(copy, line):
    with (copy / "members.jsonl").open("a") as file:
        file.write(f"{line}\n")
    sentence = f"{copy}/members.jsonl is damaged: line 13 does not describe a network of this sweep"
    assert call_sweep(*GRID, "--out", copy) == (2, "", f"sweep.py: {sentence}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--seeds", 3), "expected --seeds to be 2, as in the sweep in .*, got 3"),
        (("--epochs", 5), "expected --epochs to be 4, as in the sweep in .*, got 5"),
        (("--grid", "learning_rate=0.1"), r"expected --grid to be \{'learning_rate': \[0.1, 1e\+200, 1.0\], .*, got"),
        (("--split", 3), "expected --split to be 0, as in the sweep in .*, got 3"),
    ],
)
def test_other_settings_are_refused(copy, arguments, sentence):
    code, out, err = call_sweep(*GRID, "--out", copy, *arguments)
    assert (code, out) == (2, "")
    assert re.match(f"sweep.py: {sentence}", err), err
    Folder(copy).close()  # it is free again


def test_a_second_line_of_a_network_is_refused(copy):
    first = (copy / "members.jsonl").read_text().splitlines()[0]
    with (copy / "members.jsonl").open("a") as file:
        file.write(f"{first}\n")
    sentence = f"{copy}/members.jsonl is damaged: line 13 does not describe a network of this sweep"
    assert call_sweep(*GRID, "--out", copy) == (2, "", f"sweep.py: {sentence}\n")


def test_a_folder_continues_only_with_the_same_random_numbers(copy):
    partitionable = jax.config.jax_threefry_partitionable
    try:
        jax.config.update("jax_threefry_partitionable", not partitionable)
        code, out, err = call_sweep(*GRID, "--out", copy)
    finally:
        jax.config.update("jax_threefry_partitionable", partitionable)
    assert (code, out) == (2, "")
    assert re.match("sweep.py: expected JAX to draw random numbers by .*, as in the sweep in .*, got ", err)


@pytest.mark.parametrize("content", ["5", "[1]", '{"a": 1}', "[{}]", '[{"settings": {}, "seed": 0}]'])
def test_damaged_scores_of_the_test_part_are_refused(copy, content):
    (copy / "top.json").write_text(content)
    ended = call_sweep(*GRID, "--out", copy, "--top", 1)
    assert ended.code == 2
    assert ended.sentence == f"sweep.py: {copy}/top.json is damaged: expected a row for each network"


def test_other_data_are_refused(tmp_path):
    x, t = load_iris(return_X_y=True)
    arguments = ("--dataset", tmp_path / "table.npz", "--seeds", 1, "--out", tmp_path / "out", "--no-plots")
    np.savez(tmp_path / "table.npz", x=x, t=t)
    assert call_sweep(*arguments).code == 0
    x[3, 2] += 1
    np.savez(tmp_path / "table.npz", x=x, t=t)
    sentence = f"expected the data with which {tmp_path}/out was started, got different data"
    assert call_sweep(*arguments) == (2, "", f"sweep.py: {sentence}\n")


def test_a_folder_of_something_else_or_in_use_or_of_a_later_version_is_refused(copy, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    sentence = f"expected {tmp_path}/full to be a new folder or that of a sweep, got a folder with other files"
    assert call_sweep(*GRID, "--out", tmp_path / "full") == (2, "", f"sweep.py: {sentence}\n")
    held = Folder(copy)
    ended = call_sweep(*GRID, "--out", copy)
    held.close()
    assert ended.code == 2
    assert ended.err.startswith(f"sweep.py: {copy} is in use: another process")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"version": "999.0"}))
    ended = call_sweep(*GRID, "--out", copy)
    assert ended.code == 2
    assert re.search(r"got one of 999\.0 in .*config\.json$", ended.sentence)
    del config["version"]  # older versions of jaxann stored none
    (copy / "config.json").write_text(json.dumps(config))
    assert call_sweep(*GRID, "--out", copy).code == 0


@pytest.mark.slow
def test_killed_and_begun_again_it_comes_to_the_same(finished, tmp_path, trained):
    """It is killed between its two groups of members, of which the second takes about a second to compile."""
    out = tmp_path / "killed"
    process = start("sweep.py", *QUICK, *GRID, "--out", out)
    wait_for_lines(process, out, 1)
    process.kill()
    process.communicate()
    before = (out / "members.jsonl").read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    assert 1 <= before.count(b"\n") < 12
    assert not (out / "table.txt").exists()
    assert call_sweep(*GRID, "--out", out)[:2] == (0, (finished / "table.txt").read_text())
    assert (out / "members.jsonl").read_bytes().startswith(before)
    assert len(trained) == 12 - before.count(b"\n")
    assert_same_members(read_members(out), read_members(finished))


def test_control_c_ends_it_with_what_is_finished(tmp_path):
    out = tmp_path / "out"
    process = start("sweep.py", *QUICK, "--grid", "hidden=2,3,4,5,6,7,8,9", "--seeds", 2, "--out", out)
    wait_for_lines(process, out, 2)
    process.send_signal(signal.SIGINT)
    ended = end(process, timeout=60)
    assert ended.code == 130
    done = len(read_members(out))
    assert 2 <= done < 16
    assert re.search(rf"^sweep.py: interrupted after {done} of 16 networks$", ended.err, re.MULTILINE)
    head, *lines = ended.out.splitlines()
    assert head.startswith("hidden  validation accuracy")
    assert len(lines) == (done + 1) // 2
    assert not (out / "table.txt").exists()


def test_the_picture_has_a_line_for_each_other_setting(finished, copy, monkeypatch):
    assert (finished / "sweep.png").read_bytes().startswith(b"\x89PNG")
    drawn, figures = [], []

    def watch(lines, x, y, *, lower_is_better):
        assert not lower_is_better
        drawn.append((lines, x, y))
        figures.append(plot_scores(lines, x, y))
        return figures[-1]

    monkeypatch.setattr(summary, "plot_scores", watch)
    assert call_sweep(*GRID, "--out", copy).code == 0
    ((lines, x, y),) = drawn
    assert (set(lines), x, y) == ({"activation tanh", "activation sigmoid"}, "learning_rate", "validation accuracy")
    for row in read_members(finished):
        scores = lines[f"activation {row['settings']['activation']}"][row["settings"]["learning_rate"]]
        assert scores == [] if row["diverged"] else row["validation_score"] in scores
    assert [line.get_label() for line in figures[0].axes[0].lines] == list(lines)


def test_where_every_network_diverged_there_is_a_table_and_no_top(copy, trained):
    worst = {"validation_loss": None, "validation_score": None, "diverged": True}
    lines = [json.dumps(row | worst) for row in read_members(copy)]
    (copy / "members.jsonl").write_text("\n".join([*lines, ""]))
    code, out, err = call_sweep(*GRID, "--out", copy, "--top", 1)
    assert code == 2
    assert [line.split()[2:] for line in out.splitlines()[1:]] == [["2", "of", "2"]] * 6
    assert err.splitlines()[-1] == "sweep.py: expected --top to be 0 (every network diverged), got 1"
    assert trained == []

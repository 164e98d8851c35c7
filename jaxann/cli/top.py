"""The networks that a sweep retrains on the training and validation parts together, each kept as a run folder."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

from jaxann.cli.description import DataDescription, describe_origin
from jaxann.cli.members import Row, smooth_targets
from jaxann.cli.report import describe_result, measure_scores
from jaxann.cli.scorer import Scorer
from jaxann.cli.settings import Settings
from jaxann.cli.sweep_folder import member_key, parse_row
from jaxann.cli.task import Task, make_examples, prepare
from jaxann.runs.checkpoints import Checkpoints
from jaxann.runs.files import read_json, sync_folder
from jaxann.runs.folder import Folder
from jaxann.training.sweep import Outcome


def make_settings(settings: Settings, member: Row) -> Settings:
    """Returns the settings with which `jaxann train` trains the network that a sweep retrains.

    Args:
        settings: The settings of the sweep.
        member: The member, with the "settings" that the grid varies and its "seed".
    """
    common = {name: value for name, value in settings.to_json().items() if name != "version"}
    # Without a validation part all of its examples are in the training part, and no score can choose an epoch.
    own = {"seed": member["seed"], "validation": 0.0, "score": "loss"}
    return Settings(**common | member["settings"] | own)


def prepare_retraining(settings: Settings) -> Task:
    """Returns the task that `prepare` makes of settings without a validation part, scored on the test part."""
    task = prepare(settings)
    examples = make_examples(task.recipe, task.targets, task.data.test)
    return task._replace(shown=(examples, task.data.test.t))


def find_path(folder: Folder, best: list[Row], member: Row) -> Path:
    """Returns where a sweep keeps a network, such as top/1-seed0 for the best combination and seed 0.

    Args:
        folder: The folder of the sweep.
        best: The settings of the best combinations, the best first.
        member: The member, whose settings are among them.
    """
    return folder.path / "top" / f"{best.index(member['settings']) + 1}-seed{member['seed']}"


def describe_place(folder: Folder, best: list[Row], rows: list[Row]) -> str | None:
    """Returns a sentence that says where the networks are, or None if the folder has none.

    Args:
        folder: The folder of the sweep.
        best: The settings of the best combinations, the best first.
        rows: The row of each retrained member.
    """
    for row in rows:
        path = find_path(folder, best, row)
        if path.is_dir():
            line = path.name.partition("-")[0]
            example = f"such as {path.name} for line {line} and seed {row['seed']}"
            return f"each of these networks is a run folder in {path.parent}, {example}"
    return None


def store_network(path: Path, settings: Settings, task: Task, row: Row, outcome: Outcome) -> None:
    """Stores a retrained network as a run folder, which appears with all of its files.

    Args:
        path: Where the folder will be.
        settings: The settings of the network, as `make_settings` returns them.
        task: The task that the network was trained on, as `prepare_retraining` returns it.
        row: The row of the network, for member.json.
        outcome: The outcome of the network, measured by `evaluate_retrained`.

    Raises:
        OSError: If the folder cannot be written.
    """
    (y, _, params), epochs = outcome.measured, len(outcome.loss)
    task = task._replace(targets=smooth_targets(settings, task, settings.label_smoothing))
    description, scores = DataDescription.from_task(task), measure_scores(task.targets, task.data, y)
    key = Scorer(task).key
    files = {"config": settings.to_json(), "data": description.to_json(), "member": row}
    files["result"] = describe_result(epochs, epochs, key, scores[key]["network"], scores)
    new = path.with_name(f".{path.name}")
    shutil.rmtree(new, ignore_errors=True)  # a killed sweep may have left it
    try:
        with closing(Folder.create(new, **files)) as folder:
            folder.log([{"epoch": epoch, "loss": float(loss)} for epoch, loss in enumerate(outcome.loss, 1)])
            folder.sync()
            Checkpoints(new / "checkpoints", origin=describe_origin(settings, description)).save_best(params, epochs)
        os.rename(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    sync_folder(path.parent)


def read_row(path: Path, member: Row) -> Row | None:
    """Returns the row of a network that a sweep has stored, or None if its folder does not exist.

    Args:
        path: Where the folder is.
        member: The member.

    Raises:
        ValueError: If there is anything else than this network.
    """
    if not path.exists():
        return None
    try:
        row = parse_row(read_json(path / "member.json"), "test")
        if member_key(row) != member_key(member):
            raise ValueError("expected the row of the member")
    except (ValueError, LookupError, TypeError):
        raise ValueError(
            f"expected {path} to be the network of this sweep with seed {member['seed']}, or not to exist, got a "
            "folder whose member.json does not describe that network"
        ) from None
    return row | member

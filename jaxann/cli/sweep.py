"""Trains many networks on one table of data, and shows which settings do best on its validation part.

Every combination of the grid's values is trained from several seeds on the same parts of the data. The score is the one
after the last epoch, without early stopping. The test part is used only with --top: once, for the best combinations.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxann.cli.columns import print_columns
from jaxann.cli.description import DataDescription
from jaxann.cli.errors import program_name, require_optional_packages
from jaxann.cli.grid import TRAIN_ONLY, parse_grid, written_names
from jaxann.cli.members import Row, make_tasks, task_key, train_members
from jaxann.cli.presets import SWEEP_PRESETS, describe_presets, find_preset
from jaxann.cli.program import run_program
from jaxann.cli.scorer import Scorer
from jaxann.cli.scores import Score
from jaxann.cli.settings import ScoreKey, Settings
from jaxann.cli.signals import catch_signals
from jaxann.cli.summary import format_summaries, plot_summaries, summarize
from jaxann.cli.sweep_folder import member_key, open_folder, parse_row, read_rows
from jaxann.cli.terminal import require_stdout
from jaxann.cli.top import describe_place, find_path, make_settings, prepare_retraining, read_row, store_network
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.runs.checkpoints import describe_generator
from jaxann.runs.files import write_file
from jaxann.runs.folder import Folder
from jaxann.training.devices import cpu_devices
from jaxann.training.sweep import Outcome, combinations


@dataclass(frozen=True)
class SweepSettings(Settings):
    """The settings of a sweep. Those of `jaxann train` that concern a single run are refused."""

    validation: float = 0.25
    """Share of the examples outside the test part that is set apart as the validation part, which gives the scores."""
    score: ScoreKey = "accuracy"
    """Score on the validation part that ranks the combinations. For numbers, accuracy stands for R².
    Precision, recall and f1 are those of the second of two classes, and means over more classes."""
    devices: int | None = None
    """Number of devices over which the networks are spread. By default all devices."""
    grid: tuple[str, ...] = ()
    """Settings to vary, and their values, such as learning_rate=0.01,0.1 hidden=64-64,128 clip=none,1."""
    seeds: int = 5
    """Number of networks for each combination, with the seeds from --seed on. All have the same parts of the data."""
    top: int = 0
    """Number of best combinations that are scored on the test part. By default the test part is not used.
    They are first trained again, on the training and validation parts together. The folder of --out keeps them
    as run folders, such as top/1-seed0 for the best combination and seed 0."""
    budget: float | None = None
    """Most memory to use, in GiB. By default all memory of a GPU, and no limit on a CPU."""
    out: Path | None = None
    """Folder for the results. If it holds this sweep already, the sweep goes on. By default nothing is stored."""
    plots: bool = True
    """Whether the folder also gets a picture."""

    def check(self) -> None:
        """Checks all that can be checked without the data.

        Raises:
            SettingError: If a setting is out of range, has no effect without another one, or is only for a single run.
        """
        for name in set(TRAIN_ONLY) - {"devices", "cache"}:
            if getattr(self, name) != getattr(Settings(), name):
                raise SettingError(name, "only for `jaxann train`", getattr(self, name))
        validate_number("validation", self.validation, above=0, below=1, note="a share on which networks are scored")
        validate_number("seeds", self.seeds, least=1, integer=True)
        validate_number("top", self.top, least=0, integer=True)
        if self.budget is not None:
            validate_number("budget", self.budget, above=0)
        super().check()
        validate_number("seeds", self.seeds, most=2**32 - self.seed, note="the number of seeds from --seed on")

    def to_json(self) -> Row:
        """Returns the settings that the members have in common, as `jaxann train --config` takes them."""
        own = {field.name for field in fields(SweepSettings)} - {field.name for field in fields(Settings)}
        return {name: value for name, value in super().to_json().items() if name not in {*own, *TRAIN_ONLY, "plots"}}


def find_devices(settings: SweepSettings) -> Sequence[Any]:
    """Returns the devices over which the networks are spread.

    Raises:
        SettingError: If the settings ask for more devices than this process has.
    """
    cpu_devices(settings.devices or os.cpu_count() or 1)
    devices = jax.local_devices()
    if settings.devices is not None:
        validate_number("devices", settings.devices, most=len(devices), note="the number of devices")
    return devices[: settings.devices]


def run(settings: SweepSettings) -> tuple[list[Row], list[int]]:
    """Trains the members that have not been trained yet, and prints and stores the results.

    Returns:
        A row for each member, and the numbers of the signals that ended the sweep.

    Raises:
        ValueError: If a setting is out of range, or settings, data and folder do not fit together.
        ImportError: If matplotlib, which draws the picture, or orbax, which stores networks, is missing.
    """
    settings = replace(settings, split=settings.seed if settings.split is None else settings.split)
    settings.check()
    grid = parse_grid(settings.grid)
    candidates = combinations(**grid)
    validate_number("top", settings.top, most=len(candidates), note="the number of combinations in the grid")
    if settings.out is not None and settings.plots:
        require_optional_packages("a picture", (), {"matplotlib.figure": "--no-plots"})
    if settings.out is not None and settings.top:
        require_optional_packages("a network that --top keeps in --out", ("orbax.checkpoint",), {})
    budget = None if settings.budget is None else settings.budget * 2**30
    train = partial(train_members, settings, devices=find_devices(settings), budget=budget)
    tasks = make_tasks(settings, candidates)
    score, *_ = (Scorer(task, settings.score).metric for task in tasks.values())  # raises where it does not fit
    task = next(iter(tasks.values()))
    print_columns(task.data)
    folder = None
    if settings.out is not None:
        data = DataDescription.from_task(task)
        fingerprint = data._replace(shape=()).fingerprint()  # without the shape, as older sweeps stored it
        sweep = {"grid": grid, "seeds": settings.seeds, "data": data.digest, "description": fingerprint}
        sweep["random"] = describe_generator()
        folder = open_folder(settings.out, settings.to_json(), sweep)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    members = [{"settings": swept, "seed": seed} for swept in candidates for seed in seeds]
    with closing(folder) if folder else nullcontext(), catch_signals() as signals:
        rows = train_rest(lambda rest: train(rest, tasks, "validation"), members, folder, score, signals)
        summaries = sorted(summarize(rows, candidates, "validation"), key=lambda summary: summary.rank(score))
        table = format_summaries(summaries, "validation", score)
        if signals:
            print(table)
            print(f"{program_name()}: interrupted after {len(rows)} of {len(members)} networks", file=sys.stderr)
            return rows, signals
        if folder:
            write_file(folder.path / "table.txt", f"{table}\n")
            if settings.plots:
                plot_summaries(summaries, grid, folder.path / "sweep.png", score)
        print(table)
        if settings.top:
            best = [summary.settings for summary in summaries[: settings.top] if summary.scores]
            tests = retrain(settings, best, members, train, folder, signals)
            if signals:
                print(f"{program_name()}: interrupted while retraining", file=sys.stderr)
                return rows, signals
            print("\nthe best, retrained on the training and validation parts:")
            print(format_summaries(summarize(tests, best, "test"), "test", score))
            if folder and (place := describe_place(folder, best, tests)):
                print(place)
    return rows, signals


def train_rest(
    train: Callable[[list[Row]], Iterator[tuple[Row, Outcome]]],
    members: list[Row],
    folder: Folder | None,
    score: Score,
    signals: list[int],
) -> list[Row]:
    """Trains the members that have no row in the folder yet, and stores a row for each as soon as it is trained.

    Args:
        train: A function that trains members, as `train_members` does.
        members: All members of the sweep.
        folder: The folder of the sweep.
        score: The score, of which the progress bar shows the best value.
        signals: The signals received so far. A signal ends the training after the current chunk of members.

    Returns:
        The rows of all members that have been trained.
    """
    path = folder.path / "members.jsonl" if folder else Path(os.devnull)
    rows = read_rows(path, members) if folder else []
    trained = set(map(member_key, rows))
    rest = [member for member in members if member_key(member) not in trained]
    bar = tqdm(total=len(members), initial=len(rows), unit="network", disable=None)
    with path.open("a", encoding="utf-8") as file, bar:
        for row, outcome in train(rest):
            file.write(f"{json.dumps(row, allow_nan=False)}\n")
            file.flush()
            rows.append(row)
            values = (row["validation_score"] for row in rows if not row["diverged"])
            best = max(values, key=score.orient, default=np.nan)
            bar.set_postfix({f"best validation_{score.key}": score.format(best)})
            bar.update()
            if signals and not outcome.more:
                break
    return rows


def retrain(
    settings: SweepSettings,
    best: list[Row],
    members: list[Row],
    train: Callable[..., Iterator[tuple[Row, Outcome]]],
    folder: Folder | None,
    signals: list[int],
) -> list[Row]:
    """Trains members again on the training and validation parts together, and scores them on the test part.

    Args:
        settings: The settings of the sweep.
        best: The settings of the best combinations, the best first.
        members: All members of the sweep, of which those of the best combinations are trained again.
        train: A function of members, their tasks and the part on which they are scored, as `train_members` is.
        folder: The folder of the sweep, which stores the scores, and each network unless it diverged. A network that it
            holds already is not trained again, and with the scores it has all networks.
        signals: The signals received so far. A signal ends the training after the current chunk of members.

    Returns:
        A row for each member that has been trained.

    Raises:
        SettingError: If there are no members, or the folder holds test scores of other members. It is a ValueError.
        ValueError: If the folder holds something else where a network is to be stored.
    """
    chosen = [member for swept in best for member in members if member["settings"] == swept]
    by_key = {member_key(member): member for member in chosen}
    if not by_key:
        raise SettingError("top", "to be 0 (every network diverged)", settings.top)
    if folder and (folder.path / "top.json").exists():
        stored = folder.json("top")
        try:
            rows = [parse_row(row, "test") for row in stored]
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"{folder.path / 'top.json'} is damaged: expected a row for each network") from None
        if sorted(map(member_key, rows)) != sorted(by_key):
            expectation = f"as before, because {folder.path / 'top.json'} already holds scores on the test part"
            raise SettingError("top", expectation, settings.top)
        return [row | by_key[member_key(row)] for row in rows]
    found = [read_row(find_path(folder, best, member), member) for member in chosen] if folder else []
    rows = [row for row in found if row is not None]
    trained, tasks = set(map(member_key, rows)), {}
    rest = [member for key, member in by_key.items() if key not in trained]
    for member in rest:
        key = task_key(replace(settings, **member["settings"]), member["settings"])
        if key not in tasks:
            tasks[key] = prepare_retraining(make_settings(settings, member))
    bar = tqdm(desc="retraining", total=len(chosen), initial=len(rows), unit="network", disable=None)
    with bar:
        for row, outcome in train(rest, tasks, "test"):
            if folder and not row["diverged"]:
                own, key = make_settings(settings, row), task_key(replace(settings, **row["settings"]), row["settings"])
                store_network(find_path(folder, best, row), own, tasks[key], row, outcome)
            rows.append(row)
            bar.update()
            if signals and not outcome.more:
                break
    rows.sort(key=lambda row: list(by_key).index(member_key(row)))
    if folder and len(rows) == len(chosen):
        folder.write("top", rows)
    return rows


def main() -> int:
    """Trains the networks that the command line describes.

    The first signal, such as Ctrl-C, ends the sweep after the current chunk of networks; a second one ends it at once.

    Returns:
        The exit code: 0, or 2 after a sentence on stderr for bad input or if the output cannot be written. A sweep that
        a signal ended returns 128 + the signal's number: 130 for Ctrl-C.
    """

    def work(settings: SweepSettings, spelling: dict[str, str]) -> int:
        settings = replace(settings, preset=None)  # its values are the defaults with which these were parsed
        spelling.update(written_names(settings.grid))
        if settings.out is None:
            require_stdout("--out")
        _, signals = run(settings)
        return 128 + signals[0] if signals else 0

    return run_program(
        SweepSettings,
        f"{__doc__}\n{describe_presets(SWEEP_PRESETS)}",
        work,
        find_defaults=lambda settings: find_preset(settings, SWEEP_PRESETS),
        positional="dataset",
    )

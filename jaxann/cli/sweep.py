"""Trains many networks on one table of data, and says which settings do best on its validation part.

Every combination of the grid's values is trained from several seeds on the same parts; what counts is the score after
the last epoch, without early stopping. The test part is looked at only with --top, once, for the best combinations.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from itertools import takewhile
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from jaxann.cli.grid import TRAIN_ONLY, parse_grid
from jaxann.cli.members import Row, make_tasks, merge_validation, task_key, train_members
from jaxann.cli.settings import Settings as Training
from jaxann.cli.signals import catch_signals
from jaxann.cli.summary import Summary, format_summaries, plot_summaries, summarize
from jaxann.cli.task import DataDescription, Scorer, Task
from jaxann.cli.train import ERRORS
from jaxann.runs.folder import Folder

COLUMNS = ("loss", "validation_loss", "validation_score", "diverged")


@dataclass(frozen=True)
class SweepSettings(Training):
    """What to train, and with which settings. The first are train.py's; those of a single run are not taken."""

    validation: float = 0.25
    """Share of the examples outside the test part that is not trained on, but scored."""
    devices: int | None = None
    """How many devices the networks are spread over; None is all that there are."""
    grid: tuple[str, ...] = ()
    """Settings and their values: learning_rate=0.01,0.1 hidden=64-64,128 clip=none,1."""
    seeds: int = 5
    """Networks for each combination, from --seed on. The parts are the same for all."""
    top: int = 0
    """Retrain so many of the best combinations on the training and validation parts, and score the test part."""
    budget: float | None = None
    """GiB of memory that is not to be exceeded."""
    out: Path | None = None
    """A folder for the results. With one that is there the sweep in it goes on."""
    plots: bool = True
    """In the folder, a picture too."""

    def check(self) -> None:
        """Raises ValueError for settings that are out of range or have no effect."""
        for name in set(TRAIN_ONLY) - {"devices"}:
            if getattr(self, name) != getattr(Training(), name):
                raise ValueError(f"{name} is {getattr(self, name)}, but only train.py takes it")
        if not self.validation:
            raise ValueError(
                f"validation is {self.validation}, but a share above 0 is wanted, for it is what is scored"
            )
        for name, least in {"seeds": 1, "top": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but at least {least} is wanted")
        if self.budget is not None and not 0 < self.budget < inf:
            raise ValueError(f"budget is {self.budget}, but a finite number above 0 is wanted")
        super().check()
        if self.seed + self.seeds > 2**32:
            raise ValueError(f"seeds is {self.seeds}, but from seed {self.seed} on there are {2**32 - self.seed}")

    def to_json(self) -> Row:
        """What the members have in common, as train.py takes it."""
        own = {field.name for field in fields(SweepSettings)} - {field.name for field in fields(Training)}
        return {name: value for name, value in super().to_json().items() if name not in {*own, *TRAIN_ONLY, "plots"}}


def identity(row: Row) -> str:
    """What a member and its row have in common."""
    return json.dumps([row["settings"], row["seed"]], sort_keys=True)


def open_folder(config: SweepSettings, path: Path, stored: Row) -> Folder:
    """The sweep's folder at `path`, new or with the same settings. Raises ValueError where it is something else."""
    from jaxann.runs.folder import Folder

    files = {"config": config.to_json(), "sweep": stored}
    if not (path / "sweep.json").is_file():
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise ValueError(f"{path} is there already, but holds no sweep")
        return Folder.create(path, **files)
    folder = Folder(path)
    try:
        for file, settings in json.loads(json.dumps(files)).items():
            before = dict(folder.json(file))
            for name, now in settings.items():
                if before.get(name) != now:
                    what = f"{name} is {now}, but the sweep in {path} has {before.get(name)}"
                    raise ValueError(f"the data are not those that {path} was begun with" if name == "data" else what)
    except Exception:
        folder.close()
        raise
    return folder


def read_rows(path: Path, members: list[Row]) -> list[Row]:
    """The rows in a file, from which a line that a kill cut short is taken away. Raises ValueError for others' rows."""
    content = path.read_bytes() if path.exists() else b""
    whole, rows, known = content[: content.rfind(b"\n") + 1], [], {identity(member): member for member in members}
    if whole != content:
        os.truncate(path, len(whole))
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append({name: row[name] for name in COLUMNS} | known[identity(row)])
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"{path} is damaged: line {number} tells of no network of this sweep") from None
    return rows


def find_devices(config: SweepSettings) -> Sequence[Any]:
    """The devices that are asked for. Raises ValueError where there are fewer."""
    import jax

    from jaxann.training.devices import cpu_devices

    cpu_devices(config.devices or os.cpu_count() or 1)
    found = jax.local_devices()
    if config.devices is not None and config.devices > len(found):
        raise ValueError(f"devices is {config.devices}, but there are {len(found)}")
    return found[: config.devices]


def run(config: SweepSettings) -> tuple[list[Row], list[int]]:
    """Trains what is not finished yet, prints and stores what came of it; the rows, and the signals that ended it.

    Raises ValueError for what does not fit together, and ImportError for a picture without matplotlib.
    """
    from tqdm import tqdm

    from jaxann.training.sweep import combinations

    config = replace(config, split=config.seed if config.split is None else config.split)
    config.check()
    swept = parse_grid(config.grid)
    combinations = combinations(**swept)
    if config.top > len(combinations):
        raise ValueError(f"top is {config.top}, but the grid has {len(combinations)} combinations")
    if config.out is not None and config.plots and not find_spec("matplotlib"):
        raise ImportError("a picture takes matplotlib: pip install 'jaxann[plots]' (or give --no-plots)")
    how = {"devices": find_devices(config), "budget": config.budget and config.budget * 2**30}
    ready = make_tasks(config, combinations)
    measure = Scorer(task := next(iter(ready.values()))).name
    stored = {"grid": swept, "seeds": config.seeds, "data": DataDescription.of(task).digest}
    folder = None if config.out is None else open_folder(config, config.out, stored)
    seeds = range(config.seed, config.seed + config.seeds)
    members = [{"settings": settings, "seed": seed} for settings in combinations for seed in seeds]
    with closing(folder) if folder else nullcontext(), catch_signals() as signals:
        path = folder.path / "members.jsonl" if folder else Path(os.devnull)
        rows = read_rows(path, members)
        begun = set(map(identity, rows))
        left = [member for member in members if identity(member) not in begun]
        bar = tqdm(total=len(members), initial=len(rows), unit="network", disable=None)
        with path.open("a", encoding="utf-8") as file, bar:
            for row, more in train_members(config, left, ready, how, "validation"):
                file.write(f"{json.dumps(row)}\n")
                file.flush()
                rows.append(row)
                best = max((row["validation_score"] for row in rows if not row["diverged"]), default=np.nan)
                bar.set_postfix({f"best {measure}": f"{best:.3f}"})
                bar.update()
                if signals and not more:
                    break
        found = sorted(summarize(rows, combinations, "validation"), key=Summary.rank)
        print(told := format_summaries(found, "validation", measure))
        if signals:
            print(f"sweep.py: interrupted after {len(rows)} of {len(members)} networks", file=sys.stderr)
            return rows, signals
        if folder:
            (folder.path / "table.txt").write_text(f"{told}\n", encoding="utf-8")
            if config.plots:
                plot_summaries(found, swept, folder.path / "sweep.png", measure)
        if config.top:
            best = [one.settings for one in found[: config.top] if one.scores]
            chosen = [member for member in members if member["settings"] in best]
            tests = retrain(config, chosen, ready, how, folder, signals)
            if signals:
                print("sweep.py: interrupted while retraining", file=sys.stderr)
                return rows, signals
            print("\nthe best, retrained on the training and validation parts:")
            print(format_summaries(summarize(tests, best, "test"), "test", measure))
    return rows, signals


def retrain(
    config: SweepSettings,
    members: list[Row],
    ready: Mapping[Any, Task],
    how: Mapping[str, Any],
    folder: Folder | None,
    signals: list[int],
) -> list[Row]:
    """The rows of members trained anew on the training and validation parts, scored on the test part, and stored.

    Where one of `signals` comes they are those that are done, and not stored. Raises ValueError for none, and where the
    test part has been looked at for others.
    """
    from tqdm import tqdm

    if not members:
        raise ValueError(f"top is {config.top}, but every network diverged")
    if folder and (folder.path / "top.json").exists():
        rows, known = folder.json("top"), {identity(member): member for member in members}
        if {identity(row) for row in rows} != set(known):
            raise ValueError(f"{folder.path / 'top.json'} has scored the test part already, for another number of best")
        return [row | known[identity(row)] for row in rows]
    whole = {}
    for settings in (member["settings"] for member in members):
        each = replace(config, **settings)
        if task_key(each, settings) not in whole:
            whole[task_key(each, settings)] = merge_validation(each, ready[task_key(each, settings)])
    coming = train_members(config, members, whole, how, "test")
    coming = tqdm(coming, "retraining", len(members), unit="network", disable=None)
    rows = [row for row, _ in takewhile(lambda _: not signals, coming)]
    if folder and not signals:
        folder.write("top", rows)
    return rows


def main() -> int:
    """0; after one sentence 2 for bad input; 128 and the signal's number, 130 for Ctrl-C, where a signal ended it.

    A signal ends it after the chunk that is being trained, a second one at once.
    """
    config = tyro.cli(SweepSettings, description=__doc__)
    try:
        _, signals = run(config)
    except ERRORS as error:
        print(f"sweep.py: {error}", file=sys.stderr)
        return 2
    return 128 + signals[0] if signals else 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something to keep, Ctrl-C just ends it
    sys.exit(main())

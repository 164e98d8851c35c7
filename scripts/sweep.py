"""Trains many networks on one table of data, and says which settings do best on its validation part.

Every combination of the grid's values is trained from several seeds on the same parts; what counts is the score after
the last epoch, without early stopping. The test part is looked at only with --top, once, for the best combinations.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from math import inf, isfinite
from pathlib import Path
from threading import Thread
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np
import tyro
from config import ELSEWHERE, fits
from config import Config as Training
from task import Known, Measure, Task, checked, prepare, prepared, recipe, weighted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from jaxann.batches import Examples
    from jaxann.folder import Folder
    from jaxann.sweep import Outcome
    from jaxann.training import Recipe

Row = dict[str, Any]

ERRORS = (ValueError, FloatingPointError, OSError, ImportError)  # of which a sentence is enough
TRAIN_ONLY = ("patience", "evaluate_every", "score", "tensorboard", "checkpoint_seconds", *ELSEWHERE)
ALIKE = ("dataset", "target", "weights", "kind", "seed", "split", "precision", "optimizer_settings", "plots")
NUMBERS = ("learning_rate", "weight_decay", "dropout", "init_scale", "clip")  # of a program that may compute with them
COLUMNS = ("loss", "validation_loss", "validation_score", "diverged")
PREPARED = ("held_out", "validation", "scaling", "loss", "class_weights", "label_smoothing")  # what arrays depend on


@dataclass(frozen=True)
class Config(Training):
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
        for name, least in {"seeds": 1, "top": 0, "devices": 1}.items():
            number = getattr(self, name)
            if number is not None and number < least:
                raise ValueError(f"{name} is {number}, but at least {least} is wanted")
        if self.budget is not None and not 0 < self.budget < inf:
            raise ValueError(f"budget is {self.budget}, but a finite number above 0 is wanted")
        super().check()
        if self.seed + self.seeds > 2**32:
            raise ValueError(f"seeds is {self.seeds}, but from seed {self.seed} on there are {2**32 - self.seed}")

    def to_json(self) -> Row:
        """What the members have in common, as train.py takes it."""
        own = {field.name for field in fields(Config)} - {field.name for field in fields(Training)}
        return {name: value for name, value in super().to_json().items() if name not in {*own, *TRAIN_ONLY, "plots"}}


def values(config: Config) -> dict[str, list[Any]]:
    """The values of each setting in the grid. Raises ValueError for what is none."""
    hints, found = get_type_hints(Config), {}
    known = [field.name for field in fields(Training) if field.name not in (*TRAIN_ONLY, *ALIKE)]
    for text in config.grid:
        given, there, listed = text.partition("=")
        name = given.replace("-", "_")
        if not there or not listed:
            raise ValueError(f"grid has {text!r}, but a setting and its values are wanted: learning_rate=0.01,0.1")
        if name not in known:
            what = f"{name} cannot be swept" if name in hints else f"there is no setting {name}"
            raise ValueError(f"{what}, only {', '.join(known)}")
        if name in found:
            raise ValueError(f"grid has {name} twice")
        found[name] = [value(name, one, hints[name]) for one in listed.split(",")]
        for i, one in enumerate(found[name]):
            if one in found[name][:i]:
                raise ValueError(f"{name} has the value {shown(one)} twice")
    return found


def value(name: str, text: str, hint: Any) -> Any:
    """What `text` stands for, as an annotation has it. Raises ValueError where it stands for no such thing."""

    def readings() -> Iterator[Any]:
        yield from (None, []) if text == "none" else ()
        for number in (float, int):
            for read in (number, lambda text, number=number: [number(part) for part in text.split("-")]):
                with suppress(ValueError):
                    yield read(text)
        yield text

    for reading in readings():
        if fits(reading, hint):
            return tuple(reading) if isinstance(reading, list) else reading
    raise ValueError(f"{name} is {text!r}, but {wanted(hint)} is wanted")


def wanted(hint: Any) -> str:
    """An annotation in words."""
    kind, args = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(map(wanted, args))
    if kind is Literal:
        return " or ".join(args)
    return {float: "a number", int: "a whole number", NoneType: "none"}.get(hint, "one such as 64-32")


def shown(value: Any) -> str:
    """A value as the grid takes it."""
    return "none" if value in (None, ()) else "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def apart(config: Config, settings: Mapping[str, Any]) -> tuple[Config, dict[str, float]]:
    """The config without those of the settings that its program may compute with, and they.

    0 and None are left in: they mean built without.
    """
    known = {*NUMBERS}
    if config.loss == "softmax_cross_entropy":  # of other losses the targets are smoothed
        known.add("label_smoothing")
    if config.precision == "bfloat16":  # in which a traced dropout, a float32, would not be computed
        known.remove("dropout")
    found = {name: float(getattr(config, name)) for name in settings if name in known and getattr(config, name)}
    return replace(config, **dict.fromkeys(found)), found


def place(config: Config, settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells members apart of which each needs a `Task` of its own."""
    base, numbers = apart(config, settings)
    return *(getattr(base, name) for name in PREPARED), "label_smoothing" in numbers


def tasks(config: Config, combinations: list[Row]) -> dict[tuple[Any, ...], Task]:
    """The tasks of all combinations, by `place`. Raises ValueError for combinations that do not fit together."""
    from jaxann.validate import validate_schedule

    found: dict[tuple[Any, ...], Task] = {}
    for settings in combinations:
        each = replace(config, **settings)
        checked(each)
        if place(each, settings) not in found:
            found[place(each, settings)] = prepare(each)
        task = found[place(each, settings)]
        validate_schedule(len(task.data.train.x), each.epochs, each.batch_size)
        made(each, task)
    return found


def made(config: Config, task: Task) -> Recipe:
    """The recipe of a config whose task has the same `place`."""
    targets = task.targets
    if config.loss == "softmax_cross_entropy" and config.label_smoothing is not None:
        targets = replace(targets, smoothing=config.label_smoothing)
    return recipe(config, task.data, targets)


def joined(config: Config, task: Task) -> Task:
    """The task of training on the training and the validation part and showing the test part."""
    from jaxann.data import Part
    from jaxann.targets import Targets

    data, old = task.data, task.targets

    def both(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in (data.train, data.validation)])

    train = Part(both("x"), both("t"), None if data.train.weights is None else both("weights"))
    task = task._replace(
        data=data._replace(train=train, validation=None),
        targets=Targets.of(old.loss, old.classes, float(old.smoothing), train.t),
    )
    examples, shown = (prepared(task.recipe, task.targets, part) for part in (weighted(config, task.data), data.test))
    return task._replace(examples=examples, shown=(shown, data.test.t))


def maker(task: Task, bases: list[Config]) -> Callable[..., Recipe]:
    """What makes the recipe of a member: from the place of its config, and its own numbers."""
    return lambda base, **numbers: made(replace(bases[base], **numbers), task)


def looked(recipe: Recipe, params: Any, examples: Examples) -> tuple[Any, Any]:
    """The outputs for examples, and the loss over them."""
    from jaxann.training import evaluated

    return evaluated(recipe.model, recipe.loss, params, examples)


def trained(
    config: Config, members: Iterable[Row], ready: Mapping[tuple[Any, ...], Task], devices: Sequence[Any], part: str
) -> Iterator[Row]:
    """The members with their losses and scores on the `part` that their tasks show, as they come."""
    from jaxann.sweep import sweep

    runs: dict[tuple[Any, int], list[Row]] = {}
    for member in members:
        each = replace(config, **member["settings"])
        runs.setdefault((place(each, member["settings"]), each.epochs), []).append(member)
    for (key, epochs), here in runs.items():
        task, bases, described = ready[key], [], []
        for member in here:
            base, numbers = apart(replace(config, **member["settings"]), member["settings"])
            if base not in bases:
                bases.append(base)
            described.append({"seed": member["seed"], "base": bases.index(base), **numbers})
        for outcome in sweep(
            maker(task, bases),
            described,
            task.examples,
            epochs=epochs,
            measure=looked,
            given=task.shown[0],
            budget=config.budget and config.budget * 2**30,
            devices=devices,
        ):
            yield here[outcome.place] | scores(outcome, task, part)


def scores(outcome: Outcome, task: Task, part: str) -> Row:
    """What a member came to; None for what is no finite number."""
    (examples, t), (y, loss), score = task.shown, outcome.measured, inf
    if outcome.finite and np.isfinite(y).all():
        with suppress(FloatingPointError), np.errstate(all="ignore"):  # numbers too large are diverged too
            score = Measure(task).score(t, y, examples.weights)
    numbers = {"loss": outcome.loss[-1], f"{part}_loss": loss, f"{part}_score": score}
    finite = {name: float(number) if isfinite(number) else None for name, number in numbers.items()}
    return finite | {"diverged": not isfinite(score)}


class Summary(NamedTuple):
    """A combination of settings, and what its members came to: those that diverged are only counted."""

    settings: Row
    scores: list[float]
    losses: list[float]
    diverged: int

    def rank(self) -> tuple[float, float]:
        """The less the better."""
        return (-float(np.mean(self.scores)), float(np.mean(self.losses))) if self.scores else (inf, inf)


def summaries(rows: list[Row], combinations: list[Row], part: str) -> list[Summary]:
    """Those of the combinations that have rows."""
    found = []
    for settings in combinations:
        here = sorted((row for row in rows if row["settings"] == settings), key=lambda row: row["seed"])
        good = [row for row in here if not row["diverged"]]
        losses = [inf if row[f"{part}_loss"] is None else row[f"{part}_loss"] for row in good]
        if here:
            found.append(Summary(settings, [row[f"{part}_score"] for row in good], losses, len(here) - len(good)))
    return found


def table(found: list[Summary], part: str, measure: str) -> str:
    """A row a combination."""
    rows: list[tuple[str, ...]] = [(*found[0].settings, f"{part} {measure}", f"{part} loss", "diverged")]
    for settings, scores, losses, diverged in found:
        spread = f" ± {np.std(scores, ddof=1):.3f}" if len(scores) > 1 else ""
        means = (f"{np.mean(scores):.3f}{spread}", f"{np.mean(losses):.4f}") if scores else ("", "")
        note = f"{diverged} of {diverged + len(scores)}" if diverged else ""
        rows.append((*map(shown, settings.values()), *means, note))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def draw(found: list[Summary], swept: Mapping[str, list[Any]], path: Path, measure: str) -> None:
    """The scores over the numeric setting with most values, a line for each combination of the others."""
    from jaxann.plots import over

    several = [name for name, values in swept.items() if len(values) > 1]
    numeric = [name for name in several if all(isinstance(value, (int, float)) for value in swept[name])]
    if not several:
        return
    x, lines = max(several, key=lambda name: (name in numeric, len(swept[name]))), {}
    for settings, scores, *_ in found:
        line = ", ".join(f"{name} {shown(settings[name])}" for name in several if name != x)
        lines.setdefault(line, {})[settings[x] if x in numeric else shown(settings[x])] = scores
    over(lines, x, f"validation {measure}").savefig(path, dpi=150)


def identity(row: Row) -> str:
    """What a member and its row have in common."""
    return json.dumps([row["settings"], row["seed"]])


def opened(config: Config, path: Path, stored: Row) -> Folder:
    """The sweep's folder at `path`, new or with the same settings. Raises ValueError where it is something else."""
    from jaxann.folder import Folder

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


def finished(path: Path, members: list[Row]) -> list[Row]:
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


@contextmanager
def ending_at_once(report: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the process after `report`, with 128 and their number.

    A thread sees to it, since Python's own handlers would wait until the program that runs has ended.
    """
    seen, tell = os.pipe()
    os.set_blocking(tell, False)

    def wait() -> None:
        for number in os.read(seen, 1):
            report()
            sys.stdout.flush()
            os._exit(128 + number)
        os.close(seen)

    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.set_wakeup_fd(tell)
    Thread(target=wait, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.close(tell)
        for number, handler in before.items():
            signal.signal(number, handler)


def there(config: Config) -> Sequence[Any]:
    """The devices that are asked for. Raises ValueError where there are fewer."""
    import jax

    from jaxann.devices import cpu_devices

    cpu_devices(config.devices or os.cpu_count() or 1)
    found = jax.local_devices()
    if config.devices is not None and config.devices > len(found):
        raise ValueError(f"devices is {config.devices}, but there are {len(found)}")
    return found[: config.devices]


def run(config: Config) -> list[Row]:
    """Trains what is not finished yet, prints and stores what came of it; the rows of all members.

    Raises ValueError for what does not fit together, and ImportError for a picture without matplotlib.
    """
    from tqdm import tqdm

    from jaxann.sweep import grid

    config = replace(config, split=config.seed if config.split is None else config.split)
    config.check()
    swept = values(config)
    combinations = grid(**swept)
    if config.top > len(combinations):
        raise ValueError(f"top is {config.top}, but the grid has {len(combinations)} combinations")
    if config.out is not None and config.plots and not find_spec("matplotlib"):
        raise ImportError("a picture takes matplotlib: pip install 'jaxann[plots]' (or give --no-plots)")
    devices = there(config)
    ready = tasks(config, combinations)
    measure = Measure(task := next(iter(ready.values()))).name
    stored = {"grid": swept, "seeds": config.seeds, "data": Known.of(task).digest}
    folder = None if config.out is None else opened(config, config.out, stored)
    seeds = range(config.seed, config.seed + config.seeds)
    members = [{"settings": settings, "seed": seed} for settings in combinations for seed in seeds]
    with closing(folder) if folder else nullcontext():
        path = folder.path / "members.jsonl" if folder else Path(os.devnull)
        rows = finished(path, members)
        begun = set(map(identity, rows))
        left = [member for member in members if identity(member) not in begun]

        def told() -> str:
            return table(sorted(summaries(rows, combinations, "validation"), key=Summary.rank), "validation", measure)

        def interrupted() -> None:
            bar.close()
            if rows:
                print(told())
            print(f"sweep.py: interrupted after {len(rows)} of {len(members)} networks", file=sys.stderr)

        bar = tqdm(total=len(members), initial=len(rows), unit="network", disable=None)
        with path.open("a", encoding="utf-8") as file, bar, ending_at_once(interrupted):
            for row in trained(config, left, ready, devices, "validation"):
                file.write(f"{json.dumps(row)}\n")
                file.flush()
                rows.append(row)
                best = max((row["validation_score"] for row in rows if not row["diverged"]), default=np.nan)
                bar.set_postfix({f"best {measure}": f"{best:.3f}"})
                bar.update()
        print(told())
        found = summaries(rows, combinations, "validation")
        if folder:
            (folder.path / "table.txt").write_text(f"{told()}\n", encoding="utf-8")
            if config.plots:
                draw(found, swept, folder.path / "sweep.png", measure)
        if config.top:
            best = [one.settings for one in sorted(found, key=Summary.rank)[: config.top] if one.scores]
            tests = retrained(
                config, [member for member in members if member["settings"] in best], ready, devices, folder
            )
            print("\nthe best, retrained on the training and validation parts:")
            print(table(summaries(tests, best, "test"), "test", measure))
    return rows


def retrained(
    config: Config, members: list[Row], ready: Mapping[Any, Task], devices: Sequence[Any], folder: Folder | None
) -> list[Row]:
    """The rows of members trained anew on the training and validation parts, scored on the test part, and stored.

    Raises ValueError for none, and where the test part has been looked at for others.
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
        if place(each, settings) not in whole:
            whole[place(each, settings)] = joined(each, ready[place(each, settings)])
    coming = trained(config, members, whole, devices, "test")
    with ending_at_once(lambda: print("\nsweep.py: interrupted while retraining", file=sys.stderr)):
        rows = list(tqdm(coming, "retraining", len(members), unit="network", disable=None))
    if folder:
        folder.write("top", rows)
    return rows


def main() -> int:
    """0; after one sentence 2 for bad input; 128 and the signal's number, 130 for Ctrl-C, where a signal ended it."""
    config = tyro.cli(Config, description=__doc__)
    try:
        run(config)
    except ERRORS as error:
        print(f"sweep.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something to keep, Ctrl-C just ends it
    sys.exit(main())

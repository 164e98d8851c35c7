"""Train a network on a table of data, its gradient written by hand.

Without arguments: the derivation's own network, 4-50-20-10-3 with sigmoids, softmax and cross-entropy, on Iris.
"""

from __future__ import annotations

import signal
import sys
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import tyro
from config import Config
from task import Known, Measure, Task, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxann.pieces import Standing
    from jaxann.record import Record


class Outcome(NamedTuple):
    """What came of a run: accuracy, or R² of numbers, on the test part, and what it took."""

    score: float
    epochs: int
    steps: int
    seconds: float
    compiling: float
    signals: tuple[int, ...]


def run(task: Task, config: Config) -> Outcome:
    """Trains in pieces, between which progress is shown and recorded and a signal ends the run; then reports.

    Raises FloatingPointError where the loss stops being finite, ValueError for a folder that cannot be the run's, and
    OSError and ImportError where the record cannot be written.
    """
    import jax
    from tqdm import tqdm

    from jaxann.pieces import begin, finished, pieces, programs

    measure = Measure(task)

    def look(params):
        score, loss = measure(params, *task.shown)
        better = score if config.score == "accuracy" else -loss
        return better, {"validation_loss": loss, f"validation_{measure.key}": score}

    began = perf_counter()
    record, standing = recorded(task, config, begin(task.recipe, jax.random.key(config.seed)))
    compiled = programs(task.recipe, task.examples, task.plan, standing)
    measure(standing.best, *task.shown)
    compiling, began = perf_counter() - began, perf_counter()
    before = int(standing.state.epoch)
    evaluate = None if task.data.validation is None else look
    rest = pieces(task.recipe, task.examples, task.plan, standing, evaluate, compiled)
    progress = tqdm(total=config.epochs, initial=before, unit="epoch")
    with heard() as signals, closing(record) if record else nullcontext(), progress as bar:
        for standing, rows in rest:
            if record is not None:
                record.after(standing, rows)
            if bar.update(len(rows)) or finished(task.plan, standing):  # where it is drawn, and at the end
                score = rows[-1].get(f"validation_{measure.key}")
                score = measure(standing.state.params, *task.shown)[0] if score is None else score
                bar.set_postfix({"loss": f"{rows[-1]['loss']:.4f}", measure.name: f"{score:.3f}"})
            if signals:
                bar.write(f"interrupted after epoch {standing.state.epoch}", file=sys.stderr)
                break
    seconds, epochs = perf_counter() - began, int(standing.state.epoch)
    steps = (epochs - before) * -(-len(task.examples.x) // config.batch_size)
    outcome = Outcome(
        report(task, standing, measure, record, config), epochs, steps, seconds, compiling, tuple(signals)
    )
    rate = f"{steps / seconds:,.0f} steps a second"
    print(f"{steps} steps in {seconds:.2f} s: {rate}; compiling took {compiling:.2f} s before")
    return outcome


@contextmanager
def heard() -> Iterator[list[int]]:
    """The signals that were to end the run, Ctrl-C's and SIGTERM; it is to end itself. A second one ends it at once."""
    signals: list[int] = []

    def hear(number, frame):
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def recorded(task: Task, config: Config, standing: Standing) -> tuple[Record | None, Standing]:
    """The record that the config asks for, in a new folder or an old one, and where its run stands."""
    path = config.resume or config.run
    if path is None:
        return None, standing
    from jaxann.folder import Folder
    from jaxann.record import Record, installed

    installed(plots=config.plots, tensorboard=config.tensorboard)
    if task.data.validation is not None:
        config = replace(config, evaluate_every=task.plan.every)  # the same where it goes on for longer
    kept, how = Known.of(task), {"tensorboard": config.tensorboard, "seconds": config.checkpoint_seconds}
    if config.resume is None:
        folder = Folder.create(path, config=config.to_json(), data=kept._asdict())
        return Record.of(folder, standing, **how)
    folder = Folder(path)
    try:
        if Known.read(folder).digest != kept.digest:
            raise ValueError(f"the data are not those that {path} was begun with")
        come = folder.rows()[-1:] if config.checkpoint is None else [{"epoch": config.checkpoint}]
        if come and config.epochs < come[0]["epoch"]:
            raise ValueError(f"epochs is {config.epochs}, but the run has come to {come[0]['epoch']} already")
        record, standing = Record.of(folder, standing, config.checkpoint, **how)
        folder.write("config", config.to_json())
    except Exception:
        folder.close()
        raise
    return record, standing


def report(task: Task, standing: Standing, measure: Measure, record: Record | None, config: Config) -> float:
    """The test part's score, printed with its confusion matrix where there are classes, and recorded."""
    import numpy as np
    from sklearn.metrics import confusion_matrix

    from jaxann.training import predict
    from jaxann.validate import validate_features

    data, counts = task.data, None
    y = predict(task.recipe.model, standing.best, validate_features(data.test.x))
    score = measure.score(data.test.t, y, data.test.weights)
    of = "" if data.validation is None else f", the parameters of epoch {standing.best_epoch}"
    print(f"held-out {measure.name}: {score:.3f} ({len(data.test.t)} examples{of})")
    if data.classes:
        labels = range(len(data.classes))
        counts = confusion_matrix(data.test.t, task.targets.decode(np.asarray(y)), labels=labels)
        print("confusion matrix (a row for each true class, a column for each predicted one):")
        width = max(map(len, data.classes))
        for name, row in zip(data.classes, counts, strict=True):
            print(f"  {name:>{width}}", *(f"{count:4d}" for count in row))
    if record is not None:
        result = {"epoch": int(standing.state.epoch), "best_epoch": standing.best_epoch, measure.key: score}
        record.end(standing, result, counts, data.classes, plots=config.plots)
    return score


def settled(config: Config) -> Config:
    """The config with the settings of the file or the run that it names below its own."""
    source = config.config if config.resume is None else config.resume / "config.json"
    if source is None:
        return config
    if config.resume is not None and (config.config is not None or config.run is not None):
        raise ValueError("resume goes on in its own folder, with its own settings: give neither run nor config with it")
    if config.resume is not None and not source.is_file():
        raise ValueError(f"{config.resume} holds no run: there is no config.json in it")
    stored = Config.from_file(source)
    config = tyro.cli(Config, default=stored, description=__doc__)
    return config if config.resume is None else config.resuming(stored)


def main() -> int:
    """0; after one sentence 2 for bad input, a loss that stops being finite, or a folder that cannot be written.

    128 and the signal's number, 130 for Ctrl-C, for a run that a signal ended.
    """
    config = tyro.cli(Config, description=__doc__)
    try:
        config = settled(config)
        outcome = run(prepare(config), config)
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 128 + outcome.signals[0] if outcome.signals else 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something to report, Ctrl-C just ends it
    sys.exit(main())

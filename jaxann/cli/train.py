"""Train a network on a table of data, its gradient written by hand.

Without arguments: the derivation's own network, 4-50-20-10-3 with sigmoids, softmax and cross-entropy, on Iris.
"""

from __future__ import annotations

import signal
import sys
import traceback
from contextlib import closing, nullcontext, redirect_stdout
from dataclasses import replace
from math import ceil
from time import perf_counter
from typing import NamedTuple

import tyro

from jaxann.cli.settings import Settings
from jaxann.cli.signals import catch_signals
from jaxann.cli.task import DataDescription, Scorer, Task, prepare
from jaxann.cli.task import steps_per_epoch as epoch_steps
from jaxann.runs.record import Record
from jaxann.training.loop import Progress

ERRORS = (ValueError, FloatingPointError, OSError, ImportError)  # of which a sentence is enough


class Outcome(NamedTuple):
    """What came of a run: accuracy, or R² of numbers, on the test part, and what it took."""

    score: float
    epochs: int
    steps: int
    seconds: float
    compiling: float
    signals: tuple[int, ...]


def run(task: Task, config: Settings) -> Outcome:
    """Trains in pieces, between which progress is shown and recorded and a signal ends the run; then reports.

    Raises FloatingPointError where the loss stops being finite, ValueError for a folder that cannot be the run's, and
    OSError and ImportError where the record cannot be written.
    """
    import jax
    from tqdm import tqdm

    from jaxann.data.batches import make_lanes
    from jaxann.training.devices import gather, make_mesh, shard_examples
    from jaxann.training.loop import begin, compile_pieces, is_finished, train_in_pieces
    from jaxann.training.processes import any_process, broadcast_from_first, is_first

    def look(params):
        score, loss = broadcast_from_first(measure(gather(params), *task.shown))
        better = score if config.score == "accuracy" else -loss
        return better, {"validation_loss": loss, f"validation_{measure.key}": score}

    began = perf_counter()
    over = None
    if config.distributed or config.devices is not None or config.model_devices > 1:
        there = jax.device_count() if config.distributed else 1
        over = make_mesh(config.devices or ceil(there / config.model_devices), config.model_devices)
        if config.distributed and over.size != there:
            raise ValueError(f"{over.size} devices are asked for, but {there} are there, and each is to take part")
        lanes = shard_examples(task.examples, config.batch_size, over)
    else:
        lanes = make_lanes(task.examples, config.batch_size)
    measure = Scorer(task)
    record, standing = open_record(task, config, begin(task.recipe, jax.random.key(config.seed), over))
    compiled = compile_pieces(task.recipe, lanes, task.plan, standing)
    measure(gather(standing.best), *task.shown)
    compiling, began = perf_counter() - began, perf_counter()
    before = int(standing.state.epoch)
    evaluate = None if task.data.validation is None else look
    rest = train_in_pieces(task.recipe, lanes, task.plan, standing, evaluate, compiled)
    progress = tqdm(total=config.epochs, initial=before, unit="epoch", disable=not is_first())
    with catch_signals() as signals:
        with closing(record) if record else nullcontext(), progress as bar:
            for standing, rows in rest:
                if record is not None:
                    record.add(standing, rows)
                drawn = any_process(bool(bar.update(len(rows))))
                if drawn or is_finished(task.plan, standing):
                    score = rows[-1].get(f"validation_{measure.key}")
                    score = measure(gather(standing.state.params), *task.shown)[0] if score is None else score
                    bar.set_postfix({"loss": f"{rows[-1]['loss']:.4f}", measure.name: f"{score:.3f}"})
                if any_process(bool(signals)):
                    bar.write(f"interrupted after epoch {standing.state.epoch}", file=sys.stderr)
                    break
        seconds, epochs = perf_counter() - began, int(standing.state.epoch)
        steps = (epochs - before) * epoch_steps(config, task.data)
        # A signal may come to another process of the run later than to the one that told them of it.
        score = report(task, standing, measure, record, config)
    outcome = Outcome(score, epochs, steps, seconds, compiling, tuple(signals))
    rate = f"{steps / seconds:,.0f} steps a second"
    print(f"{steps} steps in {seconds:.2f} s: {rate}; compiling took {compiling:.2f} s before")
    return outcome


def open_record(task: Task, config: Settings, standing: Progress) -> tuple[Record | None, Progress]:
    """The record that the config asks for, in a new folder or an old one, and where its run stands."""
    path = config.resume or config.run
    if path is None:
        return None, standing
    from jaxann.data.extras import require_packages
    from jaxann.runs.folder import Folder
    from jaxann.runs.record import Record
    from jaxann.training.processes import is_first, run_first_then_others

    flags = {"tensorboardX": "--no-tensorboard"} if config.tensorboard else {}
    flags |= {"matplotlib.figure": "--no-plots"} if config.plots else {}
    try:
        require_packages("a run folder", "orbax.checkpoint", *flags)
    except ImportError as error:
        hints = [flag for module, flag in flags.items() if module.split(".")[0] in str(error)]
        raise ImportError(f"{error} (or give {' and '.join(hints)})" if hints else str(error)) from None
    if task.data.validation is not None:
        config = replace(config, evaluate_every=task.plan.every)  # the same where it goes on for longer
    kept, how = DataDescription.of(task), {"tensorboard": config.tensorboard, "seconds": config.checkpoint_seconds}
    if config.resume is None:
        folder = run_first_then_others(
            lambda: Folder.create(path, config=config.to_json(), data=kept._asdict()), lambda: Folder(path, reader=True)
        )
        return Record.open(folder, standing, **how)
    folder = run_first_then_others(lambda: Folder(path), lambda: Folder(path, reader=True))
    try:
        if DataDescription.read(folder).digest != kept.digest:
            raise ValueError(f"the data are not those that {path} was begun with")
        come = folder.rows()[-1:] if config.checkpoint is None else [{"epoch": config.checkpoint}]
        if come and config.epochs < come[0]["epoch"]:
            raise ValueError(f"epochs is {config.epochs}, but the run has come to {come[0]['epoch']} already")
        record, standing = Record.open(folder, standing, config.checkpoint, **how)
        if is_first():
            folder.write("config", config.to_json())
    except Exception:
        folder.close()
        raise
    return record, standing


def report(task: Task, standing: Progress, measure: Scorer, record: Record | None, config: Settings) -> float:
    """The test part's score, printed with its confusion matrix where there are classes, and recorded."""
    import numpy as np
    from sklearn.metrics import confusion_matrix

    from jaxann.data.validation import validate_features
    from jaxann.training.devices import gather
    from jaxann.training.fit import predict

    data, counts = task.data, None
    y = predict(task.recipe.model, gather(standing.best), validate_features(data.test.x))
    score = measure.score(np.asarray(data.test.t), y, data.test.weights)
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


def load_settings(config: Settings) -> Settings:
    """The config with the settings of the file or the run that it names below its own."""
    source = config.config if config.resume is None else config.resume / "config.json"
    if source is None:
        return config
    if config.resume is not None and (config.config is not None or config.run is not None):
        raise ValueError("resume goes on in its own folder, with its own settings: give neither run nor config with it")
    if config.resume is not None and not source.is_file():
        raise ValueError(f"{config.resume} holds no run: there is no config.json in it")
    stored = Settings.from_file(source)
    config = tyro.cli(Settings, default=stored, description=__doc__)
    return config if config.resume is None else config.resuming(stored)


def main() -> int:
    """0; after one sentence 2 for bad input, a loss that stops being finite, or a folder that cannot be written.

    128 and the signal's number, 130 for Ctrl-C, for a run that a signal ended.
    """
    config = tyro.cli(Settings, description=__doc__)
    if config.distributed:
        return main_distributed(config)
    try:
        config = load_settings(config)
        if (config.devices or 1) * config.model_devices > 1:
            from jaxann.training.devices import cpu_devices

            cpu_devices((config.devices or 1) * config.model_devices)
        outcome = run(prepare(config), config)
    except ERRORS as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 128 + outcome.signals[0] if outcome.signals else 0


def main_distributed(config: Settings) -> int:
    """`main` of one of several processes: the first one speaks, and all end where one is gone."""
    from jaxann.training import processes

    try:
        config = load_settings(config)
        config.check()
        processes.join(config.coordinator, config.processes, config.process, config.connect_seconds)
        with redirect_stdout(None) if not processes.is_first() else nullcontext():
            outcome = run(prepare(config), config)
    except Exception as error:
        if processes.is_lost(error):
            error = RuntimeError(processes.GONE)
        elif not isinstance(error, ERRORS):
            traceback.print_exc()
        print(f"train.py: {error}", file=sys.stderr)
        processes.exit_now(2)
    return 128 + outcome.signals[0] if outcome.signals else 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something to report, Ctrl-C just ends it
    sys.exit(main())

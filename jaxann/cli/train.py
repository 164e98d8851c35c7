"""Trains a network on a table, on images, on sequences or on text, by gradients that are computed by hand.

Without arguments it trains the derivation's own network on Iris: 4-50-20-10-3 with sigmoids, softmax and cross-entropy.
"""

from __future__ import annotations

import sys
import traceback
from contextlib import closing, nullcontext, redirect_stdout
from dataclasses import replace
from functools import partial
from math import ceil
from time import perf_counter
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from jaxann.cli.columns import print_columns
from jaxann.cli.errors import flags, is_explained, print_error
from jaxann.cli.presets import describe_presets, find_preset
from jaxann.cli.program import run_program
from jaxann.cli.record import check_folder, find_stored, open_record
from jaxann.cli.report import score_test
from jaxann.cli.sampler import describe_sample
from jaxann.cli.scorer import Scorer, Validator
from jaxann.cli.scores import LOSS
from jaxann.cli.settings import Settings
from jaxann.cli.signals import catch_signals
from jaxann.cli.task import Task, check_settings, prepare, steps_per_epoch
from jaxann.cli.terminal import require_stdout
from jaxann.data.batches import make_lanes
from jaxann.nn.hyperparameters import SettingError
from jaxann.training.devices import cpu_devices, make_mesh, shard_examples
from jaxann.training.loop import begin, compile_pieces, is_finished, make_abstract_state, train_in_pieces
from jaxann.training.processes import GONE, any_process, exit_now, is_first, is_lost, join
from jaxann.training.programs import call_in_thread


class Outcome(NamedTuple):
    """The result of a run.

    Attributes:
        score: The score on the test part: the accuracy, R² for numbers, or the bits per character for text.
        epochs: The number of the last epoch.
        steps: The number of steps; for a resumed run, of those since it was resumed.
        seconds: The time that the steps took, in seconds.
        compile_seconds: The time that compiling took before the steps, in seconds.
        signals: The numbers of the signals that ended the run.
    """

    score: float
    epochs: int
    steps: int
    seconds: float
    compile_seconds: float
    signals: tuple[int, ...]


def run(task: Task, settings: Settings) -> Outcome:
    """Trains in pieces, shows and records the progress after each of them, and prints the score on the test part.

    A signal, such as Ctrl-C, ends the run after the current piece.

    Raises:
        FloatingPointError: If the loss stops being finite, or the score on the test part is not finite.
        ValueError: If the run cannot have the folder, the devices or the memory that it asks for.
        OSError: If the record cannot be written.
        ImportError: If a package that the record needs is missing.
    """
    print_columns(task.data)
    check_folder(settings)
    start = perf_counter()
    mesh, size = choose_devices(settings), task.recipe.batch_size
    lanes = make_lanes(task.examples, size) if mesh is None else shard_examples(task.examples, size, mesh)
    scorer = Scorer(task)
    evaluate = None if task.data.validation is None else Validator(task, scorer, settings.score)
    shown = scorer if evaluate is None else Scorer(task, evaluate.shown)
    key = jax.random.key(settings.seed)

    # Another thread compiles the steps, while this one draws the parameters and compiles the evaluation. A resumed run
    # must first read from its checkpoint how many epochs are left.
    start_compiling = partial(call_in_thread, compile_pieces, task.recipe, lanes, task.plan)
    abstract = make_abstract_state(task.recipe, key, mesh, lanes)
    compilation = start_compiling(abstract, 0) if settings.resume is None else None
    record, progress = open_record(task, settings, begin(task.recipe, key, mesh, lanes))
    compilation = compilation or start_compiling(progress.state, int(progress.state.epoch))
    shown.show(progress.best)  # compiles the evaluation, before the time is measured
    if task.data.tokenizer is not None:
        describe_sample(task, progress.state)  # likewise
    compiled = compilation.result()
    compile_seconds, start = perf_counter() - start, perf_counter()
    first_epoch = int(progress.state.epoch)
    pieces = train_in_pieces(task.recipe, lanes, task.plan, progress, evaluate, compiled)
    bar = tqdm(total=settings.epochs, initial=first_epoch, unit="epoch", disable=not is_first())
    with catch_signals() as signals, closing(record) if record else nullcontext():
        with bar:
            for progress, rows in pieces:
                if record is not None:
                    record.add(progress, rows)
                is_drawn = any_process(bool(bar.update(len(rows))))
                if is_drawn or is_finished(task.plan, progress):
                    name, score = f"train_{scorer.key}", None
                    if evaluate is not None:
                        name = f"validation_{evaluate.shown}"
                        score = rows[-1].get(name)
                    if score is None:
                        score = shown.show(progress.state.params)
                    bar.set_postfix({"train_loss": f"{rows[-1]['loss']:.4f}", name: shown.metric.format(score)})
                is_evaluated = f"validation_{LOSS.key}" in rows[-1] or is_finished(task.plan, progress)
                if task.data.tokenizer is not None and is_evaluated:
                    sample = describe_sample(task, progress.state)
                    if is_first():
                        bar.write(sample)
                if any_process(bool(signals)):
                    bar.write(f"interrupted after epoch {progress.state.epoch}", file=sys.stderr)
                    break
        seconds, epochs = perf_counter() - start, int(progress.state.epoch)
        steps = (epochs - first_epoch) * steps_per_epoch(settings, task.data)
        # Signals are still caught here, because this process may get its own after another one has ended the run.
        score, lines = score_test(task, progress, scorer, record, settings)
    rate = f"{steps / seconds:,.0f} steps a second"
    lines.append(f"{steps} steps in {seconds:.2f} s: {rate}; compiling took {compile_seconds:.2f} s before")
    print("\n".join(lines))  # last, so that the record is complete even if printing fails
    return Outcome(score, epochs, steps, seconds, compile_seconds, tuple(signals))


def choose_devices(settings: Settings) -> Mesh | None:
    """Returns the devices of the run, or None for a single one.

    Raises:
        ValueError: If there are fewer devices than the settings ask for, or if a run of several processes has more.
    """
    if not settings.distributed and settings.devices is None and settings.model_devices == 1:
        return None
    available = jax.device_count() if settings.distributed else 1
    mesh = make_mesh(settings.devices or ceil(available / settings.model_devices), settings.model_devices)
    if settings.distributed and mesh.size != available:
        expectation = f"times --model-devices to be {available}, the number of devices of all processes"
        raise SettingError("devices", expectation, mesh.size)
    return mesh


def find_defaults(settings: Settings) -> Settings:
    """Returns the defaults of the command line: the settings of the file or the run that it names, or a preset.

    Raises:
        ValueError: If the file cannot be read.
    """
    path = find_stored(settings)
    return find_preset(settings) if path is None else Settings.from_file(path)


def spell_changed(settings: Settings) -> dict[str, str]:
    """Returns the flag of each setting that the command line may have set, as its spelling in messages.

    Raises:
        ValueError: If the run that is resumed cannot have these settings.
    """
    path, spelling = find_stored(settings), flags(Settings)
    if path is None:
        return spelling
    stored = Settings.from_file(path)
    if settings.resume is not None:
        settings.check_resumable(stored)
    return {name: flag for name, flag in spelling.items() if getattr(settings, name) != getattr(stored, name)}


def main() -> int:
    """Trains with the settings on the command line.

    Returns:
        The exit code: 0; 2 after a sentence on stderr if the input is bad, the loss stops being finite or the folder or
        the output cannot be written; 128 + the signal's number, such as 130 for Ctrl-C, if a signal ended the run.
    """

    def work(settings: Settings, spelling: dict[str, str]) -> int:
        settings = replace(settings, preset=None)  # its values are the defaults with which these were parsed
        changed = spell_changed(settings)
        spelling.clear()
        spelling.update(changed)
        if settings.distributed:
            return main_distributed(settings, spelling)
        if settings.run is None and settings.resume is None:
            require_stdout("--run")
        devices = (settings.devices or 1) * settings.model_devices
        if devices > 1:
            cpu_devices(devices)
        outcome = run(prepare(settings), settings)
        return 128 + outcome.signals[0] if outcome.signals else 0

    description = f"{__doc__}\n{describe_presets()}"
    return run_program(Settings, description, work, find_defaults=find_defaults, positional="dataset")


def main_distributed(settings: Settings, spelling: dict[str, str]) -> int:
    """Trains as one of several processes. Only the first one prints, and if one is lost, all others end with code 2."""
    try:
        check_settings(settings)
        join(settings.coordinator, settings.processes, settings.process, settings.connect_seconds)
        with redirect_stdout(None) if not is_first() else nullcontext():
            outcome = run(prepare(settings), settings)
    except Exception as error:
        if is_lost(error):
            error = RuntimeError(GONE)
        elif not is_explained(error):
            traceback.print_exc()
        exit_now(print_error(error, spelling))
    return 128 + outcome.signals[0] if outcome.signals else 0

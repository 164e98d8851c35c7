"""Sections on programs as a user starts them: training from the command line, a check, a run folder."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import jax
import numpy as np
import optax
from jobs import make_examples, make_random_job
from measurement import Row, compare, time_in_turn
from settings import BenchmarkSettings

from jaxann.cli import train
from jaxann.cli.settings import Settings
from jaxann.data import Examples
from jaxann.data.batches import make_lanes
from jaxann.nn import SoftmaxCrossEntropy, mlp, relu
from jaxann.runs.folder import Folder
from jaxann.runs.record import Record
from jaxann.training import Recipe
from jaxann.training.fit import evaluate
from jaxann.training.loop import Plan, begin, compile_pieces, train_in_pieces

SCRIPTS = Path(__file__).resolve().parents[1]


def measure_script(settings: BenchmarkSettings) -> list[Row]:
    """Measures `train.py` without arguments: the process, and the compiling and training that it reports."""
    compiling, training, process = [], [], []
    for _ in range(settings.rounds(5)):
        start = perf_counter()
        report = _run_program(SCRIPTS / "train.py")
        process.append(perf_counter() - start)
        training.append(float(re.findall(r"steps in ([\d.]+) s", report)[0]))
        compiling.append(float(re.findall(r"compiling took ([\d.]+) s", report)[0]))
    return [
        compare("the process : of 3.6 s", (np.array(process), np.array(3.6)), "s", at_most=1),
        compare("its compiling : of 0.6 s", (np.array(compiling), np.array(0.6)), "s", at_most=1),
        compare("its training : of 0.5 s", (np.array(training), np.array(0.5)), "s", at_most=1),
    ]


def measure_check(settings: BenchmarkSettings) -> list[Row]:
    """Measures the gradient check of two networks, each in new processes, where everything must be compiled."""
    rows, program = [], Path(__file__).with_name("cold_check.py")
    for sizes, hidden, examples, bound in ("4-50-20-10-3", "sigmoid", 120, 2.0), ("784-512-512-10", "relu", 64, 3.5):
        outputs = [_run_program(program, sizes, hidden, str(examples)) for _ in range(settings.rounds(5))]
        seconds = np.array(list(map(float, outputs)))
        rows.append(compare(f"{sizes} : of {bound} s", (seconds, np.array(bound)), "s", at_most=1))
    return rows


def _run_program(path: Path, *arguments: str) -> str:
    """Runs a Python program and returns its output."""
    command = [sys.executable, str(path), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measure_folder(settings: BenchmarkSettings) -> list[Row]:
    """Measures what a run folder costs: for the default run, and for a large run in pieces of about a second."""
    with TemporaryDirectory() as place:
        numbers = count()

        def new_path() -> Path:
            return Path(place) / str(next(numbers))

        def train_iris(**changes) -> None:
            run_settings = Settings(**changes)
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                train.run(train.prepare(run_settings), run_settings)

        runs = {"plain": train_iris, "folder": lambda: train_iris(run=new_path())}
        iris = time_in_turn(runs, settings.rounds(10))
        job = make_random_job(4_000 if settings.quick else 40_000, batch_size=128)
        recipe = Recipe(mlp(job.sizes, relu), SoftmaxCrossEntropy(), optax.adam(0.001), job.batch_size)
        plan, progress, data = Plan(epochs=10), begin(recipe, jax.random.key(0)), make_examples(job)
        lanes = make_lanes(data, job.batch_size)
        compiled = compile_pieces(recipe, lanes, plan, progress.state, 0)
        compiled |= compile_pieces(recipe, lanes, plan._replace(piece=10), progress.state, 0)
        subset = Examples(data.x[:1000], data.t[:1000])

        def evaluate_subset(params) -> tuple[float, dict[str, float]]:
            _, loss = evaluate(recipe.model, recipe.loss, params, subset)
            return -float(loss), {"validation_loss": float(loss)}

        def train_with_record() -> None:
            folder = Folder.create(new_path(), config={})
            record, start = Record.open(folder, progress, tensorboard=True, seconds=10)
            for after, rows in train_in_pieces(recipe, lanes, plan, start, evaluate_subset, compiled):
                record.add(after, rows)

        runs = {"pieces": train_with_record, "one program": lambda: compiled[10](progress.state, lanes)}
        pieces = time_in_turn(runs, settings.rounds(5))
    added = iris["folder"] - iris["plain"]
    return [
        compare("Iris, what the folder adds : of 1.5 s", (added, np.array(1.5)), "s", at_most=1),
        compare("ten pieces with records : one program", pieces.values(), "s", at_most=1.02),
    ]

"""Predicts with the best parameters of a run, from the named columns of a .csv file or the array x of an .npz file.

The result is a .csv file: a column with the prediction, and for classes a column with the probability of each class.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from jaxann.cli.description import DataDescription, describe_origin
from jaxann.cli.program import run_program
from jaxann.cli.settings import Settings
from jaxann.cli.task import make_network
from jaxann.cli.terminal import print_data, quote_formula, require_stdout
from jaxann.data.tables import read_features
from jaxann.data.validation import validate_features
from jaxann.runs.checkpoints import Checkpoints
from jaxann.runs.files import require_new_file, write_file
from jaxann.runs.folder import Folder
from jaxann.training.fit import predict


@dataclass(frozen=True)
class PredictSettings:
    """The settings of a prediction: the run, the input and the output."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    input: Path
    """A .csv file with the columns that the run was trained on, in any order, or an .npz file with the array x."""
    output: Path | None = None
    """New .csv file for the predictions. By default they are printed."""
    checkpoint: int | None = None
    """Epoch of the checkpoint whose best parameters predict. By default the last one."""
    safe_csv: bool = False
    """Whether each text that a spreadsheet would run as a formula gets an apostrophe in front.
    These are names that begin with =, +, -, @, a tab or a carriage return. By default all names stay as they are."""


def predict_rows(settings: PredictSettings) -> list[list[Any]]:
    """Predicts from each example of the input.

    Returns:
        The rows of a .csv file: one with the names of the columns, and then one for each example.

    Raises:
        ValueError: If the run cannot be read, or the input does not fit it.
        FloatingPointError: If an output of the network or a prediction is not finite.
        ImportError: If orbax, which reads the checkpoints, is missing.
    """
    folder = Folder(settings.run, reader=True)
    stored, description = Settings.from_file(folder.path / "config.json"), DataDescription.read(folder)
    jax.config.update("jax_enable_x64", stored.precision == "float64")
    classes, targets = description.classes, description.make_targets()
    x = read_features(str(settings.input), tuple(description.columns), (description.target, stored.weights))
    model, _ = make_network(stored, len(description.columns), targets)
    like = jax.jit(model.init)(jax.random.key(0))
    checkpoints = Checkpoints(folder.path / "checkpoints", origin=describe_origin(stored, description), reader=True)
    params = checkpoints.best(like, settings.checkpoint)
    y = np.asarray(predict(model, params, validate_features(description.make_scaling()(x))))
    predictions, probabilities = targets.decode(y), targets.probabilities(y)
    rows = [[classes[value] if classes else repr(float(value))] for value in predictions]
    names: list[str] = [description.target]
    if probabilities is not None:
        names += [f"P({name})" for name in classes]
        rows = [row + [repr(float(p)) for p in shares] for row, shares in zip(rows, probabilities, strict=True)]
    return [names, *rows]


def main() -> int:
    """Makes and writes the predictions that the command line asks for.

    Returns:
        The exit code: 0, or 2 after a sentence on stderr for bad input or if the predictions cannot be written.
    """

    def work(settings: PredictSettings, spelling: dict[str, str]) -> int:
        if settings.output is None:
            require_stdout("--output")
        else:
            require_new_file(settings.output)  # before anything that takes long
        rows, text = predict_rows(settings), StringIO()
        if settings.safe_csv:
            rows = [[quote_formula(str(cell)) for cell in row] for row in rows]
        csv.writer(text, lineterminator="\n").writerows(rows)
        if settings.output is None:
            print_data(text.getvalue())
        else:
            write_file(settings.output, text.getvalue(), new=True)
        return 0

    return run_program(PredictSettings, __doc__, work)

"""Predicts with the best parameters of a run, from the named columns of a file or the array x of an .npz file.

The result is a table with the columns that identify the examples, if any, a column with the prediction, and for classes
a column with the probability of each class. The network of a text continues a prompt instead.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import pandas as pd
import tyro

from jaxann.cli.description import DataDescription, describe_origin
from jaxann.cli.errors import print_line
from jaxann.cli.program import run_program
from jaxann.cli.sampler import LENGTH, TEMPERATURE, continue_text
from jaxann.cli.settings import Settings
from jaxann.cli.task import make_network
from jaxann.cli.terminal import print_data, quote_formula, require_stdout
from jaxann.data.extras import require_packages
from jaxann.data.files import join_names
from jaxann.data.frames import get_cells, read_frame
from jaxann.data.tables import read_features
from jaxann.data.validation import validate_features
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError
from jaxann.runs.checkpoints import Checkpoints
from jaxann.runs.files import require_new_file, write_file
from jaxann.runs.folder import Folder
from jaxann.training.fit import predict


@dataclass(frozen=True)
class PredictSettings:
    """The settings of a prediction: the run, the input and the output."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    input: Path | None = None
    """File with the columns that the run was trained on, in any order, and possibly others, of any kind that
    jaxann train takes; or an .npz file with the array x."""
    prompt: str | None = None
    """Beginning of a text, which the network of a run on text continues.
    It has at most as many tokens as the run's setting context."""
    length: int = LENGTH
    """Number of tokens that continue the prompt."""
    temperature: float = TEMPERATURE
    """Number that divides the logits before a token is drawn. With 0 the most likely token is taken."""
    seed: int = 0
    """Random seed of the tokens that continue the prompt."""
    output: Path | None = None
    """New file for the result, whose name ends with .csv or .parquet for predictions, and with .txt for text.
    By default the result is printed, predictions as .csv."""
    id: tuple[str, ...] = ()
    """Columns of the input that the predictions carry. By default those of the run's --id that the input has."""
    checkpoint: int | None = None
    """Epoch of the checkpoint whose best parameters predict. By default the last one."""
    safe_csv: bool = False
    """Whether each text that a spreadsheet would run as a formula gets an apostrophe in front.
    These are names that begin with =, +, -, @, a tab or a carriage return. By default all names stay as they are."""


def predict_table(settings: PredictSettings, stored: Settings, description: DataDescription) -> pd.DataFrame:
    """Predicts from each example of the input.

    Args:
        settings: The settings of the prediction.
        stored: The settings of the run.
        description: The description of its data, a table.

    Returns:
        A row for each example.

    Raises:
        ValueError: If the run cannot be read, or the input does not fit it.
        FloatingPointError: If an output of the network or a prediction is not finite.
        ImportError: If orbax, which reads the checkpoints, is missing.
    """
    classes, targets = description.classes, description.make_targets()
    x, ids = read_input(settings, stored, description)
    model, params = read_best(settings, stored, description)
    y = np.asarray(predict(model, params, validate_features(description.make_scaling()(x))))
    predictions, probabilities = targets.decode(y), targets.probabilities(y)
    values = np.array(classes, object)[predictions] if classes else predictions
    result = {**ids, description.target: values}
    if probabilities is not None:
        result |= {f"P({name})": probabilities[:, i].astype(float) for i, name in enumerate(classes)}
    return pd.DataFrame(result)


def complete_prompt(settings: PredictSettings, stored: Settings, description: DataDescription) -> str:
    """Returns the prompt and the text by which the network of the run continues it.

    Args:
        settings: The settings of the prediction.
        stored: The settings of the run.
        description: The description of its data, a text.

    Raises:
        ValueError: If the run cannot be read, if a setting is out of range, or if the prompt is empty, longer than the
            network's context, or has a character that the network does not know.
        ImportError: If orbax, which reads the checkpoints, is missing.
    """
    if settings.prompt is None:
        raise SettingError("prompt", f"to be the beginning of a text, because {settings.run} learned from text", None)
    for name in ("input", "id", "safe_csv"):
        if getattr(settings, name):
            raise SettingError(
                name, f"to be left out for {settings.run}, which learned from text", getattr(settings, name)
            )
    model, params = read_best(settings, stored, description)
    drawn = continue_text(
        model,
        params,
        description.make_tokenizer(),
        settings.prompt,
        context=description.shape[0],
        length=settings.length,
        temperature=settings.temperature,
        seed=settings.seed,
    )
    return f"{settings.prompt}{drawn}\n"


def read_best(settings: PredictSettings, stored: Settings, description: DataDescription) -> tuple[Layer, Any]:
    """Reads the network and the best parameters of a run.

    Raises:
        ValueError: If there is no such checkpoint, or it is damaged or of another run.
        ImportError: If orbax, which reads the checkpoints, is missing.
    """
    model, _ = make_network(stored, description.make_interface())
    like = jax.jit(model.init)(jax.random.key(0))
    origin = describe_origin(stored, description)
    checkpoints = Checkpoints(settings.run / "checkpoints", origin=origin, reader=True)
    return model, checkpoints.best(like, settings.checkpoint)


def read_input(
    settings: PredictSettings, stored: Settings, description: DataDescription
) -> tuple[np.ndarray, dict[str, Any]]:
    """Reads the features [N, n] to predict from, and the columns [N] of the input that the predictions carry.

    Raises:
        ValueError: If the input cannot be read or does not fit the run.
    """
    for name, default in {"prompt": None, "length": LENGTH, "temperature": TEMPERATURE, "seed": 0}.items():
        if (value := getattr(settings, name)) != default:
            raise SettingError(name, f"to be left out for {settings.run}, which did not learn from text", value)
    if settings.input is None:
        raise SettingError("input", "to be a file to predict from", None)
    path, encoding = str(settings.input), description.make_encoding()
    if path.lower().endswith(".npz"):
        if settings.id:
            raise SettingError("id", f"to be left out for {path}, which has no named columns", settings.id)
        return read_features(
            path, tuple(description.columns), (description.target, stored.weights), description.shape
        ), {}
    table, notes = read_frame(path, stored.header or "first")
    for note in notes:
        print_line(note)
    if stored.header == "none":
        _require_positions(path, table, stored, description)
    made = {description.target, *(f"P({name})" for name in description.classes)}
    for name in settings.id:
        if name not in table or name in made:
            names = join_names([name for name in table if name not in made], 20)
            raise SettingError("id", f"to be columns of {path} ({names})", name)
    ids = settings.id or tuple(name for name in encoding.id if name in table and name not in made)
    return encoding.encode_new(path, table), {name: get_cells(table, name) for name in ids}


def _require_positions(path: str, table: pd.DataFrame, stored: Settings, description: DataDescription) -> None:
    """Raises ValueError if columns without names are fewer than in training, unless those at the end are not needed."""
    encoding, others = description.make_encoding(), {description.target, stored.weights} - {None}
    count = len(encoding.columns) + len(encoding.left_out) + len(others)
    if not others.issuperset(f"column_{i + 1}" for i in range(len(table.columns), count)):
        expectation = f"expected {count} columns, which are matched by position, in {path}"
        raise ValueError(f"{expectation}, got {len(table.columns)}")


def format_table(table: pd.DataFrame, is_parquet: bool, safe_csv: bool) -> str | bytes:
    """Returns a table as the content of a Parquet or a .csv file, whose numbers have all their digits."""
    if is_parquet:
        buffer = BytesIO()
        table.to_parquet(buffer, index=False)
        return buffer.getvalue()
    rows = [list(table), *(list(map(_format_cell, row)) for row in table.itertuples(index=False, name=None))]
    if safe_csv:
        rows = [[quote_formula(cell) for cell in row] for row in rows]
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _format_cell(value: Any) -> str:
    if pd.isna(value):
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)


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
        folder = Folder(settings.run, reader=True)
        stored, description = Settings.from_file(folder.path / "config.json"), DataDescription.read(folder)
        endings = (".csv", ".parquet") if description.tokenizer is None else (".txt",)
        ending = "" if settings.output is None else settings.output.suffix.lower()
        if ending not in ("", *endings):
            raise SettingError("output", f"to end with {' or '.join(endings)}", settings.output)
        is_parquet = ending == ".parquet"
        if is_parquet:
            require_packages("a Parquet file", "pyarrow")
        jax.config.update("jax_enable_x64", stored.precision == "float64")
        if description.tokenizer is None:
            table = predict_table(settings, stored, description)
            content = format_table(table, is_parquet, settings.safe_csv)
        else:
            content = complete_prompt(settings, stored, description)
        if settings.output is None:
            print_data(str(content))
        else:
            write_file(settings.output, content, new=True)
        return 0

    return run_program(PredictSettings, __doc__, work)

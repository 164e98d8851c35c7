"""Training, validation and test parts of a table, with standardized features.

A seed decides the split, which has the classes in the same proportions in every part. The encoding of named columns and
the scaling are fitted on the training part alone.
"""

from math import ceil
from typing import Literal, NamedTuple

import numpy as np

from jaxann.data import files, tables
from jaxann.data.batches import Examples
from jaxann.data.column_settings import ColumnSettings
from jaxann.data.encoding import Encoding, fit_encoding
from jaxann.data.scaling import Scaling, fit_scaling
from jaxann.data.tables import Table
from jaxann.data.tokens import Tokenizer
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.text import shorten


class Dataset(NamedTuple):
    """The parts of a table, with standardized features and with the targets of a `Table`: labels or numbers.

    Attributes:
        train: The examples to train on.
        validation: The examples to evaluate on during training; None if no share was set apart for them.
        test: The examples to evaluate on at the end.
        classes: The names of the classes, in the order of their labels; empty for targets that are numbers.
        columns: The names of the features, [n].
        target: The name of the target.
        scaling: The map that standardized the features; features to predict from must go through it too.
        encoding: How features are made of the columns of a table; empty where the source holds arrays.
        notes: What a reader of the table may not expect, each in one sentence.
        shape: The shape that the features of an example have, such as (height, width, channels) for an image; () for
            the columns of a table.
        tokenizer: The way from text to tokens and back; None for tables.
    """

    train: Examples
    validation: Examples | None
    test: Examples
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    target: str
    scaling: Scaling
    encoding: Encoding = Encoding()
    notes: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    tokenizer: Tokenizer | None = None


def load_dataset(
    source: str,
    *,
    held_out: float | None = None,
    validation: float = 0.0,
    seed: int = 0,
    scaling: Literal["feature", "all", "none"] = "feature",
    target: str | None = None,
    weights: str | None = None,
    kind: Literal["classes", "numbers"] | None = None,
    header: Literal["first", "none"] | None = None,
    columns: ColumnSettings | None = None,
) -> Dataset:
    """Reads a table and splits it into training, validation and test parts. Examples of weight 0 are left out.

    Args:
        source: A name such as "iris", "digits" or "openml:NAME", or a path; `tables.read_table` lists the kinds.
        held_out: The share of the examples for the test part, between 0 and 1. It must be None for a source with a test
            part of its own, and stands for 0.2 if it is None for any other source.
        validation: The share of the other examples for the validation part; 0 makes no such part.
        seed: The seed of both splits, from 0 to 2³² - 1.
        scaling: "feature" scales every feature to mean 0 and variance 1 over the training part, and a feature that is
            constant there to 0. "all" subtracts one mean of all features and divides by one standard deviation.
            "none" leaves the features as they are. Features that stand for categories are 0 or 1 in any case.
        target: The column that holds the targets, by default the last.
        weights: The column that says how much each example counts; by default all count alike.
        kind: Whether the targets are classes or numbers, by default as `tables.read_table` decides.
        header: Whether the first line of a text file holds the names of the columns ("first") or an example ("none").
            By default it holds names, and a line that may hold an example is refused.
        columns: Columns to leave out, and kinds of columns. By default the cells decide.

    Returns:
        The parts, as NumPy arrays: features [N, n] as float32 or float64, and targets [N].

    Raises:
        SettingError: If a setting is out of range or does not apply to the source, or if a part would have fewer than 2
            examples or fewer examples than there are classes. It is a ValueError.
        ValueError: If `tables.read_table` refuses the source, if a class has too few examples to be split, or if a
            feature varies by too little to be standardized.
    """
    if held_out is not None:
        validate_number("held_out", held_out, above=0, below=1)
    validate_number("validation", validation, least=0, below=1)
    validate_number("seed", seed, least=0, most=2**32 - 1, integer=True)
    if scaling not in ("feature", "all", "none"):
        raise SettingError("scaling", "to be feature, all or none", scaling)
    columns = columns or ColumnSettings()
    table = tables.read_table(source, target=target, weights=weights, kind=kind, header=header, columns=columns)
    if table.test is not None and held_out is not None:
        raise SettingError("held_out", f"to be None for {source}, because it has a test part of its own", held_out)
    rows = np.arange(len(table.t)) if table.weights is None else np.flatnonzero(table.weights > 0)
    validation_rows, test_rows = None, rows[:0]
    if table.test is None:
        share = 0.2 if held_out is None else held_out
        rows, test_rows = _split_rows(table, rows, share, seed, "held_out", f"{source}'s {len(rows)} examples")
    if validation:
        examples = f"{source}'s {len(rows)} training examples"
        rows, validation_rows = _split_rows(table, rows, validation, seed, "validation", examples)
    _require_enough(source, table, rows)
    table, encoding = _encode_columns(source, table, rows, columns.id)
    test = Examples(*table.test) if table.test is not None else _select_rows(table, test_rows)
    train = _select_rows(table, rows)
    valid = None if validation_rows is None else _select_rows(table, validation_rows)
    fitted = _fit_scaling(source, np.asarray(train.x), table.columns, scaling, encoding)
    for part in filter(None, (train, valid, test)):
        x = np.asarray(part.x)
        fitted(x, out=x)  # in place, because nothing else refers to the table, and it may be too large to copy
    return Dataset(
        train, valid, test, table.classes, table.columns, table.target, fitted, encoding, table.notes, table.shape
    )


def _encode_columns(
    source: str, table: Table, train_rows: np.ndarray, identifiers: tuple[str, ...]
) -> tuple[Table, Encoding]:
    """Returns the table with features instead of columns, and their encoding, which is fitted on the training rows."""
    if isinstance(table.x, np.ndarray):
        return table, Encoding()
    encoding = fit_encoding(table.x.iloc[train_rows], table.kinds, table.left_out, identifiers)
    names = encoding.feature_names()
    if not names:
        raise ValueError(f"expected a column with values in the training part of {source}, got none")
    files.require_distinct_names(source, "feature", names)  # a column may be named like a feature of another one
    return table._replace(x=encoding.encode(table.x), columns=names), encoding


def _fit_scaling(source: str, x: np.ndarray, columns: tuple[str, ...], scaling: str, encoding: Encoding) -> Scaling:
    """Returns the map that standardizes the features that are numbers, and leaves those of categories as they are."""
    if not encoding.columns:
        return fit_scaling(source, x, columns, scaling)
    mean, sd = np.zeros(len(columns)), np.ones(len(columns))
    numbers = np.flatnonzero(encoding.is_number())
    if len(numbers):
        names = tuple(columns[i] for i in numbers)
        mean[numbers], sd[numbers] = fit_scaling(source, x[:, numbers], names, scaling)
    return Scaling(mean, sd)


def _split_rows(
    table: Table, rows: np.ndarray, share: float, seed: int, setting: str, examples: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that are kept and those set apart. Errors call the share `setting`, and the rows `examples`."""
    from sklearn.model_selection import train_test_split

    size, least, t = ceil(share * len(rows)), _min_examples(table), table.t[rows]
    if min(size, len(rows) - size) < least:
        raise SettingError(setting, f"to leave at least {least} of {examples} in each part", share)
    if table.classes:
        for label in np.flatnonzero(np.bincount(t) == 1):
            raise ValueError(
                f"expected at least 2 of class {shorten(table.classes[label])} among {examples} to split, got 1"
            )
    stratify = t if table.classes else None
    kept, apart = train_test_split(rows, test_size=size, random_state=seed, stratify=stratify)
    return np.asarray(kept), np.asarray(apart)


def _require_enough(source: str, table: Table, rows: np.ndarray) -> None:
    """Raises ValueError where the training part has too few rows, or none of some class."""
    least = _min_examples(table)
    if len(rows) < least:
        raise ValueError(
            f"expected at least {least} training examples with a weight above 0 in {source}, got {len(rows)}"
        )
    if table.classes:
        for label in np.setdiff1d(table.t, table.t[rows]):
            raise ValueError(
                f"expected training examples with a weight above 0 of every class in {source}, "
                f"got none of class {shorten(table.classes[label])}"
            )


def _min_examples(table: Table) -> int:
    """Returns how many examples a part needs."""
    return max(2, len(table.classes))


def _select_rows(table: Table, rows: np.ndarray) -> Examples:
    x = np.asarray(table.x)
    if len(rows) == len(table.t):  # all rows in their order: no copy
        return Examples(x, table.t, table.weights)
    return Examples(x[rows], table.t[rows], None if table.weights is None else table.weights[rows])

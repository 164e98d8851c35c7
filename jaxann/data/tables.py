"""Tables from scikit-learn, from OpenML, from a .csv or .npz file, or from a folder of MNIST's format.

What is read is checked first, and a ValueError says in one sentence the first thing that does not hold.
"""

from __future__ import annotations

import math
import os
import warnings
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxann.data import files

SETS = ("iris", "wine", "breast_cancer", "digits", "diabetes")
OPENML = ("mnist_784", "Fashion-MNIST")
OPENML_TEST = 10_000  # the last examples of either are by convention its test part
MOST_CLASSES = 20  # that whole numbers are taken for, unless `kind` says what they are


class Table(NamedTuple):
    """Features x [N, n] and targets t [N]: labels 0, 1, ... where there are `classes`, which name them, else numbers.

    `columns` names the features and `target` the target. `weights` [N] is how much each example counts, and `test` is
    x, t of the source's own test part.
    """

    x: np.ndarray
    t: np.ndarray
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    target: str
    weights: np.ndarray | None = None
    test: tuple[np.ndarray, np.ndarray] | None = None


def read_table(
    source: str,
    *,
    target: str | None = None,
    weights: str | None = None,
    kind: Literal["classes", "numbers"] | None = None,
) -> Table:
    """The table of `SETS` or `OPENML`, openml:NAME, a .csv or .npz file, or a folder of IDX files.

    `target` and `weights` name columns of a .csv, whose target is else the last. Without a `kind`, text is classes, and
    so are whole numbers of 20 values at most. Raises ValueError for what is not there, damaged, or no such table.
    """
    if kind not in (None, "classes", "numbers"):
        raise ValueError(f"kind is {kind!r}, but classes or numbers is wanted")
    fetched = source in OPENML or source.startswith("openml:")
    is_csv, is_npz = (source.lower().endswith(ending) and not fetched for ending in (".csv", ".npz"))
    if not (source in SETS or fetched or is_csv or is_npz or os.path.isdir(source)):
        if os.sep in source and not os.path.exists(source):
            raise ValueError(f"no such file or folder: {source}")
        known = ", ".join(SETS + OPENML)
        raise ValueError(
            f"there is no dataset {source}, only {known}, openml:NAME, .csv, .npz and folders of IDX files"
        )
    for option, name in (("target", target), ("weights", weights)):
        if name is not None and not is_csv:
            raise ValueError(f"{option} is {name!r}, but only a .csv's columns go by name, and {source} is none")
    if source in SETS:
        table = _scikit_learn(source)
    elif fetched:
        table = _openml(source)
    elif is_csv:
        table = _csv(source, target, weights)
    else:
        table = _npz(source) if is_npz else _idx(source)
    return _encode_targets(source, table, kind)


def read_features(path: str, columns: tuple[str, ...], others: tuple[str | None, ...] = ()) -> np.ndarray:
    """Features [N, n] to predict from: of a .csv the `columns`, in whatever order they lie there, of an .npz its x.

    Columns named in `others`, as the target, are left out. Raises ValueError for columns that are missing or unknown,
    and for what `read` would not take.
    """
    if path.lower().endswith(".npz"):
        x, _ = files.Npz(path).features("x")
        if (n := x.shape[1]) != len(columns):
            raise ValueError(f"{path}: x has {n} features, but {len(columns)} are wanted: {files.join_names(columns)}")
        return x
    if not path.lower().endswith(".csv"):
        raise ValueError(f"{path} is neither a .csv nor an .npz, which features are read from")
    cells = files.read_cells(path)
    missing = [name for name in columns if name not in cells]
    unknown = [name for name in cells if name not in (*columns, *others)]
    if missing or unknown:
        found = (("lacks", missing), ("has unknown", unknown))
        said = " and ".join(f"{verb} {files.join_names(names)}" for verb, names in found if names)
        raise ValueError(f"{path} {said}, but the columns {files.join_names(columns)} are wanted")
    return np.column_stack([files.parse_numbers(path, name, cells[name]) for name in columns])


def _scikit_learn(name: str) -> Table:
    import sklearn.datasets  # late: it takes longer to import than the rest together

    table = getattr(sklearn.datasets, f"load_{name}")()
    classes = tuple(map(str, table.get("target_names", ())))
    return Table(table.data, table.target, classes, tuple(map(str, table.feature_names)), "target")


def _openml(source: str) -> Table:
    from sklearn.datasets import fetch_openml

    name = source.removeprefix("openml:")
    version = 1 if name in OPENML else "active"
    try:
        with warnings.catch_warnings():  # of what is tried again: if that fails too, the error says so
            warnings.filterwarnings("ignore", "A network error|Invalid cache")
            # The parser that does not take pandas.
            found: Any = fetch_openml(name, version=version, as_frame=False, parser="liac-arff", n_retries=1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source} cannot be had from OpenML: {' '.join(str(error).split())}") from None
    if not isinstance(found.data, np.ndarray) or np.ndim(found.target) != 1:
        raise ValueError(f"{source} is sparse or has not one target, but a dense table with one is wanted")
    if found.categories:
        raise ValueError(f"{source} has features that are no numbers: {files.join_names(tuple(found.categories))}")
    precision = np.float32 if name in OPENML else np.float64  # pixels lose nothing as float32
    x, t = files.require_finite(source, "x", found.data.astype(precision, copy=False)), found.target
    table = Table(x, t, (), tuple(found.feature_names), found.target_names[0])
    if name not in OPENML:
        return table
    if len(x) <= OPENML_TEST:
        raise ValueError(f"{source} has {len(x)} examples, but more than the {OPENML_TEST} of its test part are wanted")
    return table._replace(x=x[:-OPENML_TEST], t=t[:-OPENML_TEST], test=(x[-OPENML_TEST:], t[-OPENML_TEST:]))


def _csv(path: str, target: str | None, weights: str | None) -> Table:
    cells = files.read_cells(path)
    target = list(cells)[-1] if target is None else target
    for option, name in (("target", target), ("weights", weights)):
        if name is not None and name not in cells:
            raise ValueError(
                f"{option} is {name!r}, but {path} has only the columns {files.join_names(tuple(cells), 20)}"
            )
    columns = tuple(name for name in cells if name not in (target, weights))
    if target == weights or not columns:
        raise ValueError(
            f"{path} has the columns {files.join_names(tuple(cells))}, but a target and other columns are wanted"
        )
    x = np.column_stack([files.parse_numbers(path, name, cells[name]) for name in columns])
    t = np.array([cell.strip() for cell in cells[target]], object)
    counts = None if weights is None else _weights(path, weights, files.parse_numbers(path, weights, cells[weights]))
    return Table(x, t, (), columns, target, counts)


def _npz(path: str) -> Table:
    npz = files.Npz(path)
    inputs, target = ("x_train", "y_train") if "x_train" in npz else ("x", "t")
    x, columns = npz.features(inputs)
    t, test, weights, classes = npz.column(target, len(x)), None, None, ()
    if {"x_test", "t_test", "y_test"} & set(npz.arrays):
        x_test, same = npz.features("x_test")
        if same != columns:
            raise ValueError(f"{path}: x_test has {x_test.shape[1]} features, but {inputs} has {x.shape[1]}")
        test = x_test, npz.column(f"{target[0]}_test", len(x_test))
    if "weights" in npz:
        weights = _weights(path, "weights", npz.column("weights", len(x), "biuf").astype(float))
    if "classes" in npz:
        classes = tuple(map(str, npz.array("classes").ravel()))
    if "columns" in npz:
        columns = tuple(map(str, npz.column("columns", x.shape[1])))
    return Table(x, t, classes, columns, target, weights, test)


def _idx(folder: str) -> Table:
    x, t = files.read_images(folder, "train")
    test = None
    if any(name.startswith("t10k-") for name in os.listdir(folder)):
        test = files.read_images(folder, "t10k")
        if test[0].shape[1:] != x.shape[1:]:
            raise ValueError(f"{folder}: training images are {x.shape[1:]} pixels, but test images {test[0].shape[1:]}")
        test = test[0].reshape(len(test[0]), -1), test[1]
    labels = 1 + max(int(part.max()) for part in (t, *(test or ())[1:]))
    columns = files.index_names("pixel", x.shape[1:])
    return Table(x.reshape(len(x), -1), t, tuple(map(str, range(labels))), columns, "label", test=test)


def _encode_targets(source: str, table: Table, kind: str | None) -> Table:
    """The table with its targets, and those of its test part, as labels or numbers."""
    parts = [table.t] if table.test is None else [table.t, table.test[1]]
    t, classes = _targets(source, table, np.concatenate(parts), kind)
    t, t_test = t[: len(table.t)], t[len(table.t) :]
    if classes:
        if t.min() == t.max():
            raise ValueError(f"{source} has the single class {classes[t[0]]}, but 2 or more are wanted")
        for label in np.setdiff1d(t_test, t):
            raise ValueError(f"{source}: the test part has the class {classes[label]}, but the training part has not")
    return table._replace(t=t, classes=classes, test=None if table.test is None else (table.test[0], t_test))


def _targets(source: str, table: Table, t: np.ndarray, kind: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and the names of their classes, or numbers and ()."""
    if t.dtype.kind in "OU" and kind != "numbers" and not table.classes:
        numeric = np.array([cell.lower() == "nan" or not math.isnan(files.parse_number(cell)) for cell in t])
        most = numeric.mean() >= 0.5
        # A number among text, or the other way round, is more likely a slip than a class, unless `kind` says so.
        for i in np.flatnonzero((t == "") | ((numeric != most) & (kind is None))).tolist():
            wanted = "a number, as elsewhere," if most else "text, as elsewhere,"
            raise files.unexpected_cell(source, i, table.target, t[i], wanted)
        if not numeric.all():
            names, labels = np.unique(t, return_inverse=True)
            return labels.astype(np.int64), tuple(names.tolist())
    numbers = files.parse_numbers(source, table.target, t)
    if kind == "numbers":
        return numbers, ()
    distinct, labels = np.unique(numbers, return_inverse=True)
    whole = bool((distinct % 1 == 0).all())
    if table.classes:
        if not whole or distinct[0] < 0 or distinct[-1] >= len(table.classes):
            raise ValueError(f"{source}: {table.target} wants labels 0 to {len(table.classes) - 1}, one for each class")
        return numbers.astype(np.int64), table.classes
    if kind is None and not (whole and len(distinct) <= MOST_CLASSES):
        return numbers, ()
    return labels.astype(np.int64), tuple(str(int(v) if v % 1 == 0 else float(v)) for v in distinct)


def _weights(source: str, name: str, weights: np.ndarray) -> np.ndarray:
    for i in np.flatnonzero(weights < 0).tolist():
        raise files.unexpected_cell(source, i, name, weights[i], "a weight of 0 or more")
    return weights

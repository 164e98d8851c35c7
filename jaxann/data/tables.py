"""Tables of features and targets, from scikit-learn, from OpenML, from a .csv or .npz file, or from IDX files.

A table is checked when it is read. Unexpected content raises a ValueError, whose message is one sentence that names the
first unexpected place.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxann.data import archives, files, images, labels
from jaxann.nn.hyperparameters import SettingError

SETS = ("iris", "wine", "breast_cancer", "digits", "diabetes")
OPENML = ("mnist_784", "Fashion-MNIST")
OPENML_TEST = 10_000  # by convention, the last examples of these two are their test part


class Table(NamedTuple):
    """Features and targets as a source holds them.

    Attributes:
        x: Features [N, n].
        t: Targets [N]: labels 0, 1, ... where the table has classes, and numbers otherwise.
        classes: The names of the classes; empty for targets that are numbers.
        columns: The names of the n features.
        target: The name of the target.
        weights: [N], how much each example counts, 0 or more; None where all count alike.
        test: Features [M, n] and targets [M] of the source's own test part; None where it has none.
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
    """Reads a table.

    Args:
        source: A name in `SETS` or `OPENML`, "openml:NAME", a .csv file with a line of column names, an .npz file with
            arrays x and t, or a folder of IDX files named as those of MNIST are.
        target: The column of a .csv file that holds the targets, by default the last.
        weights: The column of a .csv file that says how much each example counts; by default all count alike.
        kind: Whether the targets are classes or numbers. By default, text and the labels of images are read as classes,
            and so are integers with at most 20 distinct values. In a .csv file, distinct spellings count instead.

    Returns:
        The table.

    Raises:
        SettingError: If `kind` is none of these, or if `target` or `weights` does not name a column of a .csv file. It
            is a ValueError.
        ValueError: If the source does not exist, cannot be read, is damaged, or is not such a table.
    """
    if kind not in (None, "classes", "numbers"):
        raise SettingError("kind", "to be classes, numbers or None", kind)
    is_openml = source in OPENML or source.startswith("openml:")
    is_csv, is_npz = (source.lower().endswith(ending) and not is_openml for ending in (".csv", ".npz"))
    if not (source in SETS or is_openml or is_csv or is_npz or os.path.isdir(source)):
        if os.sep in source and not os.path.exists(source):
            raise ValueError(f"no such file or folder: {source}")
        names = ", ".join(SETS + OPENML)
        raise ValueError(
            f"expected a dataset, which is one of {names}, openml:NAME, a .csv file, an .npz file or a folder of "
            f"IDX files, got {source!r}"
        )
    for option, name in (("target", target), ("weights", weights)):
        if name is not None and not is_csv:
            raise SettingError(option, f"to be None for {source}, because only a .csv file has named columns", name)
    if source in SETS:
        table = _load_scikit_learn(source)
    elif is_openml:
        table = _fetch_openml(source)
    elif is_csv:
        table = _read_csv(source, target, weights)
    else:
        table = _read_npz(source) if is_npz else _read_idx(source)
        if not is_npz:
            kind = kind or "classes"  # the labels of images are classes, however many there are
    parts = [table.t] if table.test is None else [table.t, table.test[1]]
    (t, *others), classes = labels.encode_targets(source, table.target, parts, table.classes, kind)
    test = None if table.test is None else (table.test[0], *others)
    return table._replace(t=t, classes=classes, test=test)


def read_features(path: str, columns: tuple[str, ...], others: tuple[str | None, ...] = ()) -> np.ndarray:
    """Reads features to predict from.

    Args:
        path: A .csv file, whose columns may be in any order, or an .npz file, whose array x is read. Its columns may be
            in any order as well if it has an array `columns` of their names; otherwise they are matched by position.
        columns: The names of the n features that a model was trained on.
        others: Names of columns that the file may also have, such as the target, and that are left out. None in place
            of a name is ignored.

    Returns:
        Features [N, n], in the order of `columns`.

    Raises:
        ValueError: If columns are missing or unknown, or if the file cannot be read, is damaged, or holds cells that
            are not finite numbers.
    """
    if path.lower().endswith(".npz"):
        npz = archives.Npz(path)
        x, _ = npz.features("x")
        n = x.shape[1]
        if "columns" in npz:
            positions = {name: i for i, name in enumerate(npz.column_names(n))}
            _require_columns(path, positions, columns, others)
            return x if tuple(positions) == columns else x[:, [positions[name] for name in columns]]
        if n != len(columns):
            names = files.join_names(columns)
            raise ValueError(f"expected {len(columns)} features in array x of {path}, which are {names}, got {n}")
        return x
    if not path.lower().endswith(".csv"):
        raise ValueError(f"expected a .csv or an .npz file to read features from, got {path}")
    cells = files.read_cells(path)
    _require_columns(path, cells, columns, others)
    return np.column_stack([files.parse_numbers(path, name, cells[name]) for name in columns])


def _require_columns(
    path: str, names: Collection[str], columns: tuple[str, ...], others: tuple[str | None, ...]
) -> None:
    known, present = {*columns, *others}, set(names)
    missing = [name for name in columns if name not in present]
    unknown = [name for name in names if name not in known]
    if missing or unknown:
        verbs = (("lacks", missing), ("has unknown", unknown))
        differences = " and ".join(f"{verb} {files.join_names(names)}" for verb, names in verbs if names)
        raise ValueError(f"expected the columns {files.join_names(columns)} in {path}, got a table that {differences}")


def _load_scikit_learn(name: str) -> Table:
    import sklearn.datasets  # imported late, because this takes longer than all other imports together

    table = getattr(sklearn.datasets, f"load_{name}")()
    classes = tuple(map(str, table.get("target_names", ())))
    return Table(table.data, table.target, classes, tuple(map(str, table.feature_names)), "target")


def _fetch_openml(source: str) -> Table:
    from sklearn.datasets import fetch_openml

    name = source.removeprefix("openml:")
    version = 1 if name in OPENML else "active"
    try:
        with warnings.catch_warnings():  # scikit-learn warns and tries again; if that fails too, it raises
            warnings.filterwarnings("ignore", "A network error|Invalid cache")
            # This parser does not need pandas.
            answer: Any = fetch_openml(name, version=version, as_frame=False, parser="liac-arff", n_retries=1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source} cannot be fetched from OpenML: {files.describe_error(error)}") from None
    if not isinstance(answer.data, np.ndarray) or np.ndim(answer.target) != 1:
        raise ValueError(
            f"expected a dense table with one target, got {source}, which is sparse or has several targets or none"
        )
    if answer.categories:
        raise ValueError(
            f"expected numbers for all features of {source}, got categories for "
            f"{files.join_names(tuple(answer.categories))}"
        )
    precision = np.float32 if name in OPENML else np.float64  # float32 holds every pixel's value
    x, t = files.require_finite(source, "x", answer.data.astype(precision, copy=False)), answer.target
    table = Table(x, t, (), tuple(answer.feature_names), answer.target_names[0])
    if name not in OPENML:
        return table
    if len(x) <= OPENML_TEST:
        raise ValueError(
            f"expected more than {OPENML_TEST} examples in {source}, the last of which are its test part, got {len(x)}"
        )
    return table._replace(x=x[:-OPENML_TEST], t=t[:-OPENML_TEST], test=(x[-OPENML_TEST:], t[-OPENML_TEST:]))


def _read_csv(path: str, target: str | None, weights: str | None) -> Table:
    cells = files.read_cells(path)
    target = list(cells)[-1] if target is None else target
    for option, name in (("target", target), ("weights", weights)):
        if name is not None and name not in cells:
            names = files.join_names(tuple(cells), 20)
            raise SettingError(option, f"to be one of the columns of {path} ({names})", name)
    columns = tuple(name for name in cells if name not in (target, weights))
    if target == weights or not columns:
        raise ValueError(
            f"expected a column of targets and at least one of features in {path}, apart from any weights, "
            f"got the columns {files.join_names(tuple(cells))}"
        )
    x = np.column_stack([files.parse_numbers(path, name, cells[name]) for name in columns])
    t = np.array([cell.strip() for cell in cells[target]], object)
    if weights is None:
        return Table(x, t, (), columns, target)
    counts = _require_weights(path, weights, files.parse_numbers(path, weights, cells[weights]))
    return Table(x, t, (), columns, target, counts)


def _read_npz(path: str) -> Table:
    npz = archives.Npz(path)
    inputs, target = ("x_train", "y_train") if "x_train" in npz else ("x", "t")
    x, columns = npz.features(inputs)
    t, test, weights, classes = npz.column(target, len(x)), None, None, ()
    if {"x_test", "t_test", "y_test"} & set(npz.arrays):
        x_test, test_columns = npz.features("x_test")
        if test_columns != columns:
            shape, test_shape = (npz.arrays[name].shape[1:] for name in (inputs, "x_test"))
            raise ValueError(
                f"expected examples of shape {shape} in array x_test of {path}, as in {inputs}, got {test_shape}"
            )
        test = x_test, npz.column(f"{target[0]}_test", len(x_test))
    if "weights" in npz:
        weights = _require_weights(path, "weights", npz.column("weights", len(x), "biuf").astype(float))
    if "classes" in npz:
        classes = npz.class_names(len(x))
    if "columns" in npz:
        columns = npz.column_names(x.shape[1])
    return Table(x, t, classes, columns, target, weights, test)


def _read_idx(folder: str) -> Table:
    x, t = images.read_images(folder, "train")
    test = None
    if any(name.startswith("t10k-") for name in os.listdir(folder)):
        x_test, t_test = images.read_images(folder, "t10k")
        if x_test.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"expected test images of {x.shape[1:]} pixels, as in the training images of {folder}, "
                f"got {x_test.shape[1:]}"
            )
        test = x_test.reshape(len(x_test), -1), t_test
    columns = files.index_names("pixel", x.shape[1:])
    return Table(x.reshape(len(x), -1), t, (), columns, "label", test=test)


def _require_weights(source: str, name: str, weights: np.ndarray) -> np.ndarray:
    for i in np.flatnonzero(weights < 0).tolist():
        raise files.cell_error(source, i, name, weights[i], "a weight of 0 or more")
    return weights

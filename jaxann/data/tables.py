"""Tables of features and targets, from scikit-learn, from OpenML, or from files: text, Excel, Parquet, .npz and IDX.

A table is checked when it is read. Unexpected content raises a ValueError, whose message is one sentence that names the
first unexpected place.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxann.data import archives, files, images, labels, mnist1d, openml
from jaxann.data.column_settings import ColumnSettings
from jaxann.nn.hyperparameters import SettingError

SETS = ("iris", "wine", "breast_cancer", "digits", "diabetes")
SEQUENCES = ("mnist1d",)


class Table(NamedTuple):
    """Features and targets as a source holds them.

    Attributes:
        x: Features [N, n], or columns of which features are made: a DataFrame as `columns.parse_columns` returns it.
        t: Targets [N]: labels 0, 1, ... where the table has classes, and numbers otherwise.
        classes: The names of the classes; empty for targets that are numbers.
        columns: The names of the n features or of the columns.
        target: The name of the target.
        weights: [N], how much each example counts, 0 or more; None where all count alike.
        test: Features [M, n] and targets [M] of the source's own test part; None where it has none.
        kinds: The kind of each column, by its name; empty where `x` is an array.
        left_out: The reason why each other column is left out, by its name.
        notes: What a reader of the table may not expect, each in one sentence.
        shape: The shape that the features of an example have, such as (height, width, channels) for an image; () for
            the columns of a table.
    """

    x: Any
    t: Any
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    target: str
    weights: np.ndarray | None = None
    test: tuple[np.ndarray, np.ndarray] | None = None
    kinds: Mapping[str, str] = {}
    left_out: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()


def read_table(
    source: str,
    *,
    target: str | None = None,
    weights: str | None = None,
    kind: Literal["classes", "numbers"] | None = None,
    header: Literal["first", "none"] | None = None,
    columns: ColumnSettings | None = None,
) -> Table:
    """Reads a table. Rows of a file of named columns that have no target are left out.

    Args:
        source: A name in `SETS`, `SEQUENCES` or `openml.IMAGES`, "openml:NAME", a file of named columns as
            `frames.read_frame` takes it, an .npz file with arrays x and t, or a folder of IDX files named as those of
            MNIST are.
        target: The column that holds the targets, by default the last.
        weights: The column that says how much each example counts; by default all count alike.
        kind: Whether the targets are classes or numbers. By default, text and the labels of images are read as classes,
            and so are integers with at most 20 distinct values. In a text file, distinct spellings count instead.
        header: Whether the first line of a text file holds names, as for `frames.read_frame`.
        columns: Columns to leave out, and kinds of columns. By default the cells decide.

    Returns:
        The table.

    Raises:
        SettingError: If `kind` is none of these, or if `target`, `weights` or `columns` name columns that the source
            does not have. It is a ValueError.
        ValueError: If the source does not exist, cannot be read, is damaged, or is not such a table.
        ImportError: If a package that reads Excel or Parquet is missing.
    """
    if kind not in (None, "classes", "numbers"):
        raise SettingError("kind", "to be classes, numbers or None", kind)
    columns = columns or ColumnSettings()
    is_openml = source in openml.IMAGES or source.startswith("openml:")
    is_npz = source.lower().endswith(".npz") and not is_openml
    is_known = source in SETS + SEQUENCES or is_openml or is_npz or os.path.isdir(source)
    is_frame = not is_known and (os.path.exists(source) or "." in source or os.sep in source)
    if not is_known and not is_frame:
        names = ", ".join([*SETS, *SEQUENCES, *openml.IMAGES])
        raise ValueError(
            f"expected a dataset, which is one of {names}, openml:NAME, a file with named columns such as a .csv file, "
            f"an .npz file or a folder of IDX files, got {source!r}"
        )
    has_names = is_frame or (is_openml and source not in openml.IMAGES)
    options = {"target": target, "weights": weights} | columns._asdict()
    for option, value in options.items() if not has_names else ():
        if value:
            raise SettingError(option, f"to be left out for {source}, which has no named columns", value)
    if header is not None and not is_frame:
        raise SettingError("header", f"to be None for {source}, which is no text file", header)
    if is_frame:
        from jaxann.data.frames import read_frame  # with pandas, which takes long to import

        frame, notes = read_frame(source, header)
        table = _choose_columns(source, frame, target, weights, columns)._replace(notes=notes)
        table = _drop_missing_targets(source, table)
    elif source in SETS:
        table = _load_scikit_learn(source)
    elif source in SEQUENCES:
        (x, t), test = mnist1d.make_mnist1d()
        table = Table(x, t, (), files.index_names("x", x.shape[1:]), "label", test=test, shape=x.shape[1:])
    elif is_openml:
        table = _fetch_openml(source, target, weights, columns)
    else:
        table = _read_npz(source) if is_npz else _read_idx(source)
        if not is_npz:
            kind = kind or "classes"  # the labels of images are classes, however many there are
    parts = [table.t] if table.test is None else [table.t, table.test[1]]
    (t, *others), classes = labels.encode_targets(source, table.target, parts, table.classes, kind)
    test = None if table.test is None else (table.test[0], *others)
    return table._replace(t=t, classes=classes, test=test)


def is_table(source: str) -> bool:
    """Returns whether a source is the name of a table, or a file whose name ends as those of tables do."""
    endings = (".csv", ".tsv", ".xlsx", ".parquet", ".npz", ".gz", ".bz2", ".xz", ".zip", ".zst")
    is_named = source in (*SETS, *SEQUENCES, *openml.IMAGES) or source.startswith("openml:")
    return is_named or source.lower().endswith(endings) or os.path.isdir(source)


def read_features(
    path: str, columns: tuple[str, ...], others: tuple[str | None, ...] = (), shape: tuple[int, ...] = ()
) -> np.ndarray:
    """Reads features to predict from an .npz file.

    Args:
        path: An .npz file, whose array x is read. Its columns may be in any order if it has an array `columns` of their
            names; otherwise they are matched by position.
        columns: The names of the n features that a model was trained on.
        others: Names of columns that the file may also have, such as the target, and that are left out. None in place
            of a name is ignored.
        shape: The shape that the features of an example have; () if they are columns of a table.

    Returns:
        Features [N, n], in the order of `columns`.

    Raises:
        ValueError: If columns are missing or unknown, or if the file cannot be read, is damaged, or holds cells that
            are not finite numbers.
    """
    npz = archives.Npz(path)
    x, _ = npz.features("x")
    n, given = x.shape[1], npz.arrays["x"].shape[1:]
    if shape and given not in (shape, (prod(shape),)):
        raise ValueError(f"expected examples of shape {shape} in array x of {path}, got {given}")
    if "columns" in npz:
        positions = {name: i for i, name in enumerate(npz.column_names(n))}
        _require_columns(path, positions, columns, others)
        return x if tuple(positions) == columns else x[:, [positions[name] for name in columns]]
    if n != len(columns):
        names = files.join_names(columns)
        raise ValueError(f"expected {len(columns)} features in array x of {path}, which are {names}, got {n}")
    return x


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
    columns = tuple(map(str, table.feature_names))
    shape = (*table.images.shape[1:], 1) if name == "digits" else ()
    return Table(table.data, table.target, classes, columns, "target", shape=shape)


def _fetch_openml(source: str, target: str | None, weights: str | None, columns: ColumnSettings) -> Table:
    answer = openml.fetch(source)
    if source.removeprefix("openml:") not in openml.IMAGES:
        if answer.target is None or np.ndim(answer.target) != 1:
            raise ValueError(f"expected a table with one target, got {source}, which has several targets or none")
        target = answer.target_names[0] if target is None else target
        return _drop_missing_targets(source, _choose_columns(source, answer.frame, target, weights, columns))
    x, names, shape = openml.read_pixels(source, answer)
    (x, x_test), (t, t_test) = (np.split(values, [-openml.TEST]) for values in (x, answer.target))
    return Table(x, t, (), names, answer.target_names[0], test=(x_test, t_test), shape=shape)


def _choose_columns(
    source: str, frame: Any, target: str | None, weights: str | None, settings: ColumnSettings
) -> Table:
    """Returns a DataFrame as a table, whose targets are not encoded yet."""
    from jaxann.data.columns import choose_kinds, parse_columns
    from jaxann.data.frames import to_texts

    target = str(frame.columns[-1]) if target is None else target
    for option, name in (("target", target), ("weights", weights)):
        if name is not None and name not in frame:
            names = files.join_names(tuple(frame), 20)
            raise SettingError(option, f"to be one of the columns of {source} ({names})", name)
    features = frame.drop(columns=list({target, weights} & {*frame}))
    if target == weights or features.empty:
        raise ValueError(
            f"expected a column of targets and at least one of features in {source}, apart from any weights, "
            f"got the columns {files.join_names(tuple(frame))}"
        )
    kinds, left_out = choose_kinds(source, features, settings)
    if not kinds:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:5])
        raise ValueError(f"expected a column to learn from in {source}, got only columns that are left out ({reasons})")
    x, counts = parse_columns(source, features, kinds), None
    if weights is not None:
        cells = parse_columns(source, frame, {weights: "number"})[weights].to_numpy()
        for i in np.flatnonzero(np.isnan(cells)).tolist():
            raise files.cell_error(source, i, weights, str(frame[weights].iloc[i]), "a finite number")
        counts = _require_weights(source, weights, cells)
    cells = frame[target]
    t = cells if cells.dtype.kind in "iuf" else to_texts(cells)  # the classes of booleans are False and True
    return Table(x, t, (), tuple(kinds), target, counts, kinds=kinds, left_out=left_out)


def _drop_missing_targets(source: str, table: Table) -> Table:
    """Returns the table without the rows that have no target, with a note that counts them."""
    from jaxann.data.frames import UNKNOWN, is_missing

    missing = is_missing(table.t, UNKNOWN)
    if not missing.any():
        return table._replace(t=table.t.to_numpy())
    if missing.all():
        raise ValueError(f"expected targets in column {table.target} of {source}, got no value in any row")
    note = f"rows of {source} without a target are left out: {missing.sum()} of {len(missing)}"
    weights = None if table.weights is None else table.weights[~missing]
    x, t = table.x[~missing].reset_index(drop=True), table.t[~missing].to_numpy()
    return table._replace(x=x, t=t, weights=weights, notes=(*table.notes, note))


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
    return Table(x, t, classes, columns, target, weights, test, shape=npz.arrays[inputs].shape[1:])


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
    return Table(x.reshape(len(x), -1), t, (), columns, "label", test=test, shape=(*x.shape[1:], 1))


def _require_weights(source: str, name: str, weights: np.ndarray) -> np.ndarray:
    for i in np.flatnonzero(weights < 0).tolist():
        raise files.cell_error(source, i, name, weights[i], "a weight of 0 or more")
    return weights

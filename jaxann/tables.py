"""Tables as they lie in scikit-learn, at OpenML, in a .csv or .npz file, or in a folder of MNIST's format.

What is read is checked first, and the first thing that does not hold is said in one sentence.
"""

from __future__ import annotations

import csv
import gzip
import math
import os
import reprlib
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

SETS = ("iris", "wine", "breast_cancer", "digits", "diabetes")
OPENML = ("mnist_784", "Fashion-MNIST")
OPENML_TEST = 10_000  # the last examples of either are by convention its test part
MOST_CLASSES = 20  # that whole numbers are taken for, unless `kind` says what they are
ARRAYS = ("x", "t", "x_train", "y_train", "x_test", "t_test", "y_test", "weights", "classes", "columns")


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


def read(
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
    fetched, is_csv, is_npz = source.startswith("openml:"), *map(source.lower().endswith, (".csv", ".npz"))
    if not (source in SETS + OPENML or fetched or is_csv or is_npz or os.path.isdir(source)):
        if os.sep in source and not os.path.exists(source):
            raise ValueError(f"no such file or folder: {source}")
        known = ", ".join(SETS + OPENML)
        raise ValueError(
            f"there is no dataset {source}, only {known}, openml:NAME, .csv, .npz and folders of IDX files"
        )
    for option, name in (("target", target), ("weights", weights)):
        if name is not None and (fetched or not is_csv):
            raise ValueError(f"{option} is {name!r}, but only a .csv's columns go by name, and {source} is none")
    if source in SETS:
        return _labelled(source, _scikit_learn(source), kind)
    if source in OPENML or fetched:
        return _labelled(source, _openml(source), kind)
    if is_csv:
        return _labelled(source, _csv(source, target, weights), kind)
    return _labelled(source, _npz(source) if is_npz else _idx(source), kind)


def read_features(path: str, columns: tuple[str, ...], target: str = "") -> np.ndarray:
    """Features [N, n] to predict from: of a .csv the `columns`, in whatever order they lie there, of an .npz its x.

    A column named `target` is left out. Raises ValueError for columns that are missing or unknown, and for what `read`
    would not take.
    """
    if path.lower().endswith(".npz"):
        x, _ = _features(path, _arrays(path), "x")
        if x.shape[1] != len(columns):
            raise ValueError(f"{path}: x has {x.shape[1]} features, but {len(columns)} are wanted: {_listed(columns)}")
        return x
    if not path.lower().endswith(".csv"):
        raise ValueError(f"{path} is neither a .csv nor an .npz, which features are read from")
    cells = _columns(path)
    missing = [name for name in columns if name not in cells]
    unknown = [name for name in cells if name not in (*columns, target)]
    if missing or unknown:
        parts = [f"{verb} {_listed(names)}" for verb, names in (("lacks", missing), ("has unknown", unknown)) if names]
        raise ValueError(f"{path} {' and '.join(parts)}, but the columns {_listed(columns)} are wanted")
    return np.column_stack([_numbers(path, name, cells[name]) for name in columns])


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
        raise ValueError(f"{source} has features that are no numbers: {_listed(tuple(found.categories))}")
    # Pixels lose nothing as float32.
    x, t = _finite(source, "x", found.data.astype(np.float32 if name in OPENML else float, copy=False)), found.target
    table = Table(x, t, (), tuple(found.feature_names), found.target_names[0])
    if name not in OPENML:
        return table
    if len(x) <= OPENML_TEST:
        raise ValueError(f"{source} has {len(x)} examples, but more than the {OPENML_TEST} of its test part are wanted")
    last = slice(-OPENML_TEST, None)
    return table._replace(x=x[:-OPENML_TEST], t=t[:-OPENML_TEST], test=(x[last], t[last]))


def _csv(path: str, target: str | None, weights: str | None) -> Table:
    cells = _columns(path)
    target = target if target is not None else list(cells)[-1]
    for option, name in (("target", target), ("weights", weights)):
        if name is not None and name not in cells:
            raise ValueError(f"{option} is {name!r}, but {path} has only the columns {_listed(tuple(cells), 20)}")
    columns = tuple(name for name in cells if name not in (target, weights))
    if target == weights or not columns:
        raise ValueError(f"{path} has the columns {_listed(tuple(cells))}, but a target and other columns are wanted")
    x = np.column_stack([_numbers(path, name, cells[name]) for name in columns])
    t = np.array([cell.strip() for cell in cells[target]], object)
    counts = None if weights is None else _weights(path, weights, _numbers(path, weights, cells[weights]))
    return Table(x, t, (), columns, target, counts)


def _columns(path: str) -> dict[str, tuple[str, ...]]:
    """Each column's cells, by its name."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if len(row) > 1 or "".join(row).strip()]
    except OSError as error:
        raise ValueError(_unreadable(path, error)) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path} is no comma-separated table: {error}") from None
    if len(rows) < 2:
        raise ValueError(f"{path} has no data, but a line of column names and rows below it are wanted")
    names = [name.strip() for name in rows.pop(0)]
    for name, count in Counter(names).items():
        if count > 1 or not name:
            raise ValueError(f"{path} has {count} of the name {name!r} among its columns, but each wants its own")
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(f"{path}, row {i + 1} has {len(row)} cells, but there are {len(names)} columns")
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def _npz(path: str) -> Table:
    arrays = _arrays(path)
    inputs, target = ("x_train", "y_train") if "x_train" in arrays else ("x", "t")
    x, columns = _features(path, arrays, inputs)
    t, test, weights = _column(path, arrays, target, len(x)), None, None
    if {"x_test", "t_test", "y_test"} & set(arrays):
        x_test, same = _features(path, arrays, "x_test")
        if same != columns:
            raise ValueError(f"{path}: x_test has {x_test.shape[1]} features, but {inputs} has {x.shape[1]}")
        test = x_test, _column(path, arrays, f"{target[0]}_test", len(x_test))
    if "weights" in arrays:
        weights = _weights(path, "weights", _column(path, arrays, "weights", len(x), "biuf").astype(float))
    classes = tuple(map(str, _array(path, arrays, "classes", "biufU").ravel())) if "classes" in arrays else ()
    if "columns" in arrays:
        columns = tuple(map(str, _column(path, arrays, "columns", x.shape[1])))
    return Table(x, t, classes, columns, target, weights, test)


def _arrays(path: str) -> dict[str, np.ndarray]:
    arrays, name = {}, "it"
    try:
        if os.path.isfile(path) and not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("it is no zip archive")
        with np.load(path, allow_pickle=False) as file:
            for name in filter(file.files.__contains__, ARRAYS):
                arrays[name] = np.asarray(file[name])
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged or no .npz: {error}") from None
    except OSError as error:
        raise ValueError(_unreadable(path, error)) from None
    except ValueError as error:
        raise ValueError(f"{path}: {name} is no array of numbers or text: {error}") from None
    return arrays


def _array(path: str, arrays: dict[str, np.ndarray], name: str, kinds: str) -> np.ndarray:
    """That of `name`, of numpy's `kinds`."""
    if name not in arrays:
        raise ValueError(f"{path} has no array {name}, only {', '.join(arrays) or 'others'}")
    array = arrays[name]
    if array.dtype.kind not in kinds:
        raise ValueError(f"{path}: {name} is an array of {array.dtype}, but numbers are wanted")
    return array if array.dtype.kind == "U" else _finite(path, name, array)


def _features(path: str, arrays: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """x [N, n], as float32 where that holds every value, and its columns' names."""
    x = _array(path, arrays, name, "biuf")
    if x.ndim == 0 or 0 in x.shape:
        raise ValueError(f"{path}: {name} has shape {x.shape}, but at least one example, a row each, is wanted")
    precision = np.float32 if np.can_cast(x.dtype, np.float32) else np.float64
    return x.astype(precision, copy=False).reshape(len(x), -1), _indexed("x", x.shape[1:])


def _column(path: str, arrays: dict[str, np.ndarray], name: str, length: int, kinds: str = "biufU") -> np.ndarray:
    """[length], of an array [length] or [length, 1]."""
    array = _array(path, arrays, name, kinds)
    if array.shape not in ((length,), (length, 1)):
        raise ValueError(f"{path}: {name} has shape {array.shape}, but ({length},) is wanted")
    return array.ravel()


def _idx(folder: str) -> Table:
    x, t = _pair(folder, "train")
    test = None
    if any(name.startswith("t10k-") for name in os.listdir(folder)):
        test = _pair(folder, "t10k")
        if test[0].shape[1:] != x.shape[1:]:
            raise ValueError(f"{folder}: training images are {x.shape[1:]} pixels, but test images {test[0].shape[1:]}")
        test = test[0].reshape(len(test[0]), -1), test[1]
    labels = 1 + max(int(part.max()) for part in (t, *(test or ())[1:]))
    columns = _indexed("pixel", x.shape[1:])
    return Table(x.reshape(len(x), -1), t, tuple(map(str, range(labels))), columns, "label", test=test)


def _pair(folder: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, rows, columns] as float32 and labels [N]."""
    images = _idx_file(folder, f"{part}-images-idx3-ubyte", 3)
    labels = _idx_file(folder, f"{part}-labels-idx1-ubyte", 1)
    if len(images) != len(labels) or 0 in images.shape:
        raise ValueError(f"{folder}: {part} has images of shape {images.shape}, but {len(labels)} labels")
    return images.astype(np.float32), labels


def _idx_file(folder: str, name: str, sizes: int) -> np.ndarray:
    """uint8 of a file that says: 0, 0, 8 for uint8, the number of sizes, the sizes as big-endian uint32, the values."""
    plain = os.path.join(folder, name)
    path = plain if os.path.exists(plain) else f"{plain}.gz"
    try:
        with (open if path == plain else gzip.open)(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise ValueError(f"{folder} has no {name}, plain or .gz") from None
    except (EOFError, zlib.error, OSError) as error:
        raise ValueError(_unreadable(path, error)) from None
    head, magic = 4 + 4 * sizes, int.from_bytes(data[:4], "big")
    if len(data) < head or magic != 0x800 + sizes:
        raise ValueError(f"{path} has {len(data)} bytes and begins with {magic}, but {0x800 + sizes} is wanted")
    shape = struct.unpack_from(f">{sizes}I", data, 4)
    if len(data) != head + math.prod(shape):
        raise ValueError(f"{path} has {len(data)} bytes, but {head + math.prod(shape)} are wanted, for shape {shape}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _labelled(source: str, table: Table, kind: str | None) -> Table:
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
        numeric = np.array([cell.lower() == "nan" or not math.isnan(_number(cell)) for cell in t])
        most = numeric.mean() >= 0.5
        # A number among text, or the other way round, is more likely a slip than a class, unless `kind` says so.
        for i in np.flatnonzero((t == "") | (numeric != most if kind is None else False)).tolist():
            wanted = "a number" if most else "text"
            raise ValueError(
                f"{_place(source, i, table.target)} is {_shown(t[i])}, but {wanted}, as elsewhere, is wanted"
            )
        if not numeric.all():
            names, labels = np.unique(t, return_inverse=True)
            return labels.astype(np.int64), tuple(names.tolist())
    numbers = _numbers(source, table.target, t)
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


def _numbers(source: str, column: str, cells: Sequence[str] | np.ndarray) -> np.ndarray:
    """[N] finite float64."""
    try:
        if "_" in "".join(map(str, cells)):
            raise ValueError
        numbers = np.array(cells, float)
    except ValueError:  # only then one by one, which takes twice as long
        numbers = np.array([_number(cell) for cell in cells])
    for i in np.flatnonzero(~np.isfinite(numbers)).tolist():
        raise ValueError(f"{_place(source, i, column)} is {_shown(cells[i])}, but a finite number is wanted")
    return numbers


def _number(cell: str) -> float:
    """NaN where it is none, such as 1_000, which Python would take."""
    try:
        return math.nan if "_" in cell else float(cell)
    except ValueError:
        return math.nan


def _weights(source: str, name: str, weights: np.ndarray) -> np.ndarray:
    for i in np.flatnonzero(weights < 0).tolist():
        raise ValueError(f"{_place(source, i, name)} is {weights[i]:g}, but a weight of 0 or more is wanted")
    return weights


def _finite(source: str, name: str, x: np.ndarray) -> np.ndarray:
    """x itself. Raises ValueError that names the first entry that is not finite."""
    if not np.isfinite(x).all():
        index = tuple(np.argwhere(~np.isfinite(x))[0].tolist())
        raise ValueError(f"{source}: {name}{list(index)} is {x[index]}, but a finite number is wanted")
    return x


def _place(source: str, row: int, column: str) -> str:
    return f"{source}, row {row + 1}, column {column}"


def _shown(cell: str | float) -> str:
    return reprlib.repr(str(cell))


def _indexed(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of features that lie in an array: pixel_0_0, pixel_0_1, ..."""
    return tuple("_".join(map(str, (name, *index))) for index in np.ndindex(*shape))


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _unreadable(path: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no such file: {path}"
    return f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"

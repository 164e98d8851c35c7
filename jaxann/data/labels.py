"""The targets of a table as labels of classes or as numbers.

If targets are text, every distinct text is a class: 01 and 1 are two classes, and so are 2⁵³ and 2⁵³ + 1, which float64
cannot distinguish. Integers become classes without a conversion to floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import numpy as np

from jaxann.data import files
from jaxann.nn.text import describe_value, shorten

MOST_CLASSES = 20  # the most distinct integers that are read as classes instead of numbers, unless `kind` decides


def encode_targets(
    source: str, column: str, parts: Sequence[np.ndarray], classes: tuple[str, ...], kind: str | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Converts targets to labels or to numbers.

    Args:
        source: The file or table, for messages.
        column: The name of the target, for messages.
        parts: The targets of the training part [N] and, where the source has one, those of the test part [M], as text
            or numbers.
        classes: The names of the classes, if the source has them; then the targets must be their labels.
        kind: "classes", "numbers" or None, as for `tables.read_table`.

    Returns:
        The parts as labels 0, 1, ... and the names of the classes, or the parts as numbers and no names.

    Raises:
        ValueError: If a target does not fit the others, or if the training part has fewer than 2 classes or no example
            of a class.
    """
    t, names = _label(source, column, _join(parts), classes, kind)
    encoded = np.split(t, [len(parts[0])])[: len(parts)]
    if not names and len(encoded[0]) > 1 and encoded[0].min() == encoded[0].max():
        place = f"{source}, column {shorten(column)}"
        raise ValueError(f"expected targets that are not all equal in {place}, got {encoded[0][0]:g} everywhere")
    if names:
        present, train = np.unique(t), np.unique(encoded[0])
        if len(train) == 1:
            raise ValueError(f"expected at least 2 classes in {source}, got only {shorten(names[train[0]])}")
        for label in np.setdiff1d(present, train):
            raise ValueError(
                f"expected only classes of the training part in the test part of {source}, got {shorten(names[label])}"
            )
        for label in np.setdiff1d(np.arange(len(names)), train):
            raise ValueError(
                f"expected an example of every class of {source}, got none of class {shorten(names[label])}"
            )
    return encoded, names


def _join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the targets of all parts: text as stripped Python strings, and integers with all their digits."""
    if any(part.dtype.kind in "OU" for part in parts):
        cells = (cell for part in parts for cell in part.tolist())
        return np.array(["" if cell is None else str(cell).strip() for cell in cells], object)
    t = np.concatenate([part.astype(np.uint8) if part.dtype.kind == "b" else part for part in parts])
    if t.dtype.kind == "f" and any(part.dtype.kind in "iu" for part in parts):
        # NumPy joins int64 and uint64, and integers and floats, as float64, which rounds; Python's numbers are exact.
        return np.array([value for part in parts for value in part.tolist()], object)
    return t


def _label(
    source: str, column: str, t: np.ndarray, classes: tuple[str, ...], kind: str | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels and the names of their classes, or numbers and no names."""
    is_text = isinstance(t[0], str)
    if is_text and kind != "numbers" and not classes:
        return _label_text(source, column, t, kind)
    numbers = files.parse_numbers(source, column, t) if is_text or t.dtype.kind == "f" else t
    if kind == "numbers":
        return numbers.astype(float), ()
    if classes:
        valid = ((numbers % 1 == 0) & (numbers >= 0) & (numbers < len(classes))).astype(bool)
        for i in np.flatnonzero(~valid).tolist():
            expectation = f"a label from 0 to {len(classes) - 1}, one for each class,"
            raise files.cell_error(source, i, column, numbers[i], expectation)
        return numbers.astype(np.int64), classes
    distinct, labels = np.unique(numbers, return_inverse=True)
    integral = bool((distinct % 1 == 0).all())
    if kind is None and not (integral and len(distinct) <= MOST_CLASSES):
        return numbers.astype(float), ()
    return labels.astype(np.int64), tuple(str(int(v) if v % 1 == 0 else float(v)) for v in distinct)


def _label_text(source: str, column: str, t: np.ndarray, kind: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels and the names of their classes, or numbers and no names, for targets that are text."""
    numeric = np.array([cell.lower() == "nan" or not math.isnan(files.parse_number(cell)) for cell in t])
    mostly_numeric = np.mean([cell.lower() == "nan" or files.looks_numeric(cell) for cell in t]) >= 0.5
    # A number among text, or text among numbers, is more likely a slip than a class, unless `kind` says otherwise.
    for i in np.flatnonzero((t == "") | ((numeric != mostly_numeric) & (kind is None))).tolist():
        expectation = f"{'a number' if mostly_numeric else 'text'}, as in most rows,"
        raise files.cell_error(source, i, column, t[i], expectation)
    names = sorted(set(t.tolist()))
    if kind is None and not mostly_numeric and len(names) > max(MOST_CLASSES, len(t) / 2):
        place = f"{source}, column {shorten(column)}"
        raise ValueError(f"expected classes or numbers in {place}, got {len(names)} different texts in {len(t)} rows")
    spellings: dict[str, str] = {}
    for name in names:
        other = spellings.setdefault(" ".join(name.lower().split()), name)
        if other != name:
            raise ValueError(
                f"expected classes that differ in more than case and spaces in {source}, column {shorten(column)}, "
                f"got {describe_value(other)} and {describe_value(name)}"
            )
    if numeric.all():
        numbers = files.parse_numbers(source, column, t)
        if kind is None and len(names) > MOST_CLASSES:
            return numbers, ()
        values = {name: _exact_value(name) for name in names}
        if kind is None and any(value != value.to_integral_value() for value in values.values()):
            return numbers, ()
        names.sort(key=lambda name: values[name])  # names of the same value stay in the order of their text
    labels = {name: i for i, name in enumerate(names)}
    return np.array([labels[cell] for cell in t], np.int64), tuple(names)


def _exact_value(text: str) -> Decimal:
    """Returns the value of a finite number that is given as text, with all its digits."""
    try:
        return Decimal(text)
    except InvalidOperation:  # the exponent has too many digits, as in 1e-99999999999999999999
        return Decimal(float(text))

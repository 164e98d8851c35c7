"""The checks and messages that all readers of files share.

Unexpected content raises a ValueError, whose message is one short sentence that names the first unexpected place.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxann.nn.text import describe_value, shorten

_NUMBER_LIKE = re.compile(r"[$€£]?\s*[+-]?(?:\d{1,3}(?:[.,_'\s]\d{3})+|\d+)(?:[.,]\d*)?\s*[%$€£]?")


def require_distinct_names(path: str, noun: str, names: Sequence[str]) -> None:
    """Checks that no name is empty or given twice.

    Args:
        path: The file, for the message.
        noun: What the names are for, in the message, such as "column".
        names: The names.

    Raises:
        ValueError: If a name is empty or is given twice.
    """
    for name, count in Counter(names).items():
        if count > 1 or not name:
            raise ValueError(
                f"expected a name of its own for each {noun} of {path}, "
                f"got the name {describe_value(name)} for {count} of them"
            )


def parse_numbers(source: str, column: str, cells: Sequence[str] | np.ndarray) -> np.ndarray:
    """Converts the cells of a column to numbers.

    Args:
        source: The file or table, for the message.
        column: The name of the column, for the message.
        cells: [N], text or numbers.

    Returns:
        The numbers [N], as float64.

    Raises:
        ValueError: If a cell is not a finite number; the message names the first such cell.
    """
    try:
        if "_" in "".join(map(str, cells)):
            raise ValueError
        x = np.array(cells, float)
    except ValueError:  # converting cells one by one takes twice as long, so only columns with other cells need it
        x = np.array([parse_number(cell) for cell in cells])
    for i in np.flatnonzero(~np.isfinite(x)).tolist():
        raise cell_error(source, i, column, str(cells[i]), "a finite number")
    return x


def parse_number(cell: str) -> float:
    """Returns the number in a cell, or NaN where it holds something else, such as 1_000, which Python would accept."""
    try:
        return math.nan if "_" in cell else float(cell)
    except ValueError:
        return math.nan


def looks_numeric(cell: str) -> bool:
    """Returns whether a cell holds a number, possibly with separators of thousands, or a per cent or currency sign."""
    return bool(_NUMBER_LIKE.fullmatch(cell)) or not math.isnan(parse_number(cell))


def require_finite(source: str, name: str, x: np.ndarray) -> np.ndarray:
    """Returns `x` after checking that it is finite.

    Args:
        source: The file or table, for the message.
        name: The name of the array, for the message.
        x: Numbers, of any shape.

    Raises:
        ValueError: If an entry is not finite; the message names the first such entry.
    """
    if not np.isfinite(x).all():
        index = tuple(np.argwhere(~np.isfinite(x))[0].tolist())
        raise ValueError(f"expected a finite number for {name}{list(index)} of {source}, got {x[index]}")
    return x


def cell_error(source: str, row: int, column: str, cell: str | float | np.number, expectation: str) -> ValueError:
    """Returns the error for a cell that is not what its column should hold.

    Args:
        source: The file or table.
        row: The index of the row below the column names, from 0; the message counts from 1.
        column: The name of the column.
        cell: What the cell holds.
        expectation: What it should hold, such as "a finite number".
    """
    if isinstance(cell, str):
        shown = describe_value(str(cell))
    else:
        shown = f"{cell:g}" if isinstance(cell, float | np.floating) else f"{cell}"  # an integer is shown exactly
    return ValueError(f"expected {expectation} in {source}, row {row + 1}, column {shorten(column)}, got {shown}")


def index_names(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Returns a name for each entry of an array of a shape, in order: "pixel_0_0", "pixel_0_1", ..."""
    return tuple("_".join(map(str, (name, *index))) for index in np.ndindex(*shape))


def join_names(names: Sequence[str], most: int = 5) -> str:
    """Returns the first `most` names, separated by commas, and the number of further ones."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shorten, names[:most])) + rest


def require_regular_file(path: str | os.PathLike[str]) -> None:
    """Checks that a path, if anything exists there, is a regular file or a folder.

    Opening a pipe would wait for a writer, and reading a device might never end.

    Args:
        path: The path. Nothing needs to exist there.

    Raises:
        ValueError: If the path is a pipe, a socket or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # opening the file later raises this error, too
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"expected a regular file, got a pipe, a socket or a device: {os.fspath(path)}")


def read_error(path: str, error: Exception) -> ValueError:
    """Returns the error for a file that cannot be read, from the error of the function that tried to read it."""
    if isinstance(error, FileNotFoundError):
        return ValueError(f"no such file: {path}")
    return ValueError(f"{path} cannot be read: {describe_error(error)}")


def describe_error(error: Exception) -> str:
    """Returns the message of an error in one short line, or the name of its type if it has no message."""
    message = " ".join(str(getattr(error, "strerror", None) or error).split())
    return shorten(message, 200) or type(error).__name__

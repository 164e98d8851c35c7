"""Readers of .csv, .npz and IDX files, which return what a file holds after checking it.

A file with unexpected content raises a ValueError, whose message is one sentence and names the first place of it.
"""

from __future__ import annotations

import csv
import gzip
import math
import os
import reprlib
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

ARRAYS = ("x", "t", "x_train", "y_train", "x_test", "t_test", "y_test", "weights", "classes", "columns")


def read_cells(path: str) -> dict[str, tuple[str, ...]]:
    """Reads a .csv file with a line of column names.

    Args:
        path: The file.

    Returns:
        The cells of each column, as text, by the name of the column.

    Raises:
        ValueError: If the file cannot be read, is not a table in UTF-8, or has no rows, a column without a name of its
            own, or a row with too many or too few cells.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if len(row) > 1 or "".join(row).strip()]
    except OSError as error:
        raise ValueError(_describe_read_error(path, error)) from None
    except UnicodeDecodeError:
        raise ValueError(f"expected text in UTF-8 in {path}, got bytes that are not UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as a comma-separated table: {error}") from None
    if len(rows) < 2:
        content = "the names alone" if rows else "an empty file"
        raise ValueError(f"expected a line of column names and at least one row below it in {path}, got {content}")
    names = [name.strip() for name in rows.pop(0)]
    for name, count in Counter(names).items():
        if count > 1 or not name:
            raise ValueError(
                f"expected a name of its own for each column of {path}, got the name {name!r} for {count} of them"
            )
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(
                f"expected {len(names)} cells, one for each column, in {path}, row {i + 1}, got {len(row)}"
            )
    return dict(zip(names, zip(*rows, strict=True), strict=True))


class Npz:
    """An .npz file, of which only the arrays named in `ARRAYS` are read; each method checks the array that it returns.

    Args:
        path: The file.

    Raises:
        ValueError: If the file cannot be read, is damaged, or holds something other than arrays.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.arrays: dict[str, np.ndarray] = {}
        content = path
        try:
            if os.path.isfile(path) and not zipfile.is_zipfile(path):
                raise zipfile.BadZipFile("it is not a zip archive")
            with np.load(path, allow_pickle=False) as file:
                for name in filter(file.files.__contains__, ARRAYS):
                    content = f"array {name} of {path}"
                    self.arrays[name] = np.asarray(file[name])
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path} is damaged or not an .npz file: {error}") from None
        except OSError as error:
            raise ValueError(_describe_read_error(path, error)) from None
        except ValueError as error:
            raise ValueError(f"{content} cannot be read as numbers or text: {error}") from None

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def array(self, name: str, kinds: str = "biufU") -> np.ndarray:
        """Returns an array.

        Args:
            name: Its name in the file.
            kinds: The kinds of NumPy dtype that it may have, as letters: "biuf" are numbers, "U" is text.

        Raises:
            ValueError: If the file has no such array, or if that is of another kind or holds a number that is not
                finite.
        """
        if name not in self:
            names = ", ".join(self.arrays) or f"none of {', '.join(ARRAYS)}"
            raise ValueError(f"expected an array {name} in {self.path}, got {names}")
        array = self.arrays[name]
        if array.dtype.kind not in kinds:
            content = "numbers or text" if "U" in kinds else "numbers"
            raise ValueError(f"expected {content} in array {name} of {self.path}, got {array.dtype}")
        return array if array.dtype.kind == "U" else require_finite(self.path, name, array)

    def features(self, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Returns features [N, n] from an array [N, ...], and names for them, [n].

        The features are float32 if that can represent every value of the array's dtype, and float64 otherwise.

        Raises:
            ValueError: If the file has no such array, or if that has no entries or holds something other than finite
                numbers.
        """
        x = self.array(name, "biuf")
        if x.ndim == 0 or 0 in x.shape:
            raise ValueError(
                f"expected at least one example, a row, in array {name} of {self.path}, got shape {x.shape}"
            )
        precision = np.float32 if np.can_cast(x.dtype, np.float32) else np.float64
        return x.astype(precision, copy=False).reshape(len(x), -1), index_names("x", x.shape[1:])

    def column(self, name: str, length: int, kinds: str = "biufU") -> np.ndarray:
        """Returns an array [length] that the file holds as [length] or [length, 1].

        Args:
            name: Its name in the file.
            length: The number of examples or columns that it should have an entry for.
            kinds: The kinds of NumPy dtype that it may have, as for `array`.

        Raises:
            ValueError: If the file has no such array, or if that is of another shape or kind or holds a number that is
                not finite.
        """
        array = self.array(name, kinds)
        if array.shape not in ((length,), (length, 1)):
            raise ValueError(f"expected shape ({length},) for array {name} of {self.path}, got {array.shape}")
        return array.ravel()


def read_images(folder: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads images and labels from two IDX files, each plain or as .gz.

    Args:
        folder: The folder of the files, which are named as those of MNIST are.
        part: How their names begin: "train" or "t10k".

    Returns:
        Images [N, rows, columns] as float32, and labels [N] as uint8.

    Raises:
        ValueError: If a file is missing or damaged, or if it holds no images or not as many labels as images.
    """
    images = _read_idx_file(folder, f"{part}-images-idx3-ubyte", 3)
    labels = _read_idx_file(folder, f"{part}-labels-idx1-ubyte", 1)
    if len(images) != len(labels) or 0 in images.shape:
        raise ValueError(
            f"expected at least one image, and a label for each, in the {part} files of {folder}, "
            f"got images of shape {images.shape} and {len(labels)} labels"
        )
    return images.astype(np.float32), labels


def _read_idx_file(folder: str, name: str, axes: int) -> np.ndarray:
    """Reads uint8 after a header: bytes 0, 0, 8 (the code of uint8) and `axes`, then each size as big-endian uint32."""
    plain = os.path.join(folder, name)
    path = plain if os.path.exists(plain) else f"{plain}.gz"
    try:
        with (open if path == plain else gzip.open)(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise ValueError(f"expected a file {name}, plain or as .gz, in {folder}, got neither") from None
    except (EOFError, zlib.error, OSError) as error:
        raise ValueError(_describe_read_error(path, error)) from None
    head, magic = 4 + 4 * axes, int.from_bytes(data[:4], "big")
    if len(data) < head or magic != 0x800 + axes:
        raise ValueError(
            f"expected {path} to begin with the number {0x800 + axes} and to have at least {head} bytes, "
            f"got {magic} and {len(data)} bytes"
        )
    shape = struct.unpack_from(f">{axes}I", data, 4)
    if len(data) != head + math.prod(shape):
        raise ValueError(f"expected {head + math.prod(shape)} bytes in {path}, for shape {shape}, got {len(data)}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


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


def require_finite(source: str, name: str, x: np.ndarray) -> np.ndarray:
    """Returns `x` after checking it.

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


def cell_error(source: str, row: int, column: str, cell: str | float, expectation: str) -> ValueError:
    """Returns the error for a cell that is not what its column should hold.

    Args:
        source: The file or table.
        row: The index of the row below the column names, from 0; the message counts from 1.
        column: The name of the column.
        cell: What the cell holds.
        expectation: What it should hold, such as "a finite number".
    """
    shown = reprlib.repr(str(cell)) if isinstance(cell, str) else f"{cell:g}"
    return ValueError(f"expected {expectation} in {source}, row {row + 1}, column {column}, got {shown}")


def index_names(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Returns a name for each entry of an array of a shape, in order: "pixel_0_0", "pixel_0_1", ..."""
    return tuple("_".join(map(str, (name, *index))) for index in np.ndindex(*shape))


def join_names(names: Sequence[str], most: int = 5) -> str:
    """Returns the first names, at most `most`, separated by commas, and the number of further ones."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def require_regular_file(path: str | os.PathLike[str]) -> None:
    """Checks that a path, if anything exists there, is a regular file or a folder.

    Opening a pipe would wait for somebody who writes into it, and reading a device might never end.

    Args:
        path: The path. Nothing needs to exist there.

    Raises:
        ValueError: If the path is a pipe, a socket or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # whoever opens the file gets this error, too
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"expected a regular file, got a pipe, a socket or a device: {os.fspath(path)}")


def _describe_read_error(path: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no such file: {path}"
    return f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"

"""What lies in .csv, .npz and IDX files: cells, arrays and images, as they are written there.

Each is checked, and a ValueError says in one sentence the first thing that does not hold.
"""

from __future__ import annotations

import csv
import gzip
import math
import os
import reprlib
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

ARRAYS = ("x", "t", "x_train", "y_train", "x_test", "t_test", "y_test", "weights", "classes", "columns")


def read_cells(path: str) -> dict[str, tuple[str, ...]]:
    """Each column's cells of a .csv file, by its name."""
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


class Npz:
    """The `ARRAYS` that an .npz file at `path` holds, each checked when it is asked for."""

    def __init__(self, path: str) -> None:
        self.path, self.arrays, name = path, {}, "it"
        try:
            if os.path.isfile(path) and not zipfile.is_zipfile(path):
                raise zipfile.BadZipFile("it is no zip archive")
            with np.load(path, allow_pickle=False) as file:
                for name in filter(file.files.__contains__, ARRAYS):
                    self.arrays[name] = np.asarray(file[name])
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path} is damaged or no .npz: {error}") from None
        except OSError as error:
            raise ValueError(_unreadable(path, error)) from None
        except ValueError as error:
            raise ValueError(f"{path}: {name} is no array of numbers or text: {error}") from None

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def array(self, name: str, kinds: str = "biufU") -> np.ndarray:
        """That of `name`, of numpy's `kinds`."""
        if name not in self:
            raise ValueError(f"{self.path} has no array {name}, only {', '.join(self.arrays) or 'others'}")
        array = self.arrays[name]
        if array.dtype.kind not in kinds:
            raise ValueError(f"{self.path}: {name} is an array of {array.dtype}, but numbers are wanted")
        return array if array.dtype.kind == "U" else require_finite(self.path, name, array)

    def features(self, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """x [N, n], as float32 where that holds every value, and its columns' names."""
        x = self.array(name, "biuf")
        if x.ndim == 0 or 0 in x.shape:
            raise ValueError(
                f"{self.path}: {name} has shape {x.shape}, but at least one example, a row each, is wanted"
            )
        precision = np.float32 if np.can_cast(x.dtype, np.float32) else np.float64
        return x.astype(precision, copy=False).reshape(len(x), -1), index_names("x", x.shape[1:])

    def column(self, name: str, length: int, kinds: str = "biufU") -> np.ndarray:
        """[length], of an array [length] or [length, 1]."""
        array = self.array(name, kinds)
        if array.shape not in ((length,), (length, 1)):
            raise ValueError(f"{self.path}: {name} has shape {array.shape}, but ({length},) is wanted")
        return array.ravel()


def read_images(folder: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, rows, columns] as float32 and labels [N], of a `part` named as MNIST's are, train or t10k."""
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


def parse_numbers(source: str, column: str, cells: Sequence[str] | np.ndarray) -> np.ndarray:
    """[N] finite float64."""
    try:
        if "_" in "".join(map(str, cells)):
            raise ValueError
        x = np.array(cells, float)
    except ValueError:  # only then one by one, which takes twice as long
        x = np.array([parse_number(cell) for cell in cells])
    for i in np.flatnonzero(~np.isfinite(x)).tolist():
        raise unexpected_cell(source, i, column, str(cells[i]), "a finite number")
    return x


def parse_number(cell: str) -> float:
    """NaN where it is none, such as 1_000, which Python would take."""
    try:
        return math.nan if "_" in cell else float(cell)
    except ValueError:
        return math.nan


def require_finite(source: str, name: str, x: np.ndarray) -> np.ndarray:
    """x itself. Raises ValueError that names the first entry that is not finite."""
    if not np.isfinite(x).all():
        index = tuple(np.argwhere(~np.isfinite(x))[0].tolist())
        raise ValueError(f"{source}: {name}{list(index)} is {x[index]}, but a finite number is wanted")
    return x


def unexpected_cell(source: str, row: int, column: str, cell: str | float, wanted: str) -> ValueError:
    """What to raise for a `cell` that is not what is `wanted`."""
    shown = reprlib.repr(str(cell)) if isinstance(cell, str) else f"{cell:g}"
    return ValueError(f"{source}, row {row + 1}, column {column} is {shown}, but {wanted} is wanted")


def index_names(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of features that lie in an array: pixel_0_0, pixel_0_1, ..."""
    return tuple("_".join(map(str, (name, *index))) for index in np.ndindex(*shape))


def join_names(names: Sequence[str], most: int = 5) -> str:
    """The first `most` names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _unreadable(path: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no such file: {path}"
    return f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"

"""The reader of .npz files, which are archives of arrays."""

from __future__ import annotations

import os
import zipfile

import numpy as np

from jaxann.data import files

ARRAYS = ("x", "t", "x_train", "y_train", "x_test", "t_test", "y_test", "weights", "classes", "columns")


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
        files.require_regular_file(path)
        try:
            if os.path.isfile(path) and not zipfile.is_zipfile(path):
                raise zipfile.BadZipFile("it is not a zip archive")
            with np.load(path, allow_pickle=False) as file:
                for name in filter(file.files.__contains__, ARRAYS):
                    content = f"array {name} of {path}"
                    if (count := file.files.count(name)) > 1:
                        raise zipfile.BadZipFile(f"it holds {count} arrays {name}")
                    self.arrays[name] = np.asarray(file[name])
        except ValueError as error:
            if "Object arrays" in str(error):
                origin = "images or sequences of different sizes" if "array x" in content else "a column of pandas"
                raise ValueError(
                    f"expected numbers or text in {content}, got Python objects, as NumPy makes of {origin}"
                ) from None
            raise ValueError(f"{content} cannot be read as numbers or text: {files.describe_error(error)}") from None
        except (OSError, RuntimeError, MemoryError) as error:  # such as an encrypted array, or too little memory
            raise files.read_error(content, error) from None
        except Exception as error:  # zipfile, numpy and each method of compression have further errors of their own
            raise ValueError(f"{path} is damaged or not an .npz file: {files.describe_error(error)}") from None

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def array(self, name: str, kinds: str = "biufU") -> np.ndarray:
        """Returns an array.

        Args:
            name: Its name in the file.
            kinds: The kinds of NumPy dtype that it may have, as letters: "biuf" for numbers, "U" for text.

        Raises:
            ValueError: If the file has no such array, or if the array is of another kind or holds a number that is
                not finite.
        """
        if name not in self:
            names = ", ".join(self.arrays) or f"none of {', '.join(ARRAYS)}"
            raise ValueError(f"expected an array {name} in {self.path}, got {names}")
        array = self.arrays[name]
        if array.dtype.kind not in kinds:
            content = "numbers or text" if "U" in kinds else "numbers"
            raise ValueError(f"expected {content} in array {name} of {self.path}, got {array.dtype}")
        if array.dtype.kind == "U":
            return array
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # a number beyond float64 becomes infinite
            with np.errstate(over="ignore"):
                array = array.astype(float)
        return files.require_finite(self.path, name, array)

    def features(self, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Returns features [N, n] from an array [N, ...], and names for them, [n].

        The features are float32 if that can represent every value of the array's dtype, and float64 otherwise.

        Raises:
            ValueError: If the file has no such array, or if the array is empty or holds something other than finite
                numbers.
        """
        x = self.array(name, "biuf")
        if x.ndim == 0 or 0 in x.shape:
            raise ValueError(
                f"expected at least one example, a row, in array {name} of {self.path}, got shape {x.shape}"
            )
        precision = np.float32 if np.can_cast(x.dtype, np.float32) else np.float64
        return x.astype(precision, copy=False).reshape(len(x), -1), files.index_names("x", x.shape[1:])

    def column(self, name: str, length: int, kinds: str = "biufU") -> np.ndarray:
        """Returns an array [length] that the file holds as [length] or [length, 1].

        Args:
            name: Its name in the file.
            length: The number of examples or columns, which must each have an entry.
            kinds: The kinds of NumPy dtype that it may have, as for `array`.

        Raises:
            ValueError: If the file has no such array, or if the array is of another shape or kind or holds a number
                that is not finite.
        """
        array = self.array(name, kinds)
        if array.shape not in ((length,), (length, 1)):
            raise ValueError(f"expected shape ({length},) for array {name} of {self.path}, got {array.shape}")
        return array.ravel()

    def column_names(self, count: int) -> tuple[str, ...]:
        """Returns the names of the features from the array `columns`, without spaces around them.

        Args:
            count: The number of features.

        Raises:
            ValueError: If the array does not hold `count` names, or if a name is empty or given twice.
        """
        return self._distinct_names("column", self.column("columns", count))

    def class_names(self, examples: int) -> tuple[str, ...]:
        """Returns the names of the classes from the array `classes`, without spaces around them.

        Args:
            examples: The number of examples.

        Raises:
            ValueError: If there are more classes than examples, or if a name is empty or given twice.
        """
        array = self.array("classes")
        if array.size > examples:
            raise ValueError(
                f"expected an example of every class of {self.path}, got {examples} for {array.size} classes"
            )
        return self._distinct_names("class", array.ravel())

    def _distinct_names(self, noun: str, array: np.ndarray) -> tuple[str, ...]:
        names = tuple(str(name).strip() for name in array)
        files.require_distinct_names(self.path, noun, names)
        return names

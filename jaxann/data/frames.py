"""Files of tables as DataFrames of pandas: text with any common separator and encoding, Excel and Parquet.

Unexpected content raises a ValueError, whose message is one short sentence that names the first unexpected place.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Sequence
from io import BytesIO, StringIO
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxann.data import files
from jaxann.data.extras import require_packages
from jaxann.nn.hyperparameters import SettingError
from jaxann.nn.text import describe_value, shorten

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# The first bytes of compressed files, and the functions that decompress them.
_COMPRESSIONS = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ\0": lzma.decompress}
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
UNKNOWN = ("", "na", "n/a", "#n/a", "<na>", "nan", "?")  # texts of cells without a value, in lower case
MISSING = (*UNKNOWN, "null", "none")  # the same for features; "none" may be the name of a class
_NUMBER = r"[+-]?\d+(?:,\d+)?(?:[eE][+-]?\d+)?"  # with a decimal comma, or an integer
_SAMPLE = 100  # lines from which the separator is found


class Frame(NamedTuple):
    """The content of a file.

    Attributes:
        table: A DataFrame with the names of the columns. The cells of a text file are text without spaces around it.
        notes: What a reader of the file may not expect, such as a guess of its encoding, each in one sentence.
    """

    table: pd.DataFrame
    notes: tuple[str, ...] = ()


def read_frame(path: str, header: Literal["first", "none"] | None = None) -> Frame:
    """Reads a table from a file.

    The content decides how the file is read, except that the name of a Parquet file ends with .parquet. A text file may
    be compressed by gzip, bzip2, xz or zip, and may be in UTF-8, UTF-16 or Windows-1252. Its cells may be separated by
    commas, semicolons, tabs or vertical bars. Lines at the top that begin with # are comments, unless they have as many
    cells as the line below them. Commas are decimal commas where another character separates the cells.

    Args:
        path: The file.
        header: "first" if the first line holds the names of the columns, and "none" if it holds the first example; then
            the columns are named column_1, column_2, and so on. By default the first line holds names, and one in which
            at least half of the cells are numbers is refused.

    Returns:
        The table and notes on it.

    Raises:
        SettingError: If the first line of a text file may hold an example and `header` is None. It is a ValueError.
        ValueError: If the file cannot be read, is not a table, or has no rows, two columns of the same name, or a row
            with too many or too few cells.
        ImportError: If a package that reads Excel or Parquet is missing.
    """
    files.require_regular_file(path)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise files.read_error(path, error) from None
    if path.lower().endswith(".parquet"):
        return Frame(_read_with_pandas(path, "a Parquet file", "pyarrow", pd.read_parquet, data))
    if data.startswith(b"PK") and "xl/workbook.xml" in _zip_members(path, data):
        return Frame(_read_with_pandas(path, "an Excel file", "openpyxl", pd.read_excel, data))
    text, notes = _decode(path, _decompress(path, data))
    rows, separator = _split_cells(path, text, notes)
    table = _name_columns(path, rows, header, notes)
    if separator != ",":
        table = _replace_decimal_commas(path, table, notes)
    return Frame(table, tuple(notes))


def to_frame(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a table of typed columns with names that are text.

    Raises:
        ValueError: If a name is empty or given twice, or if the table has no rows.
    """
    names = [str(name).strip() for name in table.columns]
    files.require_distinct_names("the table", "column", names)
    if not len(table):
        raise ValueError("expected a table with at least one row, got none")
    return table.set_axis(names, axis=1).reset_index(drop=True)


def get_cells(table: pd.DataFrame, name: str) -> pd.Series:
    """Returns a column of a table whose columns have different names."""
    cells: Any = table[name]
    return cells


def is_missing(cells: pd.Series, markers: Sequence[str] = MISSING) -> np.ndarray:
    """Returns which cells [N] have no value. Text has none if it is one of the markers, in lower or upper case."""
    missing = cells.isna()
    if cells.dtype.kind not in "biufM":
        missing |= cells.astype(str).str.strip().str.lower().isin(markers)
    return missing.to_numpy(bool)


def _read_with_pandas(path: str, kind: str, package: str, read: Any, data: bytes) -> pd.DataFrame:
    require_packages(kind, package)
    try:
        table = read(BytesIO(data))
    except Exception as error:  # the packages raise errors of many types for damaged files
        raise ValueError(f"{path} cannot be read as {kind}: {files.describe_error(error)}") from None
    files.require_distinct_names(path, "column", [str(name).strip() for name in table.columns])
    if not len(table):
        raise ValueError(f"expected at least one row below the column names in {path}, got none")
    return to_frame(table)


def _zip_members(path: str, data: bytes) -> list[str]:
    try:
        return zipfile.ZipFile(BytesIO(data)).namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} cannot be read as a zip file: {files.describe_error(error)}") from None


def _decompress(path: str, data: bytes) -> bytes:
    if data.startswith(b"PK"):
        members = _zip_members(path, data)
        if len(members) != 1:
            raise ValueError(f"expected one file in {path}, got {len(members)}")
        decompress = _unzip
    else:
        found = [decompress for start, decompress in _COMPRESSIONS.items() if data.startswith(start)]
        if not found:
            return data
        (decompress,) = found
    try:
        return decompress(data)
    except (OSError, EOFError, ValueError, RuntimeError, lzma.LZMAError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be decompressed: {files.describe_error(error)}") from None


def _unzip(data: bytes) -> bytes:
    with zipfile.ZipFile(BytesIO(data)) as file:
        return file.read(file.namelist()[0])


def _decode(path: str, data: bytes) -> tuple[str, list[str]]:
    """Returns the text of a file, and a note if its encoding had to be guessed."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text, notes = data.decode(encoding), []
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
        notes = [f"{path} is not in UTF-8; it was read as Windows-1252"]
    if "\0" in text or "\ufffd" in text:
        raise ValueError(f"expected text in UTF-8, UTF-16 or Windows-1252 in {path}, got other bytes")
    return text, notes


def _split_cells(path: str, text: str, notes: list[str]) -> tuple[list[list[str]], str]:
    """Returns the rows of a text file that are not blank, and the separator of their cells."""
    lines = list(StringIO(text, newline=""))
    comments = 0
    while comments < len(lines) and lines[comments].startswith("#"):
        comments += 1
    separator = _find_separator(lines[comments : comments + _SAMPLE])
    if 0 < comments < len(lines):
        last, first = (line.count(separator) for line in lines[comments - 1 : comments + 1])
        comments -= last == first > 0  # then the last of these lines holds the names of the columns
    if separator != ",":
        notes.append(f"the cells of {path} are separated by {SEPARATORS[separator]}")
    try:
        rows = list(csv.reader(lines[comments:], delimiter=separator, skipinitialspace=True, strict=True))
    except csv.Error as error:
        problem = files.describe_error(error)
        raise ValueError(f"{path} cannot be read as cells separated by {SEPARATORS[separator]}: {problem}") from None
    rows = [[cell.strip() for cell in row] for row in rows if len(row) > 1 or "".join(row).strip()]
    return rows, separator


def _find_separator(lines: list[str]) -> str:
    """Returns the separator that splits most lines into the same number of cells, which must be more than one."""
    best, score = ",", (0.0, 0)
    for separator in SEPARATORS:
        try:
            counts = [len(row) for row in csv.reader(lines, delimiter=separator, skipinitialspace=True) if row]
        except csv.Error:
            continue
        usual = max(set(counts), key=counts.count, default=1)
        agreement = counts.count(usual) / len(counts) if usual > 1 else 0.0
        if (agreement, usual) > score:
            best, score = separator, (agreement, usual)
    return best


def _name_columns(path: str, rows: list[list[str]], header: str | None, notes: list[str]) -> pd.DataFrame:
    """Returns rows of cells as a table with named columns."""
    if not rows:
        raise ValueError(f"expected a line of column names and at least one row below it in {path}, got an empty file")
    first = rows[0]
    numeric = [cell for cell in first if np.isfinite(files.parse_number(cell.replace(",", ".")))]
    if header is None and 2 * len(numeric) >= len(first):
        shown = shorten(", ".join(first[:5]), 60)
        expectation = f"to be none or first for {path}, whose first line holds an example or unusual names ({shown})"
        raise SettingError("header", expectation, header)
    names = [f"column_{i + 1}" for i in range(len(first))] if header == "none" else rows.pop(0)
    if not rows:
        raise ValueError(
            f"expected a line of column names and at least one row below it in {path}, got the names alone"
        )
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(
                f"expected {len(names)} cells, one for each column, in {path}, row {i + 1}, got {len(row)}"
            )
    table = pd.DataFrame(rows, dtype=object)
    if names[-1] == "" and (table.iloc[:, -1] == "").all():  # every line ends with a separator
        table, names = table.iloc[:, :-1], names[:-1]
        notes.append(f"the last column of {path}, which has no name and no values, is left out")
    if names and names[0] == "":  # an index that pandas wrote
        names[0] = "Unnamed: 0"
    files.require_distinct_names(path, "column", names)
    return table.set_axis(names, axis=1)


def _replace_decimal_commas(path: str, table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Returns the table with points for decimal commas in the columns that hold nothing but such numbers."""
    changed = {}
    for name in table:
        cells = get_cells(table, name)
        if cells.str.contains(",").any() and (cells.str.fullmatch(_NUMBER) | is_missing(cells)).all():
            changed[name] = cells.str.replace(",", ".", regex=False)
    if not changed:
        return table
    notes.append(f"the commas in column {describe_value(next(iter(changed)))} of {path} are decimal commas")
    return table.assign(**changed)

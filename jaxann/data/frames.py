"""Files of tables as DataFrames of pandas: text with any common separator and encoding, Excel and Parquet.

Unexpected content raises a ValueError, whose message is one short sentence that names the first unexpected place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxann.data import files
from jaxann.data.extras import require_packages
from jaxann.data.text_files import read_rows, zip_members
from jaxann.nn.hyperparameters import SettingError
from jaxann.nn.text import shorten

UNKNOWN = ("", "na", "n/a", "#n/a", "<na>", "nan", "nat", "?")  # texts of cells without a value, in lower case
_ERRORS = ("#div/0!", "#name?", "#null!", "#num!", "#ref!", "#value!")  # of spreadsheets
MISSING = (*UNKNOWN, *_ERRORS, "null", "none", "-", "--", ".")  # the same for features; "-" and "none" may be classes
TYPED = "biufM"  # the kinds of dtype of numbers, booleans and times
_NUMBER = r"[+-]?\d+(?:,\d+)?(?:[eE][+-]?\d+)?"  # with a decimal comma, or an integer
_SAMPLE = 1000  # rows in which the names of the columns are looked for
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"  # the first bytes of a file of Excel 2003 or older, and of one with a password


class Frame(NamedTuple):
    """The content of a file.

    Attributes:
        table: A DataFrame with the names of the columns. The cells of a text file are text without spaces around it.
        notes: What a reader of the file may not expect, such as a guess of its encoding, each in one sentence.
    """

    table: pd.DataFrame
    notes: tuple[str, ...] = ()


def read_frame(path: str, header: Literal["first", "none"] | None = None) -> Frame:
    """Reads a table from a file, whose content decides how it is read.

    A text file may be compressed by gzip, bzip2, xz or zip, and may be in UTF-8, UTF-16 or Windows-1252. Its cells may
    be separated by commas, semicolons, tabs or vertical bars. Lines at the top that begin with # are comments, unless
    they have as many cells as the line below them. Commas are decimal commas where another character separates the
    cells. Of a file of Excel, the first sheet is read. Titles above the names of the columns are left out, and so are
    columns with neither a name nor values.

    Args:
        path: The file.
        header: "first" if the first row holds the names of the columns, and "none" if it holds the first example; then
            the columns are named column_1, column_2, and so on. By default the first row holds names, and one that may
            hold an example is refused: half of its cells are numbers, or half of its texts occur again below it.

    Returns:
        The table and notes on it.

    Raises:
        SettingError: If the first row may hold an example and `header` is None, or if `header` is "none" for a
            Parquet file. It is a ValueError.
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
    notes: list[str] = []
    if data.startswith(b"PAR1") or path.lower().endswith(".parquet"):
        if header == "none":
            raise SettingError("header", f"to be first for {path}, whose columns have names", header)
        table = _read_with_pandas(path, "a Parquet file", "pyarrow", lambda: pd.read_parquet(BytesIO(data)))
        return Frame(to_frame(table, path))
    if data.startswith(_OLD_EXCEL):
        expectation = f"expected text, Excel (.xlsx) without a password or Parquet in {path}"
        raise ValueError(f"{expectation}, got a file of Excel 2003 or older, or one with a password")
    if data.startswith(b"PK") and "xl/workbook.xml" in zip_members(path, data):
        sheet = _read_with_pandas(path, "an Excel file", "openpyxl", lambda: _read_sheet(path, data, notes))
        table = _name_columns(path, sheet, header, notes)
        return Frame(table.map(lambda cell: np.nan if cell == "" else cell).infer_objects(), tuple(notes))
    rows, separator = read_rows(path, data, notes)
    table = _name_columns(path, rows, header, notes)
    if separator != ",":
        table = _replace_decimal_commas(path, table, notes)
    return Frame(table, tuple(notes))


def to_frame(table: pd.DataFrame, source: str = "the table") -> pd.DataFrame:
    """Returns a DataFrame whose columns have names that are text. Levels of the index that have names become columns.

    Args:
        table: The DataFrame.
        source: What messages call it.

    Raises:
        ValueError: If a name is empty or given twice, or if the table has no rows.
    """
    index = table.index
    kept = [name for name in index.names if name is not None and name not in table.columns]
    columns = {str(name).strip(): index.get_level_values(name) for name in kept}
    names = [*columns, *(str(name).strip() for name in table.columns)]
    files.require_distinct_names(source, "column", names)
    if not len(table):
        raise ValueError(f"expected at least one row in {source}, got none")
    levels = [pd.Series(cells, name=name).reset_index(drop=True) for name, cells in columns.items()]
    return pd.concat([*levels, table.reset_index(drop=True)], axis=1).set_axis(names, axis=1)


def get_cells(table: pd.DataFrame, name: str) -> pd.Series:
    """Returns a column of a table. Numbers, booleans and times stay as they are; all other cells become text."""
    cells: Any = table[name]
    return cells if cells.dtype.kind in TYPED else to_texts(cells)


def to_texts(cells: pd.Series) -> pd.Series:
    """Returns cells as text without spaces around it, and None where pandas has no value."""
    values = cells.tolist()
    try:
        texts = list(map(str.strip, values))
    except TypeError:  # not all of them are text
        pairs = zip(values, cells.isna().tolist(), strict=True)
        texts = [None if is_empty else str(value).strip() for value, is_empty in pairs]
    return pd.Series(texts, cells.index, object, cells.name)


def is_missing(cells: pd.Series, markers: Sequence[str] = MISSING) -> np.ndarray:
    """Returns which cells [N] have no value.

    Args:
        cells: A column as `get_cells` returns it.
        markers: Texts, in lower case, that stand for no value. Case does not matter in the cells.
    """
    if cells.dtype.kind in TYPED:
        return cells.isna().to_numpy(bool)
    known, longest = frozenset(markers), max(map(len, markers))
    return np.array([cell is None or (len(cell) <= longest and cell.lower() in known) for cell in cells], bool)


def _read_with_pandas(path: str, kind: str, package: str, read: Callable[[], Any]) -> Any:
    require_packages(kind, package)
    try:
        return read()
    except Exception as error:  # the packages raise errors of many types for damaged files
        raise ValueError(f"{path} cannot be read as {kind}: {files.describe_error(error)}") from None


def _read_sheet(path: str, data: bytes, notes: list[str]) -> list[list[Any]]:
    """Returns the rows of the first sheet of an Excel file that are not blank. Cells without a value are ""."""
    with pd.ExcelFile(BytesIO(data)) as file:
        first, *others = file.sheet_names
        sheet = pd.read_excel(file, sheet_name=first, header=None, dtype=object, na_filter=False)
    if others:
        notes.append(f"the first of {len(others) + 1} sheets of {path} is read: {shorten(str(first))}")
    rows = [[cell.strip() if isinstance(cell, str) else cell for cell in row] for row in sheet.to_numpy().tolist()]
    return [row for row in rows if any(cell != "" for cell in row)]


def _name_columns(path: str, rows: list[list[Any]], header: str | None, notes: list[str]) -> pd.DataFrame:
    """Returns rows of cells as a table with named columns."""
    expectation = f"expected a line of column names and at least one row below it in {path}"
    while header != "none" and len(rows) > 1 and _is_title(*rows[:2]):
        if title := str(rows.pop(0)[0]):
            notes.append(f"a title above the column names of {path} is left out: {shorten(title)}")
    if not rows:
        raise ValueError(f"{expectation}, got an empty file")
    first = rows[0] if header == "none" else rows.pop(0)
    names = [f"column_{i + 1}" if header == "none" else str(cell) for i, cell in enumerate(first)]
    if header is None and _is_example(names, rows):
        shown = shorten(", ".join(names[:5]), 60)
        question = f"to be none or first for {path}, whose first line holds an example or unusual names ({shown})"
        raise SettingError("header", question, header)
    if not rows:
        raise ValueError(f"{expectation}, got the names alone")
    for i, row in enumerate(rows):
        if len(row) != len(names):
            cells = "1 cell" if len(names) == 1 else f"{len(names)} cells"
            raise ValueError(f"expected {cells}, one for each column, in {path}, row {i + 1}, got {len(row)}")
    table = pd.DataFrame(rows, dtype=object)
    empty = [i for i, name in enumerate(names) if not name and bool((table[i] == "").all())]
    if empty:
        table, names = table.drop(columns=empty), [name for i, name in enumerate(names) if i not in empty]
        notes.append(f"columns of {path} that have neither a name nor values are left out: {len(empty)}")
    if names and names[0] == "":  # an index that pandas wrote
        names[0] = "Unnamed: 0"
    files.require_distinct_names(path, "column", names)
    return table.set_axis(names, axis=1)


def _is_title(row: list[Any], below: list[Any]) -> bool:
    """Returns whether a row is blank or a title: a single value above a row that has several values or none."""
    count, count_below = (sum(cell != "" for cell in cells) for cells in (row, below))
    return not count or (count == 1 and row[0] != "" and count_below != 1)


def _is_example(names: list[str], rows: list[list[Any]]) -> bool:
    """Returns whether the first row of a file may hold an example instead of the names of the columns.

    In an example, at least half of the cells are numbers, or at least half of the texts occur again in their columns.
    A row below that repeats all names is no evidence, because it comes from files that were joined.
    """
    numeric = [bool(np.isfinite(files.parse_number(name.replace(",", ".")))) for name in names]
    if 2 * sum(numeric) >= len(names):
        return True
    texts = {(i, name) for i, name in enumerate(names) if name and not numeric[i]}
    repeated = texts.intersection(pair for row in rows[:_SAMPLE] if row != names for pair in enumerate(row))
    return 2 * len(repeated) >= len(texts)


def _replace_decimal_commas(path: str, table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Returns the table with points for decimal commas in the columns that hold nothing but such numbers."""
    changed = {}
    for name in table:
        cells = get_cells(table, name)
        if cells.str.contains(",").any() and (cells.str.fullmatch(_NUMBER) | is_missing(cells)).all():
            changed[name] = cells.str.replace(",", ".", regex=False)
    if not changed:
        return table
    noun = "column" if len(changed) == 1 else "columns"
    notes.append(f"the commas in {noun} {files.join_names(list(changed))} of {path} are decimal commas")
    return table.assign(**changed)

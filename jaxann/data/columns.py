"""The kinds of a table's columns: numbers, dates and categories, and columns that are left out, with the reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from jaxann.data import files
from jaxann.data.categories import find_frequent, normalize_category
from jaxann.data.column_settings import ColumnSettings
from jaxann.data.frames import get_cells, is_missing, to_texts
from jaxann.nn.hyperparameters import SettingError

FEWEST_IDENTIFIERS = 10  # with fewer rows, texts or numbers that all differ may be anything
_IDENTIFIER_NAME = re.compile(r"Unnamed: 0(?:\.\d+)?|(?:.*[\W_])?(?i:id|index|row|no|nr)|.*[a-z](?:ID|Id)")
_ISO_DATE = re.compile(r"\d{4}([-/])\d{1,2}\1\d{1,2}(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?")
_OTHER_DATE = re.compile(
    r"(?:\d{2,4}[./-]\d{1,2}[./-]\d{1,2}|\d{1,2}[./-]\d{1,2}[./-]\d{2,4})(?:[T ,]+\d.*)?"
    r"|\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?[AaPp][Mm])?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def choose_kinds(source: str, table: pd.DataFrame, settings: ColumnSettings) -> tuple[dict[str, str], dict[str, str]]:
    """Decides what the columns of a table are.

    Args:
        source: The file or table, for messages.
        table: The columns that may become features.
        settings: What the user says about them.

    Returns:
        The kind of each column to learn from ("number", "date" or "category"), by its name; and the reason why each
        other column is left out, by its name.

    Raises:
        SettingError: If a setting names a column that the table lacks, or two settings name the same one. It is a
            ValueError.
    """
    chosen: dict[str, str] = {}
    for setting, names in settings._asdict().items():
        for name in names:
            if name not in table:
                known = files.join_names(tuple(table.columns), 20)
                raise SettingError(setting, f"to be columns of features of {source} ({known})", name)
            if name in chosen:
                raise SettingError(setting, f"to be no columns that {chosen[name]} names as well", name)
            chosen[name] = setting
    kinds, left_out = {}, {}
    for name in table:
        setting = chosen.get(name)
        if setting in ("ignore", "id"):
            left_out[name] = "the settings ignore it" if setting == "ignore" else "it identifies examples"
        elif setting is not None:
            kinds[name] = "category" if setting == "categorical" else "number"
        else:
            kind, reason = _choose_kind(name, get_cells(table, name))
            if reason is None:
                kinds[name] = kind
            else:
                left_out[name] = reason
    return kinds, left_out


def parse_columns(source: str, table: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    """Converts the cells of columns to numbers or to text.

    Args:
        source: The file or table, for messages.
        table: A table that has the columns.
        kinds: The kind of each column, by its name.

    Returns:
        The columns in the order of `kinds`: floats for numbers and for dates, which are days since 1970, and text for
        categories. Cells without a value are NaN in all of them.

    Raises:
        ValueError: If a cell of a column of numbers is neither missing nor a finite number, or one of dates no date.
    """
    parse = {"number": _parse_numbers, "date": _parse_dates, "category": _parse_categories}
    return pd.DataFrame({name: parse[kind](source, name, table[name]) for name, kind in kinds.items()})


def _choose_kind(name: str, cells: pd.Series) -> tuple[str, str | None]:
    """Returns the kind of a column, and the reason to leave it out or None."""
    missing = is_missing(cells)
    if missing.all():
        return "", "it has no values"
    if cells.dtype.kind in "bM":
        return ("category" if cells.dtype.kind == "b" else "date"), None
    if cells.dtype.kind in "iuf":
        return "number", _find_identifier(name, cells.to_numpy(float, na_value=np.nan))
    texts = cells.to_numpy(object)[~missing].tolist()
    values = _parse_texts(texts)
    is_code = re.search(r"^0\d+$", "\n".join(texts), re.MULTILINE)  # such as the ZIP code 02134
    if not is_code and not np.isnan(values).any():
        return "number", _find_identifier(name, np.append(values, [np.nan] * int(missing.any())))
    counts = Counter(texts)
    # Another text among dates or numbers is more likely a slip than a category, as it is among targets.
    if _are_most(_ISO_DATE.fullmatch, counts):
        return "date", None
    if _are_most(_OTHER_DATE.fullmatch, counts):
        return "", "its dates or times are not written as YYYY-MM-DD hh:mm:ss"
    if _are_most(files.looks_numeric, counts) and not all(map(str.isdigit, counts)):
        return "number", None
    if len(texts) >= FEWEST_IDENTIFIERS and not find_frequent(counts, len(cells)):
        return "", "its texts all differ" if len(counts) == len(texts) else "all of its texts are rare"
    return ("category", None) if len(counts) > 1 or missing.any() else ("", "it is the same everywhere")


def _are_most(is_kind: Callable[[str], object], counts: Counter[str]) -> bool:
    """Returns whether at least half of the cells are of a kind."""
    return 2 * sum(count for text, count in counts.items() if is_kind(text)) >= counts.total()


def _find_identifier(name: str, values: np.ndarray) -> str | None:
    """Returns the reason to leave out a column whose name and integers identify the rows, and None for any other."""
    if len(values) < FEWEST_IDENTIFIERS or not _IDENTIFIER_NAME.fullmatch(name):
        return None
    is_integral = np.isfinite(values).all() and (values % 1 == 0).all()
    return "its numbers identify the rows" if is_integral and len(np.unique(values)) == len(values) else None


def _parse_texts(texts: Sequence[str]) -> np.ndarray:
    """Returns the numbers in texts, and NaN where a text is no number."""
    try:
        if "_" not in "".join(texts):
            return np.array(texts, float)
    except ValueError:  # converting texts one by one takes longer
        pass
    numbers = {text: files.parse_number(text) for text in set(texts)}
    return np.array([numbers[text] for text in texts])


def _parse_numbers(source: str, name: str, cells: pd.Series) -> np.ndarray:
    if cells.dtype.kind in "biuf":
        values = cells.to_numpy(dtype=float, na_value=np.nan)
        for i in np.flatnonzero(np.isinf(values)).tolist():
            raise files.cell_error(source, i, name, values[i], "a finite number")
        return values
    return _parse_present(source, name, cells, _parse_texts, "a finite number")


def _parse_dates(source: str, name: str, cells: pd.Series) -> np.ndarray:
    if cells.dtype.kind == "M":
        days = (cells - (_EPOCH if cells.dt.tz else _EPOCH.replace(tzinfo=None))) / timedelta(days=1)
        return days.to_numpy(float, na_value=np.nan)
    return _parse_present(source, name, cells, lambda texts: list(map(_parse_date, texts)), "a date as YYYY-MM-DD")


def _parse_present(
    source: str, name: str, cells: pd.Series, parse: Callable[[list[str]], Any], expectation: str
) -> np.ndarray:
    """Returns what `parse` makes of the cells with a value, and NaN for the others. It must make finite numbers."""
    texts = to_texts(cells)
    missing, values = is_missing(texts), np.full(len(cells), np.nan)
    values[~missing] = parse(texts.to_numpy(object)[~missing].tolist())
    for i in np.flatnonzero(~missing & ~np.isfinite(values)).tolist():
        raise files.cell_error(source, i, name, texts.iloc[i], expectation)
    return values


def _parse_date(text: str) -> float:
    """Returns the days since 1970, and NaN where a text is no date. Times without a zone are those of UTC."""
    text = re.sub(r"^(\d{4})/(\d{1,2})/", r"\1-\2-", text)
    try:
        date = datetime.fromisoformat(re.sub(r"(?<=[-T ])(\d)(?!\d)", r"0\1", text))  # 2024-1-5 becomes 2024-01-05
    except ValueError:
        return np.nan
    return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - _EPOCH) / timedelta(days=1)


def _parse_categories(source: str, name: str, cells: pd.Series) -> pd.Series:
    del source, name  # any cell is a category
    texts = to_texts(cells)
    names = {text: normalize_category(text) for text in set(texts[~is_missing(texts)])}
    return pd.Series([names.get(text, np.nan) for text in texts], cells.index, object)

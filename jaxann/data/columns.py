"""The kinds of a table's columns: numbers, dates and categories, and columns that are left out, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from jaxann.data import files
from jaxann.data.column_settings import ColumnSettings
from jaxann.data.frames import get_cells, is_missing
from jaxann.nn.hyperparameters import SettingError

FEWEST_IDENTIFIERS = 10  # with fewer rows, texts that all differ may be categories
_INDEX_NAMES = {"unnamed: 0", "index", "id", "row", "no", "nr"}
_ISO_DATE = r"\d{4}-\d{1,2}-\d{1,2}(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?"
_OTHER_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}(?:[T ,]+\d.*)?|\d{1,2}:\d{2}(?::\d{2})?(?: ?[AaPp][Mm])?"
_NUMBER_LIKE = r"[$€£]?\s*[+-]?\d[\d.,_' ]*\s*[%$€£]?"  # numbers with thousands, per cent or currency signs as well


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
    return pd.DataFrame({name: parse[kind](source, name, get_cells(table, name)) for name, kind in kinds.items()})


def _choose_kind(name: str, cells: pd.Series) -> tuple[str, str | None]:
    """Returns the kind of a column, and the reason to leave it out or None."""
    missing = is_missing(cells)
    present = cells.loc[~missing]
    if not len(present):
        return "", "it has no values"
    if cells.dtype.kind == "b":
        return "category", None
    if cells.dtype.kind == "M":
        return "date", None
    if cells.dtype.kind in "iuf":
        values = present.to_numpy(float)
    else:
        texts = present.astype(str).str.strip()
        if texts.str.fullmatch(_ISO_DATE).all():
            return "date", None
        if texts.str.fullmatch(_OTHER_DATE).all():
            return "", "its dates or times are not written as YYYY-MM-DD"
        values = _to_floats(texts)
        # A text among numbers is more likely a slip than a category, as it is among targets.
        if np.mean(~np.isnan(values) | texts.str.fullmatch(_NUMBER_LIKE).to_numpy(bool)) < 0.5:
            distinct = texts.nunique()
            if distinct == len(texts) >= FEWEST_IDENTIFIERS:
                return "", "its texts all differ"
            return ("category", None) if distinct > 1 or missing.any() else ("", "it is the same everywhere")
    is_index = name.lower() in _INDEX_NAMES and not missing.any() and (np.diff(values) == 1).all()
    return "number", "it counts the rows" if is_index else None


def _to_floats(texts: pd.Series) -> np.ndarray:
    """Returns the numbers in texts, and NaN where a text is no number."""
    try:
        return texts.to_numpy(object).astype(float)
    except ValueError:  # converting texts one by one takes longer
        return np.array([files.parse_number(text) for text in texts])


def _parse_numbers(source: str, name: str, cells: pd.Series) -> np.ndarray:
    missing = is_missing(cells)
    if cells.dtype.kind in "iuf":
        values = cells.to_numpy(dtype=float, na_value=np.nan)
        for i in np.flatnonzero(np.isinf(values)).tolist():
            raise files.cell_error(source, i, name, values[i], "a finite number")
        return values
    texts: Sequence[str] = np.where(missing, "0", cells.astype(str).str.strip()).tolist()
    return np.where(missing, np.nan, files.parse_numbers(source, name, texts))


def _parse_dates(source: str, name: str, cells: pd.Series) -> np.ndarray:
    missing = is_missing(cells)
    dates = pd.to_datetime(cells.where(~missing), errors="coerce", utc=True, format="ISO8601")
    for i in np.flatnonzero(dates.isna().to_numpy() & ~missing).tolist():
        raise files.cell_error(source, i, name, str(cells.iloc[i]), "a date as YYYY-MM-DD")
    return ((dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)).to_numpy(float)


def _parse_categories(source: str, name: str, cells: pd.Series) -> pd.Series:
    del source, name  # any cell is a category
    is_number = cells.dtype.kind == "f"
    texts = cells.map(lambda value: f"{value:g}" if is_number else str(value).strip())
    return texts.astype(object).where(~is_missing(cells), np.nan)

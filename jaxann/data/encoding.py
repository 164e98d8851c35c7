"""The encoding of a table's columns as features: imputed numbers, and a feature for each category.

What is fitted to the training part is plain numbers and text, which a run stores as JSON.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from jaxann.data import files
from jaxann.data.categories import find_frequent
from jaxann.nn.text import describe_value


class Column(NamedTuple):
    """The encoding of one column.

    Attributes:
        name: The name of the column.
        kind: "number", "date" or "category".
        fill: The number that stands for missing ones: the median of the training part. Dates are days since 1970.
        indicator: Whether a feature says which numbers are missing, because some are in the training part.
        categories: The categories that have a feature each.
        rare: The categories that share one feature, because each has few training examples.
    """

    name: str
    kind: str
    fill: float = 0.0
    indicator: bool = False
    categories: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()

    def feature_names(self) -> list[str]:
        """Returns the names of the column's features."""
        if self.kind != "category":
            return [self.name, f"{self.name} is missing"] if self.indicator else [self.name]
        return [f"{self.name}={category}" for category in self.categories] + [f"{self.name}=(rare)"] * bool(self.rare)

    def encode(self, cells: Any) -> np.ndarray:
        """Returns the column's features [N, k]. They are all 0 for a category that the training part lacks.

        Args:
            cells: The cells [N], a Series, as `parse_columns` returns them.
        """
        if self.kind != "category":
            missing = cells.isna().to_numpy()
            numbers = np.where(missing, self.fill, cells.to_numpy(float))
            return np.column_stack([numbers, missing] if self.indicator else [numbers])
        positions = {category: i for i, category in enumerate(self.categories)}
        positions |= dict.fromkeys(self.rare, len(self.categories))
        ones = np.eye(len(self.feature_names()) + 1)[:, :-1]  # the last row is for all other categories
        return ones[[positions.get(cell, -1) for cell in cells.tolist()]]


class Encoding(NamedTuple):
    """The encoding of a table.

    Attributes:
        columns: The columns that features are made of.
        left_out: The reason why each other column is left out, by its name.
        id: The columns that identify examples.
    """

    columns: tuple[Column, ...] = ()
    left_out: Mapping[str, str] = {}
    id: tuple[str, ...] = ()

    def feature_names(self) -> tuple[str, ...]:
        """Returns the names of all features, [n]."""
        return tuple(name for column in self.columns for name in column.feature_names())

    def is_number(self) -> np.ndarray:
        """Returns which features are numbers or dates: [n]. All others are 0 or 1."""
        return np.array([c.kind != "category" and name == c.name for c in self.columns for name in c.feature_names()])

    def encode(self, table: Any) -> np.ndarray:
        """Returns features [N, n].

        Args:
            table: The columns, a DataFrame, as `parse_columns` returns them.
        """
        return np.concatenate([column.encode(table[column.name]) for column in self.columns], axis=1)

    def encode_new(self, source: str, table: Any) -> np.ndarray:
        """Returns features [N, n] to predict from.

        Args:
            source: The file or table, for messages.
            table: A DataFrame with the columns, in any order, and possibly others.

        Raises:
            ValueError: If a column is missing, or a cell is not of its column's kind.
        """
        from jaxann.data.columns import parse_columns  # with pandas, which takes long to import

        missing = [column.name for column in self.columns if column.name not in table]
        if missing:
            names = files.join_names([column.name for column in self.columns])
            raise ValueError(
                f"expected the columns {names} in {source}, got a table that lacks {files.join_names(missing)}"
            )
        return self.encode(parse_columns(source, table, {column.name: column.kind for column in self.columns}))


def fit_encoding(
    train: Any, kinds: Mapping[str, str], left_out: Mapping[str, str], identifiers: Sequence[str] = ()
) -> Encoding:
    """Fits the encoding of a table.

    Args:
        train: The training part, a DataFrame, as `parse_columns` returns it.
        kinds: The kind of each column, by its name.
        left_out: The reason why each other column is left out, by its name.
        identifiers: The columns that identify examples.
    """
    columns = tuple(_fit_column(name, train[name], kind) for name, kind in kinds.items())
    return Encoding(columns, left_out, tuple(identifiers))


def _fit_column(name: str, cells: Any, kind: str) -> Column:
    present = cells.dropna()
    if kind != "category":
        fill = float(np.median(present.to_numpy(float))) if len(present) else 0.0
        return Column(name, kind, fill, indicator=len(present) < len(cells))
    counts = Counter(present.tolist())
    frequent = find_frequent(counts, len(cells))
    return Column(name, kind, categories=tuple(sorted(frequent)), rare=tuple(sorted(counts.keys() - set(frequent))))


def to_json(encoding: Encoding) -> dict[str, Any]:
    """Returns an encoding as `from_json` reads it."""
    columns = [
        {name: list(value) if isinstance(value, tuple) else value for name, value in column._asdict().items()}
        for column in encoding.columns
    ]
    return {"columns": columns, "left_out": dict(encoding.left_out), "id": list(encoding.id)}


def from_json(content: Any) -> Encoding:
    """Reads an encoding that `to_json` returned and JSON stored.

    Raises:
        ValueError: If the content is no encoding.
    """
    try:
        columns = tuple(_parse_column(**column) for column in content["columns"])
        left_out = {str(name): str(reason) for name, reason in content["left_out"].items()}
        return Encoding(columns, left_out, tuple(map(str, content["id"])))
    except (TypeError, KeyError, AttributeError, ValueError):
        raise ValueError(f"expected the encoding of columns, got {describe_value(content)}") from None


def _parse_column(name: str, kind: str, fill: float, indicator: bool, categories: list[str], rare: list[str]) -> Column:
    if kind not in ("number", "date", "category") or not isfinite(fill):
        raise ValueError
    return Column(str(name), kind, float(fill), bool(indicator), tuple(map(str, categories)), tuple(map(str, rare)))

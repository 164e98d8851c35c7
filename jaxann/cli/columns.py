"""The description of a table's columns that programs print: what became of each, and which one is the target."""

from __future__ import annotations

from jaxann.data.encoding import Column
from jaxann.data.files import join_names
from jaxann.data.splits import Dataset
from jaxann.nn.table import format_table
from jaxann.nn.text import make_printable, shorten

MOST_ROWS = 40  # columns of a wide table beyond these are only counted


def print_columns(data: Dataset) -> None:
    """Prints a table with a row for each column, the target, and the notes on the table; nothing for arrays."""
    if not data.encoding.columns:
        return
    columns, left_out, _ = data.encoding
    rows = [(column.name, _describe_column(column), str(len(column.feature_names()))) for column in columns]
    rows += [(name, f"left out, because {reason}", "") for name, reason in left_out.items()]
    shown = [(make_printable(shorten(name)), *rest) for name, *rest in rows[:MOST_ROWS]]
    lines = [format_table([("column", "read as", "features"), *shown], right=(2,))]
    if len(rows) > MOST_ROWS:
        lines.append(f"and {len(rows) - MOST_ROWS} more columns")
    kind = f"classes {join_names(data.classes)}" if data.classes else "numbers"
    lines.append(make_printable(f"target: {shorten(data.target)} ({kind})"))
    print("\n".join([*lines, *map(make_printable, data.notes)]), end="\n\n")


def _describe_column(column: Column) -> str:
    if column.kind != "category":
        noun = "numbers" if column.kind == "number" else "days since 1970"
        return f"{noun}, where missing {column.fill:g}" if column.indicator else noun
    if not column.feature_names():
        return "nothing, because the training part has no values"
    parts = [_count(len(column.categories), "category", "categories")] if column.categories else []
    parts += [_count(len(column.rare), "rare category", "rare categories together")] if column.rare else []
    return " and ".join(parts)


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"

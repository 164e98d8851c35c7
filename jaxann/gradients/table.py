"""Tables of text, as reports and programs print them."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def format_table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Aligns the cells of a table in columns.

    Args:
        rows: The cells of each row; all rows have equally many, and the first one is usually the header.
        right: The indices of the columns that are aligned to the right.

    Returns:
        The table, a line for each row, with two spaces between columns and no trailing spaces.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )

"""What a user says about the columns of a table."""

from typing import NamedTuple


class ColumnSettings(NamedTuple):
    """What a user says about the columns of a table.

    Attributes:
        ignore: Columns to leave out.
        id: Columns that identify examples. They are left out, and predictions carry them.
        categorical: Columns to read as categories, whatever they hold.
        numeric: Columns to read as numbers, whatever they hold.
    """

    ignore: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()

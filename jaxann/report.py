"""What a gradient check found: a row for every gradient, to print, to store and to raise."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

RIGHT, WRONG, ON_PURPOSE, NOT_FINITE = "right", "wrong", "on purpose", "not finite"


@dataclass(frozen=True)
class Row:
    """One gradient: of a parameter, of a layer's input (dx), of a loss, or of a whole gradient function's.

    float32, float64: max|a - b| / max|b| of the handwritten a and the automatic b, where it is worst by what is allowed.
    differences: that of a and the difference quotients, of which `compared` counted and `rough` were left out, being
    within reach of a kink. ratio = <a, b> / <b, b>; degrees, the angle between a and b. What was not measured is NaN.
    """

    path: str
    of: str
    shape: tuple[int, ...]
    verdict: str
    story: str = ""
    diagnosis: str = ""
    float32: float = math.nan
    float64: float = math.nan
    differences: float = math.nan
    compared: int = 0
    rough: int = 0
    ratio: float = math.nan
    degrees: float = math.nan
    whole: bool = False
    by_hand: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    automatic: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    @property
    def sentence(self) -> str:
        """The row in words."""
        return f"{self.path} of {self.of} is {self.verdict}: {self.diagnosis}"


@dataclass(frozen=True)
class Report:
    """The rows, from the input to the output, and how many of how many examples they were found on."""

    rows: tuple[Row, ...]
    examples: int
    of: int
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong or not finite."""
        return not self.culprits

    @property
    def culprits(self) -> tuple[str, ...]:
        """The paths of the gradients that are wrong or not finite."""
        return tuple(row.path for row in self.rows if row.verdict in (WRONG, NOT_FINITE))

    def __getitem__(self, path: str) -> Row:
        """The row of that path. Raises KeyError, with the paths that there are, where it has none."""
        for row in self.rows:
            if row.path == path:
                return row
        raise KeyError(f"there is no gradient {path}, only {', '.join(row.path for row in self.rows)}")

    def raise_if_wrong(self) -> None:
        """Raises AssertionError, with this report in it, unless all is right."""
        if not self.ok:
            raise AssertionError(str(self))

    def to_dict(self) -> dict[str, Any]:
        """All but the gradients themselves, as JSON takes it: None for a number that was not measured."""
        rows = []
        for row in self.rows:
            row_dict = asdict(row)
            del row_dict["by_hand"], row_dict["automatic"]
            rows.append({name: _plain(value) for name, value in row_dict.items()})
        return {
            "ok": self.ok,
            "culprits": list(self.culprits),
            "examples": self.examples,
            "of": self.of,
            "notes": list(self.notes),
            "rows": rows,
        }

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        header = ("gradient", "of", "shape", "float32", "float64", "differences", "verdict")
        table = [header, *(cells for _, group in groupby(self.rows, _group) for cells in _lines(list(group)))]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        left = (0, 1, 2, 6)
        lines = [
            "  ".join(cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
            for row in table
        ]
        said = [f"{row.path}: {row.diagnosis}" for row in self.rows if row.diagnosis]
        wrong, all_ = len(self.culprits), len(self.rows)
        verdict = f"{wrong} of {all_} gradients are wrong: {', '.join(self.culprits)}" if wrong else f"all {all_} gradients are right"
        return "\n".join([*(line.rstrip() for line in lines), *said, *self.notes, verdict])


def _group(row: Row) -> tuple[str, str]:
    """Rows of what is made of layers are shown as one, where they are right."""
    return (row.of, row.verdict) if row.whole else (row.path, row.of)


def _lines(rows: list[Row]) -> list[tuple[str, ...]]:
    if len(rows) == 1 or rows[0].verdict != RIGHT:
        return [_cells(row) for row in rows]
    path = os.path.commonprefix([row.path for row in rows]) + "*"
    worst = {name: max((getattr(row, name) for row in rows if getattr(row, name) == getattr(row, name)), default=math.nan) for name in ("float32", "float64", "differences")}
    row = replace(rows[0], path=path, shape=(), compared=sum(row.compared for row in rows), rough=sum(row.rough for row in rows), **worst)
    cells = list(_cells(row))
    cells[2] = f"{len(rows)} leaves"
    return [tuple(cells)]


def _cells(row: Row) -> tuple[str, ...]:
    def number(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.1e}"

    tried = f" ({row.compared} of {row.compared + row.rough})" if row.compared + row.rough else ""
    return (
        row.path,
        row.of,
        "x".join(map(str, row.shape)) or "()",
        number(row.float32),
        number(row.float64),
        number(row.differences) + tried,
        row.verdict if row.verdict == RIGHT else row.verdict.upper(),
    )


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

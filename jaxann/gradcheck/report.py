"""What a gradient check found: a row for every gradient, to print, to store and to raise."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby, takewhile
from typing import Any

import numpy as np

RIGHT, WRONG, ON_PURPOSE, NOT_FINITE = "right", "wrong", "on purpose", "not finite"
WIDTH = 32  # of a layer's name in the table


@dataclass(frozen=True)
class Row:
    """One gradient: of a parameter, of a layer's input (dx), of a loss, or of a whole gradient function.

    float32, float64: max|a - b| / max|b| of the handwritten a and the automatic b, where it is worst for what is
    allowed. differences: the like of a and central differences, of which `compared` count and `rough` do not, being
    within reach of a kink. ratio: <a, b> / <b, b>. degrees: the angle between a and b. What was not measured is NaN.
    `story` names the `diagnosis`; a `whole` row is of something made of layers; `by_hand` and `automatic` are a and b.
    """

    path: str
    of: str
    shape: tuple[int, ...]
    verdict: str
    cause: str = ""
    diagnosis: str = ""
    float32: float = math.nan
    float64: float = math.nan
    differences: float = math.nan
    compared: int = 0
    nonsmooth: int = 0
    ratio: float = math.nan
    degrees: float = math.nan
    whole: bool = False
    handwritten: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    automatic: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)


@dataclass(frozen=True)
class Report:
    """The rows, from the first layer to the loss and then the whole, on `examples` of `of` examples; and notes."""

    rows: tuple[Row, ...]
    examples: int
    of: int
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every gradient is right, or differs on purpose."""
        return bool(self.rows) and not self.wrong

    @property
    def wrong(self) -> tuple[str, ...]:
        """The paths of the gradients that are wrong or not finite."""
        return tuple(row.path for row in self.rows if row.verdict in (WRONG, NOT_FINITE))

    def __getitem__(self, path: str) -> Row:
        """The row of the gradient at `path`. Raises KeyError, with the paths that there are, where there is none."""
        for row in self.rows:
            if row.path == path:
                return row
        raise KeyError(f"there is no gradient {path!r}, only {', '.join(row.path for row in self.rows)}")

    def raise_if_wrong(self) -> None:
        """Raises AssertionError with this report for its message, unless all is right."""
        if not self.ok:
            raise AssertionError(f"\n{self}")

    def to_dict(self) -> dict[str, Any]:
        """All but the gradients themselves, as JSON takes it: numbers that are not finite are null."""
        return {
            "ok": self.ok,
            "culprits": list(self.wrong),
            "examples": self.examples,
            "of": self.of,
            "notes": list(self.notes),
            "rows": [{f.name: _plain(getattr(row, f.name)) for f in fields(row) if f.compare} for row in self.rows],
        }

    def to_json(self) -> str:
        """`to_dict`, written out."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        header = ("gradient", "of", "shape", "float32", "float64", "differences", "")
        shown = [cells for _, rows in groupby(self.rows, _kind) for cells in _shown(list(rows))]
        count, wrong = len(self.rows), len(self.wrong)
        return "\n".join(
            [
                *_aligned([header, *shown]),
                *(f"{row.path}: {row.diagnosis}" for row in self.rows if row.diagnosis),
                *self.notes,
                f"{f'{wrong} of {count} gradients are wrong' if wrong else f'all {count} gradients are right'}, "
                f"on {self.examples} of {self.of} examples",
            ]
        )


def _kind(row: Row) -> tuple[str, ...]:
    """What rows have in common that are shown as one: what is made of layers, where it is right."""
    return (row.of,) if row.whole and row.verdict == RIGHT and not row.diagnosis else (row.of, row.path)


def _shown(rows: list[Row]) -> list[tuple[str, ...]]:
    """The cells of a row, or of several right ones as one."""
    if len(rows) == 1:
        return [_cells(rows[0])]
    worst = {name: _largest([getattr(row, name) for row in rows]) for name in ("float32", "float64", "differences")}
    sums = {name: sum(getattr(row, name) for row in rows) for name in ("compared", "nonsmooth")}
    names = zip(*(row.path.split(".") for row in rows), strict=False)
    shared = [alike[0] for alike in takewhile(lambda alike: len(set(alike)) == 1, names)]
    path, of, _, *cells = _cells(replace(rows[0], path=".".join([*shared, "*"]), **worst, **sums))
    return [(path, of, f"{len(rows)} leaves", *cells)]


def _cells(row: Row) -> tuple[str, ...]:
    tried = row.compared + row.nonsmooth
    return (
        row.path,
        row.of if len(row.of) <= WIDTH else row.of[: WIDTH - 3] + "...",
        "x".join(map(str, row.shape)) or "()",
        _number(row.float32),
        _number(row.float64),
        _number(row.differences) + (f" ({row.compared} of {tried})" if tried else ""),
        row.verdict if row.verdict == RIGHT else row.verdict.upper(),
    )


def _aligned(table: Sequence[tuple[str, ...]]) -> list[str]:
    """The table's lines, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if 3 <= column < 6 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1e}"


def _largest(values: list[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The report of a gradient check: a row for every gradient, to print, to store, or to raise as an error."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields, replace
from itertools import groupby, takewhile
from typing import Any, NamedTuple

import numpy as np

from jaxann.nn.table import format_html_table, format_table

RIGHT, WRONG, ON_PURPOSE, NOT_FINITE, REFUSED = "right", "wrong", "on purpose", "not finite", "refused"
_FAILURES = WRONG, NOT_FINITE, REFUSED
OWNER_WIDTH = 32  # characters of a layer's name in the table
HEADER = ("gradient", "owner", "shape", "float32", "float64", "differences", "verdict")
NUMBERS = (3, 4, 5)  # the columns that are aligned to the right


@dataclass(frozen=True)
class Row:
    """What a check found out about one gradient.

    a is the handwritten gradient and b autodiff's. A number that was not measured is NaN.

    Attributes:
        path: Where the gradient is: "2.W" is that of W in layer 2, "2.dx" that of the input of layer 2, "loss" that of
            the loss. "2.random.dx" is measured with a key. "chain.2.W" is the gradient of W in layer 2 as the chain of
            backwards returns it, and "gradient.2.W" as the gradient function returns it; "chain.random.2.W" and
            "gradient.random.2.W" are these gradients with a key.
        owner: The name of the layer, loss or gradient function that returns the gradient.
        shape: The shape of the gradient; that of dx has the examples as its first axis.
        verdict: "right", "wrong", "on purpose", "not finite", or "refused" if an exercise forbids how it is computed.
        cause: The diagnosis in one word or two, for programs: a key of `jaxann.gradcheck.diagnoses.DIAGNOSES`; "none"
            if no diagnosis explains the difference; "structure", "not summed" or "transposed" for a gradient of the
            wrong shape; "raises", "not finite", "float32", "differences" or "custom derivative"; "forward" or
            "forbidden" in a grade; "autodiff" or "range" for remarks on a right gradient; "" for a right gradient
            without a remark.
        diagnosis: The diagnosis as a sentence.
        float32: max|a - b| / max|b| in float32, at the point where it exceeds its tolerance most.
        float64: The same in float64.
        differences: The largest relative difference between a and central differences.
        compared: How many central differences were compared with a.
        nonsmooth: How many central differences were left out because a kink is within their step.
        ratio: <a, b> / <b, b>; 1 for a right gradient.
        degrees: The angle between a and b, in degrees.
        composite: Whether the gradient comes from a layer made of layers or from the gradient function.
        handwritten: a, in float64.
        autodiff: b, in float64.
    """

    path: str
    owner: str
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
    composite: bool = False
    handwritten: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    autodiff: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)


class _Line(NamedTuple):
    """A line of the table: one gradient, or several right ones of a composite layer.

    Attributes:
        cells: The texts of its columns.
        diagnosis: The diagnosis; "" without one.
        wrong: Whether the gradient is wrong or not finite.
    """

    cells: tuple[str, ...]
    diagnosis: str = ""
    wrong: bool = False


@dataclass(frozen=True)
class Report:
    """The result of a gradient check, which prints as a table.

    Attributes:
        rows: A row for each gradient, from the first layer to the loss, then those of composite layers and of the
            gradient function.
        examples: How many examples were used.
        total: How many examples were given.
        notes: A sentence on each layer whose parts could not be checked alone.
    """

    rows: tuple[Row, ...]
    examples: int
    total: int
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every gradient is right or differs on purpose."""
        return not self.wrong

    @property
    def wrong(self) -> tuple[str, ...]:
        """The paths of the gradients that are wrong, not finite or refused."""
        return tuple(row.path for row in self.rows if row.verdict in _FAILURES)

    def __getitem__(self, path: str) -> Row:
        """Returns the row of the gradient at `path`; raises KeyError, with all paths, if the report has no such row."""
        for row in self.rows:
            if row.path == path:
                return row
        raise KeyError(f"expected the path of a gradient ({', '.join(row.path for row in self.rows)}), got {path!r}")

    def raise_if_wrong(self) -> None:
        """Raises an AssertionError, with the report as its message, unless every gradient is right or on purpose."""
        if not self.ok:
            raise AssertionError(f"\n{self}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the report without the gradients themselves, ready for JSON.

        The keys are `ok`, `wrong` and the names of the fields of `Report` and `Row`. Numbers that are not finite are
        None.
        """
        return {
            "ok": self.ok,
            "wrong": list(self.wrong),
            "examples": self.examples,
            "total": self.total,
            "notes": list(self.notes),
            "rows": [{f.name: _to_plain(getattr(row, f.name)) for f in fields(row) if f.compare} for row in self.rows],
        }

    def to_json(self) -> str:
        """Returns `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        lines = self._list_lines()
        table = format_table([HEADER, *(line.cells for line in lines)], right=NUMBERS)
        told: dict[tuple[str, str], list[str]] = {}  # a mistake that explains several gradients of a layer is told once
        for line in lines:
            if line.diagnosis:
                told.setdefault((line.cells[1], line.diagnosis), []).append(line.cells[0])
        diagnoses = (f"{', '.join(paths)}: {diagnosis}" for (_, diagnosis), paths in told.items())
        return "\n".join([table, *diagnoses, *self.notes, self._summarize()])

    def _repr_html_(self) -> str:
        """Returns the table as Jupyter shows it, with the diagnosis of a gradient in a row beneath its own."""
        lines = dict(enumerate(self._list_lines(), start=1))
        return format_html_table(
            [HEADER, *(line.cells for line in lines.values())],
            right=NUMBERS,
            sentences={i: line.diagnosis for i, line in lines.items() if line.diagnosis},
            marked=[i for i, line in lines.items() if line.wrong],
            paragraphs=[*self.notes, self._summarize()],
        )

    def _list_lines(self) -> list[_Line]:
        return [_make_line(list(rows)) for _, rows in groupby(self.rows, _group)]

    def _summarize(self) -> str:
        count, wrong = len(self.rows), len(self.wrong)
        if count < 2:
            gradients = f"the gradient is {'wrong' if wrong else 'right'}" if count else "no gradient was judged"
        elif wrong:
            gradients = f"{wrong} of {count} gradients {'is' if wrong == 1 else 'are'} wrong"
        else:
            gradients = f"all {count} gradients are right"
        return f"{gradients}, checked on {self.examples} of {self.total} examples"


def _group(row: Row) -> tuple[str, ...]:
    """Returns a key that the rows of one line of the table share: the right rows of a composite layer share a line."""
    collapses = row.composite and row.verdict == RIGHT and not row.diagnosis
    return (row.owner,) if collapses else (row.owner, row.path)


def _make_line(rows: list[Row]) -> _Line:
    """Returns the line of one row, or of several right rows."""
    if len(rows) == 1:
        return _Line(_format_row(rows[0]), rows[0].diagnosis, rows[0].verdict in _FAILURES)
    worst = {name: _largest([getattr(row, name) for row in rows]) for name in ("float32", "float64", "differences")}
    sums = {name: sum(getattr(row, name) for row in rows) for name in ("compared", "nonsmooth")}
    names = zip(*(row.path.split(".") for row in rows), strict=False)
    shared = [alike[0] for alike in takewhile(lambda alike: len(set(alike)) == 1, names)]
    path, owner, _, *cells = _format_row(replace(rows[0], path=".".join([*shared, "*"]), **worst, **sums))
    return _Line((path, owner, f"{len(rows)} leaves", *cells))


def _format_row(row: Row) -> tuple[str, ...]:
    tried = row.compared + row.nonsmooth
    return (
        row.path,
        row.owner if len(row.owner) <= OWNER_WIDTH else row.owner[: OWNER_WIDTH - 3] + "...",
        "x".join(map(str, row.shape)) or "()",
        _format_number(row.float32),
        _format_number(row.float64),
        _format_number(row.differences) + (f" ({row.compared} of {tried})" if tried else ""),
        row.verdict if row.verdict == RIGHT else row.verdict.upper(),
    )


def _format_number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1e}"


def _largest(values: list[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _to_plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

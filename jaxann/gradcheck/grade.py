"""The grade of an answer to an exercise: which of its outputs and gradients are right."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxann.gradcheck.answers import AnswerSubject, find_autodiff, judge_answer
from jaxann.gradcheck.arguments import Args, is_float
from jaxann.gradcheck.cases import uses_key
from jaxann.gradcheck.check import check_layer
from jaxann.gradcheck.function_answers import judge_functions
from jaxann.gradcheck.inputs import SUBSAMPLE, draw_layer_points, repeat_example
from jaxann.gradcheck.places import Place
from jaxann.gradcheck.report import RIGHT, Report, Row
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.shapes import resolve_input
from jaxann.nn.table import format_html_table, format_table

HEADER = ("part", "points", "verdict")
# The causes that are shown without hints, too, and the word for each.
PLAIN_CAUSES = {
    "raises": "raises",
    "structure": "structure",
    "not summed": "structure",
    "transposed": "structure",
    "not finite": "not finite",
    "forbidden": "forbidden",
}


@dataclass(frozen=True)
class Grade:
    """The grade of an answer, which prints as a table.

    Attributes:
        report: The report, with a row for the forward pass and a row for each gradient.
        points: How many points each row is worth, by its path.
    """

    report: Report
    points: Mapping[str, float]

    @property
    def right(self) -> tuple[str, ...]:
        """The paths of what is right, such as ("forward", "W")."""
        return tuple(row.path for row in self.report.rows if row.verdict == RIGHT)

    @property
    def wrong(self) -> tuple[str, ...]:
        """The paths of what is wrong, not finite or refused."""
        return tuple(row.path for row in self.report.rows if row.verdict != RIGHT)

    @property
    def score(self) -> float:
        """The share of the points that the answer earns, between 0 and 1."""
        return self._earned / sum(self.points.values())

    @property
    def _earned(self) -> float:
        return float(sum(self.points[path] for path in self.right))

    def to_dict(self) -> dict[str, Any]:
        """Returns the grade ready for JSON: its score, its points, and what is right and wrong with the diagnoses."""
        return {
            "score": self.score,
            "points": self._earned,
            "total": sum(self.points.values()),
            "right": list(self.right),
            "wrong": list(self.wrong),
            "notes": list(self.report.notes),
            "rows": [
                {
                    "path": row.path,
                    "points": self.points[row.path],
                    "verdict": row.verdict,
                    "cause": row.cause,
                    "diagnosis": row.diagnosis,
                }
                for row in self.report.rows
            ],
        }

    def to_json(self) -> str:
        """Returns `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        paths: dict[str, list[str]] = {}
        for row in self.report.rows:
            paths.setdefault(row.diagnosis, []).append(row.path)
        sentences = [f"{', '.join(names)}: {sentence}" for sentence, names in paths.items() if sentence]
        table = format_table(self._list_cells(), right=(1,))
        return "\n".join([table, *sentences, *self.report.notes, self._summarize()])

    def _repr_html_(self) -> str:
        """Returns the table as Jupyter shows it."""
        rows = dict(enumerate(self.report.rows, start=1))
        return format_html_table(
            self._list_cells(),
            right=(1,),
            sentences={i: row.diagnosis for i, row in rows.items() if row.diagnosis},
            marked=[i for i, row in rows.items() if row.verdict != RIGHT],
            paragraphs=[*self.report.notes, self._summarize()],
        )

    def _list_cells(self) -> list[tuple[str, ...]]:
        cells: list[tuple[str, ...]] = [HEADER]
        for row in self.report.rows:
            points, is_right = self.points[row.path], row.verdict == RIGHT
            verdict = row.verdict if is_right else row.verdict.upper()
            cells.append((row.path, f"{points if is_right else 0:g} of {points:g}", verdict))
        return cells

    def _summarize(self) -> str:
        return f"score {self.score:.2f}: {self._earned:g} of {sum(self.points.values()):g} points"


def grade(
    answer: Any,
    reference: Any,
    *args: Any,
    weights: Mapping[str, float | int] | None = None,
    hints: bool = True,
    forbid_autodiff: bool = False,
    seed: int = 0,
) -> Grade:
    """Grades a student's layer, or forward and backward: the outputs and each gradient are compared with right ones.

    The true outputs are those of the reference, and the true gradients are derivatives of its forward, so that a
    forward and a backward which are wrong in the same way earn nothing. Both are compared at the given parameters and
    input, and at others near them and at random. If the reference draws random numbers, everything is compared a second
    time with a key, which the answer must use as the reference does.

    Whatever the answer does wrong becomes a row of the grade, even an exception that it raises.

    Args:
        answer: The student's layer, a `Layer` which takes the reference's parameters and inputs; or the pair of a
            forward and a backward, in a form of `check_function`.
        reference: A right layer, of which only the forward is used; or a right forward, for a pair of functions.
        *args: For a layer its parameters, as `reference.init` returns them, and one example, as `reference.forward`
            takes it; for a pair of functions the arguments of the forward.
        weights: How many points each row is worth, by its path: "forward", "dx", or the path of a parameter such as
            "W"; with a key "random.forward" and so on; for functions the name of an argument. A row that is not named
            is worth 1 point.
        hints: Whether a wrong gradient has its diagnosis, which gives the answer away. Without hints, only exceptions
            and gradients of the wrong shape are described, and `report` has no diagnoses either.
        forbid_autodiff: Whether all gradients are refused if the forward or the backward of the answer calls autodiff,
            wherever it was imported.
        seed: The seed of the inputs, the parameters and the cotangents that are drawn.

    Returns:
        The grade.

    Raises:
        ValueError: If `answer` and `reference` are neither layers nor functions, if the reference is wrong itself or
            does not take the arguments, or if `x` is empty or not numeric.
        SettingError: If `weights` names no row, is below 0, or gives no points at all. It is a ValueError.

    Example:
        reference = Dense(4, 3)
        print(grade(MyDense(4, 3), reference, reference.init(jax.random.key(0)), jnp.arange(4.0)))
    """
    if isinstance(answer, tuple) and len(answer) == 2 and callable(reference) and not isinstance(reference, Layer):
        rows, notes = judge_functions(answer, reference, args, forbid_autodiff, seed)
    else:
        rows, notes = _judge_layer(answer, reference, args, forbid_autodiff, seed)
    report = Report(tuple(rows if hints else map(_hide_hints, rows)), 1, 1, tuple(notes))
    return Grade(report, _assign_points(rows, weights or {}))


def _judge_layer(
    answer: Any, reference: Any, args: tuple[Any, ...], forbid_autodiff: bool, seed: int
) -> tuple[list[Row], list[str]]:
    for name, layer in {"answer": answer, "reference": reference}.items():
        if not isinstance(layer, Layer):
            found = f"the class {layer.__name__}" if isinstance(layer, type) else type(layer).__name__
            raise ValueError(f"expected {name} to be an instance of a Layer, got {found}")
    if len(args) != 2:
        raise ValueError(f"expected the parameters of the layer and one example, got {len(args)} arguments")
    params, x = args
    _require_right(reference, check_layer(reference, params, x, seed=seed))
    rng = np.random.default_rng(seed)
    place = _place_reference(reference, params, np.asarray(x), rng)
    points, rows, notes = draw_layer_points(place, rng), [], []
    for random in (False, True) if uses_key(place) else (False,):
        subject = AnswerSubject("", answer, str(answer), random, reference=reference)
        refusals = find_autodiff(subject, points) if forbid_autodiff else []
        rows += judge_answer(subject, points, rng, bool(refusals))
        notes += [sentence for sentence in refusals if sentence not in notes]
    return rows, notes


def _require_right(reference: Layer, report: Report) -> None:
    for row in report.rows:
        if row.path in report.wrong:
            raise ValueError(f"expected a right reference, got {reference} with a wrong {row.path}: {row.diagnosis}")


def _place_reference(reference: Layer, params: PyTree, x: np.ndarray, rng: np.random.Generator) -> Place:
    """Returns the reference with copies of one example and random cotangents, in float64."""
    one, y = resolve_input(reference, params, jax.ShapeDtypeStruct(x.shape, x.dtype))
    x = x.astype(float) if is_float(one) and not is_float(x) else x
    data = Args(params, repeat_example(reference, x, rng), (), rng.normal(size=(SUBSAMPLE, *y.shape))).cast("float64")
    return Place("", reference, data.params, data.x, data.dy)


def _hide_hints(row: Row) -> Row:
    """Returns a row without what gives the answer away."""
    cause = PLAIN_CAUSES.get(row.cause, "")
    diagnosis = row.diagnosis.partition(", consistent with")[0] if cause else ""
    return replace(row, cause=cause, diagnosis=diagnosis, ratio=math.nan, degrees=math.nan)


def _assign_points(rows: Sequence[Row], weights: Mapping[str, float | int]) -> dict[str, float]:
    paths = [row.path for row in rows]
    for path, value in weights.items():
        if path not in paths:
            raise SettingError("weights", f"to name parts of the grade ({', '.join(paths)})", path)
        validate_number(f"weights[{path!r}]", value, least=0)
    points = {path: float(weights.get(path, 1)) for path in paths}
    if not sum(points.values()):
        raise SettingError("weights", "to give a part of the grade more than 0 points", dict(weights))
    return points

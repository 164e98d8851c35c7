"""A student's answer to an exercise: its outputs and gradients, judged by the forward of a right layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxann.gradcheck.arguments import Args, by_name, is_float
from jaxann.gradcheck.autodiff_calls import record_autodiff
from jaxann.gradcheck.compilation import jit_cheaply, precision
from jaxann.gradcheck.leaf import TOLERANCE, largest
from jaxann.gradcheck.report import REFUSED, RIGHT, WRONG, Row
from jaxann.gradcheck.subjects import LayerSubject
from jaxann.gradcheck.verdict import PERTURBATION, failure_row, judge
from jaxann.nn.axis import over_examples
from jaxann.nn.base import Layer

ACTUAL = 2  # how many points, counted from the first, are at the given parameters and input


@dataclass(frozen=True)
class AnswerSubject(LayerSubject):
    """A student's layer, whose backward is judged by the forward of another layer.

    Attributes:
        reference: The layer whose forward is right.
    """

    reference: Layer = field(kw_only=True)

    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Any:
        return LayerSubject(self.path, self.reference, self.title, self.random).forward(params, x, aux)

    @property
    def own(self) -> LayerSubject:
        """The student's layer, whose backward is judged by its own forward."""
        return LayerSubject(self.path, self.layer, self.title, self.random)


def judge_answer(subject: AnswerSubject, points: Args, rng: np.random.Generator, refused: bool) -> list[Row]:
    """Judges the forward of an answer and its gradients.

    Args:
        subject: The answer with its reference.
        points: The reference's arguments at R points, as `draw_layer_points` draws them.
        rng: The source of the random numbers.
        refused: Whether the gradients are refused.

    Returns:
        A row for the forward and for every gradient that the reference has, then for gradients that it does not have.
    """
    arguments = {name: leaf for name, leaf in by_name(points.params, points.x).items() if is_float(leaf)}
    row = partial(Row, owner=subject.name, verdict=WRONG)
    expected = [row(subject.leaf_path(name), shape=leaf.shape[1:]) for name, leaf in arguments.items()]
    forward = _judge_forward(subject, points, rng)
    if refused:
        return [forward, *(replace(row, verdict=REFUSED, cause="forbidden") for row in expected)]
    if forward.cause == "raises":  # and so does everything that needs it
        return [forward, *(replace(row, cause="raises", diagnosis=forward.diagnosis) for row in expected)]
    judged = judge(subject, points, ACTUAL, rng)
    if forward.verdict != RIGHT:
        judged = _explain_by_forward(judged, judge(subject.own, points, ACTUAL, rng))
    return [forward, *_complete(expected, judged)]


def _explain_by_forward(rows: Sequence[Row], own: Sequence[Row]) -> list[Row]:
    """Returns the rows with the diagnoses that the answer's own forward, which is wrong, gives to its gradients."""
    diagnosed = {row.path: row for row in own}
    explained = []
    for row in rows:
        if row.verdict != RIGHT and row.path in diagnosed:
            found = diagnosed[row.path]
            if found.verdict == RIGHT:
                sentence = "it is the derivative of the answer's own forward, which is wrong"
                found = replace(found, cause="forward", diagnosis=sentence)
            row = replace(row, cause=found.cause, diagnosis=found.diagnosis)
        explained.append(row)
    return explained


def _complete(expected: Sequence[Row], judged: Sequence[Row]) -> list[Row]:
    """Returns a row for each expected one, then superfluous ones; a backward that raises has only one row itself."""
    by_path = {row.path: row for row in judged}
    if len(judged) == 1 and judged[0].cause == "raises":
        return [replace(row, cause="raises", diagnosis=judged[0].diagnosis) for row in expected]
    paths = {row.path for row in expected}
    return [by_path[row.path] for row in expected] + [row for row in judged if row.path not in paths]


@np.errstate(all="ignore")  # values that are not finite are wrong where the reference's are finite
def _judge_forward(subject: AnswerSubject, points: Args, rng: np.random.Generator) -> Row:
    """Returns the row of the forward: the answer's outputs a compared with the reference's outputs b."""
    path = subject.leaf_path("forward")
    try:
        with precision("float64"):
            b, a = jax.eval_shape(partial(_compute_outputs, subject), points.select(0))
        row = partial(Row, path, subject.name, b.shape)
        if a.shape != b.shape:
            return row(WRONG, "structure", f"expected an output of shape {b.shape[1:]}, got {a.shape[1:]}")
        if a.dtype != b.dtype:
            return row(WRONG, "structure", f"expected {b.dtype}, the type of the reference's output, got {a.dtype}")
        outputs = {dtype: _evaluate_outputs(subject, points, dtype) for dtype in TOLERANCE}
        moved, _ = _evaluate_outputs(subject, points.perturb(PERTURBATION, rng), "float64")
    except Exception as error:  # whatever a student's code raises becomes a row
        row = failure_row(path, subject.name, error)
        return replace(row, diagnosis=f"{row.diagnosis}; {_describe_params(points)}")
    sensitivity = largest(moved - outputs["float64"][0]) / PERTURBATION
    excess, errors, worst = {}, {}, {}
    for dtype, (b, a) in outputs.items():
        difference, size = largest(a - b), largest(b)
        tolerance = TOLERANCE[dtype] * np.fmax(size, sensitivity) + np.finfo(dtype).tiny
        counts = np.isfinite(size)  # the reference need not be defined at a drawn point
        excess[dtype] = np.where(counts, np.nan_to_num(difference / tolerance, nan=np.inf), 0)
        worst[dtype] = int(excess[dtype].argmax()) if excess[dtype][0] <= 1 else 0
        errors[dtype] = float(np.where(difference == 0, 0, difference / size)[worst[dtype]])
    b, a = outputs["float64"]
    row = partial(row, handwritten=a[0], autodiff=b[0], **errors)
    if excess["float64"].max() > 1:
        point = worst["float64"]
        return row(WRONG, "forward", _describe_difference(b[point], a[point], point < ACTUAL))
    if excess["float32"].max() > 1:
        sentence = "it is right in float64, but inaccurate in float32: its relative error is"
        return row(WRONG, "float32", f"{sentence} {errors['float32']:.1e}")
    return row(RIGHT)


def _describe_params(points: Args) -> str:
    params = by_name(points.params, ())
    if not params:
        return "the reference has no parameters"
    return f"the reference's parameters are {', '.join(f'{name} {leaf.shape[1:]}' for name, leaf in params.items())}"


def _describe_difference(b: np.ndarray, a: np.ndarray, is_given: bool) -> str:
    """Returns a sentence on the entry that differs most at one point."""
    place = np.unravel_index(np.nan_to_num(np.abs(a - b), nan=np.inf).argmax(), b.shape)
    entry = f" at {[int(i) for i in place[1:]]}" if b.ndim > 1 else ""
    where = "for the given input" if is_given else "for another input"
    return f"expected the output {b[place]:.6g}{entry} {where}, got {a[place]:.6g}"


def _evaluate_outputs(subject: AnswerSubject, points: Args, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the outputs [R, B, ...] of the reference and of the answer in one precision, stored in float64."""
    points = points.cast(dtype)
    with precision(dtype):
        outputs = [_compile_outputs(subject, points.select(r)) for r in range(len(points.dy))]
    b, a = (np.stack([np.asarray(y, np.float64) for y in ys]) for ys in zip(*outputs, strict=True))
    return b, a


def _compute_outputs(subject: AnswerSubject, args: Args) -> tuple[Any, Any]:
    batch = (None, 0, 0)
    return tuple(over_examples(s.forward, batch)(args.params, args.x, args.aux) for s in (subject, subject.own))


_compile_outputs = jit_cheaply(_compute_outputs, static=1)


def find_autodiff(subject: AnswerSubject, points: Args) -> list[str]:
    """Finds the uses of autodiff in the forward and the backward of an answer.

    Args:
        subject: The answer with its reference.
        points: The reference's arguments at R points.

    Returns:
        A sentence on each use.
    """
    places: dict[str, list[str]] = {}

    def run(params, x, aux, dy):
        key = jax.random.key(aux) if subject.random else None
        with record_autodiff() as places["forward"]:
            _, saved = subject.layer.forward(params, x, key)
        with record_autodiff() as places["backward"]:
            subject.layer.backward(params, saved, dy)

    try:
        with precision("float64"):
            # With a new name of an axis, JAX traces compiled functions again.
            batch = over_examples(run, (None, 0, 0, 0))
            jax.make_jaxpr(jax.vmap(batch, None, None, axis_size=1, axis_name=object()))(*points.select(0))
    except Exception:  # the error is a row of the grade
        pass
    return [
        f"autodiff is used in the {name}{f' ({place})' if place else ''}, which this exercise forbids"
        for name, found in places.items()
        for place in found
    ]

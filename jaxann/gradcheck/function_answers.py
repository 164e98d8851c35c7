"""A student's pair of functions, judged by a right forward."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from jaxann.gradcheck.autodiff_calls import record_autodiff
from jaxann.gradcheck.compilation import clear_programs, precision
from jaxann.gradcheck.function_points import draw_points
from jaxann.gradcheck.function_subject import FunctionSubject
from jaxann.gradcheck.host_arguments import to_array
from jaxann.gradcheck.host_code import HostCode, StructureError
from jaxann.gradcheck.report import REFUSED, RIGHT, WRONG, Row
from jaxann.gradcheck.verdict import failure_row, judge

COTANGENTS = 3  # how many points are at the given arguments
CLOSE = 1e-9  # the relative error of a right output


@np.errstate(all="ignore")
def judge_functions(
    answer: tuple[Callable, Callable], reference: Callable, args: Sequence[Any], forbid_autodiff: bool, seed: int
) -> tuple[list[Row], list[str]]:
    """Judges the forward and the backward of an answer by a right forward.

    Args:
        answer: The student's forward and backward, in a form of `check_function`.
        reference: The right forward, a function of the same arguments that returns the output alone.
        args: The arguments.
        forbid_autodiff: Whether gradients are refused if the answer uses autodiff.
        seed: The seed of what is drawn.

    Returns:
        A row for the forward and for each argument that holds floats, and a sentence on each use of autodiff.

    Raises:
        Exception: Whatever the reference raises.
    """
    clear_programs()
    rng = np.random.default_rng(seed)
    with precision("float64"):
        truth = HostCode(reference, lambda dy, *args: None, args, cache=False)
        values = OrderedDict((a.name, np.asarray(to_array(a.example), float)) for a in truth.arguments)
        shape = np.shape(truth.forward(values))
    title = getattr(answer[0], "__qualname__", "answer")
    row = partial(Row, owner=title, verdict=WRONG)
    expected = [row(name, shape=value.shape) for name, value in values.items()]
    output = row("forward", shape=shape)
    places: dict[str, list[str]] = {}
    try:
        with precision("float64"), record_autodiff() as places["forward"]:
            code = HostCode(*answer, args, names=truth.names)
            found = np.shape(code.forward(values))
    except Exception as error:  # whatever a student's code raises becomes a row
        return _repeat(failure_row("forward", title, error), [output, *expected]), []
    if found != shape:
        wrong = replace(output, cause="structure", diagnosis=f"expected an output of shape {shape}, got {found}")
        return _repeat(wrong, [output, *expected]), []
    points = draw_points(truth, values, (), shape, COTANGENTS, rng)
    subject = FunctionSubject("", code, values, truth)
    forward = _judge_forward(subject, [points.select(r) for r in range(len(points.dy))], partial(row, "forward"))
    try:
        with precision("float64"), record_autodiff() as places["backward"]:
            code.backward(values, rng.normal(size=shape))
    except StructureError as error:
        return [forward, *_repeat(row("", shape=(), cause="structure", diagnosis=str(error)), expected)], []
    except Exception as error:
        return [forward, *_repeat(failure_row("", title, error), expected)], []
    refusals = [
        f"autodiff is used in the {name}{f' ({place})' if place else ''}, which this exercise forbids"
        for name, found in places.items()
        for place in found
        if forbid_autodiff
    ]
    if refusals:
        return [forward, *(replace(one, verdict=REFUSED, cause="forbidden") for one in expected)], refusals
    judged = {one.path: one for one in judge(subject, points, COTANGENTS, rng, ("float64",))}
    return [forward, *(judged[one.path] for one in expected)], []


def _repeat(reason: Row, rows: Sequence[Row]) -> list[Row]:
    """Returns rows that are all wrong for the same reason."""
    return [replace(row, cause=reason.cause, diagnosis=reason.diagnosis) for row in rows]


def _judge_forward(subject: FunctionSubject, points: list[Any], row: Callable[..., Row]) -> Row:
    """Returns the row of the forward: the answer's outputs a compared with the reference's outputs b."""
    for r, point in enumerate(points):
        with precision("float64"):
            b = subject.evaluate_forward(point)[0]
            a = np.asarray(subject.code.forward({name: leaf[0] for name, leaf in point.x.items()}), float)
        if a.shape != b.shape:
            return row(
                shape=b.shape, cause="structure", diagnosis=f"expected an output of shape {b.shape}, got {a.shape}"
            )
        wrong = ~(np.abs(a - b) <= CLOSE * np.abs(b).max(initial=0)) & np.isfinite(b)
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0])
            entry = f" at {[int(i) for i in place]}" if place else ""
            where = "the given arguments" if r < COTANGENTS else "other arguments"
            sentence = f"expected the output {b[place]:.6g}{entry} for {where}, got {a[place]:.6g}"
            return row(shape=b.shape, cause="forward", diagnosis=sentence)
    return replace(row(shape=points[0].dy.shape[1:]), verdict=RIGHT)

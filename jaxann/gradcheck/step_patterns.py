"""Mistakes that concern several operations of a forward pass: a softmax, a sum over an axis, a loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxann.gradcheck.jaxprs import Position
from jaxann.gradcheck.step_recognition import list_wrong_gradients, recognize
from jaxann.gradcheck.step_sweep import BROADCASTING, Edit, Local, Sweep
from jaxann.gradcheck.steps import Program, Step

DEPTH = 10  # how many operations a function such as a softmax may be made of
LINEAR = (
    *("broadcast_in_dim", "concatenate", "convert_element_type", "copy", "cumsum", "dynamic_slice", "gather", "neg"),
    *("pad", "reduce_sum", "reshape", "rev", "slice", "split", "squeeze", "transpose"),
)
ELEMENTWISE = (
    "mul",
    "div",
    "add",
    "sub",
    "neg",
    "sqrt",
    "rsqrt",
    "reshape",
    "squeeze",
    "broadcast_in_dim",
    "integer_pow",
)


class Pattern(NamedTuple):
    """A mistake that concerns several operations.

    Attributes:
        cause: A key for programs.
        sentence: The mistake, with the field {step} for the name of the operation `named`.
        named: The index of the operation after which the mistake is named.
        edit: What the backward pass does differently.
    """

    cause: str
    sentence: str
    named: int
    edit: Edit


def list_patterns(sweep: Sweep) -> Iterator[Pattern]:
    """Yields mistakes in functions that the forward pass computes by several operations.

    Args:
        sweep: The forward pass with its values.
    """
    producers = {n: i for i, step in enumerate(sweep.program.steps) for n in step.outputs}
    for index, step in enumerate(sweep.program.steps):
        if not sweep.edges(index):
            continue
        sweep.check_time()
        y = sweep.value(step.outputs[0])
        found = set()
        for n in _list_ancestors(sweep, producers, index) if step.shape else ():
            x = sweep.value(n)
            if x.shape != y.shape or step.name in ("tanh", "logistic"):  # `step_derivatives` has their mistakes
                continue
            for function in recognize(x, y):
                if function not in found and function.name != step.name:
                    found.add(function)
                    for wrong in list_wrong_gradients(function, y.ndim - 1):
                        edit = _pass_directly(sweep, index, n, wrong.gradient)
                        yield Pattern(wrong.cause, wrong.sentence, index, edit)
        yield from _expression_mistakes(sweep, producers, index)
        if step.name == "mul":
            yield from _forgotten_mask(sweep, producers, index)
        for k in sweep.edges(index):
            if step.name in ("broadcast_in_dim", *BROADCASTING) and step.shapes[k] != step.shape:
                yield from _wrong_axes(sweep, producers, index, k)


def _expression_mistakes(sweep: Sweep, producers: dict[int, int], index: int) -> Iterator[Pattern]:
    """Yields mistakes in an expression that computes an array from one of the same shape by several operations."""
    steps = sweep.program.steps
    step = steps[index]
    if step.position is None or any(step.outputs[0] in steps[i].inputs for i in _list_beside(steps, index)):
        return
    inside, outside, layer = {index}, set(), [index]
    while layer:
        for n in steps[layer.pop()].inputs:
            producer = producers.get(n)
            if producer is not None and _is_inside(steps[producer].position, step.position):
                layer += [] if producer in inside else [producer]
                inside.add(producer)
            elif n in sweep.active:
                outside.add(n)
    if len(inside) < 2 or len(outside) != 1:
        return
    (n,), result = outside, step.outputs[0]
    if sweep.value(n).shape != sweep.value(result).shape:
        return
    sentence = "a backward that leaves out the derivative of {expression}"
    yield Pattern("derivative missing", sentence, index, _pass_directly(sweep, index, n, lambda dy, x, y: dy))
    if all(steps[i].name in LINEAR for i in inside):
        order = sorted(inside)

        def apply(dy: Any, x: Any, y: Any) -> Any:
            return np.stack([sweep.evaluate(order, {n: one}, result) for one in dy])

        sentence = "a backward that applies {expression} itself where its transpose is meant"
        yield Pattern("transposed", sentence, index, _pass_directly(sweep, index, n, apply))


def _is_inside(inner: Position | None, outer: Position) -> bool:
    """Returns whether an expression is the same as another one or a part of it."""
    if inner is None or inner == outer or -1 in (inner.column, outer.column):
        return inner == outer
    begins = (outer.line, outer.column) <= (inner.line, inner.column)
    ends = (inner.end_line, inner.end_column) <= (outer.end_line, outer.end_column)
    return begins and ends and inner.file == outer.file and inner.caller == outer.caller


def _forgotten_mask(sweep: Sweep, producers: dict[int, int], index: int) -> Iterator[Pattern]:
    """Yields the gradient of a product with a random or other mask, with ones in place of the mask."""
    steps = sweep.program.steps
    for k in sweep.edges(index):
        factor = steps[index].inputs[1 - k]
        chain, n = [], factor
        while n in producers and n not in sweep.active and len(chain) < DEPTH:
            producer = producers[n]
            operands = [m for m in steps[producer].inputs if m not in sweep.program.constants]
            if len(operands) != 1:
                break
            if steps[producer].name == "convert_element_type" and sweep.value(operands[0]).dtype == bool:
                value = sweep.evaluate(chain[::-1], {n: np.ones_like(sweep.value(n))}, factor)
                edit = Edit(index, partial(_multiply_by, value, k))
                yield Pattern("mask", "a backward that forgets the mask of {step}", index, edit)
                break
            chain.append(producer)
            n = operands[0]


def _multiply_by(value: np.ndarray, k: int, local: Local) -> dict[int, np.ndarray]:
    return {k: local.dy * value}


def _list_beside(steps: Sequence[Step], index: int) -> Iterator[int]:
    """Yields the operations after an operation that come from the same expression."""
    for i in range(index + 1, len(steps)):
        if steps[i].position != steps[index].position:
            return
        yield i


def _list_ancestors(sweep: Sweep, producers: dict[int, int], index: int) -> list[int]:
    """Returns the variables from which an operation is computed by at most `DEPTH` operations, early ones first."""
    steps = sweep.program.steps
    layer = list(steps[index].inputs)
    found = dict.fromkeys(layer)
    for _ in range(DEPTH):
        layer = [n for m in layer if m in producers for n in steps[producers[m]].inputs if n not in found]
        found |= dict.fromkeys(layer)
    return sorted((n for n in found if n in sweep.active), key=lambda n: producers.get(n, -1))


def _pass_directly(sweep: Sweep, index: int, n: int, gradient: Any) -> Edit:
    """Returns the edit by which a gradient passes from the result of an operation to the variable n at once."""

    return Edit(index, partial(_bypass, sweep.value(n), n, gradient))


def _bypass(x: np.ndarray, n: int, gradient: Any, local: Local) -> dict[int, np.ndarray]:
    local.extra[n] = gradient(local.dy, x, local.y)
    return {k: 0 * dx for k, dx in enumerate(local.dx) if dx is not None}


def _wrong_axes(sweep: Sweep, producers: dict[int, int], index: int, k: int) -> Iterator[Pattern]:
    """Yields gradients of a sum that is broadcast again, such as a mean, which are summed over another axis."""
    steps = sweep.program.steps
    start, shape = steps[index].inputs[k], steps[index].shape
    summed = _find_sum(sweep, producers, start)
    if summed is None or steps[summed].shapes[0] != shape or len(shape) < 2:
        return
    source, (n,), axes = steps[summed].inputs[0], steps[summed].outputs, steps[summed].equation.params["axes"]
    if len(axes) != 1:
        return
    slope = sweep.pull({start: np.ones_like(sweep.value(start))}, stop=summed)[n][0]
    slope = np.expand_dims(slope, axes[0] + 1)

    def change(axis: int, factor: float, local: Local) -> dict[int, np.ndarray]:
        terms = local.dy
        if local.step.name != "broadcast_in_dim":
            wide = [np.broadcast_to(x, local.y.shape) if i == k else x for i, x in enumerate(local.x)]
            terms = local.pull(local.dy, wide)[k]
        total = terms.sum(axis=axis + 2, keepdims=True)
        local.extra[source] = factor * np.broadcast_to(total, terms.shape) * slope
        return {k: np.zeros_like(local.dx[k])}

    for axis in range(len(shape)):
        if axis != axes[0]:
            for verb, factor in {"averages": shape[axes[0]] / shape[axis], "sums": 1.0}.items():
                other = f"over axis {axis} instead of axis {axes[0]}"
                sentence = f"a backward that {verb} {other} on the path through {{step}}"
                yield Pattern("axis", sentence, summed, Edit(index, partial(change, axis, factor)))


def _find_sum(sweep: Sweep, producers: dict[int, int], n: int) -> int | None:
    """Returns the index of the sum of which the variable n is a function, entry by entry; None for any other."""
    for _ in range(DEPTH):
        if n not in producers:
            return None
        step = sweep.program.steps[producers[n]]
        if step.name == "reduce_sum":
            return producers[n]
        active = {m for m in step.inputs if m in sweep.active}
        if step.name not in ELEMENTWISE or len(active) != 1:
            return None
        (m,) = active
        if sweep.value(m).size != sweep.value(n).size:
            return None
        n = m
    return None


def list_recurrences(program: Program) -> Iterator[list[tuple[int, int]]]:
    """Yields for each loop the places where an iteration uses what an iteration before has computed.

    A loop is a sequence of operations that repeats in the user's code, in Python or in a scan.

    Args:
        program: The forward pass.

    Returns:
        The places as pairs: the index of an operation, and the number of its operand.
    """
    producers = {n: i for i, step in enumerate(program.steps) for n in step.outputs}
    for begin, end, period in _find_loops([(step.name, step.position) for step in program.steps]):
        places = []
        for index in range(begin + period, end):
            first = index - (index - begin) % period
            inputs = program.steps[index].inputs
            places += [(index, k) for k, n in enumerate(inputs) if begin <= producers.get(n, -1) < first]
        if places:
            yield places


def _find_loops(keys: Sequence[object]) -> list[tuple[int, int, int]]:
    """Returns the stretches of a sequence that repeat, each as (begin, end, period)."""
    loops: list[tuple[int, int, int]] = []
    for period in range(1, len(keys) // 2 + 1):
        begin = 0
        for i in range(len(keys) - period + 1):
            if i + period == len(keys) or keys[i] != keys[i + period]:
                inside = any(b <= begin and i + period <= e and period % p == 0 for b, e, p in loops)
                if i - begin >= period and not inside:
                    loops.append((begin, i + period, period))
                begin = i + 1
    return loops

"""Mistakes that concern several operations of a forward pass: a softmax, a sum over an axis, a loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxann.gradcheck.recognition import list_wrong_gradients, recognize
from jaxann.gradcheck.steps import Program
from jaxann.gradcheck.sweep import Edit, Local, Sweep

DEPTH = 10  # how many operations a function such as a softmax may be made of
ELEMENTWISE = ("mul", "div", "add", "sub", "neg", "sqrt", "rsqrt", "reshape", "squeeze", "broadcast_in_dim", "integer_pow")


class Pattern(NamedTuple):
    """A mistake that concerns several operations.

    Attributes:
        cause: A key for programs.
        sentence: The mistake, with the field {step} for the name of the operation at `index`.
        index: The index of the operation after which the mistake is named.
        edit: What the backward pass does differently.
    """

    cause: str
    sentence: str
    index: int
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
            if x.shape != y.shape or (step.name in ("tanh", "logistic") and n in step.inputs):
                continue
            for function in recognize(x, y):
                if function not in found:
                    found.add(function)
                    for wrong in list_wrong_gradients(function, y.ndim - 1):
                        edit = _pass_directly(sweep, index, n, wrong.gradient)
                        yield Pattern(wrong.cause, wrong.sentence, index, edit)
        if step.name == "broadcast_in_dim" and step.inputs[0] in sweep.active:
            yield from _wrong_axes(sweep, producers, index)


def _list_ancestors(sweep: Sweep, producers: dict[int, int], index: int) -> list[int]:
    """Returns the variables from which an operation is computed by at most `DEPTH` operations, far ones first."""
    steps = sweep.program.steps
    layer = list(steps[index].inputs)
    found = dict.fromkeys(layer)
    for _ in range(DEPTH):
        layer = [n for m in layer if m in producers for n in steps[producers[m]].inputs if n not in found]
        found |= dict.fromkeys(layer)
    return [n for n in reversed(found) if n in sweep.active]


def _pass_directly(sweep: Sweep, index: int, n: int, gradient: Any) -> Edit:
    """Returns the edit by which a gradient passes from the result of an operation to the variable n at once."""

    def change(local: Local) -> dict[int, np.ndarray]:
        local.extra[n] = gradient(local.dy, sweep.value(n), local.y)
        return {k: 0 * dx for k, dx in enumerate(local.dx) if dx is not None}

    return Edit(index, change)


def _wrong_axes(sweep: Sweep, producers: dict[int, int], index: int) -> Iterator[Pattern]:
    """Yields gradients of a sum that is broadcast again, such as a mean, which are summed over another axis."""
    steps = sweep.program.steps
    start = steps[index].inputs[0]
    n = start
    for _ in range(DEPTH):
        producer = producers.get(n)
        if producer is None:
            return
        step = steps[producer]
        if step.name == "reduce_sum":
            break
        active = [m for m in step.inputs if m in sweep.active]
        if step.name not in ELEMENTWISE or len(set(active)) != 1 or sweep.value(active[0]).size != sweep.value(n).size:
            return
        n = active[0]
    else:
        return
    axes = tuple(step.equation.params["axes"])
    if step.shapes[0] != steps[index].shape or len(axes) != 1 or len(step.shapes[0]) < 2:
        return
    slope = sweep.pull({start: np.ones_like(sweep.value(start))}, stop=producer)[n][0]
    slope = np.expand_dims(slope, axes[0] + 1)
    for axis in range(len(step.shapes[0])):
        if axis != axes[0]:

            def change(local: Local, axis: int = axis) -> dict[int, np.ndarray]:
                total = local.dy.sum(axis=axis + 2, keepdims=True)
                local.extra[step.inputs[0]] = np.broadcast_to(total, local.dy.shape) * slope
                return {0: np.zeros_like(local.dx[0])}

            sentence = f"a backward that sums over axis {axis} instead of axis {axes[0]} on the path through {{step}}"
            yield Pattern("axis", sentence, producer, Edit(index, change))


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

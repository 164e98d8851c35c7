"""Wrong gradients of operations that repeat, pick or pad entries: assigned where they should be added, or cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from jaxann.gradcheck.step_sweep import Local
from jaxann.gradcheck.steps import Step
from jaxann.gradcheck.structure import name_axes, subsets

LARGEST_POOL = 256  # the most windows of a pooling operation that are followed one by one

Change = Callable[[Local], dict[int, Any]]


class Mistake(NamedTuple):
    """A wrong derivative of an operation.

    Attributes:
        cause: A key for programs.
        sentence: The mistake as it follows "consistent with". It has the fields {step}, the name of the operation, and
            {0} and {1}, its operands; {operand 0} is "the operand `x`".
        change: What replaces the true gradients.
    """

    cause: str
    sentence: str
    change: Change


def assigned_gradients(step: Step, operands: Sequence[int]) -> Iterator[Mistake]:
    """Yields the gradients of an operation that picks entries, some of them several times."""
    if 0 not in operands:
        return

    def assign(last: bool, local: Local) -> dict[int, np.ndarray]:
        n = local.dy.shape[1]
        gradient = np.zeros(local.dx[0].shape)
        size = prod(gradient.shape[2:])
        picked = _route(local, size).reshape(1, n, -1)
        dy = local.dy.reshape(len(local.dy), n, -1)
        inside = np.isfinite(picked) & (picked >= 0)
        places = np.where(inside, picked, size).astype(int)  # a place beyond the end takes what lies outside
        flat = np.zeros((len(dy), n, size + 1))
        order = slice(None, None, 1 if last else -1)
        np.put_along_axis(flat, np.broadcast_to(places, dy.shape)[..., order], dy[..., order], axis=-1)
        return {0: flat[..., :-1].reshape(gradient.shape)}

    for last, word in ((True, "last"), (False, "first")):
        sentence = (
            f"a backward that assigns the gradients of an entry that {{step}} takes several times, where it should add "
            f"them, so that only the {word} one counts"
        )
        yield Mistake("assigned", sentence, partial(assign, last))


def _route(local: Local, size: int) -> np.ndarray:
    """Returns for each entry of the result which entry of the operand it is, [N, ...]."""
    if local.step.name == "gather":
        numbers = np.arange(size, dtype=local.dy.dtype).reshape(local.dx[0].shape[2:])
        return local.evaluate([np.broadcast_to(numbers, local.dx[0].shape[1:]), *local.x[1:]])
    shape = local.dy.shape[1:]
    places = np.zeros(shape).reshape(len(local.y), -1)
    for place in range(places.shape[1]):  # where the gradient of this entry goes
        unit = np.zeros(places.shape)
        unit[:, place] = 1
        routed = local.pull(unit.reshape(1, *shape))[0]
        places[:, place] = routed.reshape(len(unit), -1).argmax(axis=1)
    return places


def pooling_gradients(step: Step, operands: Sequence[int]) -> Iterator[Mistake]:
    """Yields the gradients of a pooling operation that are assigned where windows overlap."""
    if prod(step.shape) <= LARGEST_POOL:
        yield from assigned_gradients(step, operands)


def single_positions(step: Step, operands: Sequence[int]) -> Iterator[Mistake]:
    """Yields the gradients of an operand that is broadcast, with one position where there should be a sum."""
    for k in operands:
        for axes in subsets(_broadcast_axes(step, k)):
            for last, word in ((True, "last"), (False, "first")):
                sentence = (
                    f"a backward that takes only the {word} entry along {name_axes(axes, skip=0)} where it should sum, "
                    f"in the gradient of {{operand {k}}} of {{step}}"
                )
                yield Mistake("assigned", sentence, partial(_take_position, k, axes, last))


def _take_position(k: int, axes: tuple[int, ...], last: bool, local: Local) -> dict[int, np.ndarray]:
    shape, terms = local.step.shapes[k], local.dy
    if local.step.name != "broadcast_in_dim":
        wide = [np.broadcast_to(x, local.y.shape) if i == k else x for i, x in enumerate(local.x)]
        terms = local.pull(local.dy, wide)[k]
    for axis in axes:
        terms = np.take(terms, [-1 if last else 0], axis=axis + 2)
    rest = tuple(axis + 2 for axis in _broadcast_axes(local.step, k))
    return {k: terms.sum(axis=rest, keepdims=True).reshape(*terms.shape[:2], *shape)}


def _broadcast_axes(step: Step, k: int) -> tuple[int, ...]:
    """Returns the axes of the result along which an operand is repeated."""
    shape = step.shapes[k]
    if step.name == "broadcast_in_dim":
        kept = dict(zip(step.equation.params["broadcast_dimensions"], shape, strict=True))
    else:
        kept = dict(enumerate(shape)) if shape else {}
    return tuple(axis for axis, n in enumerate(step.shape) if n > 1 and kept.get(axis, 1) == 1)


def padding_gradients(step: Step, operands: Sequence[int]) -> Iterator[Mistake]:
    """Yields the gradients of padding that are cut off at the wrong place."""
    config = step.equation.params["padding_config"]
    if 0 in operands and any(low > 0 for low, _, _ in config) and not any(inside for *_, inside in config):
        cut = (slice(None), slice(None), *(slice(n) for n in step.shapes[0]))
        sentence = "a backward that cuts off as much as {step} adds, but all of it at the end"
        yield Mistake("padding", sentence, lambda local: {0: local.dy[cut]})

"""What people get wrong in the derivative of a primitive operation: for each primitive, the wrong derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod

import numpy as np

from jaxann.gradcheck.step_assignments import (
    Change,
    Mistake,
    assigned_gradients,
    padding_gradients,
    pooling_gradients,
    single_positions,
)
from jaxann.gradcheck.step_slopes import list_slopes
from jaxann.gradcheck.step_sweep import BROADCASTING, Local
from jaxann.gradcheck.steps import Step


def scale_operands(factor: float | int, operands: Sequence[int]) -> Change:
    """Returns the change that multiplies the gradients with respect to some operands by a factor."""

    return partial(_scale, factor, operands)


def _scale(factor: float | int, operands: Sequence[int], local: Local) -> dict[int, np.ndarray]:
    return {k: factor * gradient for k in operands if (gradient := local.dx[k]) is not None}


def list_mistakes(step: Step, operands: Sequence[int]) -> Iterator[Mistake]:
    """Yields the wrong derivatives of an operation.

    Args:
        step: The operation.
        operands: The operands that have a gradient.
    """
    name, shape = step.name, step.shape
    right, slopes = list_slopes(step)
    for wrong, slope in slopes.items():
        sentence = f"a derivative of {{step}} that is {wrong} instead of {right}"
        yield Mistake("local derivative", sentence, partial(_use_slope, slope))
    yield from PRIMITIVES.get(name, lambda *_: ())(step, operands)
    if name in ("broadcast_in_dim", *BROADCASTING):
        yield from single_positions(step, operands)
    for k in operands:
        if len(step.inputs) == 1 and step.shapes[0] == shape and name not in _LINEAR:
            yield Mistake(
                "local derivative",
                "a backward that evaluates the derivative of {step} at its output instead of at its input",
                lambda local: {0: local.pull(local.dy, [local.y])[0]},
            )
        if step.shapes[k] == shape and len(operands) == 1 and name not in ("add", "sub", "mul", "div", *_MASKS):
            sentence = "a backward that leaves out the derivative of {step}"
            yield Mistake("derivative missing", sentence, partial(_pass_on, k))


def _use_slope(slope: Callable, local: Local) -> dict[int, np.ndarray]:
    return {0: local.dy * slope(local.x[0], local.y)}


def _pass_on(operand: int, local: Local) -> dict[int, np.ndarray]:
    return {operand: local.dy}


def _multiply(step: Step, operands: Sequence[int]) -> Iterator[Mistake]:
    if step.inputs[0] == step.inputs[1]:
        sentence = "a derivative of {step} that is x, without the factor 2, instead of 2 x"
        yield Mistake("local derivative", sentence, lambda local: {0: 0 * local.dx[0]})
    for k in operands:
        other = f"{{{1 - k}}}"
        yield Mistake(
            "factor missing", f"a backward that leaves out the factor {other} of {{step}}", partial(_pass_on, k)
        )
        yield Mistake(
            "wrong factor",
            f"a backward that multiplies by the result of {{step}} where it should multiply by {other}",
            lambda local, k=k: {k: local.dy * local.y},
        )
        yield Mistake(
            "wrong factor",
            f"a backward that multiplies by {{{k}}} where it should multiply by {other}, in {{step}}",
            lambda local, k=k: {k: local.dy * local.x[k]},
        )


def _divide(step: Step, operands: Sequence[int]) -> Iterator[Mistake]:
    missing = "a backward that leaves out the division by {1} of {step}"
    if 0 in operands:
        yield Mistake("factor missing", missing, lambda local: {0: local.dy})
    if 1 in operands:
        yield Mistake("factor missing", missing, lambda local: {0: local.dy, 1: -local.dy * local.y})
        wrong = "a derivative of {{step}} with respect to its denominator b that is {} instead of -a / b²".format
        yield Mistake("local derivative", wrong("-a / b"), lambda local: {1: -local.dy * local.y})
        yield Mistake("local derivative", wrong("-1 / b²"), lambda local: {1: -local.dy / local.x[1] ** 2})
        yield Mistake("local derivative", wrong("-1 / b"), lambda local: {1: -local.dy / local.x[1]})
        yield Mistake("local derivative", wrong("1 / b"), lambda local: {1: local.dy / local.x[1]})
        yield Mistake("local derivative", wrong("-a"), lambda local: {1: -local.dy * local.x[0]})


def _matrix_product(step: Step, operands: Sequence[int]) -> Iterator[Mistake]:
    def pull_at(k: int, replace: Callable, local: Local) -> dict[int, np.ndarray]:
        inputs = list(local.x)
        inputs[1 - k] = replace(local)
        return {k: local.pull(local.dy, inputs)[k]}

    for k in operands:
        shape, other, is_constant = step.shapes[k], step.shapes[1 - k], 1 - k not in operands
        yield Mistake(
            "factor missing",
            f"a backward that leaves out the factor {{{1 - k}}} of {{step}}",
            partial(pull_at, k, lambda local, k=k: np.ones_like(local.x[1 - k])),
        )
        yield Mistake(
            "factor missing",
            f"a backward that leaves out the incoming gradient of {{step}} with respect to {{{k}}}",
            lambda local, k=k: {k: local.pull(np.ones_like(local.dy))[k]},
        )
        if len(other) == 2 and other[0] == other[1]:
            yield Mistake(
                "transposed",
                f"a backward that uses {{{1 - k}}} where its transpose is meant, or the reverse, in {{step}}",
                partial(pull_at, k, lambda local, k=k: local.x[1 - k].swapaxes(-1, -2)),
            )
        if len(step.shape) == 2 and step.shape[0] == step.shape[1]:
            yield Mistake(
                "transposed",
                f"a backward that uses the incoming gradient of {{step}} where its transpose is meant, in the gradient "
                f"of {{{k}}}",
                lambda local, k=k: {k: local.pull(local.dy.swapaxes(-1, -2))[k]},
            )
        if len(shape) == 2 and shape[0] == shape[1]:
            yield Mistake(
                "transposed",
                f"a backward that transposes the gradient of {{{k}}} in {{step}}",
                lambda local, k=k: {k: local.dx[k].swapaxes(-1, -2)},
            )
        if other == step.shape and not is_constant:
            yield Mistake(
                "wrong factor",
                f"a backward that multiplies by the result of {{step}} where it should multiply by {{{1 - k}}}",
                partial(pull_at, k, lambda local: local.y),
            )
        if len(shape) == 2 and len(step.shape) == 1:
            axis = -1 if shape[0] == step.shape[0] else -2
            yield Mistake(
                "wrong factor",
                f"a backward that multiplies by {{{k}}} where it should multiply by {{{1 - k}}}, in {{step}}",
                lambda local, k=k, axis=axis: {k: np.expand_dims(local.dy, axis) * local.x[k]},
            )


def _masked(step: Step, operands: Sequence[int]) -> Iterator[Mistake]:
    for k in operands:
        if step.shapes[k] == step.shape:
            yield Mistake("mask", f"a backward that forgets the mask of {{step}} for {{{k}}}", partial(_pass_on, k))
            yield Mistake(
                "mask",
                f"a backward that uses the mask of {{step}} the wrong way round for {{{k}}}",
                partial(_reverse_mask, k),
            )


def _reverse_mask(operand: int, local: Local) -> dict[int, np.ndarray]:
    """Returns what a mask lets through the wrong way round; NaN if it lets everything through, which hides nothing."""
    hidden = local.dy - local.dx[operand]
    return {operand: hidden if hidden.any() else np.full_like(hidden, np.nan)}


def _extremum(step: Step, operands: Sequence[int]) -> Iterator[Mistake]:
    axes = tuple(axis + 2 for axis in step.equation.params["axes"])
    sentence = "a backward that forgets the mask of {step}, and passes the gradient to every entry"

    def spread(local: Local) -> dict[int, np.ndarray]:
        return {0: np.broadcast_to(np.expand_dims(local.dy, axes), local.dx[0].shape)}

    yield Mistake("mask", sentence, spread)
    n = prod(step.shapes[0]) // max(prod(step.shape), 1)
    sentence = f"a backward that passes 1/{n} of the gradient to every entry, as for a mean, in {{step}}"
    yield Mistake("mask", sentence, lambda local: {0: spread(local)[0] / n})


def _forward_for_transpose(step: Step, operands: Sequence[int]) -> Iterator[Mistake]:
    if step.shapes[0] == step.shape:
        sentence = "a backward that applies {step} itself where its transpose is meant"
        yield Mistake(
            "transposed",
            sentence.replace("its transpose", "its transpose, in reverse order,")
            if step.name in _CUMULATIVE
            else sentence,
            lambda local: {0: np.stack([local.evaluate([dy]) for dy in local.dy])},
        )


def _sort(step: Step, operands: Sequence[int]) -> Iterator[Mistake]:
    if len(step.inputs) == 1:
        axis = step.equation.params["dimension"] - len(step.shape)
        sentence = "a backward that applies the permutation of {step} where its inverse is meant"

        def permute(local: Local) -> dict[int, np.ndarray]:
            order = np.broadcast_to(np.argsort(local.x[0], axis=axis, kind="stable"), local.dy.shape)
            return {0: np.take_along_axis(local.dy, order, axis=axis)}

        yield Mistake("transposed", sentence, permute)


def _convolution(step: Step, operands: Sequence[int]) -> Iterator[Mistake]:
    numbers = step.equation.params["dimension_numbers"]
    axes = tuple(axis - len(step.shapes[1]) for axis in numbers.rhs_spec[2:])
    if 0 in operands:
        sentence = "a backward that flips the kernel of {step} the wrong way round"
        flip = lambda local: {0: local.pull(local.dy, [local.x[0], np.flip(local.x[1], axes).copy()])[0]}  # noqa: E731
        yield Mistake("transposed", sentence, flip)
    if 1 in operands:
        sentence = "a backward that flips the gradient of the kernel of {step}"
        yield Mistake("transposed", sentence, lambda local: {1: np.flip(local.dx[1], axes)})


_CUMULATIVE = ("cumsum",)
_LINEAR = ("transpose", "rev", "neg", "reshape", "copy", "convert_element_type", "broadcast_in_dim", *_CUMULATIVE)
_MASKS = ("max", "min", "select_n", "clamp")
PRIMITIVES: dict[str, Callable[[Step, Sequence[int]], Iterator[Mistake]]] = {
    "mul": _multiply,
    "div": _divide,
    "dot_general": _matrix_product,
    **dict.fromkeys(_MASKS, _masked),
    **dict.fromkeys(("reduce_max", "reduce_min"), _extremum),
    "gather": assigned_gradients,
    **dict.fromkeys(("reduce_window_max", "reduce_window_min"), pooling_gradients),
    "pad": padding_gradients,
    **dict.fromkeys(("transpose", *_CUMULATIVE), _forward_for_transpose),
    "sort": _sort,
    "conv_general_dilated": _convolution,
}

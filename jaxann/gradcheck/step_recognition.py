"""Functions that a forward pass computes by several operations, and their wrong derivatives.

A softmax, a sigmoid or normalized values are recognized by their values, however they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxann.gradcheck.step_slopes import SLOPES

CLOSE = 1e-12  # the relative difference up to which values are equal


class Function(NamedTuple):
    """A function that was recognized.

    Attributes:
        name: Its name.
        axis: The axis along which it works, counted from the end; 0 for a function of single numbers.
    """

    name: str
    axis: int


class WrongGradient(NamedTuple):
    """A wrong gradient with respect to the argument of a function.

    Attributes:
        cause: A key for programs.
        sentence: The mistake as it follows "consistent with", with the field {step} for the name of the result.
        gradient: dx as a function of dy, x and the result y.
    """

    cause: str
    sentence: str
    gradient: Callable[[Any, Any, Any], Any]


def recognize(x: np.ndarray, y: np.ndarray) -> Iterator[Function]:
    """Yields the functions that y could be of x.

    Args:
        x: Values at N points, [N, ...].
        y: Values in the same shape.
    """
    with np.errstate(all="ignore"):
        for name, function in _FUNCTIONS.items():
            if _is_close(y, function(x)):
                yield Function(name, 0)
        for axis in range(-1, -x.ndim, -1):
            if x.shape[axis] > 1:
                yield from (Function(name, axis) for name in _recognize_along(x, y, axis))


def _recognize_along(x: np.ndarray, y: np.ndarray, axis: int) -> Iterator[str]:
    log_softmax = x - x.max(axis=axis, keepdims=True)
    log_softmax = log_softmax - np.log(np.exp(log_softmax).sum(axis=axis, keepdims=True))
    if _is_close(y, np.exp(log_softmax)):
        yield "softmax"
    if _is_close(y, log_softmax):
        yield "log-softmax"
    centred = x - _mean(x, axis)
    variance = _mean(centred**2, axis)
    if x.shape[axis] > 2 and variance.min() > 0 and not _is_close(x, centred) and not _is_close(y, centred):
        scale = _mean(y * centred, axis) / variance  # 1 / √(σ² + ε) if y is normalized
        if scale.min() > 0 and _is_close(y, scale * centred) and (abs(scale**2 * variance - 1) < 0.3).all():
            yield "normalization"


def list_wrong_gradients(function: Function, dimensions: int) -> Iterator[WrongGradient]:
    """Yields wrong gradients of a function.

    Args:
        function: The function.
        dimensions: The number of axes of its argument.
    """
    name, axis = function
    if name in _FUNCTIONS:
        right, slopes = SLOPES[name]
        word = "sigmoid" if name == "logistic" else name
        for wrong, slope in slopes.items():
            sentence = f"a derivative of the {word} that is {wrong} instead of {right}, where y is {{step}}"
            yield WrongGradient("local derivative", sentence, partial(_use_slope, slope))
        sentence = f"a backward that leaves out the derivative of the {word}, {{step}}"
        yield WrongGradient("derivative missing", sentence, lambda dy, x, y: dy)
        sentence = f"a backward that evaluates the derivative of the {word}, {{step}}, at its output"
        yield WrongGradient("local derivative", sentence, lambda dy, x, y: dy * _DERIVATIVES[name](y))
        return
    cause = "normalization" if name == "normalization" else "softmax"
    for sentence, gradient in _ALONG_AXIS[name].items():
        yield WrongGradient(cause, sentence, partial(gradient, axis))
    for other in range(-dimensions, 0):
        if other != axis:
            axes = f"over axis {other + dimensions} instead of axis {axis + dimensions}"
            sentence, wrong = _OVER_OTHER_AXIS[name]
            yield WrongGradient("axis", sentence.replace("{axes}", axes), partial(wrong, axis, other))


def _use_slope(slope: Callable, dy: Any, x: Any, y: Any) -> Any:
    return dy * slope(x, y)


def _sum(values: Any, axis: int) -> Any:
    return values.sum(axis=axis, keepdims=True)


def _mean(values: Any, axis: int) -> Any:
    return values.mean(axis=axis, keepdims=True)


def _scale(x: Any, y: Any, axis: int) -> Any:
    """Returns 1 / σ for normalized values y."""
    centred = x - _mean(x, axis)
    return _mean(y * centred, axis) / _mean(centred**2, axis)


def _normalize_backward(axis: int, other: int, dy: Any, x: Any, y: Any) -> Any:
    return (dy - _mean(dy, other) - y * _mean(dy * y, other)) * _scale(x, y, axis)


def _is_close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.isfinite(a).all() and (np.abs(a - b) <= CLOSE * np.abs(a).max(initial=0)).all())


_FUNCTIONS: dict[str, Callable] = {"logistic": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh}
_DERIVATIVES: dict[str, Callable] = {
    "logistic": lambda x: 1 / (2 + np.exp(x) + np.exp(-x)),
    "tanh": lambda x: 1 - np.tanh(x) ** 2,
}
_SOFTMAX = "the softmax's p (dy - pᵀ dy), where p is {step}"
_LOG_SOFTMAX = "the log-softmax's dy - p Σ dy, where log p is {step}"
_NORMALIZED = "for the normalized values, {step}"
_ALONG_AXIS: dict[str, dict[str, Callable]] = {
    "softmax": {
        f"a backward that has p (1 - p) dy, from the diagonal of the Jacobian only, instead of {_SOFTMAX}": (
            lambda axis, dy, x, p: dy * p * (1 - p)
        ),
        f"a backward that has p dy, without the dot product pᵀ dy, instead of {_SOFTMAX}": lambda axis, dy, x, p: (
            dy * p
        ),
        f"a backward that has only the dot product, -p pᵀ dy, instead of {_SOFTMAX}": (
            lambda axis, dy, x, p: -p * _sum(dy * p, axis)
        ),
        f"a backward that has dy - pᵀ dy, without the factor p, instead of {_SOFTMAX}": (
            lambda axis, dy, x, p: dy - _sum(dy * p, axis)
        ),
        f"a backward that has p (dy - Σ dy) instead of {_SOFTMAX}": lambda axis, dy, x, p: p * (dy - _sum(dy, axis)),
        f"a backward that has dy instead of {_SOFTMAX}": lambda axis, dy, x, p: dy,
    },
    "log-softmax": {
        f"a backward that has dy instead of {_LOG_SOFTMAX}": lambda axis, dy, x, y: dy,
        f"a backward that has dy - p, without the factor Σ dy, instead of {_LOG_SOFTMAX}": (
            lambda axis, dy, x, y: dy - np.exp(y)
        ),
        f"a backward that has dy (1 - p) instead of {_LOG_SOFTMAX}": lambda axis, dy, x, y: dy * (1 - np.exp(y)),
    },
    "normalization": {
        f"a backward that treats the mean and the standard deviation as constants, {_NORMALIZED}": (
            lambda axis, dy, x, y: dy * _scale(x, y, axis)
        ),
        f"a backward that has sums where it should have means, {_NORMALIZED}": (
            lambda axis, dy, x, y: (dy - _sum(dy, axis) - y * _sum(dy * y, axis)) * _scale(x, y, axis)
        ),
        f"a backward that leaves out the division by the standard deviation, {_NORMALIZED}": (
            lambda axis, dy, x, y: dy - _mean(dy, axis) - y * _mean(dy * y, axis)
        ),
    },
}
_OVER_OTHER_AXIS: dict[str, tuple[str, Callable]] = {
    "softmax": (
        f"a backward that sums {{axes}} for the dot product in {_SOFTMAX}",
        lambda axis, other, dy, x, p: p * (dy - _sum(dy * p, other)),
    ),
    "log-softmax": (
        f"a backward that sums {{axes}} for Σ dy in {_LOG_SOFTMAX}",
        lambda axis, other, dy, x, y: dy - np.exp(y) * _sum(dy, other),
    ),
    "normalization": (f"a backward that takes means {{axes}}, {_NORMALIZED}", _normalize_backward),
}

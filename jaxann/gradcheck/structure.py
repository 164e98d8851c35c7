"""The structure of handwritten gradients: whether each exists, and has the shape and type of its parameter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import combinations

import numpy as np

from jaxann.gradcheck.arguments import Args, by_name, is_float
from jaxann.gradcheck.evidence import ROUNDING
from jaxann.gradcheck.subjects import LayerSubject, Subject


def find_structure_errors(subject: Subject, one: Args) -> dict[str, str]:
    """Finds gradients that are missing, superfluous, or of the wrong shape or type.

    Args:
        subject: The subject whose backward is traced.
        one: The arguments for one example, without the axes R and B.

    Returns:
        A sentence for each such gradient, by its name.

    Raises:
        TypeError: If backward does not return a pair (grads, dx).
        Exception: Whatever backward raises.
    """
    returned = subject.trace_backward(one)
    arguments = by_name(one.params, one.x)
    expected = {name: leaf for name, leaf in arguments.items() if is_float(leaf)}
    errors = {name: "backward does not return it" for name in expected if name not in returned}
    for name, leaf in returned.items():
        if name not in arguments and name != "dx":
            owner = (
                "layer has no such parameter" if isinstance(subject, LayerSubject) else "forward has no such argument"
            )
            errors[name] = f"backward returns it, but the {owner}"
        elif name in expected and leaf.shape != expected[name].shape:
            errors[name] = f"expected shape {expected[name].shape}, got {leaf.shape}"
            if isinstance(subject, LayerSubject) and len(leaf.shape) < len(expected[name].shape):  # summed over a batch
                errors[name] += f"; a layer gets one example at a time, not a batch, here of shape {np.shape(one.x)}"
        elif name in expected and leaf.dtype != expected[name].dtype:
            errors[name] = f"expected {expected[name].dtype}, the type of the parameter, got {leaf.dtype}"
    return errors


def diagnose_structure(a: np.ndarray | None, b: np.ndarray, error: str) -> tuple[str, str]:
    """Diagnoses a gradient of the wrong shape or type.

    Args:
        a: The handwritten gradient, [R, ...]; None if it is missing.
        b: The true gradient, [R, ...].
        error: The sentence that says what is wrong.

    Returns:
        The cause, "not summed", "transposed" or "structure", and the diagnosis.
    """
    if a is not None:
        close = partial(np.allclose, rtol=ROUNDING, atol=ROUNDING * np.abs(b).max(initial=0))
        for axes in subsets(range(1, a.ndim)):
            summed = a.sum(axis=axes)
            if summed.shape == b.shape and close(summed, b):
                return "not summed", f"{error}, consistent with a missing sum over {name_axes(axes, skip=1)}"
        if a.ndim >= 3 and a.swapaxes(-1, -2).shape == b.shape and close(a.swapaxes(-1, -2), b):
            return "transposed", f"{error}, consistent with the transpose of the gradient"
    return "structure", error


def subsets(axes: Iterable[int]) -> Iterator[tuple[int, ...]]:
    """Yields every nonempty subset of some axes, small ones first."""
    axes = list(axes)
    for k in range(1, len(axes) + 1):
        yield from combinations(axes, k)


def name_axes(axes: Iterable[int], skip: int) -> str:
    """Returns "axis 0" or "axes 0 and 1", as a layer for one example counts them.

    Args:
        axes: The axes of an array at several points.
        skip: How many leading axes, for points and examples, the arrays of one example do not have.
    """
    numbers = [str(axis - skip) for axis in axes]
    return f"{'axis' if len(numbers) == 1 else 'axes'} {' and '.join(numbers)}"

"""One gradient of a subject, with all that its verdict depends on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxann.gradcheck.arguments import Args
from jaxann.gradcheck.differences import Deviation, Differences
from jaxann.gradcheck.subjects import Gradients, Subject

# Of max|a - b| / max|b|: some hundred rounding errors in float32, some thousand in float64.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
OWN_ERRORS = 8  # rounding errors of two ways to compute a gradient differ by a few times their size


@dataclass(frozen=True)
class Leaf:
    """One gradient of a subject with all that its verdict depends on: a is the handwritten gradient, b autodiff's.

    Attributes:
        subject: The subject.
        name: The name of the gradient.
        args: The arguments at R points.
        actual: How many points, counted from the first, are at the data; the others were drawn.
        gradients: All gradients of the subject, by precision.
        sensitivity: How far b moves for a relative change of its arguments by 1, [R].
        rounding: The rounding error of b, the largest that was measured at the arguments and near them, [R], by
            precision; 0 in float64.
        differences: Central differences at the last of the `actual` points; None where they are not computed.
        finite: Whether the output and all true gradients of the subject are finite, [R], by precision.
        most: The size of the largest true gradient of the subject, [R].
    """

    subject: Subject
    name: str
    args: Args
    actual: int
    gradients: dict[str, Gradients]
    sensitivity: np.ndarray
    rounding: dict[str, np.ndarray]
    differences: Differences | None
    finite: dict[str, np.ndarray]
    most: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """How far b may be from the exact gradient, [R]; 0 where only rounding errors occur."""
        return self.gradients["float64"].error.get(self.name, np.zeros(len(self.args.dy)))

    def pair(self, dtype: str) -> tuple[Any, np.ndarray]:
        """Returns a and b in one precision, [R, ...]; a is None if it is missing."""
        return self.gradients[dtype].handwritten.get(self.name), self.gradients[dtype].autodiff[self.name]

    def counts(self, dtype: str) -> np.ndarray:
        """Returns whether each point counts, [R]: a point at the data if b is finite, another if every value is."""
        is_actual = np.arange(len(self.args.dy)) < self.actual
        return np.where(is_actual, is_finite(self.pair(dtype)[1]), self.finite[dtype])

    @cached_property
    def deviations(self) -> dict[str, Deviation]:
        """How far a is from b, by precision."""
        return {dtype: self._compare(dtype) for dtype in TOLERANCE}

    def _compare(self, dtype: str) -> Deviation:
        """Compares a with b at the point where they differ most in relation to the tolerance.

        The tolerance grows where the gradient is the small difference of large terms, as at a minimum, because b is no
        more accurate there. A few rounding errors of dy, and several times the error of b itself in float32, are always
        within it. Where b cancels to zero, as that of a bias before a `BatchNorm`, the tolerance is relative to the
        largest gradient of the subject. If no point counts, the error is NaN and the excess 0.
        """
        counts = self.counts(dtype) if dtype in self.gradients else np.zeros(1, bool)
        if not counts.any():
            return Deviation(np.nan, 0.0)
        a, b = self.pair(dtype)
        difference, size = largest(a - b)[counts], largest(b)[counts]
        eps = max(float(np.finfo(dtype).eps), self.subject.eps)
        tolerance = max(TOLERANCE[dtype], 80 * self.subject.eps)
        rounding = 4 * eps * largest(self.args.dy[counts]) + self.error[counts]
        exact, most = self.pair("float64")[1], self.most[counts]
        rounding += OWN_ERRORS * self.rounding[dtype][counts]
        is_cancelled = largest(exact)[counts] <= TOLERANCE["float64"] * most
        rounding += np.where(is_cancelled, tolerance * most, 0)
        excess = difference / (tolerance * np.fmax(size, self.sensitivity[counts]) + rounding)
        worst = int(np.nanargmax(excess)) if np.isfinite(excess).any() else 0
        relative = np.where(difference == 0, 0, difference / size)
        return Deviation(float(relative[worst]), float(excess[worst]))


def largest(values: np.ndarray) -> np.ndarray:
    """Returns max|values| at each point, [R]."""
    flat = values.reshape(len(values), -1)
    return np.maximum(flat.max(axis=1, initial=0), -flat.min(axis=1, initial=0))  # without a copy for the sizes


def is_finite(values: np.ndarray) -> np.ndarray:
    """Returns whether all values at a point are finite, [R]."""
    return np.all(np.isfinite(values).reshape(len(values), -1), axis=1)

"""The evidence on one wrong gradient: its values and the true ones at several points, and the arguments there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxann.gradcheck.arguments import Args
from jaxann.gradcheck.subjects import Subject

ROUNDING = 1e-9  # what rounding may change, relative to the size of a gradient


@dataclass(frozen=True)
class Evidence:
    """One wrong gradient a at R points, and the true gradient b.

    Attributes:
        subject: The layer, loss or gradient function that returns a.
        name: The name of the gradient: a parameter's path, or "dx".
        args: The arguments at the points.
        y: The outputs, [R, B, ...].
        a: The handwritten gradient, [R, ...].
        autodiff: All gradients of the subject by autodiff, by name, [R, ...].
        sensitivity: How far b moves for a relative change of its arguments by 1, [R].
    """

    subject: Subject
    name: str
    args: Args
    y: np.ndarray
    a: np.ndarray
    autodiff: dict[str, np.ndarray]
    sensitivity: np.ndarray

    @property
    def b(self) -> np.ndarray:
        """The true gradient, [R, ...]."""
        return self.autodiff[self.name]

    @property
    def tolerance(self) -> np.ndarray:
        """What rounding may change in an entry at each point, [R, 1, ...]."""
        sizes = [np.abs(g).reshape(len(g), -1).max(axis=1, initial=0) for g in (self.a, self.b)]
        tolerance = ROUNDING * np.maximum.reduce([*sizes, np.nan_to_num(self.sensitivity, posinf=0)])
        return tolerance.reshape(-1, *(1,) * (self.a.ndim - 1))

    def agree(self, one: Any, other: Any) -> bool:
        """Returns whether two arrays have the gradient's shape and are equal up to rounding."""
        same_shape = np.shape(one) == np.shape(other) == self.a.shape
        return same_shape and bool((np.abs(one - other) <= self.tolerance).all())

    def divide_by_cotangent(self) -> Evidence:
        """Returns the evidence for dy = 1. It must be that of a loss, whose dy is one number for each example."""
        dy, one = self.expand_examples(self.args.dy), np.ones_like(self.args.dy)
        sensitivity = self.sensitivity / np.abs(self.args.dy).min(axis=1)
        args, autodiff = self.args._replace(dy=one), {"dx": self.b / dy}
        return replace(self, args=args, a=self.a / dy, autodiff=autodiff, sensitivity=sensitivity)

    @property
    def is_elementwise(self) -> bool:
        """Whether this is dx of a layer whose input and output have the same shape."""
        return self.name == "dx" and np.shape(self.args.x) == np.shape(self.args.dy) == self.a.shape

    def expand_examples(self, array: np.ndarray) -> np.ndarray:
        """Reshapes a number for each example, [R, B], so that it multiplies dx [R, B, ...]."""
        return array.reshape(*array.shape, *(1,) * (self.a.ndim - 2))

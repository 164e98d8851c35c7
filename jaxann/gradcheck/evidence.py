"""What is known of one wrong gradient: trials of it by hand and in truth, and what they came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxann.gradcheck.subjects import Args, Subject

ROUNDING = 1e-9


@dataclass(frozen=True)
class Evidence:
    """R trials of one gradient by hand, a, and in truth, b; all gradients in truth, and what they come from.

    `sway` [R] is how far b moves for a relative move of its arguments by one.
    """

    subject: Subject
    name: str
    args: Args
    y: np.ndarray
    a: np.ndarray
    automatic: dict[str, np.ndarray]
    sensitivity: np.ndarray

    @property
    def b(self) -> np.ndarray:
        return self.automatic[self.name]

    @property
    def tolerance(self) -> np.ndarray:
        """What rounding may do to an entry in each trial, [R, 1, ...]."""
        sizes = [np.abs(g).reshape(len(g), -1).max(axis=1, initial=0) for g in (self.a, self.b)]
        slack = ROUNDING * np.maximum.reduce([*sizes, np.nan_to_num(self.sensitivity, posinf=0)])
        return slack.reshape(-1, *(1,) * (self.a.ndim - 1))

    def agree(self, one: Any, other: Any) -> bool:
        """Whether two arrays of the gradient's shape are the same to rounding."""
        same_shape = np.shape(one) == np.shape(other) == self.a.shape
        return same_shape and bool((np.abs(one - other) <= self.tolerance).all())

    def of_one(self) -> Evidence:
        """The same for dy = 1, of a loss."""
        dy, one = self.per_example(self.args.dy), np.ones_like(self.args.dy)
        sway = self.sensitivity / np.abs(self.args.dy).min(axis=1)
        return replace(
            self, args=self.args._replace(dy=one), a=self.a / dy, automatic={"dx": self.b / dy}, sensitivity=sway
        )

    @property
    def elementwise(self) -> bool:
        """Whether this is dx, and x, dy and y have one shape."""
        return self.name == "dx" and np.shape(self.args.x) == np.shape(self.args.dy) == self.a.shape

    def per_example(self, array: np.ndarray) -> np.ndarray:
        """Numbers [R, B] as they multiply dx [R, B, ...]."""
        return array.reshape(*array.shape, *(1,) * (self.a.ndim - 2))

"""The evidence on one wrong gradient: its values and the true ones at several points, and the arguments there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxann.gradcheck.arguments import Args, by_name, is_float
from jaxann.gradcheck.subjects import Subject

ROUNDING = 1e-9  # what rounding may change, relative to the size of a gradient


class NotDefinedError(Exception):
    """Raised where a diagnosis cannot be tried, such as if a user's code raises at arguments that a diagnosis makes."""


@dataclass(frozen=True)
class Evidence:
    """One wrong gradient a at R points, and the true gradient b.

    Attributes:
        subject: The layer, loss, function or gradient function that returns a.
        name: The name of the gradient, as `by_name` gives it.
        args: The arguments at the points.
        y: The outputs, [R, B, ...].
        handwritten: All gradients that the subject returns, by name, [R, ...].
        autodiff: All true gradients, by name, [R, ...].
        sensitivity: How far b moves for a relative change of its arguments by 1, [R].
        error: How far b may be from the exact gradient, [R].
        cache: What several diagnoses need, computed once.
    """

    subject: Subject
    name: str
    args: Args
    y: np.ndarray
    handwritten: dict[str, np.ndarray] = field(repr=False)
    autodiff: dict[str, np.ndarray] = field(repr=False)
    sensitivity: np.ndarray
    error: np.ndarray
    cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def a(self) -> np.ndarray:
        """The handwritten gradient, [R, ...]."""
        return self.handwritten[self.name]

    @property
    def b(self) -> np.ndarray:
        """The true gradient, [R, ...]."""
        return self.autodiff[self.name]

    @cached_property
    def tolerance(self) -> np.ndarray:
        """What rounding may change in an entry at each point, [R, 1, ...]."""
        sizes = [np.abs(g).reshape(len(g), -1).max(axis=1, initial=0) for g in (self.a, self.b)]
        tolerance = ROUNDING * np.maximum.reduce([*sizes, np.nan_to_num(self.sensitivity, posinf=0)]) + self.error
        return tolerance.reshape(-1, *(1,) * (self.a.ndim - 1))

    def agree(self, one: Any, other: Any) -> bool:
        """Returns whether two arrays have the gradient's shape and are equal up to rounding."""
        same_shape = np.shape(one) == np.shape(other) == self.a.shape
        return same_shape and bool((np.abs(one - other) <= self.tolerance).all())

    @cached_property
    def differs(self) -> np.ndarray:
        """In which entries a differs from b by more than rounding, in the shape of a."""
        return np.abs(self.a - self.b) > self.tolerance

    @property
    def arguments(self) -> dict[str, np.ndarray]:
        """All parameters and inputs by name, [R, ...]; inputs have an axis of examples, [R, B, ...]."""
        return by_name(self.args.params, self.args.x)

    @property
    def value(self) -> np.ndarray:
        """The parameter or input with respect to which a is the gradient, in the shape of a."""
        return self.subject.sample(self.name, self.arguments[self.name])

    @property
    def is_input(self) -> bool:
        """Whether a has an axis of examples, [R, B, ...], as the gradient of an input has."""
        return self.name in by_name((), self.args.x)

    @property
    def is_elementwise(self) -> bool:
        """Whether the input has the same shape as the output."""
        return self.is_input and np.shape(self.value) == np.shape(self.args.dy) == self.a.shape

    @property
    def is_loss(self) -> bool:
        """Whether the input has more axes than the output and begins with those, as that of a sum over outputs has."""
        if not self.is_input:
            return False
        shape, outputs = np.shape(self.value), np.shape(self.args.dy)
        return len(shape) > len(outputs) and shape[: len(outputs)] == outputs

    @property
    def cotangent(self) -> np.ndarray:
        """The incoming cotangent of a loss in the shape of its input."""
        dy = self.args.dy
        return np.broadcast_to(dy.reshape(*dy.shape, *(1,) * (self.a.ndim - dy.ndim)), self.a.shape)

    @property
    def leading(self) -> int:
        """How many leading axes of a count points and examples."""
        return 2 if self.is_input else 1

    def evaluate_true(self, args: Args) -> np.ndarray:
        """Returns the true gradient at other arguments; raises `NotDefinedError` if the subject raises there."""
        try:
            return self.subject.evaluate(args, "float64").autodiff[self.name]
        except Exception as error:
            raise NotDefinedError from error

    def evaluate_handwritten(self, args: Args) -> np.ndarray:
        """Returns the handwritten gradient at other arguments; raises `NotDefinedError` if the subject raises there."""
        try:
            return self.subject.evaluate_handwritten(args)[self.name]
        except Exception as error:
            raise NotDefinedError from error

    def change_argument(self, name: str, value: np.ndarray) -> Args:
        """Returns the arguments with another value of the parameter or input called `name`."""

        def change(tree: Any, named: dict[str, Any]) -> Any:
            values = [value if key == name else leaf for key, leaf in named.items()]
            return jax.tree.unflatten(jax.tree.structure(tree), values)

        params, x = self.args.params, self.args.x
        if name in by_name((), x):
            return self.args._replace(x=change(x, by_name((), x)))
        return self.args._replace(params=change(params, by_name(params, ())))

    def select(self, points: Any) -> Evidence:
        """Returns the evidence at some of the points; `points` is a mask."""
        handwritten, autodiff = (
            {name: g[points] for name, g in gradients.items()} for gradients in (self.handwritten, self.autodiff)
        )
        return Evidence(
            self.subject,
            self.name,
            self.args.select(points),
            self.y[points],
            handwritten,
            autodiff,
            self.sensitivity[points],
            self.error[points],
        )

    def divide_by_cotangent(self) -> Evidence:
        """Returns the evidence for dy = 1. It must be that of a loss, whose dy is one number for each example."""
        dy, one = self.expand_examples(self.args.dy), np.ones_like(self.args.dy)
        scale = np.abs(self.args.dy).min(axis=1)
        handwritten, autodiff = {self.name: self.a / dy}, {self.name: self.b / dy}
        return replace(
            self,
            cache={},
            args=self.args._replace(dy=one),
            handwritten=handwritten,
            autodiff=autodiff,
            sensitivity=self.sensitivity / scale,
            error=self.error / scale,
        )

    def expand_examples(self, array: np.ndarray) -> np.ndarray:
        """Reshapes a number for each example, [R, B], so that it multiplies an input's gradient [R, B, ...]."""
        return array.reshape(*array.shape, *(1,) * (self.a.ndim - 2))

    def show(self, name: str) -> str:
        """Returns what a sentence calls an argument: x for dx, and "input 2" where only its position is known."""
        return "x" if name == "dx" else f"input {name}" if self.is_input and name.isdecimal() else name

    def float_arguments(self) -> dict[str, np.ndarray]:
        """Returns the parameters and inputs that are floats, other than the one with this gradient, by name."""
        return {name: value for name, value in self.arguments.items() if name != self.name and is_float(value)}

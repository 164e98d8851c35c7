"""Reverse sweeps through a forward pass, for many changed versions of its backward pass at once.

The operations are evaluated and differentiated one at a time. Equal operations share a compiled program, so that an
unrolled loop compiles no longer than its body. What a change replaces is computed with NumPy.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxann.gradcheck.step_programs import Signature, evaluate_step, has_gradient, pull_step
from jaxann.gradcheck.steps import Program, Step

ELEMENTS = 2**23  # how many numbers the cotangents of one variable may hold, for all changes of a chunk
CHUNK = 64  # the most changes that are evaluated at once


# Operations between arrays of one shape, or between an array and a number.
BROADCASTING = ("add", "sub", "mul", "div", "max", "min", "pow", "rem", "atan2", "clamp")


class Edit(NamedTuple):
    """What a changed backward pass does differently at one operation.

    Attributes:
        step: The index of the operation.
        change: A function of the operation with its values, which returns the gradients with respect to its operands
            that replace the true ones, by the number of the operand. It may return a gradient of another variable than
            an operand as `Local.extra`.
    """

    step: int
    change: Callable[[Local], dict[int, Any]]


class Overwrite(NamedTuple):
    """What a changed backward pass does that assigns the gradients of overlapping pieces and does not add them.

    Attributes:
        variable: The number of the variable that has the pieces.
        steps: The indices of the operations that take the pieces.
        last: Whether the last piece counts where several overlap, as for a loop that goes forwards.
    """

    variable: int
    steps: frozenset[int]
    last: bool


@dataclass
class Local:
    """An operation with its values at N points, and the gradients of c changed backward passes.

    Attributes:
        step: The operation.
        x: The values of its operands, [N, ...]; those of constants have no axis of points.
        y: The value of its first result, [N, ...].
        dy: The incoming gradient of its first result, [c, N, ...].
        dx: The true gradients with respect to its operands, [c, N, ...]; None for an operand without a gradient.
        index: The index of the operation.
        sweep: The forward pass that it belongs to.
        extra: Gradients to add to variables other than the operands, by number.
    """

    step: Step
    x: list[Any]
    y: Any
    dy: np.ndarray
    dx: list[Any]
    index: int
    sweep: Sweep
    extra: dict[int, np.ndarray] = field(default_factory=dict)

    def pull(self, dy: np.ndarray, inputs: Sequence[Any] | None = None) -> list[Any]:
        """Returns the true gradients for another incoming gradient [c, N, ...] and, if given, other operands."""
        return self.sweep.pull_one(self.index, dy, inputs)

    def evaluate(self, inputs: Sequence[Any]) -> np.ndarray:
        """Returns the first result for other operands, [N, ...]."""
        variables = dict(zip(self.step.inputs, inputs, strict=True))
        return self.sweep.evaluate([self.index], variables, self.step.outputs[0])


class OutOfTimeError(Exception):
    """The error of a search that passes its deadline."""


class Sweep:
    """A forward pass that was evaluated at N points, and reverse sweeps through it.

    Args:
        program: The forward pass.
        leaves: The leaves of the arguments, [N, ...].
        active: The numbers of the variables among the inputs that have a gradient.
        deadline: The value of `time.monotonic()` after which `OutOfTimeError` is raised.

    Attributes:
        values: The values of all variables, by number, [N, ...]; those of constants have no axis of points.
        points: N.
        chunk: How many changes are evaluated at once.
        active: The numbers of all variables that have a gradient.
    """

    def __init__(self, program: Program, leaves: Sequence[Any], active: Iterable[int], deadline: float) -> None:
        self.program, self._deadline = program, deadline
        self.points = len(leaves[0])
        self.values: dict[int, Any] = dict(program.constants) | dict(zip(program.inputs, leaves, strict=True))
        self.active = set(active)
        self._signatures: list[Signature] = []
        largest = 1
        for step in program.steps:
            self.check_time()
            floats = [i for i, variable in enumerate(step.equation.outvars) if has_gradient(variable)]
            places = [
                i
                for i, (number, variable) in enumerate(zip(step.inputs, step.equation.invars, strict=True))
                if number in self.active and has_gradient(variable)
            ]
            signature = Signature(step, [n in program.constants for n in step.inputs], places, floats)
            outputs = evaluate_step(signature, self.points, [self.values[n] for n in step.inputs])
            self.values.update(zip(step.outputs, outputs, strict=True))
            if places and floats and step.name != "stop_gradient":
                self.active.update(step.outputs[i] for i in floats)
                largest = max(largest, *(np.size(self.values[step.inputs[i]]) for i in places))
            self._signatures.append(signature)
        self.chunk = int(np.clip(ELEMENTS // largest, 1, CHUNK))

    def check_time(self) -> None:
        """Raises an `OutOfTimeError` if the deadline has passed."""
        if time.monotonic() > self._deadline:
            raise OutOfTimeError

    def edges(self, index: int) -> tuple[int, ...]:
        """Returns the operands of an operation that have a gradient."""
        step = self.program.steps[index]
        if not any(output in self.active for output in step.outputs):
            return ()
        return self._signatures[index].active

    def value(self, number: int) -> np.ndarray:
        """Returns the value of a variable, [N, ...]; that of a constant has no axis of points."""
        return np.asarray(self.values[number])

    def evaluate(self, indices: Sequence[int], values: dict[int, Any], result: int) -> np.ndarray:
        """Evaluates some of the operations again.

        Args:
            indices: The indices of the operations, in order.
            values: New values of some variables, by number, [N, ...].
            result: The number of the variable whose value is returned, [N, ...].
        """
        values = dict(values)
        for index in indices:
            step = self.program.steps[index]
            inputs = [values[n] if n in values else self.values[n] for n in step.inputs]
            values |= zip(step.outputs, evaluate_step(self._signatures[index], self.points, inputs), strict=True)
        return np.asarray(values[result])

    def pull(
        self, start: dict[int, np.ndarray], changes: Sequence[Sequence[Edit | Overwrite]] = (), stop: int = -1
    ) -> dict[int, np.ndarray]:
        """Sweeps backwards once.

        Args:
            start: The incoming gradients of variables, by number, [N, ...].
            changes: For each changed backward pass what it does differently; at most `chunk` of them.
            stop: The index of the operation before which the sweep ends.

        Returns:
            The gradients with respect to all variables, by number, [c, N, ...], where c is `chunk`. Backward passes
            beyond those in `changes` are unchanged. A variable that no gradient reaches is missing.
        """
        edits: dict[int, dict[int, tuple[Edit, list[int]]]] = defaultdict(dict)
        overwrites: dict[int, list[tuple[Overwrite, int]]] = defaultdict(list)
        for c, change in enumerate(changes):
            for part in change:
                if isinstance(part, Overwrite):
                    overwrites[part.variable].append((part, c))
                else:
                    which = edits[part.step].setdefault(id(part.change), (part, []))[1]
                    which += [c] if c not in which[-1:] else []
        gradients = {n: np.broadcast_to(dy, (self.chunk, *dy.shape)) for n, dy in start.items()}
        for index in range(len(self.program.steps) - 1, stop, -1):
            step = self.program.steps[index]
            if not self.edges(index) or not any(n in gradients for n in step.outputs):
                continue
            self.check_time()
            dx = self._pull_index(index, gradients)
            extra: dict[int, np.ndarray] = {}
            if index in edits:
                dx = [None if one is None else np.array(one) for one in dx]
                for edit, which in edits[index].values():
                    self._apply(index, edit, which, gradients, dx, extra)
            for number, gradient in [*zip(step.inputs, dx, strict=True), *extra.items()]:
                if gradient is None:
                    continue
                old = gradients.get(number)
                new = gradient if old is None else old + gradient
                for overwrite, c in overwrites.get(number, ()):
                    if index in overwrite.steps and old is not None:
                        first, second = (old[c], gradient[c]) if overwrite.last else (gradient[c], old[c])
                        new[c] = np.where(first != 0, first, second)
                gradients[number] = new
        return gradients

    def pull_one(self, index: int, dy: np.ndarray, inputs: Sequence[Any] | None = None) -> list[Any]:
        """Returns the true gradients with respect to the operands of one operation, [c, N, ...].

        Args:
            index: The index of the operation.
            dy: The incoming gradient of its first result, [c, N, ...], for at most `chunk` backward passes.
            inputs: Other values of its operands.
        """
        padded = np.zeros((self.chunk, *dy.shape[1:]), dy.dtype)
        padded[: len(dy)] = dy
        first = self.program.steps[index].outputs[self._signatures[index].floats[0]]
        pulled = self._pull_index(index, {first: padded}, None if inputs is None else list(inputs))
        return [None if one is None else one[: len(dy)] for one in pulled]

    def _pull_index(self, index: int, gradients: dict[int, np.ndarray], inputs: Any = None) -> list[Any]:
        """Returns the true gradients with respect to the operands of an operation."""
        step, signature = self.program.steps[index], self._signatures[index]
        cotangents = []
        for place in signature.floats:
            aval, number = step.equation.outvars[place].aval, step.outputs[place]
            shape = (self.chunk, self.points, *aval.shape)
            cotangents.append(gradients[number] if number in gradients else np.zeros(shape, aval.dtype))
        values = [self.values[n] for n in step.inputs] if inputs is None else inputs
        pulled = dict(zip(signature.active, pull_step(signature, self.points, values, cotangents), strict=True))
        return [np.asarray(pulled[i]) if i in pulled else None for i in range(len(step.inputs))]

    def _apply(
        self,
        index: int,
        edit: Edit,
        which: list[int],
        gradients: dict[int, np.ndarray],
        dx: list[Any],
        extra: dict[int, np.ndarray],
    ) -> None:
        """Replaces the gradients of some backward passes at one operation, in place."""
        step = self.program.steps[index]
        first = step.outputs[self._signatures[index].floats[0]]

        values: list[Any] = [self.value(n) if _is_array(self.values[n]) else None for n in step.inputs]
        if step.name in BROADCASTING:
            # The axis of points must not be aligned with an axis of the result.
            wide = (self.points, *(1,) * len(step.shape))
            numbers = [shape == () and np.ndim(x) == 1 for shape, x in zip(step.shapes, values, strict=True)]
            values = [np.reshape(x, wide) if one else x for x, one in zip(values, numbers, strict=True)]
        dy = gradients[first][which] if first in gradients else np.zeros((len(which), *self.value(first).shape))
        local_dx = [one if one is None else one[which] for one in dx]
        local = Local(step, values, self.value(first), dy, local_dx, index, self)
        for place, gradient in edit.change(local).items():
            one = dx[place]
            if one is not None:
                one[which] = _sum_to_shape(gradient, one.shape[1:])
        for number, gradient in local.extra.items():
            whole = extra.setdefault(number, np.zeros((self.chunk, *gradient.shape[1:])))
            whole[which] += gradient


def _sum_to_shape(gradient: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Returns a gradient [c, ...] summed over the axes along which an operand of a shape was broadcast."""
    gradient = gradient.sum(axis=tuple(range(len(shape) + 1, gradient.ndim)))  # those of a number have no axis
    axes = tuple(axis + 1 for axis, n in enumerate(shape) if n == 1 < gradient.shape[axis + 1])
    return gradient.sum(axis=axes, keepdims=True) if axes else gradient


def _is_array(value: Any) -> bool:
    return not jnp.issubdtype(value.dtype, jax.dtypes.prng_key)

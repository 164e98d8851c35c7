"""The primitive operations of a forward pass as one straight list, each with the user's line that it comes from.

Calls of functions are replaced by what they compute, and short scans by their iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import PyTree

from jaxann.gradcheck.jaxprs import (
    Position,
    called_program,
    custom_primal,
    default_branch,
    defining_file,
    is_custom,
    is_users_file,
    source_position,
    split_scan,
)

MAX_STEPS = 400  # the most operations of a forward pass for which changes are tried
MAX_ITERATIONS = 16  # a longer scan is one operation


class TooManyStepsError(Exception):
    """The error of a forward pass that has more than `MAX_STEPS` operations."""


class Step(NamedTuple):
    """A primitive operation.

    Attributes:
        equation: Its equation in a jaxpr.
        inputs: The numbers of the variables that are its operands.
        outputs: The numbers of the variables that are its results.
        position: Where it is in the user's code; None if that is not known.
    """

    equation: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    position: Position | None

    @property
    def name(self) -> str:
        """The name of its primitive."""
        return self.equation.primitive.name

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of its operands."""
        return [variable.aval.shape for variable in self.equation.invars]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its first result."""
        return self.equation.outvars[0].aval.shape


@dataclass(frozen=True)
class Program:
    """A forward pass of one example as a list of primitive operations.

    Attributes:
        steps: The operations, in an order in which they can be evaluated.
        constants: The values of the variables that do not depend on the inputs, by number.
        inputs: The numbers of the variables that are the leaves of the arguments.
        output: The number of the variable that is the output.
    """

    steps: tuple[Step, ...]
    constants: dict[int, Any]
    inputs: tuple[int, ...]
    output: int


def list_steps(function: Callable, args: tuple[PyTree, ...], enter_custom: bool = True) -> Program:
    """Lists the primitive operations of a function.

    Args:
        function: A function of pytrees that JAX can trace and that returns an array.
        args: Its arguments.
        enter_custom: Whether a function with a custom derivative is replaced by the operations that it is made of. If
            not, it is one operation with its own derivative.

    Returns:
        The operations.

    Raises:
        TooManyStepsError: If the function has more than `MAX_STEPS` operations.
        Exception: Whatever the function raises when it is traced.
    """
    closed = jax.make_jaxpr(function)(*args)
    lister = _Lister(enter_custom)
    inputs = [lister.number() for _ in closed.jaxpr.invars]
    (output,) = lister.add(closed, inputs, None, True)
    steps = _select_used(lister.steps, output)
    if len(steps) > MAX_STEPS:
        raise TooManyStepsError(f"its forward pass has {len(steps)} operations, more than {MAX_STEPS}")
    return Program(steps, lister.constants, tuple(inputs), output)


def _select_used(steps: Sequence[Step], output: int) -> tuple[Step, ...]:
    """Returns the operations on which the output depends; a forward pass may compute what it only saves."""
    used, found = [], {output}
    for step in steps[::-1]:
        if not found.isdisjoint(step.outputs):
            used.append(step)
            found.update(step.inputs)
    return tuple(used[::-1])


class _Lister:
    """A list of operations that grows as programs are added to it."""

    def __init__(self, enter_custom: bool) -> None:
        self._enter_custom, self._count = enter_custom, 0
        self.steps: list[Step] = []
        self.constants: dict[int, Any] = {}

    def number(self) -> int:
        """Returns the number of a new variable."""
        self._count += 1
        return self._count

    def add(self, program: Any, inputs: Sequence[int], position: Position | None, is_users: bool) -> list[int]:
        """Adds the operations of a program.

        Args:
            program: The program.
            inputs: The numbers of the variables that are its inputs.
            position: Where it is called in the user's code.
            is_users: Whether the user wrote it. JAX traces a function of its own only once, so that the operations
                inside are known to come from the line that called the function first.

        Returns:
            The numbers of its outputs.
        """
        jaxpr = program.jaxpr
        numbers = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, value in zip(jaxpr.constvars, program.consts, strict=True):
            numbers[variable] = self._add_constant(value)

        def read(atom: Any) -> int:
            if isinstance(atom, Literal):
                return self._add_constant(jnp.asarray(atom.val, getattr(atom.aval, "dtype", None)))
            return numbers[atom]

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            place = (source_position(equation) if is_users else None) or position
            if place and position and place is not position:
                place = place._replace(caller=position)
            outputs = self._add_equation(equation, operands, place)
            numbers.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _add_equation(self, equation: Any, operands: list[int], position: Position | None) -> list[int]:
        inner = called_program(equation)
        if self._enter_custom and is_custom(equation):
            inner = custom_primal(equation)
        if (branch := default_branch(equation)) is not None:
            inner, operands = branch, operands[1:]
        if inner is not None:
            return self.add(inner, operands, position, is_users_file(defining_file(inner)))
        if equation.primitive.name == "scan" and equation.params["length"] <= MAX_ITERATIONS:
            return self._add_scan(equation, operands, position)
        outputs = [self.number() for _ in equation.outvars]
        self.steps.append(Step(equation, tuple(operands), tuple(outputs), position))
        return outputs

    def _add_scan(self, equation: Any, operands: list[int], position: Position | None) -> list[int]:
        body, length, reverse = (equation.params[name] for name in ("jaxpr", "length", "reverse"))
        consts, carry, xs = split_scan(equation, operands)
        shapes: list[Any] = [variable.aval for variable in split_scan(equation, equation.invars)[2]]
        is_users = is_users_file(defining_file(body))
        stacked = [[0] * length for _ in body.jaxpr.outvars[len(carry) :]]
        for t in range(length)[:: -1 if reverse else 1]:
            x = [
                self._add_function(lambda x, t=t: jax.lax.index_in_dim(x, t, keepdims=False), [x], [shape], position)
                for x, shape in zip(xs, shapes, strict=True)
            ]
            outputs = self.add(body, [*consts, *carry, *x], position, is_users)
            carry = outputs[: len(carry)]
            for ys, y in zip(stacked, outputs[len(carry) :], strict=True):
                ys[t] = y
        avals: list[Any] = [variable.aval for variable in body.jaxpr.outvars[len(carry) :]]
        ys = [
            self._add_function(_stack, ys, [aval] * length, position) for ys, aval in zip(stacked, avals, strict=True)
        ]
        return [*carry, *ys]

    def _add_function(self, function: Callable, inputs: list[int], avals: list[Any], position: Position | None) -> int:
        shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
        (output,) = self.add(jax.make_jaxpr(function)(*shapes), inputs, position, False)
        return output

    def _add_constant(self, value: Any) -> int:
        number = self.number()
        self.constants[number] = value
        return number


def _stack(*arrays: Any) -> Any:
    return jax.lax.concatenate([jax.lax.expand_dims(array, (0,)) for array in arrays], 0)

"""The compiled programs that evaluate and differentiate one primitive operation at many points."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxann.gradcheck.compilation import jit_cheaply
from jaxann.gradcheck.jaxprs import bind_equation
from jaxann.gradcheck.steps import Step
from jaxann.gradients.autodiff import vjp


class Signature:
    """What the compiled program of an operation depends on, besides shapes.

    Args:
        step: The operation.
        constant: For each operand whether it is constant, that is without an axis of points.
        active: The operands that have a gradient.
        floats: The results that have an incoming gradient.
    """

    def __init__(self, step: Step, constant: Sequence[bool], active: Sequence[int], floats: Sequence[int]) -> None:
        self.call = bind_equation(step.equation)
        self.axes = tuple(None if is_constant else 0 for is_constant in constant)
        self.active, self.floats = tuple(active), tuple(floats)
        try:
            params = tuple(sorted(step.equation.params.items(), key=lambda item: item[0]))
            hash(params)
        except TypeError:
            params = (id(step.equation),)
        self._key = (step.name, params, self.axes, self.active, self.floats)
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signature) and self._key == other._key


@partial(jit_cheaply, static=2)
def evaluate_step(signature: Signature, points: int, inputs: list[Any]) -> list[Any]:
    """Returns the results of an operation at N points.

    Args:
        signature: The operation.
        points: N.
        inputs: The values of its operands, [N, ...]; those of constants have no axis of points.
    """
    return jax.vmap(lambda *inputs: signature.call(*inputs), signature.axes, axis_size=points)(*inputs)


@partial(jit_cheaply, static=2)
def pull_step(signature: Signature, points: int, inputs: list[Any], cotangents: list[Any]) -> list[Any]:
    """Returns the gradients with respect to the active operands of an operation, [c, N, ...].

    Args:
        signature: The operation.
        points: N.
        inputs: The values of its operands, [N, ...]; those of constants have no axis of points.
        cotangents: The incoming gradients of the results that have one, [c, N, ...].
    """

    def pull_point(inputs, cotangents):
        def call(*active):
            changed = list(inputs)
            for place, value in zip(signature.active, active, strict=True):
                changed[place] = value
            outputs = signature.call(*changed)
            return [outputs[place] for place in signature.floats]

        return list(vjp(call, *(inputs[place] for place in signature.active))[1](cotangents))

    at_points = jax.vmap(pull_point, (list(signature.axes), 0), axis_size=points)
    return jax.vmap(at_points, (None, 0))(inputs, cotangents)


def has_gradient(variable: Any) -> bool:
    """Returns whether a variable of a jaxpr is of a type that can have a gradient."""
    return jnp.issubdtype(variable.aval.dtype, jnp.inexact)

"""The primitive operations of a forward pass, and copies of it in which the derivative of one operation is changed.

A diagnosis compares a wrong gradient with the gradients of such copies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array, PyTree

from jaxann.gradients.autodiff import stop_gradient

# What a backward may do wrong with one operation v ↦ f(v): f(v) rewritten so that only its derivative changes.
STEP_CHANGES: dict[str, Callable[[Callable, Any], Any]] = {
    "constant": lambda f, v: stop_gradient(f(v)),
    "constant operand": lambda f, v: f(stop_gradient(v)),
    "one": lambda f, v: stop_gradient(f(v) - v) + v,
    "at the output": lambda f, v: _differentiate_at(f, v, f(v)),
}


def _differentiate_at(f: Callable, v: Array, w: Array) -> Array:
    """Returns f(v), with the derivative that f has at w."""
    stop = stop_gradient
    return stop(f(v)) + f(stop(w) + v - stop(v)) - stop(f(w))


def list_steps(function: Callable, *args: PyTree) -> list[tuple[str, int]]:
    """Lists the operations of the jaxpr of `function` in order.

    Args:
        function: A function that JAX can trace.
        *args: Its arguments.

    Returns:
        The name and the number of operands of each operation.
    """
    return [
        (eqn.params.get("name", eqn.primitive.name), len(eqn.invars)) for eqn in jax.make_jaxpr(function)(*args).eqns
    ]


def change_step(function: Callable, place: int, operand: int, change: str) -> Callable:
    """Changes the derivative of one operation of a function and keeps the value.

    Args:
        function: A function that JAX can trace.
        place: The index of the operation, in the order of `list_steps`.
        operand: The index of the operand with respect to which the derivative changes.
        change: A key of `STEP_CHANGES`.

    Returns:
        The changed function. It raises a TypeError if the operation does not allow the change: an operand or a result
        is not a float, or the change needs a result of the operand's shape.
    """

    def run(*args: PyTree) -> PyTree:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
        values.update(zip(closed.jaxpr.invars, jax.tree.leaves(args), strict=True))

        def read(atom):
            return atom.val if isinstance(atom, Literal) else values[atom]

        for i, eqn in enumerate(closed.eqns):
            operands = [read(atom) for atom in eqn.invars]
            if i == place:
                if not all(
                    jnp.issubdtype(atom.aval.dtype, jnp.floating) for atom in (eqn.invars[operand], *eqn.outvars)
                ):
                    raise TypeError(f"expected an operation between floats, got {eqn.primitive}")
                f = partial(_evaluate, eqn, operands, operand)
                out = [STEP_CHANGES[change](lambda v, f=f: f(v)[0], operands[operand])]
                if [value.shape for value in out] != [var.aval.shape for var in eqn.outvars]:
                    raise TypeError(f"expected an operation that keeps the shape of its operand, got {eqn.primitive}")
            else:
                out = _evaluate(eqn, operands)
            values.update(zip(eqn.outvars, out, strict=True))
        return jax.tree.unflatten(jax.tree.structure(shape), [read(atom) for atom in closed.jaxpr.outvars])

    return run


def _evaluate(eqn: Any, operands: list[Any], place: int = 0, *replacement: Any) -> list[Any]:
    """Returns the results of one equation of a jaxpr, with another operand at `place` if `replacement` has one."""
    operands = [*operands[:place], *replacement, *operands[place + len(replacement) :]]
    out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return out if eqn.primitive.multiple_results else [out]

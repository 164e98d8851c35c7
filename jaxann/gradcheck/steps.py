"""The automatic route to a gradient: `jax.value_and_grad` of the same forward and the same loss.

The only module that differentiates: the judge of the handwritten one.
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

# What can be wrong with one step v ↦ f(v) of a forward pass, as f(v) rewritten so that only its derivative changes.
STEP_CHANGES: dict[str, Callable[[Callable, Any], Any]] = {
    "constant": lambda f, v: stop_gradient(f(v)),
    "constant operand": lambda f, v: f(stop_gradient(v)),
    "one": lambda f, v: stop_gradient(f(v) - v) + v,
    "at the output": lambda f, v: _moved(f, v, f(v)),
}


def _moved(f: Callable, v: Array, w: Array) -> Array:
    """f(v), with the derivative that f has at w."""
    stop = stop_gradient
    return stop(f(v)) + f(stop(w) + v - stop(v)) - stop(f(w))


def list_steps(function: Callable, *args: PyTree) -> list[tuple[str, int]]:
    """The steps that `function` takes, the operations of its jaxpr in order: their names and numbers of operands."""
    return [
        (eqn.params.get("name", eqn.primitive.name), len(eqn.invars)) for eqn in jax.make_jaxpr(function)(*args).eqns
    ]


def change_step(function: Callable, place: int, operand: int, change: str) -> Callable:
    """`function` with the same value, but its derivative by an operand of step `place` changed as `CHANGES` says.

    Raises TypeError for a step that cannot be changed so.
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
                    raise TypeError(f"{eqn.primitive} has no derivative")
                f = partial(_step, eqn, operands, operand)
                out = [STEP_CHANGES[change](lambda v, f=f: f(v)[0], operands[operand])]
                if [value.shape for value in out] != [var.aval.shape for var in eqn.outvars]:
                    raise TypeError(f"{eqn.primitive} does not keep the shape of what it takes")
            else:
                out = _step(eqn, operands)
            values.update(zip(eqn.outvars, out, strict=True))
        return jax.tree.unflatten(jax.tree.structure(shape), [read(atom) for atom in closed.jaxpr.outvars])

    return run


def _step(eqn: Any, operands: list[Any], place: int = 0, *instead: Any) -> list[Any]:
    """What one equation of a jaxpr gives, with another operand at `place` where there is one."""
    operands = [*operands[:place], *instead, *operands[place + len(instead) :]]
    out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return out if eqn.primitive.multiple_results else [out]

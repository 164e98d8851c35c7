"""The automatic route to a gradient: `jax.value_and_grad` of the same forward and the same loss.

The only module that differentiates: the judge of the handwritten one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxann.layer import Layer, Wrapped, example_keys
from jaxann.losses import Loss, shares

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped


def autodiff(model: Layer, loss: Loss) -> Callable[..., tuple[Float[Array, ""], PyTree]]:
    """The gradient function (params, x, t, weights=None, key=None) -> (loss, grads), by `jax.value_and_grad`.

    The same value, arguments and shapes as `backprop`.
    """
    return jax.value_and_grad(mean_loss(model, loss))


def mean_loss(model: Layer, loss: Loss) -> Callable[..., Float[Array, ""]]:
    """(params, x, t, weights=None, key=None) -> E, as `backprop` and `autodiff` have it."""

    def value(
        params: PyTree,
        x: Shaped[Array, "B ..."],
        t: Shaped[Array, "B ..."],
        weights: Float[Array, " B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, ""]:
        y, _ = jax.vmap(model.forward, in_axes=(None, 0, 0))(params, x, example_keys(key, len(x)))
        return shares(weights, len(x)) @ jax.vmap(loss.value)(y, t)

    return value


def transposed(function: Callable, *primals: PyTree) -> tuple[PyTree, Callable[[PyTree], tuple[PyTree, ...]]]:
    """y = function(*primals), and dy ↦ the gradient of <dy, function> with respect to each of them."""
    return jax.vjp(function, *primals)


def pushed(function: Callable, primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...]) -> tuple[PyTree, PyTree]:
    """y = function(*primals), and its derivative along `tangents`."""
    return jax.jvp(function, primals, tangents)


@dataclass(frozen=True)
class Automatic(Wrapped):
    """`layer` with its backward by `jax.vjp` of its forward."""

    def forward(
        self, params: PyTree, x: Array, key: PRNGKeyArray | None = None
    ) -> tuple[Array, tuple[Array, PRNGKeyArray | None]]:
        return self.layer.forward(params, x, key)[0], (x, key)

    def backward(self, params: PyTree, saved: tuple[Array, PRNGKeyArray | None], dy: Array) -> tuple[PyTree, Array]:
        x, key = saved
        _, pull = transposed(lambda params, x: self.layer.forward(params, x, key)[0], params, x)
        return pull(dy)


@dataclass(frozen=True)
class AutomaticLoss(Loss):
    """`loss` with its gradient by `jax.grad` of its value."""

    loss: Loss

    def value(self, y: Array, t: Array) -> Float[Array, ""]:
        return self.loss.value(y, t)

    def gradient(self, y: Array, t: Array) -> Array:
        return jax.grad(self.loss.value)(y, t)


# What can be wrong with one step v ↦ f(v) of a forward pass, as f(v) rewritten so that only its derivative changes.
CHANGES: dict[str, Callable[[Callable, Any], Any]] = {
    "constant": lambda f, v: jax.lax.stop_gradient(f(v)),
    "constant operand": lambda f, v: f(jax.lax.stop_gradient(v)),
    "one": lambda f, v: jax.lax.stop_gradient(f(v) - v) + v,
    "at the output": lambda f, v: _moved(f, v, f(v)),
}


def _moved(f: Callable, v: Array, w: Array) -> Array:
    """f(v), with the derivative that f has at w."""
    stop = jax.lax.stop_gradient
    return stop(f(v)) + f(stop(w) + v - stop(v)) - stop(f(w))


def steps(function: Callable, *args: PyTree) -> list[tuple[str, int]]:
    """The steps that `function` takes, the operations of its jaxpr in order: their names and numbers of operands."""
    return [
        (eqn.params.get("name", eqn.primitive.name), len(eqn.invars)) for eqn in jax.make_jaxpr(function)(*args).eqns
    ]


def changed(function: Callable, place: int, operand: int, change: str) -> Callable:
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
                out = [CHANGES[change](lambda v, f=f: f(v)[0], operands[operand])]
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

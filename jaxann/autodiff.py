"""The automatic route to a gradient: `jax.value_and_grad` of the same forward and the same loss.

The only module that differentiates: the judge of the handwritten one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
from jax.extend.core import Literal

from jaxann.layer import Layer
from jaxann.losses import Loss, shares

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped


def autodiff(model: Layer, loss: Loss) -> Callable[..., tuple[Float[Array, ""], PyTree]]:
    """The gradient function (params, x, t, weights=None) -> (loss, grads), by `jax.value_and_grad`.

    The same value, arguments and shapes as `backprop`.
    """
    return jax.value_and_grad(mean_loss(model, loss))


def mean_loss(model: Layer, loss: Loss) -> Callable[..., Float[Array, ""]]:
    """(params, x, t, weights=None) -> E, as `backprop` and `autodiff` have it."""

    def value(
        params: PyTree,
        x: Shaped[Array, "B ..."],
        t: Shaped[Array, "B ..."],
        weights: Float[Array, " B"] | None = None,
    ) -> Float[Array, ""]:
        y, _ = jax.vmap(model.forward, in_axes=(None, 0))(params, x)
        return shares(weights, len(x)) @ jax.vmap(loss.value)(y, t)

    return value


def transposed(function: Callable, *primals: PyTree) -> tuple[PyTree, Callable[[PyTree], tuple[PyTree, ...]]]:
    """y = function(*primals), and dy ↦ the gradient of <dy, function> with respect to each of them."""
    return jax.vjp(function, *primals)


@dataclass(frozen=True)
class Automatic(Layer):
    """`layer` with its backward by `jax.vjp` of its forward."""

    layer: Layer

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        return self.layer.sizes

    def init(self, key: PRNGKeyArray) -> PyTree:
        return self.layer.init(key)

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
    "one": lambda f, v: jax.lax.stop_gradient(f(v) - v) + v,
    "at the output": lambda f, v: _moved(f, v, f(v)),
}


def _moved(f: Callable, v: Array, w: Array) -> Array:
    """f(v), with the derivative that f has at w."""
    stop = jax.lax.stop_gradient
    return stop(f(v)) + f(stop(w) + v - stop(v)) - stop(f(w))


def steps(function: Callable, *args: PyTree) -> list[str]:
    """The names of the steps that `function` takes: the operations of its jaxpr, in order."""
    return [eqn.params.get("name", eqn.primitive.name) for eqn in jax.make_jaxpr(function)(*args).eqns]


def changed(function: Callable, place: int, change: str) -> Callable:
    """`function` with the same value, but the derivative of its step `place` changed as `CHANGES` says.

    What a step has beside its first input is held fixed. Raises TypeError for a step that cannot be changed so.
    """

    def run(*args: PyTree) -> PyTree:
        jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        values = dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
        values.update(zip(jaxpr.jaxpr.invars, jax.tree.leaves(args), strict=True))

        def read(atom):
            return atom.val if isinstance(atom, Literal) else values[atom]

        for i, eqn in enumerate(jaxpr.eqns):
            functions, settings = eqn.primitive.get_bind_params(eqn.params)
            inputs = [read(atom) for atom in eqn.invars]

            def step(*v, eqn=eqn, functions=functions, settings=settings):
                out = eqn.primitive.bind(*functions, *v, **settings)
                return out if eqn.primitive.multiple_results else [out]

            if i == place:
                if len(eqn.outvars) != 1 or not inputs:
                    raise TypeError(f"{eqn.primitive} is not a function of one value")
                out = [CHANGES[change](lambda v, step=step, others=inputs[1:]: step(v, *others)[0], inputs[0])]
                if out[0].shape != eqn.outvars[0].aval.shape:
                    raise TypeError(f"{eqn.primitive} changes the shape")
            else:
                out = step(*inputs)
            values.update(zip(eqn.outvars, out, strict=True))
        return jax.tree.unflatten(jax.tree.structure(shape), [read(atom) for atom in jaxpr.jaxpr.outvars])

    return run

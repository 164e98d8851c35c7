"""The automatic route to a gradient: `jax.value_and_grad` of the same forward and the same loss.

The only module that differentiates: the judge of the handwritten one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.base import Layer, Wrapper
from jaxann.nn.batch import split_per_example
from jaxann.nn.loss import Loss, mean_weights


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
        y, _ = jax.vmap(model.forward, in_axes=(None, 0, 0))(params, x, split_per_example(key, len(x)))
        return mean_weights(weights, len(x)) @ jax.vmap(loss.value)(y, t)

    return value


def vjp(function: Callable, *primals: PyTree) -> tuple[PyTree, Callable[[PyTree], tuple[PyTree, ...]]]:
    """y = function(*primals), and dy ↦ the gradient of <dy, function> with respect to each of them."""
    return jax.vjp(function, *primals)


def jvp(function: Callable, primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...]) -> tuple[PyTree, PyTree]:
    """y = function(*primals), and its derivative along `tangents`."""
    return jax.jvp(function, primals, tangents)


def stop_gradient(x: Array) -> Array:
    """x, taken for a constant by whatever differentiates."""
    return jax.lax.stop_gradient(x)


@dataclass(frozen=True)
class AutodiffLayer(Wrapper):
    """`layer` with its backward by `jax.vjp` of its forward."""

    def forward(
        self, params: PyTree, x: Array, key: PRNGKeyArray | None = None
    ) -> tuple[Array, tuple[Array, PRNGKeyArray | None]]:
        return self.layer.forward(params, x, key)[0], (x, key)

    def backward(self, params: PyTree, saved: tuple[Array, PRNGKeyArray | None], dy: Array) -> tuple[PyTree, Array]:
        x, key = saved
        _, pull = vjp(lambda params, x: self.layer.forward(params, x, key)[0], params, x)
        return pull(dy)


@dataclass(frozen=True)
class AutodiffLoss(Loss):
    """`loss` with its gradient by `jax.grad` of its value."""

    loss: Loss

    def value(self, y: Array, t: Array) -> Float[Array, ""]:
        return self.loss.value(y, t)

    def gradient(self, y: Array, t: Array) -> Array:
        return jax.grad(self.loss.value)(y, t)

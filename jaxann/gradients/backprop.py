"""The handwritten route to a gradient: forward, the loss's gradient, and the chain of backwards.

Nothing here or below differentiates.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.base import Layer
from jaxann.nn.batch import split_per_example
from jaxann.nn.loss import Loss, mean_weights
from jaxann.nn.outer import sum_examples


def backprop(model: Layer, loss: Loss) -> Callable[..., tuple[Float[Array, ""], PyTree]]:
    """The gradient function (params, x, t, weights=None, key=None) -> (loss, grads), by hand.

    E = Σ_i w_i E(y_i, t_i) / Σ_i w_i over a batch x [B, ...], t [B, ...] with weights [B], ones where there are
    none; grads have the shape of params. The mean enters once, at δ_N = ∂E/∂y_N. From `key` each example gets one of
    its own, for layers that draw; without it they evaluate.
    """

    def gradient(
        params: PyTree,
        x: Shaped[Array, "B ..."],
        t: Shaped[Array, "B ..."],
        weights: Float[Array, " B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, ""], PyTree]:
        share = mean_weights(weights, len(x))
        y, saved = jax.vmap(model.forward, in_axes=(None, 0, 0))(params, x, split_per_example(key, len(x)))
        value = share @ jax.vmap(loss.value)(y, t)
        dy = jax.vmap(lambda share, y, t: share * loss.gradient(y, t))(share, y, t)  # value = share · E(y, t)
        grads, _ = jax.vmap(model.backward, in_axes=(None, 0, 0))(params, saved, dy)  # y = forward(params, x, key)
        return value, sum_examples(grads)

    return gradient

"""The handwritten route to a gradient: forward, the loss's gradient, and the chain of backwards.

Neither this module nor any that it imports differentiates.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.gradients.stateful import GradientFunction
from jaxann.nn.base import Layer
from jaxann.nn.batch import backward_batch, forward_batch
from jaxann.nn.loss import Loss, mean_weights
from jaxann.nn.outer import sum_examples


def backprop(model: Layer, loss: Loss) -> GradientFunction:
    """Returns the gradient function of a model and a loss that uses their handwritten derivatives.

    E = Σ_i s_i E(y_i, t_i) with s_i = w_i / Σ w. The shares s_i enter the backward pass once, in ∂E/∂y at the output.

    Args:
        model: The network, a layer.
        loss: The loss of one example.

    Returns:
        (params, x, t, weights=None, key=None) -> (loss, grads), as `GradientFunction` describes it.
    """

    def gradient(
        params: PyTree,
        x: Shaped[Array, "B ..."],
        t: Shaped[Array, "B ..."],
        weights: Float[Array, " B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, ""], PyTree]:
        s = mean_weights(weights, len(x))
        y, saved = forward_batch(model, params, x, key, s)
        value = s @ jax.vmap(loss.value)(y, t)
        dy = jax.vmap(lambda s, y, t: s * loss.gradient(y, t))(s, y, t)  # value = Σ s E(y, t)
        grads, _ = backward_batch(model, params, saved, dy, s)  # y, saved = forward_batch(model, params, x, key, s)
        return value, sum_examples(grads)

    return gradient

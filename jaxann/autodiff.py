"""The automatic route to a gradient: `jax.value_and_grad` of the same forward and the same loss.

The only module that differentiates: the judge of the handwritten one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax

from jaxann.layer import Layer
from jaxann.losses import Loss, shares

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PyTree, Shaped


def autodiff(model: Layer, loss: Loss) -> Callable[..., tuple[Float[Array, ""], PyTree]]:
    """The gradient function (params, x, t, weights=None) -> (loss, grads), by `jax.value_and_grad`.

    The same value, arguments and shapes as `backprop`.
    """

    def mean_loss(
        params: PyTree,
        x: Shaped[Array, "B ..."],
        t: Shaped[Array, "B ..."],
        weights: Float[Array, " B"] | None = None,
    ) -> Float[Array, ""]:
        y, _ = jax.vmap(model.forward, in_axes=(None, 0))(params, x)
        return shares(weights, len(x)) @ jax.vmap(loss.value)(y, t)

    return jax.value_and_grad(mean_loss)

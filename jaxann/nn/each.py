"""The layer that applies another one at every position of a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.base import InputGradient, Wrapper, drop_float0
from jaxann.nn.batch import split_per_example
from jaxann.nn.factors import accumulation_dtype
from jaxann.nn.names import resolve_layer
from jaxann.nn.outer import map_leaves


@dataclass(frozen=True)
class Each(Wrapper):
    """A layer applied at every position of the first axis, with the same parameters.

    y_t = f(x_t), so that dx_t = b(dy_t), where b is the backward of f, and the gradient of a parameter is the sum of
    its gradients at all positions.

    x is [T, ...], where f takes [...], and y is [T, ...] as well. The parameters are those of f. A key is split into
    one for each position. The gradient of a matrix is an `Outer` whose factors keep the axis T.

    Attributes:
        layer: f, a layer or network that takes what x holds at one position, or the name of an activation.

    Raises:
        SettingError: If f is neither a layer nor the name of an activation.
        ValueError: In `forward`, if x has no axis.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", resolve_layer("layer", self.layer))

    def forward(
        self, params: PyTree, x: Shaped[Array, "..."], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "T ..."], Any]:
        if not x.ndim:
            raise ValueError(f"expected x with an axis of positions in Each, got shape {x.shape}")
        return jax.vmap(self.layer.forward, in_axes=(None, 0, 0))(params, x, split_per_example(key, len(x)))

    def backward(self, params: PyTree, saved: Any, dy: Float[Array, "T ..."]) -> tuple[PyTree, InputGradient]:
        def differentiate(saved: Any, dy: Array) -> tuple[PyTree, InputGradient]:
            grads, dx = self.layer.backward(params, saved, dy)  # y_t = f(x_t)
            return grads, drop_float0(dx)

        grads, dx = jax.vmap(differentiate)(saved, dy)
        # Every position uses the same parameters: their gradient is a sum, which an Outer takes by itself.
        return map_leaves(lambda outer: outer, lambda a: a.sum(0, dtype=accumulation_dtype(a)), grads), dx

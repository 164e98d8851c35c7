"""The layers of the derivation, an affine map and the chain of layers, and what training puts around them.

Each backward stands below its forward and names the line that it inverts.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import Number, is_traced


@dataclass(frozen=True)
class Dropout(Layer):
    """y = m x / (1 - rate), every entry of the mask m drawn 1 with probability 1 - rate, else 0; without a key y = x.

    Raises ValueError for a rate outside [0, 1). Source: Srivastava et al. 2014, section 10, "inverted".
    """

    rate: Number

    def __post_init__(self) -> None:
        if not is_traced(self.rate) and not 0 <= self.rate < 1:
            raise ValueError(f"Dropout takes a rate in [0, 1), not {self.rate}")

    @property
    def random(self) -> bool:
        return True

    def forward(
        self, params: PyTree, x: Float[Array, "*n"], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        if key is None:
            return x, jnp.ones_like(x)
        mask = (jax.random.bernoulli(key, 1 - self.rate, x.shape) / (1 - self.rate)).astype(x.dtype)
        return mask * x, mask

    def backward(
        self, params: PyTree, saved: Float[Array, "*n"], dy: Float[Array, "*n"]
    ) -> tuple[PyTree, Float[Array, "*n"]]:
        mask = saved
        return (), mask * dy  # y = mask x

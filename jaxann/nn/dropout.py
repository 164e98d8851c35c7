"""Dropout, the layer that sets random entries to zero while a network is trained."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import Number, validate_number


@dataclass(frozen=True)
class Dropout(Layer):
    """Random zeros in training, the identity in evaluation.

    y = mask ∘ x, so that dx = mask ∘ dy. Each entry of the mask is 1 / (1 - rate) with probability 1 - rate, and
    otherwise 0, so that the expectation of y is x. Without a key y = x.

    x may have any shape, and y has the same one. The layer has no parameters.

    Attributes:
        rate: The probability that an entry is set to zero, at least 0 and below 1.

    Raises:
        SettingError: If `rate` is not a number of at least 0 and below 1.

    Source: Srivastava et al. 2014; its section 10 describes the scaling in training, known as inverted dropout.
    """

    rate: Number

    def __post_init__(self) -> None:
        validate_number("rate", self.rate, least=0, below=1)

    @property
    def random(self) -> bool:
        return True

    @property
    def keeps_shape(self) -> bool:
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

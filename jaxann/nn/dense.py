"""The affine layer, y = W x + b."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
from jax.nn import initializers
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.initializers import draw_array, glorot_uniform
from jaxann.nn.outer import Outer


@dataclass(frozen=True)
class Dense(Layer):
    """Affine map of n features to m.

    y = W x + b, so that ∂E/∂W = dy xᵀ, ∂E/∂b = dy and dx = Wᵀ dy.

    x is [n] and y is [m]. The parameters are {"W": [m, n], "b": [m]}: each neuron has a row of W and an entry of b.

    Do not initialize all weights to zero. With W = 0 in the next layer, dx = Wᵀ dy = 0 there, and no gradient reaches
    this layer. Neurons with equal weights also get equal gradients, so that they stay equal. Zero biases do no harm.

    Attributes:
        n: Number of features of the input, at least 1.
        m: Number of features of the output, at least 1.
        weights: Initializer of W, from `jax.nn.initializers`. It draws an array [n, m], the layout from which
            initializers compute fan-in and fan-out, and `init` transposes it. Glorot's uniform initializer by default.
        biases: Initializer of b, from `jax.nn.initializers`; zeros by default.

    Raises:
        SettingError: If n or m is not a whole number of at least 1.
        ValueError: In `forward`, if x does not have the shape [n].

    Source: Glorot and Bengio 2010, equation 16, for the default weights.
    """

    n: int
    m: int
    weights: Callable = field(default_factory=lambda: glorot_uniform)  # as a class attribute it would become a method
    biases: Callable = field(default_factory=lambda: initializers.zeros)

    def __post_init__(self) -> None:
        validate_number("n", self.n, least=1, integer=True, note="the input features of Dense")
        validate_number("m", self.m, least=1, integer=True, note="the output features of Dense")

    @property
    def sizes(self) -> tuple[int, int]:
        return self.n, self.m

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        weights_key, biases_key = jax.random.split(key)
        return {"W": draw_array(self.weights, weights_key, (self.n, self.m)).T, "b": self.biases(biases_key, (self.m,))}

    def forward(
        self, params: PyTree, x: Float[Array, " n"], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, " m"], Float[Array, " n"]]:
        if x.shape != (self.n,):
            raise ValueError(f"{self} expected x of shape ({self.n},), got {x.shape}")
        return params["W"] @ x + params["b"], x

    def backward(
        self, params: PyTree, saved: Float[Array, " n"], dy: Float[Array, " m"]
    ) -> tuple[PyTree, Float[Array, " n"]]:
        x = saved
        grads = {"W": Outer(dy, x), "b": dy}  # y = W x + b: ∂E/∂W = dy xᵀ, ∂E/∂b = dy
        return grads, params["W"].T @ dy  # y = W x + b: ∂E/∂x = Wᵀ dy

"""The layers of the derivation, an affine map and the chain of layers, and what training puts around them.

Each backward stands below its forward and names the line that it inverts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
from jax.nn import initializers
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.outer import Outer

glorot_uniform = initializers.glorot_uniform()


@dataclass(frozen=True)
class Dense(Layer):
    """y = W x + b, from n features to m, with W [m, n] and b [m]: a row of W and an entry of b per neuron.

    `weights` and `biases` are any of `jax.nn.initializers`; `weights` draws [n, m], the layout that they reckon
    fan-in by, and is transposed. All-zero weights are allowed by the derivation but a hidden layer never learns
    from them: W = 0 above it makes dx = Wᵀ dy = 0, so nothing reaches it, and where all its neurons are alike they
    get the same gradient and stay alike. Zero biases do no harm.

    Raises ValueError for sizes below 1, and in `forward` for an x that is not [n].
    Source of the default weights: Glorot and Bengio 2010, equation 16.
    """

    n: int
    m: int
    weights: Callable = glorot_uniform
    biases: Callable = initializers.zeros

    def __post_init__(self) -> None:
        if min(self.n, self.m) < 1:
            raise ValueError(f"{self} has a size below 1")

    @property
    def sizes(self) -> tuple[int, int]:
        return self.n, self.m

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        weights_key, biases_key = jax.random.split(key)
        return {"W": self.weights(weights_key, (self.n, self.m)).T, "b": self.biases(biases_key, (self.m,))}

    def forward(
        self, params: PyTree, x: Float[Array, " n"], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, " m"], Float[Array, " n"]]:
        if x.shape != (self.n,):
            raise ValueError(f"{self} takes x of shape ({self.n},), not {x.shape}")
        return params["W"] @ x + params["b"], x

    def backward(
        self, params: PyTree, saved: Float[Array, " n"], dy: Float[Array, " m"]
    ) -> tuple[PyTree, Float[Array, " n"]]:
        x = saved
        grads = {"W": Outer(dy, x), "b": dy}  # y = W x + b: ∂E/∂W = dy xᵀ, ∂E/∂b = dy
        return grads, params["W"].T @ dy  # y = W x + b: ∂E/∂x = Wᵀ dy

    def __repr__(self) -> str:
        return f"Dense({self.n}, {self.m})"

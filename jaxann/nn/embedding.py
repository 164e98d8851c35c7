"""Embeddings: layers that look up a row of a learned matrix for each id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.base import Layer, drop_float0
from jaxann.nn.factors import OneHot
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.initializers import Initializer, draw_array
from jaxann.nn.outer import Outer

Ids = Integer[Array, "*t"]

unit_rows = Initializer("variance_scaling", (("distribution", "normal"), ("mode", "fan_out"), ("scale", 1.0)))


@dataclass(frozen=True)
class Embedding(Layer):
    """Rows of a matrix, looked up by their ids.

    y_t = W[x_t], so that ∂E/∂W = Σ_t e(x_t) dy_tᵀ, where e(i) is 1 at i and 0 elsewhere. Ids have no gradient, so that
    dx is None.

    x holds integers from 0 to size - 1 in any shape, [] and [T] for instance, and y has the shape of x with an axis [n]
    added at the end. The parameters are {"W": [size, n]}.

    Inside a compiled program, JAX takes the last row for an id that is too large, and counts negative ids from the end.
    Therefore `fit`, `predict`, `sweep` and the checks refuse ids out of range before they compile anything.

    Attributes:
        size: Number of ids, at least 1.
        n: Number of features of each row, at least 1.
        weights: Initializer of W, from `jax.nn.initializers`. It draws an array [size, n]. The default is a normal
            distribution of variance 1 / n, with which rows have a norm near 1.

    Raises:
        SettingError: If `size` or n is not a whole number of at least 1.
        ValueError: In `forward`, if x does not hold integers.
    """

    size: int
    n: int
    weights: Callable = field(default_factory=lambda: unit_rows)  # as a class attribute it would become a method

    def __post_init__(self) -> None:
        validate_number("size", self.size, least=1, integer=True, note="the ids of Embedding")
        validate_number("n", self.n, least=1, integer=True, note="the features of Embedding")

    @property
    def sizes(self) -> tuple[None, int]:
        return None, self.n

    @property
    def vocabularies(self) -> dict[str, int]:
        return {repr(self): self.size}

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        return {"W": draw_array(self.weights, key, (self.size, self.n))}

    def forward(
        self, params: PyTree, x: Shaped[Array, "*t"], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "*t n"], Ids]:
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"{self} expected integers, got x of dtype {x.dtype}")
        return params["W"][x], x

    def backward(self, params: PyTree, saved: Ids, dy: Float[Array, "*t n"]) -> tuple[PyTree, None]:
        x = saved
        return {"W": Outer(OneHot(x, self.size), dy)}, None  # y_t = W[x_t] = Wᵀ e(x_t)


@dataclass(frozen=True)
class TiedEmbedding(Layer):
    """Network from ids to a logit for each id, whose first and last layer share one matrix.

    h = f(W[x]) and y_t = W h_t, so that dh_t = Wᵀ dy_t and ∂E/∂W = Σ_t dy_t h_tᵀ + Σ_t e(x_t) dz_tᵀ, where dz is what
    the backward of f returns for dh, and e(i) is 1 at i and 0 elsewhere. Ids have no gradient, so that dx is None.

    x holds integers of any shape that f takes when [n] is added, such as [T], and y has the shape of h with [size] in
    place of [n]. The parameters are {"embedding": {"W": [size, n]}, "body": those of f}. The gradient of W is the
    `Outer` of both of its uses.

    Attributes:
        embedding: The embedding that W belongs to.
        body: f, a layer or network that takes and returns n features.

    Raises:
        ValueError: If the `sizes` of f state that it takes or returns another number of features than n. In `forward`,
            if x does not hold integers, or h does not have n features.

    Source: Press and Wolf 2017, section 3.
    """

    embedding: Embedding
    body: Layer

    def __post_init__(self) -> None:
        _, n = self.embedding.sizes
        for verb, features in zip(("takes", "returns"), self.body.sizes, strict=True):
            if None not in (n, features) and features != n:
                raise ValueError(
                    f"expected a body in TiedEmbedding that {verb} {n} features, got {self.body}, "
                    f"which {verb} {features}"
                )

    @property
    def sizes(self) -> tuple[None, int]:
        return None, self.embedding.size

    @property
    def vocabularies(self) -> dict[str, int]:
        return self.embedding.vocabularies

    def init(self, key: PRNGKeyArray) -> dict[str, PyTree]:
        embedding_key, body_key = jax.random.split(key)
        return {"embedding": self.embedding.init(embedding_key), "body": self.body.init(body_key)}

    def forward(
        self, params: PyTree, x: Shaped[Array, "*t"], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "... m"], Any]:
        z, ids = self.embedding.forward(params["embedding"], x)
        h, inner = self.body.forward(params["body"], z, key)
        W = params["embedding"]["W"]
        if h.shape[-1:] != W.shape[1:]:
            raise ValueError(f"expected h of shape (..., {W.shape[1]}) in TiedEmbedding, got {h.shape}")
        return h @ W.T, (ids, inner, h)

    def backward(self, params: PyTree, saved: Any, dy: Float[Array, "... m"]) -> tuple[PyTree, None]:
        ids, inner, h = saved
        last, dh = Outer(dy, h), dy @ params["embedding"]["W"]  # y_t = W h_t
        body, dz = self.body.backward(params["body"], inner, dh)  # h = f(z)
        first, _ = self.embedding.backward(params["embedding"], ids, drop_float0(dz))  # z_t = W[x_t]
        return {"embedding": {"W": first["W"] + last}, "body": body}, None

"""Axes of places: what layers do alike at every place of an input [..., n], whose last axis holds the features."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxann.nn.base import Layer
from jaxann.nn.factors import accumulation_dtype

Values = Float[Array, "*places n"]


def match_features(layer: Layer, n: int, x: Values) -> None:
    """Checks that the last axis of a layer's input has the length n.

    Raises:
        ValueError: If it does not.
    """
    if x.shape[-1:] != (n,):
        raise ValueError(f"{layer} expected x of shape (..., {n}), got {x.shape}")


def expand_places(a: Float[Array, " n"], x: Float[Array, "..."]) -> Float[Array, "... n"]:
    """Returns an array [n] with as many axes as x [..., m] has, so that both can be multiplied or added."""
    return jnp.expand_dims(a, tuple(range(x.ndim - 1)))


def sum_places(a: Values) -> Float[Array, " n"]:
    """Sums [..., n] over all axes but the last, in float32 or a higher precision."""
    return a.sum(tuple(range(a.ndim - 1)), dtype=accumulation_dtype(a))


def mean_places(a: Values) -> Float[Array, "..."]:
    """Averages [..., n] over all axes but the last, which become axes of length 1."""
    return a.mean(tuple(range(a.ndim - 1)), keepdims=True)

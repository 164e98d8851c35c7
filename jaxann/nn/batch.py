"""A layer on a batch: forward and backward of one example under `jax.vmap`, the only vmap over examples in the package.

A layer is written for one example; the batch is an axis that is added here, in front.
"""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.base import Layer


def split_per_example(key: PRNGKeyArray | None, examples: int) -> Key[Array, " B"] | None:
    """Returns a key [B] for each example, or None where there is no key: without one, layers evaluate."""
    return None if key is None else jax.random.split(key, examples)


def forward_batch(
    model: Layer, params: PyTree, x: Shaped[Array, "B ..."], key: PRNGKeyArray | None = None
) -> tuple[Float[Array, "B ..."], Any]:
    """y_i = f(x_i; params) for every example i of a batch, and what each one saves for `backward_batch`."""
    return jax.vmap(model.forward, in_axes=(None, 0, 0))(params, x, split_per_example(key, len(x)))


def backward_batch(
    model: Layer, params: PyTree, saved: Any, dy: Float[Array, "B ..."]
) -> tuple[PyTree, Float[Array, "B ..."]]:
    """Every example's gradients of params, leaves [B, ...] or batched `Outer`s, and of its input, from dy [B, ...]."""
    return jax.vmap(model.backward, in_axes=(None, 0, 0))(params, saved, dy)  # y, saved = forward_batch(params, x)

"""Batches: the forward and backward of one example under `jax.vmap`.

A layer is written for one example. The batch is an axis that the functions of this module add in front.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.base import Layer, drop_float0
from jaxann.nn.shapes import REFUSALS, output_shape


def split_per_example(key: PRNGKeyArray | None, examples: int) -> Key[Array, " B"] | None:
    """Splits a key into one for each example of a batch.

    Args:
        key: The key to split, or None, with which layers run in evaluation mode.
        examples: B, the number of examples.

    Returns:
        Keys [B], or None if there is no key.
    """
    return None if key is None else jax.random.split(key, examples)


def forward_batch(
    model: Layer, params: PyTree, x: Shaped[Array, "B ..."], key: PRNGKeyArray | None = None
) -> tuple[Float[Array, "B ..."], Any]:
    """Computes y_i = f(x_i; params) for every example i of a batch.

    Args:
        model: The layer or network.
        params: Its parameters, shared by all examples.
        x: [B, ...], an input for each example.
        key: A random key, split so that every example has its own. Without a key, layers that draw random numbers
            run in evaluation mode.

    Returns:
        The outputs [B, ...], and what `backward_batch` needs of this forward pass.

    Raises:
        InputError: If a layer does not take its input. It is a ValueError.
    """
    try:
        return jax.vmap(model.forward, in_axes=(None, 0, 0))(params, x, split_per_example(key, len(x)))
    except REFUSALS:
        one = jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x))
        output_shape(model, params, one)  # its error names the layer that does not take its input
        raise


def backward_batch(
    model: Layer, params: PyTree, saved: Any, dy: Float[Array, "B ..."]
) -> tuple[PyTree, Shaped[Array, "B ..."] | None]:
    """Computes the gradients of every example of a batch.

    Args:
        model: The layer or network.
        params: Its parameters, shared by all examples.
        saved: What `forward_batch` returned beside the outputs.
        dy: [B, ...], ∂E_i/∂y_i for each example i.

    Returns:
        Each example's gradients of the parameters, with arrays [B, ...] or batched `Outer`s for leaves, and its
        gradient of the input [B, ...], which is None for integers.
    """
    grads, dx = jax.vmap(model.backward, in_axes=(None, 0, 0))(params, saved, dy)  # y, saved = forward_batch(params, x)
    return grads, drop_float0(dx)

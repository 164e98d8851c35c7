"""Batches: the forward and backward of one example under `jax.vmap`.

A layer is written for one example. The batch is an axis that the functions of this module add in front. It has a name,
so that a layer can average over it (see `jaxann.nn.axis`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.axis import over_examples
from jaxann.nn.base import Layer, drop_float0
from jaxann.nn.loss import mean_weights
from jaxann.nn.shapes import REFUSALS, output_shape, resolve_input


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
    model: Layer,
    params: PyTree,
    x: Shaped[Array, "B ..."],
    key: PRNGKeyArray | None = None,
    weights: Float[Array, " B"] | None = None,
) -> tuple[Float[Array, "B ..."], Any]:
    """Computes y_i = f(x_i; params) for every example i of a batch.

    Args:
        model: The layer or network.
        params: Its parameters, shared by all examples.
        x: [B, ...], an input for each example. Integers become floats unless they are ids or the model rejects floats.
        key: A random key, split so that every example has its own. Without a key, layers that draw random numbers
            run in evaluation mode.
        weights: [B], how much each example counts in the means that a layer takes over the batch; ones by default. They
            change nothing in a model that computes each example on its own.

    Returns:
        The outputs [B, ...], and what `backward_batch` needs of this forward pass.

    Raises:
        InputError: If a layer does not take its input. It is a ValueError.
    """
    try:
        x = _to_floats(model, params, x)
        forward = over_examples(model.forward, (None, 0, 0), shares=_find_shares(model, weights))
        return forward(params, x, split_per_example(key, len(x)))
    except REFUSALS:
        output_shape(model, params, _describe_example(x))  # its error names the layer that does not take its input
        raise


def backward_batch(
    model: Layer,
    params: PyTree,
    saved: Any,
    dy: Float[Array, "B ..."],
    weights: Float[Array, " B"] | None = None,
) -> tuple[PyTree, Shaped[Array, "B ..."] | None]:
    """Computes the gradients of every example of a batch.

    Args:
        model: The layer or network.
        params: Its parameters, shared by all examples.
        saved: What `forward_batch` returned beside the outputs.
        dy: [B, ...], ∂E_i/∂y_i for each example i.
        weights: [B], the weights that `forward_batch` was given.

    Returns:
        Each example's gradients of the parameters, with arrays [B, ...] or batched `Outer`s for leaves, and its
        gradient of the input [B, ...], which is None for integers. If the model couples its examples, these are the
        examples' shares of the gradient of Σ_i E_i.
    """
    backward = over_examples(model.backward, (None, 0, 0), shares=_find_shares(model, weights))
    grads, dx = backward(params, saved, dy)  # y, saved = forward_batch(params, x)
    return grads, drop_float0(dx)


def _to_floats(model: Layer, params: PyTree, x: Any) -> Any:
    """Converts integers to floats where the model takes those: a layer returns y in the dtype of x, and would round."""
    if jnp.issubdtype(jnp.result_type(x), jnp.floating) or model.vocabularies:
        return x
    return jnp.asarray(x, resolve_input(model, params, _describe_example(x))[0].dtype)


def _describe_example(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x))


def _find_shares(model: Layer, weights: Float[Array, " B"] | None) -> Float[Array, " B"] | None:
    return None if weights is None or not model.coupled else mean_weights(weights, len(weights))

"""The axis of the examples of a batch, which has a name, so that a layer can average over the examples.

Layers are written for one example. Every `jax.vmap` over examples is made by `over_examples`. A layer that couples the
examples of its batch, as `BatchNorm` does, takes its means over the axis with the collectives of `jax.lax`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from jaxann.nn.base import Layer, parts

BATCH = "batch"
"""The name of the axis of the examples, for collectives such as `jax.lax.pmean(a, BATCH)`."""


class _Share:
    """The share of one example, in an object whose identity JAX can compare."""

    def __init__(self, value: Any) -> None:
        self.value = value


# JAX traces compiled functions inside a layer again where this context differs, because a share is a traced value.
_share = jax.make_user_context(None)


def over_examples(
    function: Callable, in_axes: tuple[Any, ...], out_axes: Any = 0, shares: Float[Array, " B"] | None = None
) -> Callable:
    """Maps a function of one example over the examples of a batch, along the axis named `BATCH`.

    Args:
        function: The function.
        in_axes: For each argument the axis of the examples, or None if the examples share it, as `jax.vmap` takes them.
        out_axes: The axis of the examples in the results, as `jax.vmap` takes it.
        shares: [B], the share of each example in means over the batch, which sum to 1; None for equal shares. Of the
            layers, only those that couple examples use them.

    Returns:
        A function of the same arguments with an axis of B examples.
    """

    def call(share: Any, *args: Any) -> Any:
        with _share(None if share is None else _Share(share)):
            return function(*args)

    axis = None if shares is None else 0
    mapped = jax.vmap(call, in_axes=(axis, *in_axes), out_axes=out_axes, axis_name=BATCH)
    return lambda *args: mapped(shares, *args)


def alone(function: Callable) -> Callable:
    """Returns a function of one example in a form that can be traced without a batch, to find out shapes and dtypes.

    The axis named `BATCH` then holds two copies of the example, because a single number has no variance.

    Args:
        function: The function of one example.

    Returns:
        A function of the same arguments and results.
    """
    return jax.vmap(function, in_axes=None, out_axes=None, axis_size=2, axis_name=BATCH)


def batch_size(layer: Layer) -> int:
    """Returns B, the number of examples in the batch that a layer is called in.

    Args:
        layer: The layer that asks, for the message of the error.

    Raises:
        ValueError: If the layer is called with an example outside of a batch.
    """
    try:
        return int(jax.lax.psum(1, BATCH))
    except NameError:  # JAX's error for an axis that is not bound
        raise ValueError(
            f"expected {layer} to be called in a batch, as by forward_batch or under a jax.vmap with the axis_name "
            f"{BATCH!r}, got one example without a batch"
        ) from None


def example_share() -> Any:
    """Returns the share s_i of the example in means over its batch: 1/B, or the one that `over_examples` was given."""
    share = _share.value
    return 1 / jax.lax.psum(1, BATCH) if share is None else share.value


def find_coupled(model: Layer) -> Layer | None:
    """Returns the innermost layer of a model that couples the examples of a batch, or None if no layer does."""
    if not model.coupled:
        return None
    return next((layer for part in parts(model).values() if (layer := find_coupled(part)) is not None), model)


def require_uncoupled(model: Layer, purpose: str, advice: str = "") -> None:
    """Checks that the examples of a batch do not depend on one another in a model.

    Args:
        model: The model.
        purpose: What needs this, as it follows "for".
        advice: What to do instead, as a sentence, where there is something.

    Raises:
        ValueError: If a layer couples the examples, as `BatchNorm` does.
    """
    layer = find_coupled(model)
    if layer is not None:
        raise ValueError(
            f"expected a model that computes each example on its own for {purpose}, got one with {layer}, which "
            f"couples the examples of a batch{advice and '. '}{advice}"
        )

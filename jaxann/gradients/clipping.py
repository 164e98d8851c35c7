"""Norms of per-example gradients, and the mean of gradients after clipping each to a maximum norm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxann.gradients.leaves import add_leaves, count_examples, scale_examples, squared_norms
from jaxann.nn.hyperparameters import Number, validate_number
from jaxann.nn.loss import mean_weights
from jaxann.nn.outer import sum_examples


def norms(grads: PyTree) -> Float[Array, " B"]:
    """Returns the norm of every example's gradient over all leaves, without materializing the gradients.

    ‖g_i‖ = √(Σ_leaves ‖g_i‖²), with ‖δ xᵀ‖² = ‖δ‖² ‖x‖² for a matrix that is used once.

    Args:
        grads: Per-example gradients as `per_example.gradients` returns them; leaves are [B, ...] or batched `Outer`s.

    Returns:
        The norms [B].

    Raises:
        ValueError: If the model has no parameters.

    Source: Goodfellow 2015, section 4; for matrices that several places share, Rochette et al. 2019, section 3.
    """
    return jnp.sqrt(add_leaves(squared_norms(grads)))


def leaf_norms(grads: PyTree) -> PyTree:
    """Returns the norm of every example's gradient, separately for each leaf.

    Args:
        grads: Per-example gradients as `per_example.gradients` returns them; leaves are [B, ...] or batched `Outer`s.

    Returns:
        Norms [B] for each leaf, in the structure of the parameters.
    """
    return jax.tree.map(jnp.sqrt, squared_norms(grads))


def clipped_mean(grads: PyTree, max_norm: Number, weights: Float[Array, " B"] | None = None) -> PyTree:
    """Averages per-example gradients after scaling each to a norm of at most `max_norm`.

    ḡ = Σ_i s_i min(1, C / ‖g_i‖) g_i, with C = max_norm and s_i = w_i / Σ w

    Args:
        grads: Per-example gradients as `per_example.gradients` returns them; leaves are [B, ...] or batched `Outer`s.
        max_norm: C, a finite number above 0, in the units of the gradient's norm.
        weights: [B], how much each example counts; ones by default.

    Returns:
        The clipped mean, in the structure and shapes of the parameters.

    Raises:
        SettingError: If `max_norm` is not a finite number above 0. It is a ValueError.
        ValueError: If the weights are not one for each example, or the model has no parameters.

    Source: Abadi et al. 2016, algorithm 1.
    """
    validate_number("max_norm", max_norm, above=0)
    factors = max_norm / jnp.maximum(norms(grads), max_norm)
    return sum_examples(scale_examples(grads, mean_weights(weights, count_examples(grads)) * factors))

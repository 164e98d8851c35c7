"""Moments of per-example gradients: mean, second moment, variance, noise scale and Kronecker factors.

Example i has the share s_i = w_i / Σ w of every mean, or 1/B without weights.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxann.gradients.leaves import (
    add_leaves,
    count_examples,
    count_places,
    flatten_places,
    is_outer,
    materialize_places,
    scale_examples,
    squared_norms,
)
from jaxann.nn.base import path_name
from jaxann.nn.factors import Factor, accumulation_dtype, count_features
from jaxann.nn.loss import mean_weights
from jaxann.nn.outer import Outer, map_leaves, sum_examples

MAX_FACTOR_SIZE = 4096  # A larger factor takes more than 64 MiB in float32.


def mean(grads: PyTree, weights: Float[Array, " B"] | None = None) -> PyTree:
    """Averages per-example gradients, which gives the gradient that `backprop` returns.

    ḡ = Σ_i s_i g_i, with s_i = w_i / Σ w

    Args:
        grads: Per-example gradients as `per_example.gradients` returns them; leaves are [B, ...] or batched `Outer`s.
        weights: [B], how much each example counts; ones by default.

    Returns:
        The mean, in the structure and shapes of the parameters.

    Raises:
        ValueError: If the weights are not one for each example, or the model has no parameters.
    """
    return sum_examples(scale_examples(grads, mean_weights(weights, count_examples(grads))))


def second_moment(grads: PyTree, weights: Float[Array, " B"] | None = None) -> PyTree:
    """Averages the squares of per-example gradients, entry by entry.

    Σ_i s_i g_i², with s_i = w_i / Σ w

    Args:
        grads: Per-example gradients as `per_example.gradients` returns them; leaves are [B, ...] or batched `Outer`s.
        weights: [B], how much each example counts; ones by default.

    Returns:
        The second moment, in the structure and shapes of the parameters.

    Raises:
        ValueError: If the weights are not one for each example, or the model has no parameters.
    """
    s = mean_weights(weights, count_examples(grads))

    def outer(leaf: Outer) -> Array:
        if (blocks := leaf.blocks) is not None:
            return jax.vmap(outer)(blocks).reshape(-1, count_features(leaf.right))
        T, m, n = count_places(leaf), count_features(leaf.left), count_features(leaf.right)
        if T * T * (m + n) > m * n:
            return jnp.einsum("b,bmn->mn", s, materialize_places(leaf) ** 2)
        left, right = flatten_places(leaf)
        return Outer(s[:, None, None] * _multiply_pairs(left), _multiply_pairs(right)).sum()

    return map_leaves(outer, lambda leaf: jnp.tensordot(s, leaf.astype(accumulation_dtype(leaf)) ** 2, 1), grads)


def variance(grads: PyTree, weights: Float[Array, " B"] | None = None) -> PyTree:
    """Estimates the variance of per-example gradients without bias, entry by entry.

    Σ_i s_i (g_i - ḡ)² / (1 - Σ_i s_i²), with s_i = w_i / Σ w, which without weights divides by B - 1. It is computed
    from Σ_i s_i g_i² - ḡ², which keeps fewer digits where the mean is large compared with the spread.

    Args:
        grads: Per-example gradients as `per_example.gradients` returns them; leaves are [B, ...] or batched `Outer`s.
        weights: [B], how much each example counts; ones by default.

    Returns:
        The variance, in the structure and shapes of the parameters.

    Raises:
        ValueError: If the gradients are of fewer than 2 examples, if the weights are not one for each example, or if
            the model has no parameters.
    """
    correction = _bessel_correction(grads, weights)
    spread = jax.tree.map(lambda square, g: square - g * g, second_moment(grads, weights), mean(grads, weights))
    return jax.tree.map(lambda leaf: jnp.maximum(leaf, 0) * correction, spread)  # rounding can make it negative


def noise_scale(grads: PyTree, weights: Float[Array, " B"] | None = None) -> Float[Array, ""]:
    """Estimates the batch size at which the noise of the mean gradient is as large as the gradient itself.

    tr Σ / ‖G‖², with Σ the covariance of the examples' gradients and G their expectation, both estimated without bias
    from this one batch. Far below this number, doubling the batch size halves the number of steps; far above
    it, a larger batch saves no steps. The estimate is noisy: for a better one, average tr Σ and ‖G‖² over batches.

    Args:
        grads: Per-example gradients as `per_example.gradients` returns them; leaves are [B, ...] or batched `Outer`s.
        weights: [B], how much each example counts; ones by default.

    Returns:
        The noise scale [], in examples; infinite where the batch does not show that G differs from 0.

    Raises:
        ValueError: If the gradients are of fewer than 2 examples, if the weights are not one for each example, or if
            the model has no parameters.

    Source: McCandlish et al. 2018, appendix A.1.
    """
    s = mean_weights(weights, count_examples(grads))
    mean_square = s @ add_leaves(squared_norms(grads))
    square_of_mean = add_leaves(jax.tree.map(lambda g: jnp.sum(g * g), mean(grads, weights)))
    noise = jnp.maximum(mean_square - square_of_mean, 0) * _bessel_correction(grads, weights)
    signal = square_of_mean - noise * (s @ s)
    return jnp.where(signal > 0, noise / jnp.where(signal > 0, signal, 1), jnp.inf)


class Kronecker(NamedTuple):
    """left ⊗ right, an approximation of the second moments of a gradient [m, n], flattened row by row.

    An array that is not a matrix counts as a column: m is the number of its entries, and n is 1.

    Attributes:
        left: [m, m], as `kronecker_factors` defines it.
        right: [n, n], likewise.
    """

    left: Float[Array, "m m"]
    right: Float[Array, "n n"]


def kronecker_factors(grads: PyTree, weights: Float[Array, " B"] | None = None) -> PyTree:
    """Approximates the second moments Σ_i s_i vec(g_i) vec(g_i)ᵀ of each leaf by a Kronecker product left ⊗ right.

    - An `Outer` with g_i = Σ_t l_it r_itᵀ over T places: left = Σ_i s_i Σ_t l_it l_itᵀ and
      right = Σ_i s_i Σ_t r_it r_itᵀ / T.
    - A matrix g_i [m, n] that is an array: left = Σ_i s_i g_i g_iᵀ and right = Σ_i s_i g_iᵀ g_i / tr left, or I / n if
      tr left is 0, so that the trace of right is 1. For a single example whose g_i has rank 1, the product is exact.
    - Any other array: left is the matrix of second moments itself, and right is [[1]].

    The second moments of the loss's gradients are the empirical Fisher matrix.

    Args:
        grads: Per-example gradients as `per_example.gradients` returns them; leaves are [B, ...] or batched `Outer`s.
        weights: [B], how much each example counts; ones by default.

    Returns:
        A `Kronecker` in place of each leaf.

    Raises:
        ValueError: If an array that is not a matrix has more than 4096 entries, if a matrix that is an array has more
            than 4096 rows or columns, if a matrix whose rows are looked up by ids has more than 4096 rows, if the
            weights are not one for each example, or if the model has no parameters.

    Source: Martens and Grosse 2015, section 3; for several places, Eschenhagen et al. 2023, section 3.2, "expand"; for
    matrices that are arrays, Morwani et al. 2025, section 3: one step of the power iteration that finds the nearest
    Kronecker product.
    """
    s = mean_weights(weights, count_examples(grads))

    def moments(terms: Array) -> Array:
        return Outer(s[:, None, None] * terms, terms).sum()

    def validate_size(path: tuple, unit: str, size: int) -> None:
        if size > MAX_FACTOR_SIZE:
            raise ValueError(
                f"expected {path_name(path)} to have at most {MAX_FACTOR_SIZE} {unit}, because one of its Kronecker "
                f"factors has a row and a column for each, got {size}"
            )

    def factors(path: tuple, leaf: Outer | Array) -> Kronecker:
        if isinstance(leaf, Outer):
            if isinstance(leaf.left, Factor):
                validate_size(path, "rows", leaf.left.features)
            left, right = flatten_places(leaf)
            return Kronecker(moments(left), moments(right) / left.shape[1])
        g = leaf.astype(accumulation_dtype(leaf))
        if g.ndim == 3:
            validate_size(path, "rows", g.shape[1])
            validate_size(path, "columns", g.shape[2])
            left, right = moments(g.swapaxes(1, 2)), moments(g)  # Σ g gᵀ, from the columns of g, and Σ gᵀ g
            trace, n = jnp.trace(left), len(right)
            unit = jnp.eye(n, dtype=right.dtype) / n
            return Kronecker(left, jnp.where(trace > 0, right / jnp.where(trace > 0, trace, 1), unit))
        validate_size(path, "entries", g[0].size)
        return Kronecker(moments(g.reshape(len(g), 1, -1)), jnp.ones((1, 1), g.dtype))

    return jax.tree_util.tree_map_with_path(factors, grads, is_leaf=is_outer)


def _bessel_correction(grads: PyTree, weights: Float[Array, " B"] | None) -> Float[Array, ""]:
    if (count := count_examples(grads)) < 2:
        raise ValueError(f"expected at least 2 examples for a variance, got {count}")
    s = mean_weights(weights, count)
    return 1 / (1 - s @ s)


def _multiply_pairs(terms: Float[Array, "B T k"]) -> Float[Array, "B TT k"]:
    """Returns the products of every two of an example's terms: (Σ_t l_t r_t)² = Σ_ts (l_t l_s) (r_t r_s)."""
    return (terms[:, :, None] * terms[:, None]).reshape(len(terms), -1, terms.shape[-1])

"""Gradients of matrices as two factors: `Outer`, and functions of gradients whose leaves are `Outer`s and arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

# On a CPU, XLA needs less time for a fused loop of this many multiplications than for starting a matrix product.
_LOOP_MULTIPLICATIONS = 2**14


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Outer:
    """Gradient of a matrix, kept as two factors.

    It stands for the matrix Σ_t left_t right_tᵀ [m, n], summed over all leading axes t. The sum is the same whether a
    leading axis is a batch, the positions of a sequence or the steps of a recurrence.

    Attributes:
        left: [..., m], the gradients that arrive at the output of the product W x.
        right: [..., n], the inputs of that product.
    """

    left: Float[Array, "*t m"]
    right: Float[Array, "*t n"]

    def sum(self) -> Float[Array, "m n"]:
        """Returns the matrix, as the one product leftᵀ right, summed in float32 or a higher precision."""
        dtype = accumulation_dtype(self.left, self.right)
        left, right = (factor.reshape(-1, factor.shape[-1]).astype(dtype) for factor in (self.left, self.right))
        if left.size * right.shape[1] <= _LOOP_MULTIPLICATIONS:
            return jnp.sum(left[:, :, None] * right[:, None, :], axis=0)
        return left.T @ right

    def __add__(self, other: Outer) -> Outer:
        """Returns the sum of two gradients of one matrix, for the backward of a layer that uses the matrix twice."""
        return Outer(_concatenate(self.left, other.left), _concatenate(self.right, other.right))


def _concatenate(*factors: Float[Array, "... k"]) -> Float[Array, "terms k"]:
    return jnp.concatenate([factor.reshape(-1, factor.shape[-1]) for factor in factors])


def materialize(grads: PyTree) -> PyTree:
    """Multiplies out every `Outer` among gradients.

    Args:
        grads: A pytree whose leaves are arrays or `Outer`s.

    Returns:
        The same pytree with the matrix [m, n] in place of each `Outer`, whatever its leading axes.
    """
    return map_leaves(Outer.sum, lambda leaf: leaf, grads)


def sum_examples(grads: PyTree) -> PyTree:
    """Sums per-example gradients over the examples, Σ_i g_i, in float32 or a higher precision.

    Args:
        grads: Per-example gradients; leaves are arrays [B, ...] or batched `Outer`s.

    Returns:
        The sum, in the structure and shapes of the parameters. Each `Outer` becomes one matrix product.
    """
    return map_leaves(Outer.sum, lambda leaf: leaf.sum(axis=0, dtype=accumulation_dtype(leaf)), grads)


def accumulation_dtype(*terms: Array) -> jnp.dtype:
    """Returns the dtype in which to sum many terms like these: their own, but at least float32."""
    return jnp.result_type(jnp.float32, *terms)


def map_leaves(outer: Callable[[Outer], Any], array: Callable[[Array], Any], grads: PyTree) -> PyTree:
    """Applies one function to every `Outer` among gradients, and another one to every array.

    Args:
        outer: The function for an `Outer`.
        array: The function for an array.
        grads: A pytree whose leaves are arrays or `Outer`s.

    Returns:
        A pytree of the same structure that holds the results.
    """
    return jax.tree.map(
        lambda leaf: outer(leaf) if isinstance(leaf, Outer) else array(leaf),
        grads,
        is_leaf=lambda leaf: isinstance(leaf, Outer),
    )

"""The contract of a layer, and the gradient of a matrix in its factors.

A layer is three pure functions on one example; a network is a layer too, and a batch is a `jax.vmap` around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

SMALL = 2**14  # multiplications, up to which XLA's CPU has a fused loop done before a product has begun


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Outer:
    """Σ_t left_t right_tᵀ over all leading axes t: a matrix's gradient, still in its factors.

    left [..., m] and right [..., n] stand for an [m, n] matrix. Whether a leading axis is a batch, the positions of
    a sequence or the steps of a recurrence, the sum is the same.
    """

    left: Float[Array, "*t m"]
    right: Float[Array, "*t n"]

    def sum(self) -> Float[Array, "m n"]:
        """The matrix itself, as the one product leftᵀ right, summed in float32 or better."""
        dtype = accumulation_dtype(self.left, self.right)
        left, right = (factor.reshape(-1, factor.shape[-1]).astype(dtype) for factor in (self.left, self.right))
        if left.size * right.shape[1] <= SMALL:
            return jnp.sum(left[:, :, None] * right[:, None, :], axis=0)
        return left.T @ right

    def __add__(self, other: Outer) -> Outer:
        """The sum of two: their terms in one row. For a matrix that a layer uses more than once."""
        return Outer(_joined(self.left, other.left), _joined(self.right, other.right))


def _joined(*factors: Float[Array, "... k"]) -> Float[Array, "terms k"]:
    return jnp.concatenate([factor.reshape(-1, factor.shape[-1]) for factor in factors])


def materialize(grads: PyTree) -> PyTree:
    """grads, every `Outer` multiplied out to the matrix that it stands for."""
    return map_leaves(Outer.sum, lambda leaf: leaf, grads)


def sum_examples(grads: PyTree) -> PyTree:
    """Σ over the leading example axis of every leaf, an `Outer`'s as one matrix product, in float32 or better."""
    return map_leaves(Outer.sum, lambda leaf: leaf.sum(axis=0, dtype=accumulation_dtype(leaf)), grads)


def accumulation_dtype(*terms: Array) -> jnp.dtype:
    """The precision for a sum of many terms: theirs, but not below float32."""
    return jnp.result_type(jnp.float32, *terms)


def map_leaves(outer: Callable[[Outer], Any], array: Callable[[Array], Any], grads: PyTree) -> PyTree:
    """`grads` with `outer` of every `Outer` and `array` of every other leaf."""
    return jax.tree.map(
        lambda leaf: outer(leaf) if isinstance(leaf, Outer) else array(leaf),
        grads,
        is_leaf=lambda leaf: isinstance(leaf, Outer),
    )

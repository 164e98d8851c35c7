"""Gradients of matrices as two factors: `Outer`, and functions of gradients whose leaves are `Outer`s and arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxann.nn.factors import Blocks, Factor, Joined, Rows, accumulation_dtype, as_array, count_features, flatten_rows
from jaxann.nn.xla import compute_once

# On a CPU, XLA needs less time for a fused loop of this many multiplications than for starting a matrix product.
_LOOP_MULTIPLICATIONS = 2**14


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Outer:
    """Gradient of a matrix, kept as two factors.

    It stands for the matrix Σ_t left_t right_tᵀ [m, n], summed over all leading axes t. The sum is the same whether a
    leading axis is a batch, the positions of a sequence or the steps of a recurrence.

    Attributes:
        left: [..., m], the gradients that arrive at the output of the product W x. One of the factors may be a
            `Factor`, such as the patches of an image, whose rows are not held in memory.
        right: [..., n], the inputs of that product.
    """

    left: Rows
    right: Rows

    @property
    def terms(self) -> list[Outer]:
        """The gradients that were added to make this one, or this one alone."""
        if isinstance(self.left, Joined) and isinstance(self.right, Joined):
            return [Outer(*pair) for pair in zip(self.left.parts, self.right.parts, strict=True)]
        return [self]

    @property
    def blocks(self) -> Outer | None:
        """The gradients of this matrix's blocks, with an axis of blocks in front; None if it is not made of `Blocks`.

        The blocks lie below one another, so that the squared norm of this gradient is the sum of theirs.
        """
        if not isinstance(self.left, Blocks):
            return None
        axis = self.left.axis
        return jax.tree.map(lambda a: jnp.moveaxis(a, axis, 0), Outer(self.left.factor, self.right))

    def sum(self) -> Float[Array, "m n"]:
        """Returns the matrix, as one product leftᵀ right for each term, summed in float32 or a higher precision."""
        return reduce(add, map(_multiply, self.terms))

    def rows(self) -> tuple[Float[Array, "T m"], Float[Array, "T n"]]:
        """Returns both factors as arrays in float32 or a higher precision, with all axes of places made one."""
        return flatten_rows(self.left), flatten_rows(self.right)

    def __add__(self, other: Outer) -> Outer:
        """Returns the sum of two gradients of one matrix, for the backward of a layer that uses the matrix twice."""
        terms = [*self.terms, *other.terms]
        return Outer(Joined(tuple(term.left for term in terms)), Joined(tuple(term.right for term in terms)))

    def __mul__(self, number: Float[Array, ""]) -> Outer:
        """Returns the gradient times a number. Of two factors, the one that is an array is multiplied."""
        return reduce(add, [_scale(term, number) for term in self.terms])


def _multiply(outer: Outer) -> Float[Array, "m n"]:
    left, right = outer.left, outer.right
    if (blocks := outer.blocks) is not None:
        # One block after the other: XLA:CPU needs longer for the convolutions of all blocks at once.
        return jax.lax.map(Outer.sum, blocks).reshape(-1, count_features(right))
    dtype = accumulation_dtype(*jax.tree.leaves(outer))
    if isinstance(right, Factor):
        return right.multiply(as_array(left).astype(dtype)).T
    if isinstance(left, Factor):
        return left.multiply(right.astype(dtype))
    left, right = left.astype(dtype), right.astype(dtype)
    if left.size * right.shape[-1] <= _LOOP_MULTIPLICATIONS:
        left, right = flatten_rows(left), flatten_rows(right)
        return jnp.sum(left[:, :, None] * right[:, None, :], axis=0)
    if left.ndim == 2:  # of a batch of vectors
        return left.T @ right
    # A sum over several axes, of examples and positions. XLA:CPU first transposes one factor in memory, the first one:
    # the narrower one takes less time.
    return _contract(left, right) if left.shape[-1] <= right.shape[-1] else _contract(right, left).T


@compute_once  # fused with a transposition, the product would get its factors in the other order
def _contract(left: Float[Array, "... m"], right: Float[Array, "... n"]) -> Float[Array, "m n"]:
    axes = tuple(range(left.ndim - 1))
    return jax.lax.dot_general(left, right, ((axes, axes), ((), ())))


def _scale(outer: Outer, number: Float[Array, ""]) -> Outer:
    def scale(factor: Rows) -> Array:
        rows = as_array(factor)
        return number.astype(accumulation_dtype(rows)) * rows

    if isinstance(outer.left, Blocks):
        block = _scale(Outer(outer.left.factor, outer.right), number)
        return Outer(replace(outer.left, factor=block.left), block.right)
    if isinstance(outer.left, Factor):
        return Outer(outer.left, scale(outer.right))
    return Outer(scale(outer.left), outer.right)


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

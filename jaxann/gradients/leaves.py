"""The leaves of per-example gradients, and the functions that the modules which reduce them have in common.

A leaf is an array [B, ...] with an entry for each of B examples, or an `Outer` whose factors have rows [B, ..., m] and
[B, ..., n]. The axes in between, T places in all, are the positions of a sequence or the uses of a shared matrix:
example i's gradient is Σ_t left_it right_itᵀ.
"""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxann.nn.factors import accumulation_dtype, count_features, gram, row_cost
from jaxann.nn.outer import Outer, map_leaves


def is_outer(leaf: PyTree) -> bool:
    """Returns whether a leaf is an `Outer`, as the argument `is_leaf` of `jax.tree.map` needs it."""
    return isinstance(leaf, Outer)


def count_examples(grads: PyTree) -> int:
    """Returns B, the number of examples that per-example gradients belong to.

    Args:
        grads: Per-example gradients as `per_example.gradients` returns them.

    Returns:
        The length of the leading axis of every leaf.

    Raises:
        ValueError: If `grads` has no leaves, because the model has no parameters.
    """
    return len(_list_leaves(grads)[0])


def add_leaves(grads: PyTree) -> Array:
    """Returns the sum of all leaves.

    Args:
        grads: A pytree of arrays that all have the same shape.

    Returns:
        An array of that shape.

    Raises:
        ValueError: If `grads` has no leaves, because the model has no parameters.
    """
    return reduce(jnp.add, _list_leaves(grads))


def _list_leaves(grads: PyTree) -> list[Array]:
    if not (leaves := jax.tree.leaves(grads)):
        raise ValueError("expected gradients of a model with parameters, got none")
    return leaves


def scale_examples(grads: PyTree, factors: Float[Array, " B"]) -> PyTree:
    """Returns c_i g_i for every example i; of an `Outer` only the left factor changes.

    Args:
        grads: Per-example gradients g.
        factors: [B], the numbers c.

    Returns:
        Per-example gradients in the structure of `grads`.
    """

    def array(leaf: Array) -> Array:
        return factors.astype(accumulation_dtype(leaf)).reshape(-1, *[1] * (leaf.ndim - 1)) * leaf

    return map_leaves(lambda leaf: jax.vmap(Outer.__mul__)(leaf, factors), array, grads)


def squared_norms(grads: PyTree) -> PyTree:
    """Returns ‖g_i‖² for every example i, separately for each leaf.

    ‖Σ_t l_t r_tᵀ‖² = Σ_ts (l_t·l_s) (r_t·r_s), with T² inner products of either factor's rows for each example. Where
    materializing the matrix takes fewer multiplications, it is materialized.

    Args:
        grads: Per-example gradients.

    Returns:
        Leaves [B] in the structure of `grads`.
    """

    def outer(leaf: Outer) -> Array:
        if (blocks := leaf.blocks) is not None:
            return jax.vmap(outer)(blocks).sum(0)
        m, n = map(count_features, (leaf.left, leaf.right))
        if count_places(leaf) * (row_cost(leaf.left) + row_cost(leaf.right)) > m * n:
            return jnp.sum(materialize_places(leaf) ** 2, axis=(1, 2))
        return jax.vmap(lambda one: jnp.sum(gram(one.left, one.left) * gram(one.right, one.right)))(leaf)

    def array(leaf: Array) -> Array:
        return jnp.sum(leaf.astype(accumulation_dtype(leaf)) ** 2, axis=range(1, leaf.ndim))

    return map_leaves(outer, array, grads)


def count_places(outer: Outer) -> int:
    """Returns T, the number of places that the matrix of one example is summed over."""
    return jax.eval_shape(flatten_places, outer)[0].shape[1]


def flatten_places(outer: Outer) -> tuple[Float[Array, "B T m"], Float[Array, "B T n"]]:
    """Returns the factors of an `Outer` as arrays in float32 or higher, with all axes of places made one."""
    return jax.vmap(Outer.rows)(outer)


def materialize_places(outer: Outer) -> Float[Array, "B m n"]:
    """Returns every example's matrix Σ_t left_t right_tᵀ."""
    return jax.vmap(Outer.sum)(outer)

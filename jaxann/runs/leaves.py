"""Leaves of trees by their paths, which are their names in a checkpoint's files."""

from __future__ import annotations

from hashlib import sha256

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree


def flatten(tree: PyTree) -> dict[str, Array]:
    """Returns every leaf by its path, which is its name in the checkpoint's files; random keys become their numbers."""
    return {jax.tree_util.keystr(path): _to_numbers(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _to_numbers(leaf: Array) -> Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.asarray(leaf)


def unflatten(like: PyTree, leaves: dict[str, Array]) -> PyTree:
    """Returns the tree that `flatten` took apart, with the structure and the kinds of random keys of `like`."""

    def restore_leaf(path, old):
        new = leaves[jax.tree_util.keystr(path)]
        is_key = jnp.issubdtype(old.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(new, impl=jax.random.key_impl(old)) if is_key else new

    return jax.tree_util.tree_map_with_path(restore_leaf, like)


def describe_shapes(tree: dict[str, Array]) -> dict[str, str]:
    """Returns the dtype and the shape of every leaf, by its path."""
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in tree.items()}


def compute_digest(tree: dict[str, Array]) -> str:
    """Returns the SHA-256 digest of all leaves and their paths."""
    digest = sha256()
    for path in sorted(tree):
        digest.update(path.encode() + np.asarray(tree[path]).tobytes())
    return digest.hexdigest()

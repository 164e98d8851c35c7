"""The contract of a layer, and the gradient of a matrix in its factors.

A layer is three pure functions on one example; a network is a layer too, and a batch is a `jax.vmap` around it.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Key, PRNGKeyArray


def split_per_example(key: PRNGKeyArray | None, examples: int) -> Key[Array, " B"] | None:
    """A key for each of so many examples; None where there is none, for then the layers evaluate."""
    return None if key is None else jax.random.split(key, examples)

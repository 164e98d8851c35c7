"""The arguments at which a gradient check calls what it checks, and the names of the gradients that come back."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxann.nn.base import path_name
from jaxann.nn.outer import materialize


class Args(NamedTuple):
    """The arguments of a subject at R points: at each, parameters and a batch of B examples with their cotangents.

    Attributes:
        params: Parameters, leaves [R, ...].
        x: Inputs, leaves [R, B, ...].
        aux: Further arguments, for which no gradient is taken, such as targets or random seeds; leaves [R, B, ...].
        dy: Cotangents ∂E/∂y, [R, B, ...].
    """

    params: PyTree
    x: PyTree
    aux: PyTree
    dy: Any

    def cast(self, dtype: str) -> Args:
        """Converts floats to `dtype`, "float32" or "float64", and integers to the integer type of the same width."""
        integer = dtype.replace("float", "int")
        return jax.tree.map(lambda leaf: np.asarray(leaf, dtype if is_float(leaf) else integer), self)

    def perturb(self, share: float, rng: np.random.Generator) -> Args:
        """Changes every float except `aux` by about `share` of itself.

        Values at which kinks are likely stay as they are: 1, -1, the target, and 0, which no relative change moves.

        Args:
            share: The standard deviation of the relative change.
            rng: The source of the random numbers.
        """

        def perturb_leaf(leaf):
            if not is_float(leaf):
                return leaf
            kink = np.abs(leaf) == 1
            if isinstance(self.aux, np.ndarray) and self.aux.shape == leaf.shape:
                kink |= leaf == self.aux
            noise = rng.standard_normal(leaf.shape, np.float32)  # drawn in half the time, and precise enough
            return np.where(kink, leaf, leaf * (1 + share * noise.astype(leaf.dtype)))

        params, x, dy = jax.tree.map(perturb_leaf, (self.params, self.x, self.dy))
        return Args(params, x, self.aux, dy)

    def select(self, points: Any) -> Args:
        """Returns the arguments at some of the points: an index for one of them, a mask or a slice for several."""
        return jax.tree.map(lambda leaf: leaf[points], self)

    def select_examples(self, examples: Any) -> Args:
        """Returns the arguments with some of the examples at each point; `examples` indexes the axis B."""
        x, aux, dy = jax.tree.map(lambda leaf: leaf[:, examples], (self.x, self.aux, self.dy))
        return Args(self.params, x, aux, dy)

    def first_example(self) -> Args:
        """Returns the first example at the first point, without the axes R and B."""
        params = jax.tree.map(lambda leaf: leaf[0], self.params)
        x, aux, dy = jax.tree.map(lambda leaf: leaf[0, 0], (self.x, self.aux, self.dy))
        return Args(params, x, aux, dy)


def by_name(grads: PyTree, dx: PyTree) -> dict[str, Any]:
    """Names the gradients of parameters by their paths, such as "0.W", and the gradient of the input "dx".

    Args:
        grads: The gradients of the parameters, with an `Outer` or an array for each.
        dx: The gradient of the input; a pytree without leaves where it has none.

    Returns:
        The gradients by name, each `Outer` as the array that it stands for. A single parameter that is not in a
        container is called "params". If the input is a container, its gradients are named by their paths, too.

    Raises:
        ValueError: If two gradients have the same name, or a parameter is called dx.
    """
    leaves = jax.tree_util.tree_leaves_with_path(materialize(grads))
    named = {path_name(path) or "params": leaf for path, leaf in leaves}
    inputs = {path_name(path) or "dx": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(dx)}
    if len(named) < len(leaves) or "dx" in named or named.keys() & inputs.keys():
        raise ValueError(f"expected parameters with distinct names, none of them dx, got {', '.join(named)}")
    return named | inputs


def is_float(leaf: Any) -> bool:
    """Returns whether a number or an array has a floating-point type."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)

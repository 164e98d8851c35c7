"""A chain of equal blocks, which is compiled once for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.base import Wrapper, drop_float0
from jaxann.nn.batch import split_per_example
from jaxann.nn.factors import Blocks
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.names import resolve_layer
from jaxann.nn.outer import Outer, map_leaves

Values = Float[Array, "..."]


@dataclass(frozen=True)
class Repeat(Wrapper):
    """Chain of equal blocks, each with parameters of its own, computed in one loop.

    y = f(... f(x; params_1) ...; params_count), so that dx = b_1(... b_count(dy)), where b_i is the backward of f with
    params_i.

    It computes what a `Sequential` of `count` layers f does, and is compiled in a time that does not depend on `count`.
    `Repeat(Recomputed(f), count)` saves only the input of each block for the backward pass.

    x may have any shape that f takes, f(x) must have the same one, and so has y. A key is split into one for each
    block.

    The parameters are those of f, with the blocks below one another: where f has a matrix [m, n], there is one matrix
    [count m, n], whose rows from i m to (i + 1) m belong to block i. Where f has a vector [m], there is a vector
    [count m]. The gradient of such a matrix is an `Outer` if that of f's is. Its left Kronecker factor has a block for
    each block of the chain, and its right one is the mean over the blocks.

    Attributes:
        layer: f, a layer or network whose output has the shape and dtype of its input.
        count: The number of blocks, at least 1.

    Raises:
        SettingError: If `count` is not a whole number of at least 1, or f is neither a layer nor the name of an
            activation.
        ValueError: If the `sizes` of f state different numbers of features for its input and its output. In `forward`,
            if f(x) does not have the shape and dtype of x.
    """

    count: int

    def __post_init__(self) -> None:
        validate_number("count", self.count, least=1, integer=True, note="the blocks of Repeat")
        object.__setattr__(self, "layer", resolve_layer("layer", self.layer))
        n, m = self.layer.sizes
        if n is not None and m is not None and n != m:
            raise ValueError(f"expected a layer in Repeat that returns as many features as it takes, {n}, got {m}")

    def init(self, key: PRNGKeyArray) -> PyTree:
        return _stack(jax.vmap(self.layer.init)(jax.random.split(key, self.count)))

    def forward(self, params: PyTree, x: Shaped[Array, "..."], key: PRNGKeyArray | None = None) -> tuple[Values, Any]:
        def step(x: Array, block: Any) -> tuple[Array, Any]:
            p, k = block
            y, saved = self.layer.forward(p, x, k)
            if (y.shape, y.dtype) != (x.shape, x.dtype):
                raise ValueError(
                    f"expected f(x) of the shape and dtype of x, {x.shape} and {x.dtype}, in Repeat, got {y.shape} and "
                    f"{y.dtype}"
                )
            return y, saved

        return jax.lax.scan(step, x, (self._unstack(params), split_per_example(key, self.count)), self.count)

    def backward(self, params: PyTree, saved: Any, dy: Values) -> tuple[PyTree, Values]:
        def step(dy: Values, block: Any) -> tuple[Values, PyTree]:
            p, s = block
            grads, dx = self.layer.backward(p, s, dy)  # y, s = f(x; p): its ∂E/∂x is dy of the block before
            return drop_float0(dx).astype(dy.dtype), grads

        dx, grads = jax.lax.scan(step, dy, (self._unstack(params), saved), self.count, reverse=True)
        return map_leaves(_stack_outer, _stack, grads), dx

    def _unstack(self, params: PyTree) -> PyTree:
        """Returns the parameters with an axis of blocks in front of the shapes that f has."""
        one = jax.eval_shape(lambda: self.layer.init(jax.random.key(0)))
        return jax.tree.map(lambda p, leaf: p.reshape(self.count, *leaf.shape), params, one)


def _stack(blocks: PyTree) -> PyTree:
    """Puts arrays [count, m, ...] of all blocks below one another, as [count m, ...]."""
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), blocks)


def _stack_outer(blocks: Outer) -> Outer:
    """Returns the gradient of all blocks' matrices below one another from factors with an axis of blocks in front."""

    def stack(term: Outer) -> Outer:
        return Outer(Blocks(term.left, jax.tree.leaves(term.left)[0].ndim - 1), term.right)

    return reduce(add, map(stack, blocks.terms))

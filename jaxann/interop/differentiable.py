"""The handwritten backward in other people's code: a plain function that `jax.grad` differentiates by it.

The one module besides `autodiff` that has to do with JAX's differentiation: it tells JAX what to do instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.batch import split_per_example
from jaxann.nn.outer import materialize, sum_examples
from jaxann.rules.base import Rule, RuledLayer


def differentiable(model: Layer, rule: Rule | None = None, *, batched: bool = False) -> Callable[..., Array]:
    """(params, x, key=None, feedback=None) -> y, with `model`'s backward, or `rule`'s, for its derivative.

    x and y are one example's; `vmap` makes batches, whose weight gradients XLA then adds up example by example. With
    `batched` they are a batch's, [B, ...], and each weight gradient is one matrix product. `feedback` is what the rule
    goes by, `rule.init(model, key)`, without it the one that key 0 draws; it gets no gradient.

    By `jax.custom_vjp`: `jax.grad`, `jit`, `vmap` and whatever trains by them may be around it. A rule sees dy
    as the caller's loss scales it. Forward mode, as in `jax.jvp` and `jax.jacfwd`, raises JAX's TypeError: it would go
    by the forward pass, not by the backward that is asked for here; over the reverse it is what that backward gives.
    """
    rule = Rule() if rule is None else rule
    layer = RuledLayer(model, rule)

    def forward(params: PyTree, x: Array, key: PRNGKeyArray | None, feedback: PyTree) -> tuple[Array, Any]:
        if not batched:
            return layer.forward((params, feedback), x, key)
        return jax.vmap(layer.forward, in_axes=(None, 0, 0))((params, feedback), x, split_per_example(key, len(x)))

    @jax.custom_vjp
    def apply(params: PyTree, x: Array, key: PRNGKeyArray | None, feedback: PyTree) -> Array:
        return forward(params, x, key, feedback)[0]

    def apply_forward(params: PyTree, x: Array, key: PRNGKeyArray | None, feedback: PyTree) -> tuple[Array, Any]:
        y, saved = forward(params, x, key, feedback)
        return y, (params, x, key, feedback, saved)

    def apply_backward(kept: Any, dy: Array) -> tuple[PyTree, ...]:
        params, x, key, feedback, saved = kept
        backward = jax.vmap(layer.backward, in_axes=(None, 0, 0)) if batched else layer.backward
        grads, dx = backward((params, feedback), saved, dy)  # y, saved = forward(params, x, key, feedback)
        grads = sum_examples(grads) if batched else materialize(grads)
        return _like(grads, params), _like(dx, x), _nothing(key), _nothing(feedback)

    apply.defvjp(apply_forward, apply_backward)

    def function(params: PyTree, x: Array, key: PRNGKeyArray | None = None, feedback: PyTree = None) -> Array:
        return apply(params, x, key, rule.init(model, jax.random.key(0)) if feedback is None else feedback)

    return function


def _like(grads: PyTree, primal: PyTree) -> PyTree:
    """`grads` in the precision of what they are gradients of, which `jax.grad` insists on."""
    return jax.tree.map(lambda p, g: g.astype(p.dtype) if _real(p) else _nothing(p), primal, grads)


def _nothing(primal: PyTree) -> PyTree:
    """No gradient: zeros, of JAX's float0 for what is no real number."""
    return jax.tree.map(lambda p: jnp.zeros_like(p) if _real(p) else np.zeros(p.shape, jax.dtypes.float0), primal)


def _real(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)

"""The handwritten backward in other code: a plain function that `jax.grad` differentiates by the handwritten backward.

Besides `autodiff`, this is the only module that touches JAX's differentiation: it registers a derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.batch import backward_batch, forward_batch
from jaxann.nn.outer import materialize, sum_examples
from jaxann.rules.base import Rule, RuledLayer


def differentiable(model: Layer, rule: Rule | None = None, *, batched: bool = False) -> Callable[..., Array]:
    """Returns a model as a plain function whose derivative is the model's backward, or a learning rule's.

    The derivative is registered by `jax.custom_vjp`, so the function works under `jax.grad`, `jit` and `vmap`, and in
    all code that uses them. Forward mode, as in `jax.jvp` and `jax.jacfwd`, raises JAX's TypeError, because it would
    have to differentiate the forward pass. Forward mode over `jax.grad` works: it differentiates the backward.

    Args:
        model: The network, a layer.
        rule: The learning rule that replaces the model's backward; backprop by default. A rule gets dy as the caller's
            loss scales it, with the 1/B of a mean in it.
        batched: Whether the function maps a batch x [B, ...] to y [B, ...], and computes each weight gradient as one
            matrix product. By default it takes one example. Under `vmap` it then takes batches too, but XLA computes
            and sums the examples' weight gradients one by one.

    Returns:
        (params, x, key=None, feedback=None) -> y. The feedback is what the rule uses in its backward, as
        `rule.init(model, key)` returns it, and it gets no gradient. By default it is drawn with key 0. If the
        parameters are drawn with key 0 too, feedback weights equal the parameters, and the rule is backprop.
    """
    rule = Rule() if rule is None else rule
    layer = RuledLayer(model, rule)

    def forward(params: PyTree, x: Array, key: PRNGKeyArray | None, feedback: PyTree) -> tuple[Array, Any]:
        if batched:
            return forward_batch(layer, (params, feedback), x, key)
        return layer.forward((params, feedback), x, key)

    @jax.custom_vjp
    def apply(params: PyTree, x: Array, key: PRNGKeyArray | None, feedback: PyTree) -> Array:
        return forward(params, x, key, feedback)[0]

    def apply_forward(params: PyTree, x: Array, key: PRNGKeyArray | None, feedback: PyTree) -> tuple[Array, Any]:
        y, saved = forward(params, x, key, feedback)
        return y, (params, x, key, feedback, saved)

    def apply_backward(residuals: Any, dy: Array) -> tuple[PyTree, ...]:
        params, x, key, feedback, saved = residuals  # y, saved = forward(params, x, key, feedback)
        if batched:
            grads, dx = backward_batch(layer, (params, feedback), saved, dy)
            grads = sum_examples(grads)
        else:
            grads, dx = layer.backward((params, feedback), saved, dy)
            grads = materialize(grads)
        return _cast_like(grads, params), _cast_like(dx, x), _zeros_like(key), _zeros_like(feedback)

    apply.defvjp(apply_forward, apply_backward)

    def function(params: PyTree, x: Array, key: PRNGKeyArray | None = None, feedback: PyTree = None) -> Array:
        return apply(params, x, key, rule.init(model, jax.random.key(0)) if feedback is None else feedback)

    return function


def _cast_like(grads: PyTree, primal: PyTree) -> PyTree:
    """Returns gradients in the dtypes of the values that they belong to, as `jax.grad` requires."""
    return jax.tree.map(lambda p, g: g.astype(p.dtype) if _is_float(p) else _zeros_like(p), primal, grads)


def _zeros_like(primal: PyTree) -> PyTree:
    """Returns gradients of zero, which for integers and keys have JAX's type float0."""
    return jax.tree.map(lambda p: jnp.zeros_like(p) if _is_float(p) else np.zeros(p.shape, jax.dtypes.float0), primal)


def _is_float(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)

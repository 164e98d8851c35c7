"""The handwritten backward in other code: a plain function that `jax.grad` differentiates by the handwritten backward.

Besides `autodiff`, this is the only module that touches JAX's differentiation: it registers a derivative, and
transposes the handwritten backward for forward mode.
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

    The derivative is registered with JAX, so the function works under `jax.grad`, `jax.jvp`, `jit` and `vmap`, and in
    all code that uses them. Forward mode, as in `jax.jvp`, `jax.jacfwd` and `jax.hessian`, uses the transposed
    backward: for a backward that maps dy to Jᵀ dy it is J. A rule whose `linear` is False has no transposed backward,
    and forward mode then raises JAX's TypeError about a custom_vjp function.

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

    def backward(args: Any, saved: Any, dy: Array) -> tuple[PyTree, Any]:
        params, x, _, feedback = args  # y, saved = forward(params, x, key, feedback)
        if batched:
            grads, dx = backward_batch(layer, (params, feedback), saved, dy)
            grads = sum_examples(grads)
        else:
            grads, dx = layer.backward((params, feedback), saved, dy)
            grads = materialize(grads)
        return _cast_like(grads, params), _cast_like(dx, x)

    def apply(params: PyTree, x: Array, key: PRNGKeyArray | None, feedback: PyTree) -> Array:
        return forward(params, x, key, feedback)[0]

    def push(args: Any, tangents: Any) -> tuple[Array, Array]:
        y, saved = forward(*args)

        def back(dy: Array) -> list[Array]:
            return _list_floats(backward(args, saved, dy))

        transposed = jax.linear_transpose(back, y)  # dy ↦ Jᵀ dy becomes v ↦ J v
        try:
            return y, transposed(_list_floats(tangents[:2]))[0]
        except Exception as error:  # JAX raises several types where an operation is not linear
            raise ValueError(f"expected a backward that is linear in dy for {model}, got one that is not") from error

    def apply_forward(*args: Any) -> tuple[Array, Any]:
        y, saved = forward(*args)
        return y, (args, saved)

    def apply_backward(residuals: Any, dy: Array) -> tuple[PyTree, ...]:
        args, saved = residuals
        return *backward(args, saved, dy), _zeros_like(args[2]), _zeros_like(args[3])

    if rule.linear:
        registered: Any = jax.custom_jvp(apply)
        registered.defjvp(push)
    else:
        registered = jax.custom_vjp(apply)
        registered.defvjp(apply_forward, apply_backward)

    def function(params: PyTree, x: Array, key: PRNGKeyArray | None = None, feedback: PyTree = None) -> Array:
        return registered(params, x, key, rule.init(model, jax.random.key(0)) if feedback is None else feedback)

    return function


def _cast_like(grads: PyTree, primal: PyTree) -> PyTree:
    """Returns gradients in the dtypes of the values that they belong to, as `jax.grad` requires."""
    return jax.tree.map(lambda p, g: g.astype(p.dtype) if _is_float(p) else _zeros_like(p), primal, grads)


def _zeros_like(primal: PyTree) -> PyTree:
    """Returns gradients of zero, which for integers and keys have JAX's type float0."""
    return jax.tree.map(lambda p: jnp.zeros_like(p) if _is_float(p) else np.zeros(p.shape, jax.dtypes.float0), primal)


def _list_floats(tree: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if _is_float(leaf)]


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)

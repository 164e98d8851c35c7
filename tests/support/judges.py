"""What every handwritten gradient is judged by: `jax.vjp` of the same forward, leaf by leaf, on random cotangents."""

import jax
import jax.numpy as jnp

from jaxann import autodiff, backprop, compare
from jaxann.nn import materialize

# max|a-b| / max|b| of a leaf: some hundred roundings
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def cast(tree, dtype):
    """`tree` with its floats in `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def judge_layer(layer, params, x, key):
    """`layer.backward` at x, for a random cotangent, against the transposed derivative of `layer.forward`."""

    @jax.jit
    def both(params, x):
        y, transposed = jax.vjp(lambda params, x: layer.forward(params, x)[0], params, x)
        dy = jax.random.normal(key, y.shape, y.dtype)
        return layer.backward(params, layer.forward(params, x)[1], dy), transposed(dy)

    judge(*both(params, x), x.dtype)


def judge_loss(loss, y, t):
    """`loss.gradient` at y against the derivative of `loss.value`."""
    judge(loss.gradient(y, t), jax.grad(loss.value)(y, t), y.dtype)


def judge_network(model, loss, params, x, t, weights=None):
    """`backprop` against `autodiff`: the loss, and the gradient leaf by leaf."""
    both = jax.jit(lambda *args: (backprop(model, loss)(*args), autodiff(model, loss)(*args)))
    judge(*both(params, x, t, weights), x.dtype)


def judge(found, wanted, dtype):
    comparison, epsilon = compare(found, wanted), jnp.finfo(dtype).eps
    pairs = zip(*(jax.tree.leaves(materialize(tree)) for tree in (found, wanted)), strict=True)
    for leaf, (a, b) in zip(comparison.leaves, pairs, strict=True):
        # All data here is of order one. What cancels to nothing, as behind the softmax of a single number, is left
        # with a rounding of that: it has no digits to compare.
        nothing = jnp.abs(a - b).max(initial=0) <= epsilon
        assert leaf.error <= TOLERANCE[jnp.dtype(dtype).name] or nothing, f"\n{comparison}"
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}

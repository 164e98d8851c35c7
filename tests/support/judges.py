"""Comparisons of handwritten gradients with autodiff of the same forward, leaf by leaf, for random cotangents."""

import jax
import jax.numpy as jnp
import numpy as np
from support.draws import draw_array

from jaxann import autodiff, backprop, compare
from jaxann.nn import materialize

# the largest max|a - b| / max|b| of a leaf that is allowed: a few hundred rounding errors
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def cast(tree, dtype):
    """Converts the floats of a tree to `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def judge_layer(layer, params, x):
    """Compares `layer.backward` at x, for a drawn cotangent, with the transposed derivative of `layer.forward`."""

    @jax.jit
    def both(params, x):
        y, vjp = jax.vjp(lambda params, x: layer.forward(params, x)[0], params, x)
        dy = draw_array(9, *y.shape).astype(y.dtype)
        gradients = layer.backward(params, layer.forward(params, x)[1], dy)
        return gradients, materialize(gradients), vjp(dy)

    gradients, matrices, expected = both(params, x)
    check_dtype(gradients, x.dtype)
    judge(matrices, expected, x.dtype)


def judge_loss(loss, y, t):
    """Compares `loss.gradient` at y with the derivative of `loss.value`."""
    both = jax.jit(lambda y, t: (loss.gradient(y, t), jax.grad(loss.value)(y, t)))
    judge(*both(y, t), y.dtype)


def judge_network(model, loss, params, x, t, weights=None):
    """Compares the loss and the gradients of `backprop` with those of `autodiff`."""

    @jax.jit
    def both(*args):
        gradients = backprop(model, loss)(*args)
        return gradients, materialize(gradients), autodiff(model, loss)(*args)

    gradients, matrices, expected = both(params, x, t, weights)
    check_dtype(gradients, x.dtype)
    try:
        judge(matrices, expected, x.dtype)
    except AssertionError:
        # Rounding alone may exceed the tolerance. Its effect is measured only then, because that takes four more runs.
        perturbed = [both(*perturb((params, x), seed), t, weights)[2] for seed in range(4)]
        judge(matrices, expected, x.dtype, perturbed)


def perturb(tree, seed):
    """Multiplies every float of a tree by 1 + ε or 1 - ε, at random, with the rounding error ε."""
    rng = np.random.default_rng(seed)

    def multiply(a):
        factors = 1 + rng.choice([-1, 1], a.shape) * float(jnp.finfo(a.dtype).eps)
        return (a * factors).astype(a.dtype)

    return jax.tree.map(lambda a: multiply(a) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def judge(gradients, expected, dtype, perturbed=()):
    """Asserts that two trees of gradients agree, and that the first one has the precision `dtype`.

    `perturbed` holds gradients expected at inputs one rounding error away. A leaf may then also differ by three times
    the largest change among them, up to a hundred times the tolerance of the network's largest gradient, because some
    networks, such as a normalization of a few almost equal numbers, amplify rounding errors on every route.
    """
    check_dtype(gradients, dtype)
    # NumPy compares, since it compiles nothing.
    gradients, expected = (jax.device_get(materialize(tree)) for tree in (gradients, expected))
    comparison, epsilon = compare(gradients, expected), jnp.finfo(dtype).eps
    pairs = list(zip(*(jax.tree.leaves(tree) for tree in (gradients, expected)), strict=True))
    changes = [
        [np.abs(a - b).max(initial=0) for a, (_, b) in zip(jax.tree.leaves(tree), pairs, strict=True)]
        for tree in perturbed
    ]
    tolerances = 3 * np.max(changes, axis=0) if changes else np.zeros(len(pairs))
    largest = max((float(np.abs(b).max(initial=0)) for _, b in pairs), default=0.0)
    for leaf, (a, b), tolerance in zip(comparison.leaves, pairs, tolerances, strict=True):
        # The data of the tests is of order one. A gradient that cancels to zero, as behind the softmax of a single
        # number, is a rounding error of that size, and has no digits to compare. If the sum has many terms, as behind
        # an InstanceNorm that is averaged, it is a few rounding errors of the network's largest gradient.
        cancelled = np.abs(a - b).max(initial=0) <= max(
            min(tolerance, 100 * TOLERANCE[jnp.dtype(dtype).name] * largest), epsilon * max(1.0, 32 * largest)
        )
        assert leaf.error <= TOLERANCE[jnp.dtype(dtype).name] or cancelled, f"\n{comparison}"


def check_dtype(gradients, dtype):
    """Asserts that all arrays among gradients have one precision, those inside an `Outer` too."""
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype(dtype)}

"""Each example's own gradient from one backward pass, and the quantities that are computed from these gradients.

The gradients of matrices are kept as two factors. Each quantity is written once for each kind of leaf, `Outer` or
array, so that it works for every layer. Use it as a module: `per_example.gradients(model, loss)`,
`per_example.norms(grads)`. Its functions are

- `gradients`, `mean`, `materialize` and `count_examples`,
- `norms`, `leaf_norms`, `clipped_mean` and `clipped_gradient`, DP-SGD's gradient for training,
- `second_moment`, `variance` and `noise_scale`,
- `inner_products`, the loss's empirical neural tangent kernel,
- `kronecker_factors`, a `Kronecker` for each leaf.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.gradients.clipping import clipped_mean, leaf_norms, norms
from jaxann.gradients.leaves import add_leaves, count_examples, count_places, is_outer, materialize_places
from jaxann.gradients.moments import Kronecker, kronecker_factors, mean, noise_scale, second_moment, variance
from jaxann.gradients.stateful import Stateful
from jaxann.nn import outer
from jaxann.nn.axis import require_uncoupled
from jaxann.nn.base import Layer
from jaxann.nn.batch import backward_batch, forward_batch
from jaxann.nn.factors import accumulation_dtype, count_features, gram
from jaxann.nn.hyperparameters import Number, validate_number
from jaxann.nn.loss import Loss, mean_weights
from jaxann.nn.outer import Outer

__all__ = [
    "Kronecker",
    "clipped_gradient",
    "clipped_mean",
    "count_examples",
    "gradients",
    "inner_products",
    "kronecker_factors",
    "leaf_norms",
    "materialize",
    "mean",
    "noise_scale",
    "norms",
    "second_moment",
    "variance",
]


def gradients(model: Layer, loss: Loss) -> Callable[..., tuple[Float[Array, " B"], PyTree]]:
    """Returns the function that computes each example's loss and gradient in one backward pass.

    g_i = ∂E(y_i, t_i)/∂params for each example i of a batch.

    Args:
        model: The network, a layer.
        loss: The loss of one example.

    Returns:
        (params, x, t, key=None) -> (losses, grads) for x [B, ...] and t [B, ...]. The losses are [B]. The grads have a
        leading example axis on every leaf, and the gradient of a matrix is an `Outer` of batched factors. The key is
        split so that every example has its own, as in `backprop`.

    Raises:
        ValueError: If the model couples the examples of a batch, as one with a `BatchNorm` does: its examples have no
            gradients of their own.
    """
    require_uncoupled(model, "per-example gradients")

    def compute_gradients(
        params: PyTree, x: Shaped[Array, "B ..."], t: Shaped[Array, "B ..."], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, " B"], PyTree]:
        y, saved = forward_batch(model, params, x, key)
        dy = jax.vmap(loss.gradient)(y, t)
        grads, _ = backward_batch(model, params, saved, dy)  # y, saved = forward_batch(model, params, x, key)
        return jax.vmap(loss.value)(y, t), grads

    return compute_gradients


def materialize(grads: PyTree) -> PyTree:
    """Multiplies out the `Outer`s of every example, which takes B times the memory of the parameters.

    Args:
        grads: Per-example gradients as `gradients` returns them; leaves are [B, ...] or batched `Outer`s.

    Returns:
        Arrays [B, ...] for each leaf, in the structure of the parameters.
    """
    return jax.vmap(outer.materialize)(grads)


def clipped_gradient(model: Layer, loss: Loss, max_norm: Number, noise: Number = 0.0) -> Stateful:
    """Returns the gradient function of DP-SGD: the clipped mean plus normal noise, from one backward pass.

    ḡ = Σ_i s_i min(1, C / ‖g_i‖) g_i + max_i(s_i) C σ ξ, with s_i = w_i / Σ w, C = max_norm, σ = noise and ξ standard
    normal. `fit(..., gradient=partial(per_example.clipped_gradient, max_norm=1.0, noise=1.1))` trains with it.

    It does not count the privacy budget; dp-accounting and opacus.accountants do. Both assume that batches are sampled
    at random, whereas training reshuffles the examples every epoch.

    Args:
        model: The network, a layer.
        loss: The loss of one example.
        max_norm: C, a finite number above 0, in the units of the gradient's norm.
        noise: σ, the standard deviation of the noise as a multiple of what the heaviest example can contribute; a
            finite number of at least 0.

    Returns:
        A gradient function whose state is (). If `noise` is above 0, every call needs a `key`, which training passes.

    Raises:
        SettingError: If `max_norm` or `noise` is out of range. It is a ValueError.
        ValueError: If the model couples the examples of a batch, or in a call without a key, if `noise` is above 0.

    Source: Abadi et al. 2016, algorithm 1.
    """
    validate_number("max_norm", max_norm, above=0)
    validate_number("noise", noise, least=0)
    compute_gradients = gradients(model, loss)
    noiseless = isinstance(noise, (int, float)) and noise == 0

    def step(
        params: PyTree,
        state: PyTree,
        x: Shaped[Array, "B ..."],
        t: Shaped[Array, "B ..."],
        weights: Float[Array, " B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, ""], PyTree, PyTree, dict[str, Array]]:
        if key is None and not noiseless:
            raise ValueError(f"expected a key to draw the gradient's noise of {noise} with, got None")
        noise_key, key = (None, key) if noiseless or key is None else jax.random.split(key)
        s = mean_weights(weights, len(x))
        losses, grads = compute_gradients(params, x, t, key)
        clipped = clipped_mean(grads, max_norm, weights)
        if noise_key is not None:
            leaves, tree = jax.tree.flatten(clipped)
            keys = jax.random.split(noise_key, len(leaves))
            size = s.max() * max_norm * noise
            noisy = [g + size * jax.random.normal(k, g.shape, g.dtype) for k, g in zip(keys, leaves, strict=True)]
            clipped = jax.tree.unflatten(tree, noisy)
        return s @ losses, clipped, state, {}

    return Stateful(step, random=not noiseless)


def inner_products(grads: PyTree, others: PyTree | None = None) -> Float[Array, "B C"]:
    """Computes the inner products of per-example gradients: the loss's empirical neural tangent kernel.

    K_ij = ⟨g_i, h_j⟩

    Args:
        grads: The gradients g of B examples as `gradients` returns them; leaves are [B, ...] or batched `Outer`s.
        others: The gradients h of C examples for the same parameters; g itself by default.

    Returns:
        K [B, C].

    Raises:
        ValueError: If the model has no parameters.

    Source: Jacot et al. 2018, section 4.
    """

    def outers(g: Outer, h: Outer) -> Array:
        if g.blocks is not None and h.blocks is not None:
            return jax.vmap(outers)(g.blocks, h.blocks).sum(0)
        (B, T), (C, S) = ((len(jax.tree.leaves(leaf)[0]), count_places(leaf)) for leaf in (g, h))
        if max(B, C) * count_features(g.left) * count_features(g.right) < B * T * C * S:
            return arrays(materialize_places(g), materialize_places(h))

        def multiply(g: Outer, h: Outer) -> Array:
            return jnp.sum(gram(g.left, h.left) * gram(g.right, h.right))

        return jax.vmap(jax.vmap(multiply, in_axes=(None, 0)), in_axes=(0, None))(g, h)

    def arrays(g: Float[Array, "B ..."], h: Float[Array, "C ..."]) -> Array:
        dtype = accumulation_dtype(g, h)
        return g.reshape(len(g), -1).astype(dtype) @ h.reshape(len(h), -1).astype(dtype).T

    def multiply(g: Any, h: Any) -> Array:
        return outers(g, h) if isinstance(g, Outer) else arrays(g, h)

    return add_leaves(jax.tree.map(multiply, grads, grads if others is None else others, is_leaf=is_outer))

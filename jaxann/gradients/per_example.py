"""Each example's own gradient from one backward pass, and what can be made of many: norms, clipped means, variance, ...

Written once for each kind of leaf, `Outer` or array, and so for every layer. Sums run over B examples, a matrix's also
over the T places (positions of a sequence, uses of a tied matrix) that share it; with `weights` [B], example i has
the share s_i = w_i / Σw of every mean, without them 1/B.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.gradients.stateful import Stateful
from jaxann.nn import outer
from jaxann.nn.base import Layer
from jaxann.nn.batch import split_per_example
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.loss import Loss, mean_weights
from jaxann.nn.outer import Outer, accumulation_dtype, map_leaves, sum_examples

LARGEST = 4096  # entries of an array leaf, beyond which the square matrix of its second moments is refused


def gradients(model: Layer, loss: Loss) -> Callable[..., tuple[Float[Array, " B"], PyTree]]:
    """(params, x, t, key=None) -> (losses [B], grads), grads with a leading example axis on every leaf.

    ∂E(y_i, t_i)/∂params for each example i of a batch x [B, ...], t [B, ...]; a matrix's is an `Outer` of batched
    factors. From `key` each example gets one of its own, for layers that draw, as in `backprop`.
    """

    def gradients(
        params: PyTree, x: Shaped[Array, "B ..."], t: Shaped[Array, "B ..."], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, " B"], PyTree]:
        y, saved = jax.vmap(model.forward, in_axes=(None, 0, 0))(params, x, split_per_example(key, len(x)))
        dy = jax.vmap(loss.gradient)(y, t)
        grads, _ = jax.vmap(model.backward, in_axes=(None, 0, 0))(params, saved, dy)  # y = forward(params, x, key)
        return jax.vmap(loss.value)(y, t), grads

    return gradients


def mean(grads: PyTree, weights: Float[Array, " B"] | None = None) -> PyTree:
    """ḡ = Σ_i s_i g_i, the gradient that `backprop` gives."""
    return sum_examples(_scale(grads, mean_weights(weights, count_examples(grads))))


def materialize(grads: PyTree) -> PyTree:
    """Every example's gradient g_i multiplied out, leaves [B, ...]: B times the memory of the parameters."""
    return jax.vmap(outer.materialize)(grads)


def norms(grads: PyTree) -> Float[Array, " B"]:
    """‖g_i‖ over all leaves. Source: Goodfellow 2015, section 4; of shared axes: Rochette et al. 2019, section 3."""
    return jnp.sqrt(_total(_squared_norms(grads)))


def leaf_norms(grads: PyTree) -> PyTree:
    """‖g_i‖ of each leaf alone, leaves [B]."""
    return jax.tree.map(jnp.sqrt, _squared_norms(grads))


def clipped_mean(
    grads: PyTree, max_norm: float | Float[Array, ""], weights: Float[Array, " B"] | None = None
) -> PyTree:
    """Σ_i s_i min(1, C / ‖g_i‖) g_i for C = `max_norm`: no example counts for more than that.

    Raises ValueError for a `max_norm` that is no finite number above 0. Source: Abadi et al. 2016, algorithm 1.
    """
    validate_number("max_norm", max_norm, above=0)
    shrinking = max_norm / jnp.maximum(norms(grads), max_norm)
    return sum_examples(_scale(grads, mean_weights(weights, count_examples(grads)) * shrinking))


def clipped_gradient(
    model: Layer, loss: Loss, max_norm: float | Float[Array, ""], noise: float | Float[Array, ""] = 0.0
) -> Stateful:
    """The gradient function whose grads are the clipped mean plus max_i(s_i) C `noise` ξ, ξ standard normal.

    DP-SGD's gradient, from one backward pass; `fit(..., gradient=partial(clipped, max_norm=1.0, noise=1.1))` trains by
    it. With noise it wants a `key` at each call, which training gives. It counts no privacy budget (dp-accounting
    and opacus.accountants do), and their counts suppose batches that are drawn by chance, not reshuffled epochs.

    Raises ValueError as `clipped_mean` does, for a `noise` that is no finite number from 0, and for noise without key.
    Source: Abadi et al. 2016, algorithm 1.
    """
    validate_number("max_norm", max_norm, above=0)
    validate_number("noise", noise, least=0)
    quiet = isinstance(noise, (int, float)) and noise == 0

    def gradient(
        params: PyTree,
        state: PyTree,
        x: Shaped[Array, "B ..."],
        t: Shaped[Array, "B ..."],
        weights: Float[Array, " B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, ""], PyTree, PyTree, dict[str, Array]]:
        if key is None and not quiet:
            raise ValueError(f"a clipped gradient with noise {noise} wants a key to draw it with")
        drawn, key = (None, key) if quiet or key is None else jax.random.split(key)
        share = mean_weights(weights, len(x))
        losses, grads = gradients(model, loss)(params, x, t, key)
        found = clipped_mean(grads, max_norm, weights)
        if drawn is not None:
            leaves, tree = jax.tree.flatten(found)
            keys = jax.random.split(drawn, len(leaves))
            size = share.max() * max_norm * noise
            noisy = [g + size * jax.random.normal(k, g.shape, g.dtype) for k, g in zip(keys, leaves, strict=True)]
            found = jax.tree.unflatten(tree, noisy)
        return share @ losses, found, state, {}

    return Stateful(gradient, random=not quiet)


def second_moment(grads: PyTree, weights: Float[Array, " B"] | None = None) -> PyTree:
    """Σ_i s_i g_i², entry by entry."""
    share = mean_weights(weights, count_examples(grads))

    def outer(leaf: Outer) -> Array:
        left, right = _terms(leaf)
        (_, T, m), n = left.shape, right.shape[2]
        if T * T * (m + n) > m * n:
            return jnp.einsum("b,bmn->mn", share, _materialize_terms(left, right) ** 2)
        return Outer(share[:, None, None] * _pairs(left), _pairs(right)).sum()

    return map_leaves(outer, lambda leaf: jnp.tensordot(share, leaf.astype(accumulation_dtype(leaf)) ** 2, 1), grads)


def variance(grads: PyTree, weights: Float[Array, " B"] | None = None) -> PyTree:
    """Σ_i s_i (g_i - ḡ)² / (1 - Σ_i s_i²), entry by entry: the unbiased one, with B - 1 where all weigh the same.

    Taken as E g² - ḡ², which keeps fewer digits where the mean is large beside the spread. Raises ValueError for fewer
    than 2 examples.
    """
    bessel = _bessel(grads, weights)
    spread = jax.tree.map(lambda square, g: square - g * g, second_moment(grads, weights), mean(grads, weights))
    return jax.tree.map(lambda leaf: jnp.maximum(leaf, 0) * bessel, spread)  # rounding may leave it just below 0


def noise_scale(grads: PyTree, weights: Float[Array, " B"] | None = None) -> Float[Array, ""]:
    """tr Σ / ‖G‖², in examples: far below this batch size, a larger batch pays in full; far above, not at all.

    Σ is the examples' covariance and G the true gradient, both estimated without bias from this one batch; infinite
    where it cannot tell G from 0. It is noisy: average both parts over batches for more. Raises ValueError for fewer
    than 2 examples. Source: McCandlish et al. 2018, appendix A.1.
    """
    share = mean_weights(weights, count_examples(grads))
    squares = share @ _total(_squared_norms(grads))
    of_mean = _total(jax.tree.map(lambda g: jnp.sum(g * g), mean(grads, weights)))
    noise = jnp.maximum(squares - of_mean, 0) * _bessel(grads, weights)
    signal = of_mean - noise * (share @ share)
    return jnp.where(signal > 0, noise / jnp.where(signal > 0, signal, 1), jnp.inf)


def inner_products(grads: PyTree, others: PyTree | None = None) -> Float[Array, "B C"]:
    """K_ij = <g_i, h_j>, h being `others`' gradients, or g itself: the loss's empirical neural tangent kernel.

    Source: Jacot et al. 2018, section 4.
    """

    def outer(one: Outer, two: Outer) -> Array:
        left, right = zip(_terms(one), _terms(two), strict=True)
        (B, T, m), (C, S, _), n = left[0].shape, left[1].shape, right[0].shape[2]
        if max(B, C) * m * n < B * T * C * S:
            return _products(_materialize_terms(left[0], right[0]), _materialize_terms(left[1], right[1]))
        return jnp.sum(jnp.einsum("itm,jsm->itjs", *left) * jnp.einsum("itn,jsn->itjs", *right), axis=(1, 3))

    def products(one: Any, two: Any) -> Array:
        return outer(one, two) if isinstance(one, Outer) else _products(one, two)

    others = grads if others is None else others
    return _total(jax.tree.map(products, grads, others, is_leaf=lambda leaf: isinstance(leaf, Outer)))


class Kronecker(NamedTuple):
    """left ⊗ right, left [m, m] and right [n, n]: the second moments of a matrix's gradient [m, n], read row by row."""

    left: Float[Array, "m m"]
    right: Float[Array, "n n"]


def kronecker_factors(grads: PyTree, weights: Float[Array, " B"] | None = None) -> PyTree:
    """A `Kronecker` in place of each leaf: of a matrix Σ_i s_i Σ_t l_it l_itᵀ and Σ_i s_i Σ_t r_it r_itᵀ / T.

    For gradients g_i = Σ_t l_it r_itᵀ they approximate Σ_i s_i g_i g_iᵀ, the empirical Fisher matrix. An array's
    factors are that matrix itself and [[1]]. Raises ValueError, naming it, for an array of more than 4096 entries.
    Sources: Martens and Grosse 2015, section 3; of shared axes: Eschenhagen et al. 2023, section 3.2, "expand".
    """
    share = mean_weights(weights, count_examples(grads))

    def moments(terms: Array) -> Array:
        return Outer(share[:, None, None] * terms, terms).sum()

    def factors(path: tuple, leaf: Outer | Array) -> Kronecker:
        if isinstance(leaf, Outer):
            left, right = _terms(leaf)
            return Kronecker(moments(left), moments(right) / left.shape[1])
        if (size := leaf[0].size) > LARGEST:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"{name} has {size} entries, too many for their second moments: an Outer is wanted of it")
        return Kronecker(
            moments(leaf.reshape(len(leaf), 1, size).astype(accumulation_dtype(leaf))),
            jnp.ones((1, 1), accumulation_dtype(leaf)),
        )

    return jax.tree_util.tree_map_with_path(factors, grads, is_leaf=lambda leaf: isinstance(leaf, Outer))


def count_examples(grads: PyTree) -> int:
    """How many examples' gradients these are. Raises ValueError where there are no leaves."""
    return len(_leaves(grads)[0])


def _leaves(grads: PyTree) -> list[Array]:
    if not (leaves := jax.tree.leaves(grads)):
        raise ValueError("there are no gradients: the model has no parameters")
    return leaves


def _total(grads: PyTree) -> Array:
    """The sum of all leaves."""
    return reduce(jnp.add, _leaves(grads))


def _bessel(grads: PyTree, weights: Float[Array, " B"] | None) -> Float[Array, ""]:
    if (count := count_examples(grads)) < 2:
        raise ValueError(f"a variance takes at least 2 examples, not {count}")
    share = mean_weights(weights, count)
    return 1 / (1 - share @ share)


def _scale(grads: PyTree, by: Float[Array, " B"]) -> PyTree:
    """by_i g_i."""

    def array(leaf: Array) -> Array:
        return by.astype(accumulation_dtype(leaf)).reshape(-1, *[1] * (leaf.ndim - 1)) * leaf

    return map_leaves(lambda leaf: Outer(array(leaf.left), leaf.right), array, grads)


def _squared_norms(grads: PyTree) -> PyTree:
    def outer(leaf: Outer) -> Array:
        left, right = _terms(leaf)
        (_, T, m), n = left.shape, right.shape[2]
        if T * (m + n) > m * n:
            return jnp.sum(_materialize_terms(left, right) ** 2, axis=(1, 2))
        return jnp.sum(jnp.einsum("itm,ism->its", left, left) * jnp.einsum("itn,isn->its", right, right), axis=(1, 2))

    def array(leaf: Array) -> Array:
        return jnp.sum(leaf.astype(accumulation_dtype(leaf)) ** 2, axis=range(1, leaf.ndim))

    return map_leaves(outer, array, grads)


def _terms(outer: Outer) -> tuple[Float[Array, "B T m"], Float[Array, "B T n"]]:
    """The factors, all axes between the examples' and the matrix's in one, in float32 or better."""
    dtype = accumulation_dtype(outer.left, outer.right)
    left, right = (f.reshape(len(f), -1, f.shape[-1]).astype(dtype) for f in (outer.left, outer.right))
    return left, right


def _materialize_terms(left: Float[Array, "B T m"], right: Float[Array, "B T n"]) -> Float[Array, "B m n"]:
    return jnp.einsum("btm,btn->bmn", left, right)


def _pairs(terms: Float[Array, "B T k"]) -> Float[Array, "B TT k"]:
    """Products of each two of an example's terms: (Σ_t l_t r_t)² = Σ_ts (l_t l_s) (r_t r_s)."""
    return (terms[:, :, None] * terms[:, None]).reshape(len(terms), -1, terms.shape[-1])


def _products(one: Float[Array, "B ..."], two: Float[Array, "C ..."]) -> Float[Array, "B C"]:
    dtype = accumulation_dtype(one, two)
    return one.reshape(len(one), -1).astype(dtype) @ two.reshape(len(two), -1).astype(dtype).T

"""Second derivatives of the mean loss: products with them, their Gauss-Newton part from the handwritten backward.

H = ∂²E/∂params². G = Σ_i s_i J_iᵀ H_i J_i, with J_i = ∂y_i/∂params and H_i = ∂²E/∂y_i², is what is left of it where the
network is taken to be linear in its parameters: positive semidefinite for the losses here, and the Fisher matrix for
those that are log-likelihoods. Sources: Schraudolph 2002; Martens 2020, sections 8 and 9.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.gradients.autodiff import jvp
from jaxann.gradients.backprop import backprop
from jaxann.gradients.per_example import count_examples, kronecker_factors, second_moment
from jaxann.nn.base import Layer
from jaxann.nn.batch import split_per_example
from jaxann.nn.loss import Loss, mean_weights
from jaxann.nn.outer import sum_examples

Batch = Shaped[Array, "B ..."]
Weights = Float[Array, " B"] | None


def hessian_product(model: Layer, loss: Loss) -> Callable[..., PyTree]:
    """(params, v, x, t, weights=None, key=None) -> H v for v shaped like params: forward over the handwritten reverse.

    Source: Pearlmutter 1994.
    """

    def product(
        params: PyTree, v: PyTree, x: Batch, t: Batch, weights: Weights = None, key: PRNGKeyArray | None = None
    ) -> PyTree:
        gradient = backprop(model, loss)
        return jvp(lambda params: gradient(params, x, t, weights, key)[1], (params,), (v,))[1]

    return product


def gauss_newton_product(model: Layer, loss: Loss) -> Callable[..., PyTree]:
    """(params, v, x, t, weights=None, key=None) -> G v for v shaped like params: J v forward, then H_i and Jᵀ by hand.

    Raises NotImplementedError for a loss without `hessian_factor`. Source: Schraudolph 2002, section 3.
    """

    def product(
        params: PyTree, v: PyTree, x: Batch, t: Batch, weights: Weights = None, key: PRNGKeyArray | None = None
    ) -> PyTree:
        share, keys = mean_weights(weights, len(x)), split_per_example(key, len(x))

        def of_one(share, x, t, key):
            (y, saved), (Jv, _) = jvp(lambda params: model.forward(params, x, key), (params,), (v,))
            S = loss.hessian_factor(y, t)
            dy = share * jnp.tensordot(jnp.tensordot(S, Jv, Jv.ndim), S, 1)  # S (Sᵀ J v), Σ_c s_c s_cᵀ being H_i
            return model.backward(params, saved, dy)[0]

        return sum_examples(jax.vmap(of_one)(share, x, t, keys))

    return product


def gauss_newton_vectors(model: Layer, loss: Loss, samples: int | None = None) -> Callable[..., PyTree]:
    """(params, x, t, key=None) -> grads as `per_example` has them, of vectors whose second moment is G.

    G = Σ_i s_i Σ_c (J_iᵀ s_c)(J_iᵀ s_c)ᵀ, s_c being the rows of the loss's `hessian_factor` [C, m]. Without `samples`
    there are C vectors for each example, √C J_iᵀ s_c, exactly; else so many, J_iᵀ Σ_c ±s_c with signs drawn with `key`,
    which is right on average. The vectors of an example lie in a row, so that its weight is to be repeated.

    With them `second_moment` is G's diagonal, `kronecker_factors` are K-FAC's, and `inner_products` over their number
    has those eigenvalues of G that are not 0. Raises NotImplementedError for a loss without `hessian_factor`, and
    ValueError for samples below 1 or without a key. Sources: Dangel et al. 2020, section 2.3; Hutchinson 1989.
    """
    if samples is not None and samples < 1:
        raise ValueError(f"samples is {samples}, but at least 1 is wanted")

    def vectors(params: PyTree, x: Batch, t: Batch, key: PRNGKeyArray | None = None) -> PyTree:
        if samples is not None and key is None:
            raise ValueError(f"{samples} samples are to be drawn, but there is no key to draw them with")
        keys = None if samples is None else split_per_example(key, len(x))

        def of_one(x, t, key):
            y, saved = model.forward(params, x)
            S = loss.hessian_factor(y, t)
            if samples is None:
                dy = jnp.sqrt(len(S)).astype(S.dtype) * S
            else:
                dy = jnp.tensordot(jax.random.rademacher(key, (samples, len(S)), S.dtype), S, 1)
            return jax.vmap(lambda dy: model.backward(params, saved, dy)[0])(dy)

        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.vmap(of_one)(x, t, keys))

    return vectors


def gauss_newton_diagonal(model: Layer, loss: Loss, samples: int | None = None) -> Callable[..., PyTree]:
    """(params, x, t, weights=None, key=None) -> the diagonal of G, shaped like params; exact without `samples`.

    Raises as `gauss_newton_vectors` does.
    """
    return _of_vectors(second_moment, model, loss, samples)


def gauss_newton_factors(model: Layer, loss: Loss, samples: int | None = None) -> Callable[..., PyTree]:
    """(params, x, t, weights=None, key=None) -> G's blocks as a `Kronecker` in place of each leaf.

    Exact for the biases of a chain and, without `samples`, what is known as KFLR for matrices. Raises as
    `gauss_newton_vectors` and `kronecker_factors` do. Sources: Martens and Grosse 2015, section 3; Botev et al. 2017.
    """
    return _of_vectors(kronecker_factors, model, loss, samples)


def _of_vectors(reduce: Callable, model: Layer, loss: Loss, samples: int | None) -> Callable[..., PyTree]:
    vectors = gauss_newton_vectors(model, loss, samples)

    def reduced(params: PyTree, x: Batch, t: Batch, weights: Weights = None, key: PRNGKeyArray | None = None) -> PyTree:
        found = vectors(params, x, t, key)
        each = count_examples(found) // len(x)
        return reduce(found, None if weights is None else jnp.repeat(weights, each))

    return reduced


def eigenvalues(product: Callable[[PyTree], PyTree], like: PyTree, k: int = 1) -> tuple[np.ndarray, list[PyTree]]:
    """The k eigenvalues of largest magnitude of a symmetric v ↦ A v, largest first, and their vectors, shaped `like` v.

    By SciPy's `eigsh` (Lanczos, ARPACK), from the product alone, as partial(hessian_product(model, loss), params) has
    it with x and t bound. Runs on the host; `product` is compiled here. Raises ValueError for a k that is not from 1 to
    below the number of entries, and scipy's ArpackNoConvergence.
    Source: Lehoucq et al. 1998.
    """
    from jax.flatten_util import ravel_pytree
    from scipy.sparse.linalg import LinearOperator, eigsh

    flat, unravel = ravel_pytree(like)
    if not 1 <= k < flat.size:
        raise ValueError(f"k is {k}, but 1 to {flat.size - 1} is wanted of a matrix of {flat.size} rows")
    multiply = jax.jit(lambda v: ravel_pytree(product(unravel(v)))[0])
    shape, matvec = (flat.size, flat.size), lambda v: np.asarray(multiply(v.astype(flat.dtype).ravel()))
    operator = LinearOperator(shape, matvec, dtype=flat.dtype)  # pyright: ignore[reportCallIssue]: it takes a class apart
    start = np.random.default_rng(0).standard_normal(flat.size).astype(flat.dtype)  # else each call differs a little
    values, vectors = eigsh(operator, k, v0=start)
    order = np.argsort(-abs(values))
    return values[order], [unravel(jnp.asarray(vectors[:, i])) for i in order]

"""Second derivatives of the mean loss: Hessian products, and the Gauss-Newton matrix from the handwritten backward.

H = ∂²E/∂params² is the Hessian. G = Σ_i s_i J_iᵀ H_i J_i, with J_i = ∂y_i/∂params and H_i = ∂²E/∂y_i², is the
Gauss-Newton matrix: what remains of H if the network is taken to be linear in its parameters. It is positive
semidefinite for the losses here, and for a loss that is a negative log-likelihood it is the Fisher matrix. Example i
has the share s_i = w_i / Σ w of the mean.

Use it as a module: `curvature.hessian_product(model, loss)`.

Sources: Schraudolph 2002; Martens 2020, sections 8 and 9.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.gradients.autodiff import jvp
from jaxann.gradients.backprop import backprop
from jaxann.gradients.leaves import count_examples
from jaxann.gradients.moments import kronecker_factors, second_moment
from jaxann.nn.axis import require_uncoupled
from jaxann.nn.base import Layer
from jaxann.nn.batch import backward_batch, forward_batch, split_per_example
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.loss import Loss, mean_weights
from jaxann.nn.outer import sum_examples

__all__ = [
    "eigenvalues",
    "gauss_newton_diagonal",
    "gauss_newton_factors",
    "gauss_newton_product",
    "gauss_newton_vectors",
    "hessian_product",
]

Batch = Shaped[Array, "B ..."]
Weights = Float[Array, " B"] | None


def hessian_product(model: Layer, loss: Loss) -> Callable[..., PyTree]:
    """Returns the function that multiplies the Hessian with a vector.

    H v = ∂/∂ε ∇E(params + ε v) at ε = 0: forward-mode differentiation of the handwritten gradient.

    Args:
        model: The network, a layer.
        loss: The loss of one example.

    Returns:
        (params, v, x, t, weights=None, key=None) -> H v, for v in the structure and shapes of the parameters.

    Source: Pearlmutter 1994.
    """

    def product(
        params: PyTree, v: PyTree, x: Batch, t: Batch, weights: Weights = None, key: PRNGKeyArray | None = None
    ) -> PyTree:
        gradient = backprop(model, loss)
        return jvp(lambda params: gradient(params, x, t, weights, key)[1], (params,), (v,))[1]

    return product


def gauss_newton_product(model: Layer, loss: Loss) -> Callable[..., PyTree]:
    """Returns the function that multiplies the Gauss-Newton matrix with a vector.

    G v = Σ_i s_i J_iᵀ H_i J_i v: J_i v by forward-mode differentiation, H_i and J_iᵀ by hand.

    Args:
        model: The network, a layer.
        loss: The loss of one example.

    Returns:
        (params, v, x, t, weights=None, key=None) -> G v, for v in the structure and shapes of the parameters. The
        function raises NotImplementedError if the loss has no `hessian_factor`.

    Raises:
        ValueError: If the model couples the examples of a batch, as one with a `BatchNorm` does.

    Source: Schraudolph 2002, section 3.
    """

    require_uncoupled(model, "the Gauss-Newton matrix")

    def product(
        params: PyTree, v: PyTree, x: Batch, t: Batch, weights: Weights = None, key: PRNGKeyArray | None = None
    ) -> PyTree:
        (y, saved), (Jv, _) = jvp(lambda params: forward_batch(model, params, x, key), (params,), (v,))

        def output_gradient(s, y, t, Jv):
            S = loss.hessian_factor(y, t)
            return s * jnp.tensordot(jnp.tensordot(S, Jv, Jv.ndim), S, 1)  # s S (Sᵀ J v), for H_i = Σ_c s_c s_cᵀ

        dy = jax.vmap(output_gradient)(mean_weights(weights, len(x)), y, t, Jv)
        return sum_examples(backward_batch(model, params, saved, dy)[0])  # y, saved = forward_batch(...)

    return product


def gauss_newton_vectors(model: Layer, loss: Loss, samples: int | None = None) -> Callable[..., PyTree]:
    """Returns the function that computes vectors whose second moment is the Gauss-Newton matrix.

    G = Σ_i s_i Σ_c (J_iᵀ s_c)(J_iᵀ s_c)ᵀ, where s_c are the rows of the loss's `hessian_factor` [C, m]. Without
    `samples` each example has the C vectors √C J_iᵀ s_c, which give G exactly. With `samples` it has that many vectors
    J_iᵀ Σ_c ±s_c with random signs, which give G in expectation.

    The `second_moment` of these vectors is the diagonal of G. Their `kronecker_factors` are K-FAC's factors. The matrix
    of their `inner_products`, divided by the number of vectors, has the nonzero eigenvalues of G.

    Args:
        model: The network, a layer. Layers that draw random numbers run in evaluation mode.
        loss: The loss of one example.
        samples: How many vectors are sampled for each example; None computes all C of them.

    Returns:
        (params, x, t, key=None) -> grads with a leading axis of B · C or B · samples, as `per_example.gradients`
        returns them. The vectors of an example are adjacent, so its weight has to be repeated for each of them. The
        key draws the samples. The function raises NotImplementedError if the loss has no `hessian_factor`, and
        ValueError if `samples` is set and there is no key.

    Raises:
        SettingError: If `samples` is not a whole number of at least 1. It is a ValueError.
        ValueError: If the model couples the examples of a batch, as one with a `BatchNorm` does.

    Source: Dangel et al. 2020, section 2.3; for the samples, Hutchinson 1989.
    """
    require_uncoupled(model, "the Gauss-Newton matrix")
    if samples is not None:
        validate_number("samples", samples, least=1, integer=True)

    def vectors(params: PyTree, x: Batch, t: Batch, key: PRNGKeyArray | None = None) -> PyTree:
        if samples is not None and key is None:
            raise ValueError(f"expected a key to draw {samples} samples with, got None")
        y, saved = forward_batch(model, params, x)

        def output_gradients(y, t, key):
            S = loss.hessian_factor(y, t)
            if samples is None:
                return jnp.sqrt(len(S)).astype(S.dtype) * S
            return jnp.tensordot(jax.random.rademacher(key, (samples, len(S)), S.dtype), S, 1)

        keys = None if samples is None else split_per_example(key, len(x))
        dy = jax.vmap(output_gradients)(y, t, keys)  # [B, C, m], or as many rows as there are samples
        grads = jax.vmap(lambda dy: backward_batch(model, params, saved, dy)[0], in_axes=1, out_axes=1)(dy)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), grads)

    return vectors


def gauss_newton_diagonal(model: Layer, loss: Loss, samples: int | None = None) -> Callable[..., PyTree]:
    """Returns the function that computes the diagonal of the Gauss-Newton matrix.

    Args:
        model: The network, a layer.
        loss: The loss of one example.
        samples: How many vectors are sampled for each example; None computes the diagonal exactly.

    Returns:
        (params, x, t, weights=None, key=None) -> the diagonal of G, in the structure and shapes of the parameters. The
        key draws the samples. The function raises what the function of `gauss_newton_vectors` raises.

    Raises:
        SettingError: If `samples` is not a whole number of at least 1. It is a ValueError.
        ValueError: If the model couples the examples of a batch, as one with a `BatchNorm` does.

    Source: Dangel et al. 2020, section 2.3.
    """
    return _reduce_vectors(second_moment, model, loss, samples)


def gauss_newton_factors(model: Layer, loss: Loss, samples: int | None = None) -> Callable[..., PyTree]:
    """Returns the function that approximates the Gauss-Newton matrix's block for each leaf by a Kronecker product.

    Without `samples`, the blocks of arrays that are not matrices, such as biases, are exact, and the blocks of matrices
    whose gradients are `Outer`s are known as KFLR.

    Args:
        model: The network, a layer.
        loss: The loss of one example.
        samples: How many vectors are sampled for each example; None uses all of them.

    Returns:
        (params, x, t, weights=None, key=None) -> a `Kronecker` in place of each leaf. The key draws the samples. The
        function raises what the function of `gauss_newton_vectors` raises, and what `kronecker_factors` raises.

    Raises:
        SettingError: If `samples` is not a whole number of at least 1. It is a ValueError.
        ValueError: If the model couples the examples of a batch, as one with a `BatchNorm` does.

    Source: Martens and Grosse 2015, section 3; without samples, Botev et al. 2017.
    """
    return _reduce_vectors(kronecker_factors, model, loss, samples)


def _reduce_vectors(reduce: Callable, model: Layer, loss: Loss, samples: int | None) -> Callable[..., PyTree]:
    compute_vectors = gauss_newton_vectors(model, loss, samples)

    def compute(params: PyTree, x: Batch, t: Batch, weights: Weights = None, key: PRNGKeyArray | None = None) -> PyTree:
        vectors = compute_vectors(params, x, t, key)
        repeats = count_examples(vectors) // len(x)
        return reduce(vectors, None if weights is None else jnp.repeat(weights, repeats))

    return compute


def eigenvalues(product: Callable[[PyTree], PyTree], like: PyTree, k: int = 1) -> tuple[np.ndarray, list[PyTree]]:
    """Computes the eigenvalues of largest magnitude of a symmetric matrix A from the product v ↦ A v alone.

    It runs SciPy's `eigsh` (Lanczos, ARPACK) on the host, with the product compiled. For the Hessian of a network the
    product is `lambda v: hessian_product(model, loss)(params, v, x, t)`.

    Args:
        product: v ↦ A v, for v in the structure and shapes of `like`.
        like: A pytree such as the parameters.
        k: How many eigenvalues, from 1 to one less than the number of entries of `like`.

    Returns:
        The eigenvalues [k], the one of largest magnitude first, and a list of their k eigenvectors, each in the
        structure and shapes of `like`.

    Raises:
        SettingError: If `k` is out of range. It is a ValueError.
        scipy.sparse.linalg.ArpackNoConvergence: If the iteration does not converge.

    Source: Lehoucq et al. 1998.
    """
    from jax.flatten_util import ravel_pytree
    from scipy.sparse.linalg import LinearOperator, eigsh

    flat, unravel = ravel_pytree(like)
    validate_number("k", k, least=1, most=flat.size - 1, integer=True, note="one less than the number of entries")
    multiply = jax.jit(lambda v: ravel_pytree(product(unravel(v)))[0])
    shape, matvec = (flat.size, flat.size), lambda v: np.asarray(multiply(v.astype(flat.dtype).ravel()))
    operator = LinearOperator(shape, matvec, dtype=flat.dtype)  # pyright: ignore[reportCallIssue]: SciPy's own __new__
    start = np.random.default_rng(0).standard_normal(flat.size).astype(flat.dtype)  # so that calls agree to the bit
    values, vectors = eigsh(operator, k, v0=start)
    order = np.argsort(-abs(values))
    return values[order], [unravel(jnp.asarray(vectors[:, i])) for i in order]

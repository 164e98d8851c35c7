"""K-FAC: gradients divided by the curvature, which is a Kronecker product of two factors for each parameter."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxann.gradients.curvature import gauss_newton_factors
from jaxann.gradients.per_example import Kronecker
from jaxann.nn.base import Layer
from jaxann.nn.factors import accumulation_dtype
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.loss import Loss


class KfacState(NamedTuple):
    """What K-FAC keeps from step to step.

    Attributes:
        step: The number of steps done.
        factors: In place of each parameter a `Kronecker` of running means, which are biased by their start at 0.
        bases: In place of each parameter the `Basis` of its unbiased factors, as last computed.
    """

    step: Int[Array, ""]
    factors: PyTree
    bases: PyTree


class Basis(NamedTuple):
    """The eigendecompositions of the two Kronecker factors of a block.

    Attributes:
        left: The eigenvalues [m] of the left factor and its eigenvectors [m, m], in columns.
        right: The eigenvalues [n] of the right factor and its eigenvectors [n, n], in columns.
    """

    left: tuple[Float[Array, " m"], Float[Array, "m m"]]
    right: tuple[Float[Array, " n"], Float[Array, "n n"]]


def kfac(
    model: Layer, loss: Loss, *, damping: Any = 1e-3, decay: Any = 0.95, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Returns K-FAC, an optax transformation that multiplies gradients by an inverse curvature.

    g ↦ (G̃ + λ I)⁻¹ g = Q (Qᵀ g P / (a bᵀ + λ)) Pᵀ, with λ = damping

    G̃ is the Gauss-Newton matrix, reduced to a block left ⊗ right for each parameter, and (a, Q), (b, P) are the
    eigenvalues and eigenvectors of the factors left and right. The factors are running means, corrected for their start
    at 0. No random numbers are drawn for them: the loss's Hessian is used exactly instead of being sampled, and layers
    such as dropout are in evaluation mode.

    Chain it before other transformations: `optax.chain(kfac(model, loss), optax.sgd(0.5))`. Its `update` needs
    `batch=(x, t, weights)`, which `fit` passes; weights may be left out or be None.

    Args:
        model: The network that is trained.
        loss: The loss that it is trained with.
        damping: λ, a number above 0.
        decay: The factor by which the weight of a step in the running means falls with each later step, in [0, 1).
        every: The number of steps from one computation of the eigenvectors to the next.

    Returns:
        The transformation.

    Raises:
        SettingError: If `damping`, `decay` or `every` is out of range.
        ValueError: If the model couples the examples of a batch, as one with a `BatchNorm` does; from `update`, if the
            batch or the parameters are missing, and where `kronecker_factors` raises it.
        NotImplementedError: From `update`, if the loss has no `hessian_factor`.

    Source: Martens and Grosse 2015; George et al. 2018, section 2, for the eigenvectors.
    """
    validate_number("damping", damping, above=0)
    validate_number("decay", decay, least=0, below=1)
    validate_number("every", every, least=1, integer=True)
    factors_of = gauss_newton_factors(model, loss)

    def init(params: PyTree) -> KfacState:
        def zeros(leaf: Array) -> Kronecker:
            m, n = _as_matrix(leaf).shape
            return Kronecker(jnp.zeros((m, m), accumulation_dtype(leaf)), jnp.zeros((n, n), accumulation_dtype(leaf)))

        factors = jax.tree.map(zeros, params)
        return KfacState(jnp.zeros((), int), factors, _map_blocks(_decompose, factors))

    def update(
        updates: PyTree, state: Any, params: PyTree = None, *, batch: tuple | None = None, **others: Any
    ) -> tuple[PyTree, KfacState]:
        if batch is None or params is None:
            raise ValueError(
                "expected params and batch=(x, t, weights) in the update of kfac, got None for one of them"
            )
        step = state.step + 1
        fresh = factors_of(params, *batch)
        factors = jax.tree.map(
            lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), state.factors, fresh
        )
        unbiased = jax.tree.map(lambda factor: (factor / (1 - decay**step)).astype(factor.dtype), factors)
        keep = state.step % every != 0
        bases = jax.lax.cond(keep, lambda: state.bases, lambda: _map_blocks(_decompose, unbiased))

        def divide(g: Array, basis: Basis) -> Array:
            (a, Q), (b, P) = basis
            return (
                (Q @ ((Q.T @ _as_matrix(g) @ P) / (jnp.outer(a, b) + damping)) @ P.T).reshape(g.shape).astype(g.dtype)
            )

        return jax.tree.map(divide, updates, bases), KfacState(step, factors, bases)

    return optax.GradientTransformationExtraArgs(init, update)


def _as_matrix(leaf: Array) -> Float[Array, "m n"]:
    """Returns a leaf in the shape that its `Kronecker` has: a matrix, or a single column for any other shape."""
    return leaf if leaf.ndim == 2 else leaf.reshape(-1, 1)


def _decompose(block: Kronecker) -> Basis:
    def diagonalize(factor: Float[Array, "k k"]) -> tuple[Array, Array]:
        values, vectors = jnp.linalg.eigh(factor)
        return jnp.maximum(values, 0), vectors  # rounding may leave a zero just below 0

    return Basis(diagonalize(block.left), diagonalize(block.right))


def _map_blocks(function: Any, factors: PyTree) -> PyTree:
    return jax.tree.map(function, factors, is_leaf=lambda leaf: isinstance(leaf, Kronecker))

"""K-FAC: an optax transformation that divides the gradient by its curvature, block by block in Kronecker factors."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from jaxann.gradients.curvature import gauss_newton_factors
from jaxann.gradients.per_example import Kronecker
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.loss import Loss
from jaxann.nn.outer import accumulation_dtype


class KfacState(NamedTuple):
    """Running means of the factors in place of each parameter, their eigenvectors and values, and the steps so far."""

    step: Int[Array, ""]
    factors: PyTree
    bases: PyTree


class Basis(NamedTuple):
    """Eigenvectors, in columns, and eigenvalues of both of a block's factors."""

    left: tuple[Float[Array, " m"], Float[Array, "m m"]]
    right: tuple[Float[Array, " n"], Float[Array, "n n"]]


def kfac(
    model: Layer, loss: Loss, *, damping: Any = 1e-3, decay: Any = 0.95, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """g ↦ (G̃ + λ I)⁻¹ g for λ = `damping`, G̃ the Gauss-Newton matrix with a block left ⊗ right for each parameter.

    The factors are running means, old ones fading by `decay` a step, unbiased from the first. Their eigenvectors are
    found anew `every` so many steps, and in these G̃ + λ I is diagonal: (G̃ + λ I)⁻¹ g = Q (Qᵀ g P / (a bᵀ + λ)) Pᵀ.
    Chain it before others, `optax.chain(kfac(model, loss), optax.sgd(0.5))`. `update` wants `batch=(x, t, weights)`,
    which `fit` gives; weights may be left out or None. Nothing is drawn: factors are exact, layers that draw evaluate.

    Raises ValueError for a damping that is no finite number above 0, a decay outside [0, 1), an `every` below 1, and in
    `update` without a batch or for a matrix whose gradient is no `Outer`; NotImplementedError for a loss without
    `hessian_factor`.
    Sources: Martens and Grosse 2015; the eigenvectors: George et al. 2018, section 2.
    """
    validate_number("damping", damping, above=0)
    validate_number("decay", decay, least=0)
    if not isinstance(decay, Tracer) and decay >= 1:
        raise ValueError(f"decay is {decay}, but a number below 1 is wanted")
    if every < 1:
        raise ValueError(f"every is {every}, but at least 1 step is wanted")
    factors_of = gauss_newton_factors(model, loss)

    def init(params: PyTree) -> KfacState:
        def nothing(leaf: Array) -> Kronecker:
            m, n = _matrix(leaf).shape
            return Kronecker(jnp.zeros((m, m), accumulation_dtype(leaf)), jnp.zeros((n, n), accumulation_dtype(leaf)))

        factors = jax.tree.map(nothing, params)
        return KfacState(jnp.zeros((), int), factors, _each(_basis, factors))

    def update(
        updates: PyTree, state: Any, params: PyTree = None, *, batch: tuple | None = None, **others: Any
    ) -> tuple[PyTree, KfacState]:
        if batch is None or params is None:
            raise ValueError("kfac's update wants params and batch=(x, t, weights)")
        step = state.step + 1
        fresh = factors_of(params, *batch)
        for (path, leaf), block in zip(jax.tree_util.tree_leaves_with_path(params), _blocks(fresh), strict=True):
            if len(block.left) != len(_matrix(leaf)):
                name = jax.tree_util.keystr(path, simple=True, separator=".")
                raise ValueError(f"kfac wants the gradient of {name} as an Outer, but it is an array of {leaf.shape}")
        factors = jax.tree.map(
            lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), state.factors, fresh
        )
        unbiased = jax.tree.map(lambda factor: (factor / (1 - decay**step)).astype(factor.dtype), factors)
        stale = state.step % every != 0
        bases = jax.lax.cond(stale, lambda: state.bases, lambda: _each(_basis, unbiased))

        def divided(g: Array, basis: Basis) -> Array:
            (a, Q), (b, P) = basis
            return (Q @ ((Q.T @ _matrix(g) @ P) / (jnp.outer(a, b) + damping)) @ P.T).reshape(g.shape).astype(g.dtype)

        found = jax.tree.map(divided, updates, bases)
        return found, KfacState(step, factors, bases)

    return optax.GradientTransformationExtraArgs(init, update)


def _matrix(leaf: Array) -> Float[Array, "m n"]:
    """A leaf as its `Kronecker` sees it: a matrix, or all else as one column."""
    return leaf if leaf.ndim == 2 else leaf.reshape(-1, 1)


def _basis(block: Kronecker) -> Basis:
    def of(factor: Float[Array, "k k"]) -> tuple[Array, Array]:
        values, vectors = jnp.linalg.eigh(factor)
        return jnp.maximum(values, 0), vectors  # rounding may leave a zero just below 0

    return Basis(of(block.left), of(block.right))


def _blocks(factors: PyTree) -> list[Kronecker]:
    return jax.tree.leaves(factors, is_leaf=lambda leaf: isinstance(leaf, Kronecker))


def _each(function: Any, factors: PyTree) -> PyTree:
    return jax.tree.map(function, factors, is_leaf=lambda leaf: isinstance(leaf, Kronecker))

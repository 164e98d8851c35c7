"""The loss of a sequence: the mean of another loss over its positions."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from jaxann.nn.factors import accumulation_dtype
from jaxann.nn.loss import Loss, Output, Scalar, Target
from jaxann.nn.names import resolve_loss

Outputs = Float[Array, "T *m"]


@dataclass(frozen=True)
class EachLoss(Loss):
    """Mean of a loss over the positions of a sequence.

    E = Σ_t c_t E_t(y_t, t_t) / Σ_t c_t, so that ∂E/∂y_t = c_t ∂E_t/∂y_t / Σ_t c_t, where c_t is 0 at padding and
    otherwise 1. If all positions are padding, E is 0.

    y is [T, ...] with at least two axes, and the target has T positions, too. A position is padding if its target is a
    negative integer label, such as -1. Only labels [T], integers, may be padding: with targets of any other shape or
    dtype every position counts.

    The mean over a batch is a mean of these means. For the mean over all positions of a batch, give each example the
    number of its positions that are not padding as its weight.

    Attributes:
        loss: The loss E_t of one position, its class, or its name.

    Raises:
        SettingError: If `loss` is none of these.
        ValueError: In `value`, `gradient` and `hessian_factor`, if y has fewer than two axes, the numbers of positions
            differ, or the loss does not take what one position holds.
    """

    loss: Loss

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", resolve_loss(self.loss))

    @property
    def expects(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"{self.loss.expects}, or negative integer labels at padding,"

    def is_valid(self, t: Shaped[Array, "*t"], m: int) -> Bool[Array, "*t"]:
        positions = t.reshape(-1, *t.shape[2:])
        return self.loss.is_valid(positions, m).reshape(t.shape) | (_may_pad(t[0]) & (t < 0))

    def value(self, y: Outputs, t: Target) -> Scalar:
        counts, t = self._match_positions(y, t)
        losses = _mask(counts, jax.vmap(self.loss.value)(y, t))
        return (losses.sum(dtype=accumulation_dtype(losses)) / _count(counts, y)).astype(y.dtype)

    def gradient(self, y: Outputs, t: Target) -> Outputs:
        counts, t = self._match_positions(y, t)
        gradients = _mask(counts, jax.vmap(self.loss.gradient)(y, t))
        return (gradients / _count(counts, y)).astype(y.dtype)  # Σ_t c_t E_t / Σ_t c_t

    def hessian_factor(self, y: Outputs, t: Target) -> Float[Array, "c T *m"]:
        counts, t = self._match_positions(y, t)
        S = _mask(counts, jax.vmap(self.loss.hessian_factor)(y, t))
        S = S / jnp.sqrt(_count(counts, y))  # S Sᵀ is the Hessian of c_t E_t / Σ_t c_t
        # E_t depends on y_t alone, so that its rows are 0 at all other positions.
        rows = jax.vmap(lambda t, row: jnp.zeros((len(row), *y.shape), S.dtype).at[:, t].set(row))
        return rows(jnp.arange(len(y)), S).reshape(-1, *y.shape).astype(y.dtype)

    def _match_positions(self, y: Output, t: Target) -> tuple[Bool[Array, " T"], Target]:
        """Returns which positions count, and targets with the label 0 in place of padding."""
        if y.ndim < 2 or t.shape[:1] != y.shape[:1]:
            raise ValueError(
                f"{self} expected outputs of shape (T, ...) and a target for each of T positions, got shapes "
                f"{y.shape} and {t.shape}"
            )
        return (t >= 0, jnp.maximum(t, 0)) if _may_pad(t) else (jnp.ones(len(y), bool), t)


def _may_pad(t: Target) -> bool:
    """Returns whether the target of a sequence is an integer label for each position."""
    return t.ndim == 1 and jnp.issubdtype(t.dtype, jnp.integer)


def _count(counts: Bool[Array, " T"], y: Outputs) -> Scalar:
    return jnp.maximum(counts.sum(), 1).astype(accumulation_dtype(y))


def _mask(counts: Bool[Array, " T"], values: Float[Array, "T ..."]) -> Float[Array, "T ..."]:
    return jnp.where(counts.reshape(-1, *[1] * (values.ndim - 1)), values, 0)

"""Losses E(y, t) of one example: the value and, beside it by hand, its gradient ∂E/∂y and a factor of ∂²E/∂y².

Each states its conventions (a half or not); all sum over the outputs, and none broadcasts y against t.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax.numpy as jnp
from jax.lax import logistic
from jaxtyping import Array, Bool, Float, Shaped

from jaxann.nn.hyperparameters import Number, is_traced

Output = Float[Array, "*m"]
Logits = Float[Array, " m"]
Target = Shaped[Array, "..."]
Scalar = Float[Array, ""]


class Loss(ABC):
    """E(y, t) for an output y and a target t, and its gradient ∂E/∂y.

    y [m] and t [m] unless a loss says otherwise; elementwise ones take any shape that both have. Raises ValueError
    where the shapes of y and t do not fit. A compiled program cannot look at values: `valid` tells, entry by entry,
    which targets the loss has a meaning for, and `wants` says it in words.
    """

    expects: str = "finite numbers"

    @abstractmethod
    def value(self, y: Output, t: Target) -> Scalar:
        """E(y, t)."""

    @abstractmethod
    def gradient(self, y: Output, t: Target) -> Output:
        """∂E/∂y."""

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        """S with Σ_c s_c s_cᵀ = ∂²E/∂y². `curvature` needs it; a loss that is not convex in y has none."""
        raise NotImplementedError(f"{self} has no hessian_factor, which Gauss-Newton curvature is made of")

    def valid(self, t: Shaped[Array, "*t"], m: int) -> Bool[Array, "*t"]:
        """Which entries of t have a meaning, given m outputs."""
        return jnp.isfinite(t)

    def match_target(self, y: Output, t: Target) -> Output:
        """t in the precision of y, once it is known to have its shape."""
        if t.shape != y.shape:
            raise ValueError(f"{self} takes a target of the output's shape {y.shape}, not {t.dtype} of shape {t.shape}")
        return t.astype(y.dtype)


@dataclass(frozen=True)
class SquaredError(Loss):
    """E = ½ Σ_i (y_i - t_i)², with the half and without a mean, so that ∂E/∂y = y - t."""

    def value(self, y: Output, t: Target) -> Scalar:
        d = y - self.match_target(y, t)
        return jnp.sum(d * d) / 2

    def gradient(self, y: Output, t: Target) -> Output:
        return y - self.match_target(y, t)  # ½ d²

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        return diagonal_factor(jnp.ones_like(y))  # y - t: ∂²E/∂y² = I


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """E = Σ_i |y_i - t_i|, with derivative 1 at y_i = t_i, as `jnp.abs` has it."""

    def value(self, y: Output, t: Target) -> Scalar:
        return jnp.sum(jnp.abs(y - self.match_target(y, t)))

    def gradient(self, y: Output, t: Target) -> Output:
        return jnp.where(y >= self.match_target(y, t), 1, -1).astype(y.dtype)  # |d|

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        return diagonal_factor(jnp.zeros_like(y))  # ±1


@dataclass(frozen=True)
class Huber(Loss):
    """E = Σ_i h(y_i - t_i): h(d) = ½ d² where |d| <= delta, δ (|d| - ½ δ) beyond. Raises ValueError for delta <= 0.

    Source: Huber 1964, section 2.
    """

    delta: Number = 1.0

    def __post_init__(self) -> None:
        if not is_traced(self.delta) and not self.delta > 0:
            raise ValueError(f"Huber takes a delta above 0, not {self.delta}")

    def value(self, y: Output, t: Target) -> Scalar:
        d = jnp.abs(y - self.match_target(y, t))
        return jnp.sum(jnp.where(d <= self.delta, d * d / 2, self.delta * (d - self.delta / 2)))

    def gradient(self, y: Output, t: Target) -> Output:
        return jnp.clip(y - self.match_target(y, t), -self.delta, self.delta)  # ½ d² and δ |d|

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        d = jnp.abs(y - self.match_target(y, t))
        return diagonal_factor(jnp.where(d <= self.delta, 1, 0).astype(y.dtype))  # d, cut off at ±δ


@dataclass(frozen=True)
class Hinge(Loss):
    """E = Σ_i max(0, 1 - t_i y_i) for targets of -1 and +1, with derivative 0 at t_i y_i = 1."""

    expects = "-1 or +1"

    def valid(self, t: Shaped[Array, "*t"], m: int) -> Bool[Array, "*t"]:
        return jnp.abs(t) == 1

    def value(self, y: Output, t: Target) -> Scalar:
        margin = 1 - self.match_target(y, t) * y
        return jnp.sum(jnp.where(margin <= 0, 0, margin))  # so that a NaN stays one

    def gradient(self, y: Output, t: Target) -> Output:
        t = self.match_target(y, t)
        return jnp.where(1 - t * y <= 0, 0, -t)  # 1 - t y

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        return diagonal_factor(jnp.zeros_like(y))  # 0 or -t


@dataclass(frozen=True)
class Poisson(Loss):
    """E = Σ_i [exp(y_i) - t_i y_i] for counts t_i: y is the logarithm of the rate, and log t_i! is left out."""

    expects = "0 or more"

    def valid(self, t: Shaped[Array, "*t"], m: int) -> Bool[Array, "*t"]:
        return jnp.isfinite(t) & (t >= 0)

    def value(self, y: Output, t: Target) -> Scalar:
        return jnp.sum(jnp.exp(y) - self.match_target(y, t) * y)

    def gradient(self, y: Output, t: Target) -> Output:
        return jnp.exp(y) - self.match_target(y, t)  # exp(y) - t y

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        return diagonal_factor(jnp.exp(y / 2))  # exp(y) - t: diag(exp y)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """E = -Σ_i t_i log y_i for probabilities y, as the derivation has it; 0 log 0 is 0.

    Infinite where y_i = 0 < t_i: `SoftmaxCrossEntropy` on logits cannot overflow so.
    """

    expects = "0 or more"

    def valid(self, t: Shaped[Array, "*t"], m: int) -> Bool[Array, "*t"]:
        return jnp.isfinite(t) & (t >= 0)

    def value(self, y: Output, t: Target) -> Scalar:
        t = self.match_target(y, t)
        return -jnp.sum(t * jnp.log(jnp.where(t > 0, y, 1)))

    def gradient(self, y: Output, t: Target) -> Output:
        t = self.match_target(y, t)
        return -t / jnp.where(t > 0, y, 1)  # -t log y

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        t = self.match_target(y, t)
        return diagonal_factor(jnp.sqrt(t) / jnp.where(t > 0, y, 1))  # -t / y: diag(t / y²)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """E = -Σ_i p_i log softmax(y)_i for logits y [m], fused so that ∂E/∂y = softmax(y) Σp - p.

    The target is a distribution t [m] or an integer label t [] in 0 ... m - 1, which stands for a one at its place;
    label smoothing s in [0, 1) makes it p = (1 - s) t + s / m. Raises ValueError for an s outside.
    Source of the smoothing: Szegedy et al. 2016, section 7.
    """

    label_smoothing: Number = 0.0

    expects = "integer labels from 0 to below the number of outputs, or a distribution of 0 or more over them"

    def __post_init__(self) -> None:
        if not is_traced(self.label_smoothing) and not 0 <= self.label_smoothing < 1:
            raise ValueError(f"SoftmaxCrossEntropy takes a label_smoothing in [0, 1), not {self.label_smoothing}")

    def valid(self, t: Shaped[Array, "*t"], m: int) -> Bool[Array, "*t"]:
        return jnp.isfinite(t) & (t >= 0) & ((t < m) | (t.ndim > 1))  # labels come one an example

    def value(self, y: Logits, t: Target) -> Scalar:
        p = self._distribution(y, t)
        z = y - y.max()
        return p.sum() * jnp.log(jnp.sum(jnp.exp(z))) - p @ z

    def gradient(self, y: Logits, t: Target) -> Logits:
        p = self._distribution(y, t)
        e = jnp.exp(y - y.max())
        return e / e.sum() * p.sum() - p  # Σp log Σexp(z) - p·z

    def hessian_factor(self, y: Logits, t: Target) -> Float[Array, "c m"]:
        e = jnp.exp(y - y.max())
        q = e / e.sum()
        root = jnp.sqrt(q)
        # q Σp - p: Σp (diag(q) - q qᵀ), which is S Sᵀ for S = √Σp (diag(√q) - q √qᵀ), for Σq = 1
        return jnp.sqrt(self._distribution(y, t).sum()) * (jnp.diag(root) - jnp.outer(root, q))

    def _distribution(self, y: Logits, t: Target) -> Logits:
        (m,) = y.shape
        if t.shape == ():
            if not jnp.issubdtype(t.dtype, jnp.integer):
                raise ValueError(f"{self} takes an integer label or a distribution of shape {y.shape}, not {t.dtype}")
            t = jnp.arange(m) == t
        return (1 - self.label_smoothing) * self.match_target(y, t) + self.label_smoothing / m


@dataclass(frozen=True)
class SigmoidCrossEntropy(Loss):
    """E = -Σ_i [t_i log σ(y_i) + (1 - t_i) log(1 - σ(y_i))] for logits y, fused so that ∂E/∂y = σ(y) - t."""

    expects = "0 to 1"

    def valid(self, t: Shaped[Array, "*t"], m: int) -> Bool[Array, "*t"]:
        return (t >= 0) & (t <= 1)

    def value(self, y: Output, t: Target) -> Scalar:
        return jnp.sum(jnp.logaddexp(y, 0) - self.match_target(y, t) * y)

    def gradient(self, y: Output, t: Target) -> Output:
        return logistic(y) - self.match_target(y, t)  # log(1 + eʸ) - t y

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        return diagonal_factor(jnp.sqrt(logistic(y) * logistic(-y)))  # σ(y) - t: diag(σ (1 - σ))


LOSSES: dict[str, type[Loss]] = {
    "squared_error": SquaredError,
    "absolute_error": AbsoluteError,
    "huber": Huber,
    "hinge": Hinge,
    "poisson": Poisson,
    "cross_entropy": CrossEntropy,
    "softmax_cross_entropy": SoftmaxCrossEntropy,
    "sigmoid_cross_entropy": SigmoidCrossEntropy,
}


def diagonal_factor(root: Output) -> Float[Array, "c *m"]:
    """The factor of the diagonal matrix with these square roots: a row for each entry of y, in y's shape."""
    return jnp.diag(root.ravel()).reshape(-1, *root.shape)


def mean_weights(weights: Float[Array, " B"] | None, examples: int) -> Float[Array, " B"]:
    """w / Σw, each example's share of the weighted mean; without weights 1/B each.

    Weights that are all zero make a mean of nothing, which is NaN. Raises ValueError for weights of another shape.
    """
    if weights is not None and weights.shape != (examples,):
        raise ValueError(f"weights have shape {weights.shape}, but one for each of {examples} examples is wanted")
    return jnp.full(examples, 1 / examples) if weights is None else weights / weights.sum()

"""Losses, each with its value beside its handwritten gradient ∂E/∂y and a factor of ∂²E/∂y².

Each loss is a sum over the outputs and states its conventions, such as a factor of a half. If an entry of y is a NaN,
so are the loss and the gradient there. The losses of logits are written as sums that keep their digits where a
probability is almost 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax.lax import logistic
from jaxtyping import Array, Bool, Float, Shaped

from jaxann.nn.hyperparameters import Number, validate_number
from jaxann.nn.loss import Loss, Output, Scalar, Target, diagonal_factor

Logits = Float[Array, " m"]


@dataclass(frozen=True)
class SquaredError(Loss):
    """Half the squared error, summed over the outputs.

    E = ½ Σ_i (y_i - t_i)², so that ∂E/∂y = y - t.

    y and t have one shape, which may be any.
    """

    def value(self, y: Output, t: Target) -> Scalar:
        d = y - self.match_target(y, t)
        return jnp.sum(d * d) / 2

    def gradient(self, y: Output, t: Target) -> Output:
        return y - self.match_target(y, t)  # ½ d²

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        return diagonal_factor(y, jnp.ones_like(y))  # ∂E/∂y = y - t: ∂²E/∂y² = I


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """Absolute error, summed over the outputs.

    E = Σ_i |y_i - t_i|, so that ∂E/∂y = sign(y - t).

    y and t have one shape, which may be any. Kink: the slope at y_i = t_i is 1, as `jnp.abs` has it.
    """

    def value(self, y: Output, t: Target) -> Scalar:
        return jnp.sum(jnp.abs(y - self.match_target(y, t)))

    def gradient(self, y: Output, t: Target) -> Output:
        d = y - self.match_target(y, t)
        return jnp.where(d >= 0, 1, jnp.where(d < 0, -1, d))  # |d|; a NaN stays a NaN

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        return diagonal_factor(y, jnp.zeros_like(y))  # ∂E/∂y = ±1: constant on both sides


@dataclass(frozen=True)
class Huber(Loss):
    """Huber's loss, quadratic for small errors and linear for large ones, summed over the outputs.

    E = Σ_i h(y_i - t_i), with h(d) = ½ d² where |d| ≤ δ, and δ (|d| - ½ δ) beyond, so that ∂E/∂y = y - t, clipped to
    between -δ and δ.

    y and t have one shape, which may be any. The gradient is continuous; its slope at |d| = δ is taken as 1.

    Attributes:
        delta: δ, the largest error that is still small, in the units of y; above 0.

    Raises:
        SettingError: If `delta` is not a finite number above 0.

    Source: Huber 1964, section 2.
    """

    delta: Number = 1.0

    def __post_init__(self) -> None:
        validate_number("delta", self.delta, above=0)

    def value(self, y: Output, t: Target) -> Scalar:
        d = jnp.abs(y - self.match_target(y, t))
        return jnp.sum(jnp.where(d <= self.delta, d * d / 2, self.delta * (d - self.delta / 2)))

    def gradient(self, y: Output, t: Target) -> Output:
        return jnp.clip(y - self.match_target(y, t), -self.delta, self.delta)  # ½ d² and δ |d|

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        d = jnp.abs(y - self.match_target(y, t))
        return diagonal_factor(y, jnp.where(d <= self.delta, 1, 0).astype(y.dtype))  # ∂E/∂y = d, clipped at ±δ


@dataclass(frozen=True)
class Hinge(Loss):
    """Hinge loss of each output, summed over the outputs.

    E = Σ_i max(0, 1 - t_i y_i), so that ∂E/∂y_i = -t_i where t_i y_i < 1, and 0 elsewhere.

    y and t have one shape, which may be any. The targets are -1 and +1. Kink: the slope at t_i y_i = 1 is 0.
    """

    expects = "-1 or +1"

    def is_valid(self, t: Shaped[Array, "*t"], m: int) -> Bool[Array, "*t"]:
        return jnp.abs(t) == 1

    def value(self, y: Output, t: Target) -> Scalar:
        margin = 1 - self.match_target(y, t) * y
        return jnp.sum(jnp.where(margin <= 0, 0, margin))  # a NaN stays a NaN

    def gradient(self, y: Output, t: Target) -> Output:
        t = self.match_target(y, t)
        margin = 1 - t * y
        return jnp.where(margin <= 0, 0, jnp.where(margin > 0, -t, margin))  # 1 - t y; a NaN stays a NaN

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        return diagonal_factor(y, jnp.zeros_like(y))  # ∂E/∂y = 0 or -t: constant on both sides


@dataclass(frozen=True)
class Poisson(Loss):
    """Negative log-likelihood of counts, summed over the outputs; y is the logarithm of their rate.

    E = Σ_i [exp(y_i) - t_i y_i], so that ∂E/∂y = exp(y) - t. The constant log t_i! is left out.

    y and t have one shape, which may be any. The targets are 0 or more.
    """

    expects = "0 or more"

    def is_valid(self, t: Shaped[Array, "*t"], m: int) -> Bool[Array, "*t"]:
        return jnp.isfinite(t) & (t >= 0)

    def value(self, y: Output, t: Target) -> Scalar:
        return jnp.sum(jnp.exp(y) - self.match_target(y, t) * y)

    def gradient(self, y: Output, t: Target) -> Output:
        return jnp.exp(y) - self.match_target(y, t)  # exp(y) - t y

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        return diagonal_factor(y, jnp.exp(y / 2))  # ∂E/∂y = exp(y) - t: diag(exp y)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of probabilities.

    E = -Σ_i t_i log y_i, with 0 log 0 = 0, so that ∂E/∂y_i = -t_i / y_i, and 0 where t_i = 0.

    y and t have one shape, which may be any. The targets are 0 or more, and their sum is arbitrary. E is infinite
    where y_i = 0 < t_i; `SoftmaxCrossEntropy` computes the same loss from logits, without overflow.
    """

    expects = "0 or more"

    def is_valid(self, t: Shaped[Array, "*t"], m: int) -> Bool[Array, "*t"]:
        return jnp.isfinite(t) & (t >= 0)

    def value(self, y: Output, t: Target) -> Scalar:
        t = self.match_target(y, t)
        return -jnp.sum(t * jnp.log(_replace_ignored(y, t)))

    def gradient(self, y: Output, t: Target) -> Output:
        t = self.match_target(y, t)
        return -t / _replace_ignored(y, t)  # -t log y

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        t = self.match_target(y, t)
        return diagonal_factor(y, jnp.sqrt(t) / _replace_ignored(y, t))  # ∂E/∂y = -t / y: diag(t / y²)


def _replace_ignored(y: Output, t: Target) -> Output:
    """Returns y with 1 in place of the probabilities whose target is 0, except for NaN."""
    return jnp.where((t > 0) | jnp.isnan(y), y, 1)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """Cross-entropy of the softmax of logits, computed as one function that does not overflow.

    E = -Σ_i p_i log softmax(y)_i, so that ∂E/∂y = softmax(y) Σp - p.

    y holds logits [m]. The target is a distribution t [m] of any sum, or an integer label t [] from 0 to m - 1, which
    stands for the distribution with a 1 at its position. Label smoothing s makes it p = (1 - s) t + s / m.

    Attributes:
        label_smoothing: s, at least 0 and below 1.

    Raises:
        SettingError: If `label_smoothing` is not a number of at least 0 and below 1.
        ValueError: In `value`, `gradient` and `hessian_factor`, if y is not a vector, if a scalar target is not an
            integer, or if any other target does not have the shape of y.

    Source: Szegedy et al. 2016, section 7, for the smoothing.
    """

    label_smoothing: Number = 0.0

    expects = "integer labels from 0 to one less than the number of outputs, or a distribution of numbers of 0 or more"

    def __post_init__(self) -> None:
        validate_number("label_smoothing", self.label_smoothing, least=0, below=1)

    def is_valid(self, t: Shaped[Array, "*t"], m: int) -> Bool[Array, "*t"]:
        return jnp.isfinite(t) & (t >= 0) & ((t < m) | (t.ndim > 1))  # labels [N]: one for each example

    def value(self, y: Logits, t: Target) -> Scalar:
        p = self._distribution(y, t)
        z = y - y.max()
        e = jnp.exp(z)
        # Σe - 1 with all its digits: where an entry is more than half of the sum, and so is exp(0), expm1(0) takes its
        # place. The derivative of Σe does not change, so that the shift by the maximum still has none.
        rest = jnp.sum(jnp.where(e > e.sum() / 2, jnp.expm1(z), e))
        return (
            p.sum() * jnp.log1p(jnp.where(rest < 1.5, rest, rest - 1)) - p @ z
        )  # without such an entry, Σe is 2 or more

    def gradient(self, y: Logits, t: Target) -> Logits:
        p = self._distribution(y, t)
        e = jnp.exp(y - y.max())
        q = e / e.sum()
        gradient = q * p.sum() - p  # Σp log Σe - p·z
        # Rounding a q_k near 1 loses the digits of 1 - q_k. Since the entries sum to 0, that of the k where q_k > ½ is
        # minus the sum of the others.
        return jnp.where(q > 0.5, -jnp.sum(jnp.where(q > 0.5, 0, gradient)), gradient)

    def hessian_factor(self, y: Logits, t: Target) -> Float[Array, "c m"]:
        e = jnp.exp(y - y.max())
        q = e / e.sum()
        root = jnp.sqrt(q)
        rest = jnp.where(q > 0.5, jnp.sum(jnp.where(q > 0.5, 0, q)), 1 - q)  # 1 - q with all its digits, as Σq = 1
        is_diagonal = jnp.eye(len(q), dtype=bool)
        # ∂E/∂y = q Σp - p: ∂²E/∂y² = Σp (diag(q) - q qᵀ). Since Σq = 1, it is S Sᵀ with S = √Σp (diag(√q) - q √qᵀ).
        factor = jnp.where(is_diagonal, jnp.diag(root * rest), -jnp.outer(root, q))
        return jnp.sqrt(self._distribution(y, t).sum()) * factor

    def _distribution(self, y: Logits, t: Target) -> Logits:
        if y.ndim != 1:
            raise ValueError(
                f"{self} expected outputs of shape (m,), got {y.shape}; EachLoss takes those of a sequence"
            )
        m = len(y)
        if t.shape == ():
            if not jnp.issubdtype(t.dtype, jnp.integer):
                raise ValueError(
                    f"{self} expected an integer label or a distribution of shape {y.shape}, got a single {t.dtype}"
                )
            t = jnp.arange(m) == t
        return (1 - self.label_smoothing) * self.match_target(y, t) + self.label_smoothing / m


@dataclass(frozen=True)
class SigmoidCrossEntropy(Loss):
    """Binary cross-entropy of the sigmoid of logits, summed over the outputs and computed without overflow.

    E = -Σ_i [t_i log σ(y_i) + (1 - t_i) log(1 - σ(y_i))], so that ∂E/∂y = σ(y) - t, with σ(y) = 1 / (1 + e⁻ʸ).

    y holds logits. y and t have one shape, which may be any. The targets are probabilities from 0 to 1.
    """

    expects = "0 to 1"

    def is_valid(self, t: Shaped[Array, "*t"], m: int) -> Bool[Array, "*t"]:
        return (t >= 0) & (t <= 1)

    def value(self, y: Output, t: Target) -> Scalar:
        t = self.match_target(y, t)
        return jnp.sum((1 - t) * jnp.logaddexp(y, 0) + t * jnp.logaddexp(-y, 0))

    def gradient(self, y: Output, t: Target) -> Output:
        t = self.match_target(y, t)
        return (1 - t) * logistic(y) - t * logistic(-y)  # (1 - t) log(1 + eʸ) + t log(1 + e⁻ʸ)

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        return diagonal_factor(y, jnp.sqrt(logistic(y) * logistic(-y)))  # ∂E/∂y = σ(y) - t: diag(σ (1 - σ))


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
"""Every loss class, by its name in settings."""

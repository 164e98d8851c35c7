"""Activations: layers without parameters, each with its function beside its handwritten derivative.

The derivative gets both the input x and the output y, and uses whichever makes it shorter. At a kink it takes the slope
that `jax.nn` takes, and the description of the activation states that slope. A NaN in x stays a NaN in y, and its
derivative is a NaN. Derivatives are written without differences of nearly equal numbers where that costs no time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

import jax.numpy as jnp
from jax.lax import erfc, logistic
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.xla import compute_once

Values = Float[Array, "*n"]
Vector = Float[Array, " n"]


@dataclass(frozen=True, repr=False)
class Elementwise(Layer):
    """Activation that maps each entry of its input on its own.

    y_i = σ(x_i), so that dx_i = σ'(x_i) dy_i.

    x may have any shape, and y has the same one. The layer has no parameters. Where y is a NaN, so is dx.

    Attributes:
        name: The name of the activation, which `repr` returns and reports print.
        function: Computes y = σ(x) for an array of any shape. A NaN in x should stay a NaN in y.
        derivative: Computes σ'(x) from x and y = σ(x), in their shape. At a kink it must return the slope that
            `jax.grad` of `function` returns, or `jaxann.check` reports a difference.
    """

    name: str
    function: Callable[[Array], Array]
    derivative: Callable[[Array, Array], Array]

    @property
    def keeps_shape(self) -> bool:
        return True

    def forward(
        self, params: PyTree, x: Values, key: PRNGKeyArray | None = None
    ) -> tuple[Values, tuple[Values, Values]]:
        y = self.function(x)
        return y, (x, y)

    def backward(self, params: PyTree, saved: tuple[Values, Values], dy: Values) -> tuple[PyTree, Values]:
        x, y = saved
        # A derivative that compares x with a kink, as that of relu does, has a finite value at NaN. The test is on y,
        # which the next layer usually saves anyway, so that x need not be kept where the derivative only uses y.
        slope = jnp.where(jnp.isnan(y), y, self.derivative(x, y))
        return (), slope * dy  # y = σ(x)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Returns for `pickle` the name in this module, or the fields of an activation that is defined elsewhere."""
        return self.name if ACTIVATIONS.get(self.name) is self else super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, repr=False)
class Softmax(Layer):
    """Activation that turns a vector into probabilities.

    y_i = exp(x_i) / Σ_j exp(x_j), so that ∂y_i/∂x_j = y_i (δ_ij - y_j) and dx = y ∘ (dy - y·dy).

    x and y are vectors [n]. The layer has no parameters. The forward pass subtracts the maximum of x first, which does
    not change y and prevents overflow.

    Raises:
        ValueError: In `forward`, if x is not a vector. `Each(softmax)` takes the softmax at every position.
    """

    @property
    def keeps_shape(self) -> bool:
        return True

    def forward(self, params: PyTree, x: Values, key: PRNGKeyArray | None = None) -> tuple[Vector, Vector]:
        if x.ndim != 1:
            raise ValueError(f"{self} expected x of shape (n,), got {x.shape}; Each({self}) takes positions in front")
        e = jnp.exp(x - x.max())
        y = e / e.sum()
        return y, y

    def backward(self, params: PyTree, saved: Vector, dy: Vector) -> tuple[PyTree, Vector]:
        y = saved
        # Rounding a y_k near 1 loses the digits of 1 - y_k. Since Σy = 1, a constant subtracted from dy does not change
        # dx. The constant is the dy_k where y_k > ½, which holds for one k at most, so that y_k is multiplied by 0.
        d = dy - jnp.sum(jnp.where(y > 0.5, dy, 0))
        return (), y * (d - y @ d)  # y = e / Σe: (diag(y) - y yᵀ) dy without materializing the matrix

    def __repr__(self) -> str:
        return "softmax"


def _elu(x: Values) -> Values:
    # Where x > 0, expm1 gets 0: otherwise the values that the outer `where` discards would overflow.
    return jnp.where(x > 0, x, jnp.expm1(jnp.where(x > 0, 0, x)))


def _normal_cdf(x: Values) -> Values:
    return erfc(-x / sqrt(2)) / 2


def _normal_pdf(x: Values) -> Values:
    z = -x / sqrt(2)
    return jnp.exp(-(z * z)) / sqrt(2 * pi)  # erfc(z) contains the same exp(-z²), which XLA then computes once


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_LEAK = 0.01

identity = Elementwise("identity", lambda x: x, lambda x, y: jnp.ones_like(y))
"""σ(x) = x, so that σ' = 1."""

sigmoid = Elementwise("sigmoid", lambda x: logistic(x), lambda x, y: y * (1 - y))
"""σ(x) = 1 / (1 + e⁻ˣ), so that σ' = y (1 - y)."""

tanh = Elementwise("tanh", lambda x: jnp.tanh(x), lambda x, y: 1 - y * y)
"""σ(x) = (eˣ - e⁻ˣ) / (eˣ + e⁻ˣ), so that σ' = 1 - y²."""

relu = Elementwise("relu", lambda x: jnp.where(x <= 0, 0, x), lambda x, y: jnp.where(y > 0, 1, 0))
"""σ(x) = max(0, x), so that σ' is 1 for x > 0 and 0 below. Kink: σ'(0) = 0."""

leaky_relu = Elementwise(
    "leaky_relu", lambda x: jnp.where(x >= 0, x, _LEAK * x), lambda x, y: jnp.where(x >= 0, 1, _LEAK)
)
"""σ(x) = x for x ≥ 0 and 0.01 x below, so that σ' is 1 or 0.01. Kink: σ'(0) = 1.

Source: Maas et al. 2013, section 2."""

# The derivatives of elu and selu use eˣ, because y + 1 has no digits left where y is almost -1.
elu = Elementwise("elu", _elu, lambda x, y: jnp.exp(jnp.minimum(x, 0)))
"""σ(x) = x for x > 0 and eˣ - 1 below, so that σ' is 1 or eˣ. There is no kink: σ'(0) = 1 from both sides.

Source: Clevert et al. 2016, equation 15, with α = 1."""

selu = Elementwise(
    "selu",
    lambda x: _SELU_SCALE * jnp.where(x > 0, x, _SELU_ALPHA * _elu(x)),
    lambda x, y: _SELU_SCALE * jnp.where(x > 0, 1, _SELU_ALPHA * jnp.exp(jnp.minimum(x, 0))),
)
"""σ(x) = λ x for x > 0 and λ α (eˣ - 1) below, so that σ' is λ or λ α eˣ. Kink: σ'(0) = λ α.

λ = 1.0507 and α = 1.6733 keep mean 0 and variance 1 from layer to layer.

Source: Klambauer et al. 2017, equation 2."""

softplus = Elementwise("softplus", lambda x: jnp.logaddexp(x, 0), lambda x, y: logistic(x))
"""σ(x) = log(1 + eˣ), so that σ' = 1 / (1 + e⁻ˣ)."""

gelu = Elementwise(
    "gelu",
    compute_once(lambda x: x * _normal_cdf(x)),  # otherwise XLA keeps the parts of erfc in memory for backward
    lambda x, y: _normal_cdf(x) + x * _normal_pdf(x),
)
"""σ(x) = x Φ(x), with the distribution function Φ and the density φ of a normal variable: σ' = Φ(x) + x φ(x).

This is the exact form, not the approximation by tanh.

Source: Hendrycks and Gimpel 2016, section 2."""

silu = Elementwise("silu", lambda x: x * logistic(x), lambda x, y: logistic(x) * (1 + x * logistic(-x)))
"""σ(x) = x s(x), with s(x) = 1 / (1 + e⁻ˣ), so that σ' = s(x) (1 + x s(-x)).

Source: Elfwing et al. 2018, equation 2."""

hard_tanh = Elementwise(
    "hard_tanh",
    lambda x: jnp.where(x > 1, 1, jnp.where(x < -1, -1, x)),
    lambda x, y: jnp.where(abs(x) <= 1, 1, 0),
)
"""σ(x) = max(-1, min(1, x)), so that σ' is 1 between -1 and 1, and 0 outside. Kinks: σ'(-1) = σ'(1) = 1."""

softmax = Softmax()
"""The `Softmax` layer, which has no settings."""

ACTIVATIONS: dict[str, Layer] = {
    str(layer): layer
    for layer in [
        identity,
        sigmoid,
        tanh,
        relu,
        leaky_relu,
        elu,
        selu,
        softplus,
        gelu,
        silu,
        hard_tanh,
        softmax,
    ]
}
"""Every activation, by its name."""

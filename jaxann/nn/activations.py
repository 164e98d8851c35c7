"""Activations: layers without parameters, each a function beside its derivative.

The derivative sees input x and output y and uses whichever makes it shorter. At a kink it takes the value that
`jax.nn` takes, which the comment above it names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt

import jax.numpy as jnp
from jax.lax import erfc, logistic
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer

Values = Float[Array, "*n"]
Vector = Float[Array, " n"]


@dataclass(frozen=True, repr=False)
class Elementwise(Layer):
    """y_i = σ(x_i), so that dx_i = σ'(x_i) dy_i, for x of any shape.

    `function(x)` is σ, `derivative(x, y)` is σ' at x, where y = σ(x).
    """

    name: str
    function: Callable[[Array], Array]
    derivative: Callable[[Array, Array], Array]

    def forward(
        self, params: PyTree, x: Values, key: PRNGKeyArray | None = None
    ) -> tuple[Values, tuple[Values, Values]]:
        y = self.function(x)
        return y, (x, y)

    def backward(self, params: PyTree, saved: tuple[Values, Values], dy: Values) -> tuple[PyTree, Values]:
        x, y = saved
        return (), self.derivative(x, y) * dy  # y = σ(x)

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, repr=False)
class Softmax(Layer):
    """y_i = exp(x_i) / Σ_j exp(x_j), so that ∂y_i/∂x_j = y_i (δ_ij - y_j), for a vector x [n].

    Shifting x by its maximum changes nothing but the overflow.
    """

    def forward(self, params: PyTree, x: Vector, key: PRNGKeyArray | None = None) -> tuple[Vector, Vector]:
        e = jnp.exp(x - x.max())
        y = e / e.sum()
        return y, y

    def backward(self, params: PyTree, saved: Vector, dy: Vector) -> tuple[PyTree, Vector]:
        y = saved
        return (), y * (dy - y @ dy)  # y = e / Σe: (diag(y) - y yᵀ) dy without forming the matrix

    def __repr__(self) -> str:
        return "softmax"


def _elu(x: Values) -> Values:
    return jnp.where(x > 0, x, jnp.expm1(jnp.where(x > 0, 0, x)))  # the branch not taken must not overflow


def _normal_cdf(x: Values) -> Values:
    return erfc(-x / sqrt(2)) / 2


def _normal_pdf(x: Values) -> Values:
    return jnp.exp(-x * x / 2) / sqrt(2 * pi)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_LEAK = 0.01

# The equation, then σ(x), then σ' as a function of x and y = σ(x). A NaN that comes in goes out.

# x
identity = Elementwise("identity", lambda x: x, lambda x, y: jnp.ones_like(y))
# 1 / (1 + e⁻ˣ)
sigmoid = Elementwise("sigmoid", lambda x: logistic(x), lambda x, y: y * (1 - y))
# (eˣ - e⁻ˣ) / (eˣ + e⁻ˣ)
tanh = Elementwise("tanh", lambda x: jnp.tanh(x), lambda x, y: 1 - y * y)
# max(0, x); σ'(0) = 0
relu = Elementwise("relu", lambda x: jnp.where(x <= 0, 0, x), lambda x, y: jnp.where(y > 0, 1, 0))
# x above 0, 0.01 x below; σ'(0) = 1 (Maas et al. 2013, section 2)
leaky_relu = Elementwise(
    "leaky_relu", lambda x: jnp.where(x >= 0, x, _LEAK * x), lambda x, y: jnp.where(x >= 0, 1, _LEAK)
)
# x above 0, eˣ - 1 below; σ'(0) = 1 (Clevert et al. 2016, equation 15)
elu = Elementwise("elu", _elu, lambda x, y: jnp.where(y > 0, 1, y + 1))
# scale x above 0, scale alpha (eˣ - 1) below; σ'(0) = scale alpha (Klambauer et al. 2017, equation 2)
selu = Elementwise(
    "selu",
    lambda x: _SELU_SCALE * jnp.where(x > 0, x, _SELU_ALPHA * _elu(x)),
    lambda x, y: jnp.where(y > 0, _SELU_SCALE, y + _SELU_SCALE * _SELU_ALPHA),
)
# log(1 + eˣ)
softplus = Elementwise("softplus", lambda x: jnp.logaddexp(x, 0), lambda x, y: logistic(x))
# x Φ(x), exact and not the tanh approximation (Hendrycks and Gimpel 2016, section 2)
gelu = Elementwise("gelu", lambda x: x * _normal_cdf(x), lambda x, y: _normal_cdf(x) + x * _normal_pdf(x))
# x sigmoid(x) (Elfwing et al. 2018, equation 2)
silu = Elementwise("silu", lambda x: x * logistic(x), lambda x, y: logistic(x) * (1 + x * logistic(-x)))
# x between -1 and 1, which it is cut off at; σ'(±1) = 1
hard_tanh = Elementwise(
    "hard_tanh",
    lambda x: jnp.where(x > 1, 1, jnp.where(x < -1, -1, x)),
    lambda x, y: jnp.where(abs(x) <= 1, 1, 0),
)
softmax = Softmax()

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

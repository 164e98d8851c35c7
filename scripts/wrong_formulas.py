"""The network of `notebook.py`: each of four formulas in it is wrong unless it is mended."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import logistic

from jaxann import nn

Switch = bool | Array  # an array when networks that differ in this switch train side by side


@dataclass(frozen=True)
class Sigmoid(nn.Layer):
    """y = 1 / (1 + e⁻ˣ); unmended, 1 / (1 + e⁺ˣ), whose derivative has the other sign."""

    mended: Switch

    def forward(self, params, x, key=None):
        y = logistic(jnp.where(self.mended, x, -x))
        return y, y

    def backward(self, params, saved, dy):
        y = saved
        return (), y * (1 - y) * dy  # y = 1 / (1 + e⁻ˣ)


@dataclass(frozen=True)
class Softmax(nn.Layer):
    """y_i = exp(x_i) / Σ_j exp(x_j), with the Jacobian diag(z) - z zᵀ at z = y; unmended, at z = x."""

    mended: Switch

    def forward(self, params, x, key=None):
        e = jnp.exp(x - x.max())
        y = e / e.sum()
        return y, (x, y)

    def backward(self, params, saved, dy):
        x, y = saved
        z = jnp.where(self.mended, y, x)
        return (), z * (dy - z @ dy)  # y = e / Σe


@dataclass(frozen=True)
class CrossEntropy(nn.Loss):
    """E = -Σ_i t_i log y_i, with the gradient -t / y; unmended, that of the binary cross-entropy of each class."""

    mended: Switch

    def value(self, y, t):
        return -jnp.sum(t * jnp.log(y))

    def gradient(self, y, t):
        return -t / y + jnp.where(self.mended, 0, (1 - t) / (1 - y))  # -t log y, and -(1 - t) log(1 - y)


@dataclass(frozen=True, kw_only=True, repr=False)
class Dense(nn.Dense):
    """y = W x + b; unmended, the bias goes uphill."""

    mended: Switch

    def backward(self, params, saved, dy):
        grads, dx = super().backward(params, saved, dy)
        return grads | {"b": jnp.where(self.mended, dy, -dy)}, dx  # y = W x + b: ∂E/∂b = dy


class Repairs(NamedTuple):
    """Which of the four formulas are mended."""

    sigmoid: Switch
    softmax: Switch
    cross_entropy: Switch
    bias: Switch


VARIANTS = [Repairs(*switches) for switches in sorted(product((True, False), repeat=4), key=sum)]
# The gradients that the check must find wrong, for each formula that is not mended.
CULPRITS = {
    "sigmoid": ("1.dx", "3.dx", "5.dx"),
    "softmax": ("7.dx",),
    "cross_entropy": ("loss",),
    "bias": ("0.b", "2.b", "4.b", "6.b"),
}


def make_network(repairs: Repairs) -> tuple[nn.Sequential, CrossEntropy]:
    """Returns the network and its loss, in which the formulas that `repairs` names are mended."""
    layers = []
    for n, m in ((4, 50), (50, 20), (20, 10)):
        layers += [Dense(n, m, mended=repairs.bias), Sigmoid(repairs.sigmoid)]
    layers += [Dense(10, 3, mended=repairs.bias), Softmax(repairs.softmax)]
    return nn.Sequential(layers), CrossEntropy(repairs.cross_entropy)

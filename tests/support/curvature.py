"""A network whose matrix is used at several positions, and a loss without a Hessian factor."""

from dataclasses import dataclass

import jax.numpy as jnp
from support.mutants import Positions

from jaxann.nn import Dense, Layer, Loss, Sequential, tanh


@dataclass(frozen=True)
class Average(Layer):
    """y = Σ_t x_t / T for x [T, n]"""

    def forward(self, params, x, key=None):
        return x.mean(axis=0), x

    def backward(self, params, saved, dy):
        return (), jnp.broadcast_to(dy / len(saved), saved.shape)


SHARING = Sequential((Positions(2, 3), tanh, Average(), Dense(3, 2)))  # its W is used at each of 5 positions


@dataclass(frozen=True)
class Concave(Loss):
    """E = -½ Σ_i y_i²"""

    def value(self, y, t):
        return -jnp.sum(y * y) / 2

    def gradient(self, y, t):
        return -y

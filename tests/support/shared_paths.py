"""Layers that use a value twice, and what handwritten ones get wrong (public case 11).

Facts from karpathy/micrograd#2, SethHWeidman/DLFS_code#13, TrenTorch/TrenTorch#182 and meta-pytorch/opacus#413.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from support.layers import Tied

from jaxann.nn import Layer, Outer, Residual


@dataclass(frozen=True)
class Diamond(Layer):
    """y = a b + b with a = W x and b = tanh a, so that y depends on `a` along three paths."""

    n: int
    wrong: str = ""

    def init(self, key):
        return {"W": jax.random.normal(key, (self.n, self.n))}

    def forward(self, params, x, key=None):
        a = params["W"] @ x
        b = jnp.tanh(a)
        return a * b + b, (x, a, b)

    def backward(self, params, saved, dy):
        x, a, b = saved
        db = dy if self.wrong == "one path lost" else dy * a + dy
        through = db * (1 - b**2)
        da = dy * b + (2 * through if self.wrong == "one path twice" else through)
        return {"W": Outer(da, x)}, params["W"].T @ da


class SkipTwice(Residual):
    """A residual connection that passes the gradient of its skip path back twice."""

    def backward(self, params, saved, dy):
        grads, dx = super().backward(params, saved, dy)
        return grads, dx + dy


class TiedEncoder(Tied):
    """A matrix used twice, with the gradient of its first use only."""

    def backward(self, params, saved, dy):
        x, h = saved
        _, dx = super().backward(params, saved, dy)
        return {"W": Outer((1 - h * h) * (params["W"] @ dy), x)}, dx

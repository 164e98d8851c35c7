"""Dropout around a layer, and what handwritten ones get wrong (public cases 05 and 08).

Facts from ddbourgin/numpy-ml#94.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxann.nn import Layer


@dataclass(frozen=True)
class Dropped(Layer):
    """y = mask ∘ f(x) / (1 - rate) with a key, and y = f(x) without one."""

    layer: Layer
    rate: float
    wrong: str = ""

    @property
    def random(self):
        return True

    def init(self, key):
        return self.layer.init(key)

    def forward(self, params, x, key=None):
        y, saved = self.layer.forward(params, x)
        if key is None:
            return y, (saved, jnp.ones_like(y))
        mask = jax.random.bernoulli(key, 1 - self.rate, y.shape) / (1 - self.rate)
        return mask * y, (saved, mask)

    def backward(self, params, saved, dy):
        saved, mask = saved
        factor = {"scale": 1 / (1 - self.rate), "mask and scale": 1.0}.get(self.wrong, mask)
        return self.layer.backward(params, saved, factor * dy)

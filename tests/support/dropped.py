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
            return y, (saved, jnp.full(y.shape, 1 - self.rate))
        mask = jax.random.bernoulli(key, 1 - self.rate, y.shape)
        return y * mask / (1 - self.rate), (saved, mask)

    def backward(self, params, saved, dy):
        saved, mask = saved
        kept = jnp.ones_like(mask) if self.wrong else mask
        rate = 0.0 if self.wrong == "mask and scale" else self.rate
        return self.layer.backward(params, saved, dy * kept / (1 - rate))

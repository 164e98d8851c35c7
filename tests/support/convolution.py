"""A convolution with stride and padding by hand, and what handwritten ones get wrong (public case 04).

Facts from Kulbear/deep-learning-coursera#34, enggen/Deep-Learning-Coursera#7 and f-dangel/backpack#30.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxann.nn import Layer


@dataclass(frozen=True)
class StridedConv(Layer):
    """y_ij = W * (the window of x at (i, j)) + b for x [height, width, channels], padded by zeros."""

    channels: int
    filters: int
    size: int = 3
    stride: int = 2
    pad: int = 1
    wrong: str = ""

    def init(self, key):
        shape = self.size, self.size, self.channels, self.filters
        W, b = (jax.random.normal(k, s) for k, s in zip(jax.random.split(key), (shape, shape[3:]), strict=True))
        return {"W": W / self.size, "b": b}

    def places(self, shape, stride):
        """Yields for each output its index and the slices of the padded input that it is computed from."""
        height, width = ((n - self.size) // self.stride + 1 for n in shape[:2])
        for i in range(height):
            for j in range(width):
                top, left = i * stride, j * stride
                yield (i, j), (slice(top, top + self.size), slice(left, left + self.size))

    def forward(self, params, x, key=None):
        padded = jnp.pad(x, [(self.pad, self.pad), (self.pad, self.pad), (0, 0)])
        entries = [
            jnp.tensordot(padded[window], params["W"], 3) + params["b"]
            for _, window in self.places(padded.shape, self.stride)
        ]
        return jnp.stack(entries).reshape(*((n - self.size) // self.stride + 1 for n in padded.shape[:2]), -1), padded

    def backward(self, params, saved, dy):
        padded, W, p = saved, params["W"], self.pad
        dW, dpadded = jnp.zeros_like(W), jnp.zeros_like(padded)
        for place, window in self.places(padded.shape, 1 if self.wrong == "no stride" else self.stride):
            dW += jnp.tensordot(padded[window][..., None], dy[place][None], 1)
            dpadded = dpadded.at[window].add(W @ dy[place])
        height, width = (n - 2 * p for n in padded.shape[:2])
        if self.wrong == "no rest":  # the size of the input from that of the output, as if the stride left no rest
            height, width = ((n - 1) * self.stride + self.size - 2 * p for n in dy.shape[:2])
        begin = 0 if self.wrong == "padding cut off at the end" else p
        db = dy[0].sum(axis=0) if self.wrong == "bias of one row" else dy.sum(axis=(0, 1))
        return {"W": dW, "b": db}, dpadded[begin : begin + height, begin : begin + width]

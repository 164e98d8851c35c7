"""Max pooling by hand: what handwritten ones get wrong, and the choices at a tie that are right (cases 03 and 12).

Facts from 0809zheng/CS231n-assignment2019#19, Theano/Theano#5404 and #5248, tensorflow/tensorflow#4886 and
apache/mxnet#18563.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxann.nn import Layer


@dataclass(frozen=True)
class MaxPool(Layer):
    """The maxima of the windows of x [height, width], each of size x size entries, `stride` apart.

    `ties` says which of several equal maxima of a window gets its gradient: the first, the last, or a share for each.
    """

    size: int
    stride: int
    ties: str = "first"
    wrong: str = ""

    def places(self, shape):
        """Yields for each window its index in the output and its slices of the input."""
        height, width = ((n - self.size) // self.stride + 1 for n in shape)
        for i in range(height):
            for j in range(width):
                top, left = i * self.stride, j * self.stride
                yield (i, j), (slice(top, top + self.size), slice(left, left + self.size))

    def forward(self, params, x, key=None):
        maxima = [x[window].max() for _, window in self.places(x.shape)]
        return jnp.stack(maxima).reshape([(n - self.size) // self.stride + 1 for n in x.shape]), x

    def backward(self, params, saved, dy):
        x, dx = saved, jnp.zeros_like(saved)
        for place, window in self.places(x.shape):
            share = dy[place] * self.weights(x[window])
            if self.wrong == "assigned":  # where this window has its maximum, its gradient replaces any other
                dx = dx.at[window].set(jnp.where(self.weights(x[window]) > 0, share, dx[window]))
            else:
                dx = dx.at[window].add(share)
        return (), dx

    def weights(self, window):
        """Returns which share of the gradient each entry of a window gets."""
        is_largest = window == window.max()
        if self.ties == "shared":
            return is_largest / is_largest.sum()
        order = is_largest.ravel() if self.ties == "first" else is_largest.ravel()[::-1]
        one = jnp.zeros(window.size).at[order.argmax()].set(1)
        return (one if self.ties == "first" else one[::-1]).reshape(window.shape)

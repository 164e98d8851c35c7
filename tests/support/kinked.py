"""Functions with kinks, each with a right backward that chooses another slope than autodiff there."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxann.nn import Layer


@dataclass(frozen=True)
class Pair(Layer):
    """A layer of two functions, y = f(x) and dx = backward(x, dy)."""

    f: Callable
    df: Callable

    def forward(self, params, x, key=None):
        return self.f(x), x

    def backward(self, params, saved, dy):
        return (), self.df(saved, dy)


def order_backwards(x):
    """The order in which x ascends, with the last of several equal entries first."""
    return len(x) - 1 - jnp.argsort(x[::-1], stable=True)


def place(order, x, dy):
    """Returns an array like x with dy at the places of `order`."""
    return jnp.zeros_like(x).at[order].set(dy)


def last_of_largest(x):
    """The place of the largest entry, the last one if there are several."""
    return len(x) - 1 - jnp.argmax(x[::-1])


def largest_two(x):
    """The two largest entries, in descending order."""
    return jax.lax.top_k(x, 2)[0]


KINKED = {
    "abs": Pair(jnp.abs, lambda x, dy: jnp.sign(x) * dy),
    "clip": Pair(lambda x: jnp.clip(x, -1, 1), lambda x, dy: jnp.where((x >= -1) & (x < 1), dy, 0)),
    "maximum with a constant": Pair(lambda x: jnp.maximum(x, 1), lambda x, dy: jnp.where(x > 1, dy, 0)),
    "maximum of two halves": Pair(
        lambda x: jnp.maximum(x[:3], x[3:]),
        lambda x, dy: jnp.concatenate([jnp.where(x[:3] >= x[3:], dy, 0), jnp.where(x[:3] >= x[3:], 0, dy)]),
    ),
    "sort": Pair(jnp.sort, lambda x, dy: place(order_backwards(x), x, dy)),
    "argmax and a gather": Pair(lambda x: x[jnp.argmax(x)], lambda x, dy: place(last_of_largest(x), x, dy)),
    "largest entries": Pair(largest_two, lambda x, dy: place(order_backwards(x)[:-3:-1], x, dy)),
    "range": Pair(
        lambda x: x.max() - x.min(), lambda x, dy: place(last_of_largest(x), x, dy) - place(last_of_largest(-x), x, dy)
    ),
}

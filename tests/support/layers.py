"""Layers of kinds that jaxann does not have, and the library's own layers with mistakes.

A field `wrong`, where a layer has one, names the mistake that its backward makes; with "" the backward is right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import logistic

from jaxann.nn import Dense, Dropout, Layer, LayerNorm, Outer, Residual, Sequential


@dataclass(frozen=True)
class WrongLayer(Layer):
    """A layer whose gradients `spoil(params, saved, dy, grads, dx)` replaces."""

    layer: Layer
    spoil: Callable[..., Any]

    def init(self, key):
        return self.layer.init(key)

    def forward(self, params, x, key=None):
        return self.layer.forward(params, x, key)

    def backward(self, params, saved, dy):
        return self.spoil(params, saved, dy, *self.layer.backward(params, saved, dy))


@dataclass(frozen=True)
class WrongLayerNorm(LayerNorm):
    """The library's layer norm, with a mistake in its backward."""

    wrong: str = ""

    def init(self, key):
        return super().init(key) | {"scale": jax.random.normal(key, (self.n,))}  # ones would hide a forgotten scale

    def backward(self, params, saved, dy):
        z, r = saved
        dz = dy if self.wrong == "scale" else params["scale"] * dy
        mean = 0 if self.wrong == "mean" else dz.mean()
        along = 0 if self.wrong == "variance" else z * jnp.mean(dz * z)
        return {"scale": dy if self.wrong == "scale's" else z * dy, "shift": dy}, (dz - mean - along) * r


@dataclass(frozen=True)
class WrongDropout(Dropout):
    """The library's dropout, with a mistake in its backward."""

    wrong: str

    def backward(self, params, saved, dy):
        mask = {"scale": jnp.sign(saved), "mask": jnp.ones_like(saved)}[self.wrong]
        return (), mask * dy


@dataclass(frozen=True)
class Positions(Layer):
    """y_t = W x_t + b for every position t of x [T, n]"""

    n: int
    m: int
    wrong: str = ""

    @property
    def sizes(self):
        return self.n, self.m

    def init(self, key):
        return {"W": jax.random.normal(key, (self.m, self.n)), "b": jnp.zeros(self.m)}

    def forward(self, params, x, key=None):
        return x @ params["W"].T + jnp.broadcast_to(params["b"], (len(x), self.m)), x

    def backward(self, params, saved, dy):
        x = saved
        b = {"axis": lambda: dy.sum(axis=1), "not summed": lambda: dy}.get(self.wrong, lambda: dy.sum(axis=0))()
        return {"W": Outer(dy, x), "b": b}, dy @ params["W"]


@dataclass(frozen=True)
class WrongResidual(Residual):
    """The library's skip connection, with a mistake in its backward."""

    wrong: str

    exposes_parts = False

    def backward(self, params, saved, dy):
        grads, dx = self.layer.backward(params, saved, dy)
        return grads, {"skip": dx, "inner": dy}[self.wrong]


@dataclass(frozen=True)
class Tied(Layer):
    """y = Wᵀ tanh(W x), which uses one matrix twice"""

    n: int
    m: int
    wrong: str = ""

    @property
    def sizes(self):
        return self.n, self.n

    def init(self, key):
        return {"W": jax.random.normal(key, (self.m, self.n))}

    def forward(self, params, x, key=None):
        h = jnp.tanh(params["W"] @ x)
        return params["W"].T @ h, (x, h)

    def backward(self, params, saved, dy):
        x, h = saved
        dz = (1 - h * h) * (params["W"] @ dy)
        first, second = Outer(dz, x), Outer(h, dy)
        return {"W": second if self.wrong == "first" else first + second}, params["W"].T @ dz


@dataclass(frozen=True)
class Neurons(Layer):
    """y = sigmoid(W x + b) as one layer, like f_i in the derivation"""

    n: int
    m: int
    wrong: str = ""

    @property
    def sizes(self):
        return self.n, self.m

    def init(self, key):
        return {"W": jax.random.normal(key, (self.m, self.n)), "b": jnp.zeros(self.m)}

    def forward(self, params, x, key=None):
        z = params["W"] @ x + params["b"]
        return logistic(z), (x, logistic(z))

    def backward(self, params, saved, dy):
        x, y = saved
        y = {"output": logistic(y)}.get(self.wrong, y)
        dz = dy if self.wrong == "derivative" else y * (1 - y) * dy
        return {"W": Outer(dz, x), "b": dz}, params["W"].T @ dz


class ReversedGradients(Sequential):
    """A chain that returns the gradients of its layers in reverse order."""

    def backward(self, params, saved, dy):
        grads, dx = super().backward(params, saved, dy)
        return grads[::-1], dx


class ShiftedSaved(Sequential):
    """A chain in which each backward gets what the layer above saved."""

    def backward(self, params, saved, dy):
        return super().backward(params, (*saved[1:], saved[-1]), dy)


@dataclass(frozen=True)
class Average(Layer):
    """y = Σ_t x_t / T for x [T, n]"""

    def forward(self, params, x, key=None):
        return x.mean(axis=0), x

    def backward(self, params, saved, dy):
        return (), jnp.broadcast_to(dy / len(saved), saved.shape)


@dataclass(frozen=True)
class Twice(Layer):
    """y = f(f(x)), whose backward adds the gradients of its inner layer."""

    inner: Dense

    def init(self, key):
        return self.inner.init(key)

    def forward(self, params, x, key=None):
        h, below = self.inner.forward(params, x)
        y, above = self.inner.forward(params, h)
        return y, (below, above)

    def backward(self, params, saved, dy):
        above, dh = self.inner.backward(params, saved[1], dy)
        below, dx = self.inner.backward(params, saved[0], dh)
        return {"W": above["W"] + below["W"], "b": above["b"] + below["b"]}, dx


@dataclass(frozen=True)
class Embedding(Layer):
    """y_t = E_(x_t), the rows of a table E [words, n] at the integers x of any shape"""

    words: int
    n: int
    wrong: str = ""

    def init(self, key):
        return {"E": jax.random.normal(key, (self.words, self.n))}

    def forward(self, params, x, key=None):
        return params["E"][x], x

    def backward(self, params, saved, dy):
        rows = jnp.zeros_like(params["E"]).at[saved]
        return {"E": rows.set(dy) if self.wrong == "assigned" else rows.add(dy)}, None


@dataclass(frozen=True)
class Conv(Layer):
    """y = W * x + b for x [height, width, channels], without padding"""

    channels: int
    filters: int
    size: int

    def init(self, key):
        shape = self.size, self.size, self.channels, self.filters
        return {"W": jax.random.normal(key, shape) / self.size, "b": jnp.zeros(self.filters)}

    def windows(self, x):
        """Yields, for each place in the kernel, its indices and the slices of x that it is multiplied with."""
        height, width = (n - self.size + 1 for n in x.shape[:2])
        for i in range(self.size):
            for j in range(self.size):
                yield (i, j), (slice(i, i + height), slice(j, j + width))

    def forward(self, params, x, key=None):
        y = sum(jnp.tensordot(x[window], params["W"][place], 1) for place, window in self.windows(x))
        return y + jnp.broadcast_to(params["b"], y.shape), x

    def backward(self, params, saved, dy):
        x, W = saved, params["W"]
        dW, dx = jnp.zeros_like(W), jnp.zeros_like(x)
        for place, window in self.windows(x):
            dW = dW.at[place].set(jnp.tensordot(x[window], dy, ((0, 1), (0, 1))))
            dx = dx.at[window].add(dy @ W[place].T)
        return {"W": dW, "b": dy.sum(axis=(0, 1))}, dx

"""The layers of the derivation, an affine map and the chain of layers, and what training puts around them.

Each backward stands below its forward and names the line that it inverts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxann.activations import identity, sigmoid
from jaxann.layer import Layer, Outer, Wrapped, rebuilt, traced

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray, PyTree

    from jaxann.layer import Number

glorot_uniform = initializers.glorot_uniform()


@dataclass(frozen=True)
class Dense(Layer):
    """y = W x + b, from n features to m, with W [m, n] and b [m]: a row of W and an entry of b per neuron.

    `weights` and `biases` are any of `jax.nn.initializers`; `weights` draws [n, m], the layout that they reckon
    fan-in by, and is transposed. All-zero weights are allowed by the derivation but a hidden layer never learns
    from them: W = 0 above it makes dx = Wᵀ dy = 0, so nothing reaches it, and where all its neurons are alike they
    get the same gradient and stay alike. Zero biases do no harm.

    Raises ValueError for sizes below 1, and in `forward` for an x that is not [n].
    Source of the default weights: Glorot and Bengio 2010, equation 16.
    """

    n: int
    m: int
    weights: Callable = glorot_uniform
    biases: Callable = initializers.zeros

    def __post_init__(self) -> None:
        if min(self.n, self.m) < 1:
            raise ValueError(f"{self} has a size below 1")

    @property
    def sizes(self) -> tuple[int, int]:
        return self.n, self.m

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        weights_key, biases_key = jax.random.split(key)
        return {"W": self.weights(weights_key, (self.n, self.m)).T, "b": self.biases(biases_key, (self.m,))}

    def forward(
        self, params: PyTree, x: Float[Array, " n"], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, " m"], Float[Array, " n"]]:
        if x.shape != (self.n,):
            raise ValueError(f"{self} takes x of shape ({self.n},), not {x.shape}")
        return params["W"] @ x + params["b"], x

    def backward(
        self, params: PyTree, saved: Float[Array, " n"], dy: Float[Array, " m"]
    ) -> tuple[PyTree, Float[Array, " n"]]:
        x = saved
        grads = {"W": Outer(dy, x), "b": dy}  # y = W x + b: ∂E/∂W = dy xᵀ, ∂E/∂b = dy
        return grads, params["W"].T @ dy  # y = W x + b: ∂E/∂x = Wᵀ dy

    def __repr__(self) -> str:
        return f"Dense({self.n}, {self.m})"


@dataclass(frozen=True)
class Sequential(Layer):
    """y = f_N(... f_1(x)): the layers in a row, params and grads a tuple with an entry per layer.

    Raises ValueError for an empty chain, and for one whose sizes do not fit, naming the two layers.
    """

    layers: Sequence[Layer]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError("Sequential needs at least one layer")
        before, size = None, None
        for layer in self.layers:
            n, m = layer.sizes
            if size is not None and n is not None and n != size:
                raise ValueError(f"{before} gives {size} features, but {layer} after it takes {n}")
            if m is not None:
                before, size = layer, m

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        known = [layer.sizes for layer in self.layers if layer.sizes != (None, None)]
        return (known[0][0], known[-1][1]) if known else (None, None)

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, ...]:
        keys = jax.random.split(key, len(self.layers))
        return tuple(layer.init(k) for layer, k in zip(self.layers, keys, strict=True))

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, tuple[Any, ...]]:
        keys = [None] * len(self.layers) if key is None else jax.random.split(key, len(self.layers))
        saved = []
        for layer, p, k in zip(self.layers, params, keys, strict=True):
            x, s = layer.forward(p, x, k)
            saved.append(s)
        return x, tuple(saved)

    def backward(self, params: PyTree, saved: tuple[Any, ...], dy: Array) -> tuple[tuple[PyTree, ...], Array]:
        grads = []
        for layer, p, s in reversed(list(zip(self.layers, params, saved, strict=True))):
            g, dy = layer.backward(p, s, dy)  # x, s = layer.forward(p, x): ∂E/∂x of this layer is the one below's dy
            grads.append(g)
        return tuple(reversed(grads)), dy


@dataclass(frozen=True)
class Dropout(Layer):
    """y = m x / (1 - rate), every entry of the mask m drawn 1 with probability 1 - rate, else 0; without a key y = x.

    Raises ValueError for a rate outside [0, 1). Source: Srivastava et al. 2014, section 10, "inverted".
    """

    rate: Number

    def __post_init__(self) -> None:
        if not traced(self.rate) and not 0 <= self.rate < 1:
            raise ValueError(f"Dropout takes a rate in [0, 1), not {self.rate}")

    @property
    def random(self) -> bool:
        return True

    def forward(
        self, params: PyTree, x: Float[Array, "*n"], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        if key is None:
            return x, jnp.ones_like(x)
        mask = (jax.random.bernoulli(key, 1 - self.rate, x.shape) / (1 - self.rate)).astype(x.dtype)
        return mask * x, mask

    def backward(
        self, params: PyTree, saved: Float[Array, "*n"], dy: Float[Array, "*n"]
    ) -> tuple[PyTree, Float[Array, "*n"]]:
        mask = saved
        return (), mask * dy  # y = mask x


@dataclass(frozen=True)
class MixedPrecision(Wrapped):
    """y = f(x) with parameters, x and all between rounded to `dtype`, parameters and y themselves staying as they are.

    What it returns for a matrix are factors of `dtype`; sums over examples are taken in float32.
    Source: Micikevicius et al. 2018, section 3.1; bfloat16 needs no loss scaling.
    """

    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        y, saved = self.layer.forward(self._rounded(params), self._rounded(x), key)
        return y.astype(x.dtype), saved

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, Array]:
        grads, dx = self.layer.backward(self._rounded(params), saved, self._rounded(dy))  # y, saved = forward(...)
        return grads, dx.astype(dy.dtype)

    def _rounded(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: a.astype(self.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def mlp(
    sizes: Sequence[int],
    hidden: Layer = sigmoid,
    output: Layer = identity,
    dropout: Number = 0.0,
    weights: Callable = glorot_uniform,
) -> Sequential:
    """Dense layers from size to size, `hidden` after each but the last and `output` after that.

    mlp((4, 50, 3)) is Sequential((Dense(4, 50), sigmoid, Dense(50, 3), identity)). With `dropout` above 0, `hidden` is
    the chain of it and a `Dropout` of that rate: the parameters that a key draws are the same with and without.
    Raises ValueError for fewer than two sizes, a size below 1 and a rate outside [0, 1).
    """
    if len(sizes) < 2:
        raise ValueError(f"a network needs an input and an output size, not sizes {tuple(sizes)}")
    if traced(dropout) or dropout:
        hidden = Sequential((hidden, Dropout(dropout)))
    layers: list[Layer] = []
    for n, m in pairwise(sizes):
        layers += [Dense(n, m, weights), hidden]
    return Sequential((*layers[:-1], output))


def leaves(model: Layer) -> dict[str, Layer]:
    """The layers of a chain by their paths, first to last, chains in it entered; a model that is none is one leaf."""
    found: dict[str, Layer] = {}
    exchanged(model, found.setdefault)
    return found


def exchanged(model: Layer, change: Callable[[str, Layer], Layer], path: str = "") -> Layer:
    """`model` with `change(path, layer)` for each of its `leaves`."""
    if not isinstance(model, Sequential):
        return change(path, model)
    return rebuilt(model, lambda name, part: exchanged(part, change, f"{path}.{name}".lstrip(".")))

"""The layers of the derivation, an affine map and the chain of layers, and what training puts around them.

Each backward stands below its forward and names the line that it inverts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.activations import identity, sigmoid
from jaxann.nn.base import Layer, map_parts
from jaxann.nn.dense import Dense, glorot_uniform
from jaxann.nn.dropout import Dropout
from jaxann.nn.hyperparameters import Number, is_traced


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
    if is_traced(dropout) or dropout:
        hidden = Sequential((hidden, Dropout(dropout)))
    layers: list[Layer] = []
    for n, m in pairwise(sizes):
        layers += [Dense(n, m, weights), hidden]
    return Sequential((*layers[:-1], output))


def leaf_layers(model: Layer) -> dict[str, Layer]:
    """The layers of a chain by their paths, first to last, chains in it entered; a model that is none is one leaf."""
    found: dict[str, Layer] = {}
    map_layers(model, found.setdefault)
    return found


def map_layers(model: Layer, change: Callable[[str, Layer], Layer], path: str = "") -> Layer:
    """`model` with `change(path, layer)` for each of its `leaves`."""
    if not isinstance(model, Sequential):
        return change(path, model)
    return map_parts(model, lambda name, part: map_layers(part, change, f"{path}.{name}".lstrip(".")))

"""Chains of layers: `Sequential` and `mlp`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.activations import identity, sigmoid
from jaxann.nn.base import InputGradient, Layer, drop_float0
from jaxann.nn.dense import Dense
from jaxann.nn.dropout import Dropout
from jaxann.nn.hyperparameters import Number, SettingError, is_traced, validate_number
from jaxann.nn.initializers import glorot_uniform
from jaxann.nn.names import resolve_layer
from jaxann.nn.shapes import example_of
from jaxann.nn.summary import NUMBERS, list_layers
from jaxann.nn.table import format_html_table, format_table


@dataclass(frozen=True, init=False)
class Sequential(Layer):
    """Chain of layers.

    y = f_N(... f_1(x)), so that dx = b_1(... b_N(dy)), where b_i is the backward of layer i.

    x has the shape that the first layer takes, and y the shape that the last one returns. Parameters and gradients are
    tuples with an entry for each layer. A key is split into one for each layer. Where a layer takes integers and
    its dx has JAX's dtype float0, no gradient reaches the layers before it, and their gradients are zero.

    Sequential(f_1, ..., f_N) and Sequential((f_1, ..., f_N)) are the same chain. The name of an activation, such as
    "relu", stands for that activation, and a class without settings, such as `Flatten`, for its layer.

    `print(model)` shows a table of the layers with their numbers of parameters. If the chain begins with an `Input`,
    the table also has the shapes of their outputs, and the chain checks when it is built that every layer can take
    what the layer before it returns.

    Attributes:
        layers: The layers f_1 ... f_N, stored as a tuple.

    Raises:
        SettingError: If an element is neither a layer nor the name of an activation.
        ValueError: If the chain is empty, or if the `sizes` of a layer state that it takes a different number of
            features than the layer before it returns, apart from layers between them that keep the shape. If the chain
            begins with an `Input` and a layer cannot take what the layer before it returns; the error is an
            `InputError`. In `backward`, if a layer returns None for dx although a layer before it has parameters.
    """

    layers: Sequence[Layer]

    exposes_parts = True

    def __init__(self, *arguments: Any, layers: Any = ()) -> None:
        if len(arguments) == 1 and isinstance(arguments[0], Iterable) and not isinstance(arguments[0], str):
            (arguments,) = arguments
        object.__setattr__(self, "layers", arguments or layers)
        self.__post_init__()

    def __post_init__(self) -> None:
        layers = tuple(resolve_layer(f"layers[{i}]", layer) for i, layer in enumerate(self.layers))
        object.__setattr__(self, "layers", layers)
        if not self.layers:
            raise ValueError("expected at least one layer in Sequential, got none")
        if self.input_shape is not None:
            example_of(self, self.input_shape)
        before, size = None, None
        for layer in self.layers:
            n, m = layer.sizes
            if size is not None and n is not None and n != size:
                raise ValueError(
                    f"expected a layer that takes the {size} features of {before}, got {layer}, which takes {n}"
                )
            if m is not None or not layer.keeps_shape:
                before, size = layer, m

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        deciding = [layer.sizes for layer in self.layers if not layer.keeps_shape or layer.sizes != (None, None)]
        return (deciding[0][0], deciding[-1][1]) if deciding else (None, None)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        return self.layers[0].input_shape

    @property
    def keeps_shape(self) -> bool:
        return all(layer.keeps_shape for layer in self.layers)

    @property
    def keeps_entries(self) -> bool:
        return all(layer.keeps_entries for layer in self.layers)

    @property
    def vocabularies(self) -> dict[str, int]:
        return next((layer.vocabularies for layer in self.layers if not layer.keeps_entries), {})

    def __str__(self) -> str:
        return format_table(list_layers(self), right=NUMBERS)

    def _repr_html_(self) -> str:
        """Returns the table of the layers as Jupyter shows it."""
        return format_html_table(list_layers(self), right=NUMBERS)

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

    def backward(self, params: PyTree, saved: tuple[Any, ...], dy: Array) -> tuple[tuple[PyTree, ...], InputGradient]:
        grads: list[PyTree] = []
        dx: InputGradient = dy
        for layer, p, s in reversed(list(zip(self.layers, params, saved, strict=True))):
            if dx is None and jax.tree.leaves(p):
                above = len(self.layers) - len(grads)
                raise ValueError(
                    f"expected dx from layer {above}, {self.layers[above]}, for {layer} before it, got None"
                )
            dy = drop_float0(dx)
            if dy is None:  # the layer above takes integers, so no gradient reaches this one
                g = jax.tree.map(jnp.zeros_like, p)
            else:
                g, dx = layer.backward(p, s, dy)  # x, s = layer.forward(p, x): its ∂E/∂x is dy of the layer below
            grads.append(g)
        return tuple(reversed(grads)), dx


def mlp(
    sizes: Sequence[int],
    hidden: Layer | type[Layer] | str = sigmoid,
    output: Layer | type[Layer] | str = identity,
    dropout: Number = 0.0,
    weights: Callable = glorot_uniform,
) -> Sequential:
    """Builds a multilayer perceptron: `Dense` layers, each followed by an activation.

    mlp((4, 50, 3)) is Sequential((Dense(4, 50), sigmoid, Dense(50, 3), identity)).

    Args:
        sizes: The numbers of features of the input, of each hidden layer, and of the output.
        hidden: The activation after every `Dense` layer but the last, or its name in `ACTIVATIONS`, such as "relu".
        output: The activation after the last `Dense` layer, or its name.
        dropout: The rate of a `Dropout` after each hidden activation, at least 0 and below 1; with 0 there is none. The
            activation and the `Dropout` form a `Sequential`, so that a key draws the same parameters with and without
            dropout.
        weights: The initializer of all weight matrices, from `jax.nn.initializers`.

    Returns:
        The network, which maps x [sizes[0]] to y [sizes[-1]].

    Raises:
        SettingError: If `sizes` has fewer than two entries, if one of them is not a whole number of at least 1, if
            `dropout` is out of range, or if `hidden` or `output` is neither a layer nor the name of an activation.
    """
    if not isinstance(sizes, Sequence):
        raise SettingError("sizes", "to be a sequence, such as (4, 50, 3)", sizes)
    hidden, output = resolve_layer("hidden", hidden), resolve_layer("output", output)
    if len(sizes) < 2:
        raise SettingError("sizes", "to have at least an input and an output size", tuple(sizes))
    for position, size in enumerate(sizes):
        validate_number(f"sizes[{position}]", size, least=1, integer=True)
    validate_number("dropout", dropout, least=0, below=1)
    if is_traced(dropout) or dropout:
        hidden = Sequential((hidden, Dropout(dropout)))
    layers: list[Layer] = []
    for n, m in pairwise(sizes):
        layers += [Dense(n, m, weights), hidden]
    return Sequential((*layers[:-1], output))

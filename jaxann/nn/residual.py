"""Layers that give one input to several paths, and add or concatenate what comes out of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.base import InputGradient, Layer, Wrapper, drop_float0
from jaxann.nn.hyperparameters import SettingError
from jaxann.nn.names import resolve_layer
from jaxann.nn.reshape import save_shape

Values = Float[Array, "..."]
Input = Shaped[Array, "..."]  # floats, or integers where the layers inside take those


@dataclass(frozen=True)
class Residual(Wrapper):
    """A layer with a skip connection around it.

    y = x + f(x), so that dx = dy + b(dy), where b is the backward of f.

    x may have any shape that f takes, f(x) must have the same one, and so has y. The parameters are those of f.

    Attributes:
        layer: f, a layer or network whose output has the shape of its input, or the name of an activation.

    Raises:
        SettingError: If f is neither a layer nor the name of an activation.
        ValueError: If the `sizes` of f state different numbers of features for its input and its output. In `forward`,
            if f(x) does not have the shape of x.

    Source: He et al. 2016 (CVPR), section 3.2, equation 1.
    """

    exposes_parts = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", resolve_layer("layer", self.layer))
        n, m = self.layer.sizes
        if n is not None and m is not None and n != m:
            raise ValueError(f"expected a layer in Residual that returns as many features as it takes, {n}, got {m}")

    @property
    def keeps_entries(self) -> bool:
        return False

    def forward(self, params: PyTree, x: Input, key: PRNGKeyArray | None = None) -> tuple[Values, Any]:
        y, saved = self.layer.forward(params, x, key)
        if y.shape != x.shape:
            raise ValueError(f"expected f(x) of the shape of x, {x.shape}, in Residual, got {y.shape}")
        return x + y, saved

    def backward(self, params: PyTree, saved: Any, dy: Values) -> tuple[PyTree, InputGradient]:
        grads, dx = self.layer.backward(params, saved, dy)
        floats = drop_float0(dx)
        return grads, dx if floats is None else dy + floats  # y = x + f(x): x reaches y on both paths


@dataclass(frozen=True)
class Parallel(Layer):
    """Layers that get the same input, and whose outputs are added or concatenated.

    y = Σ_i f_i(x), so that dx = Σ_i b_i(dy), where b_i is the backward of f_i. With join="concatenation",
    y = [f_1(x), ..., f_N(x)] along the last axis, and dx = Σ_i b_i(dy_i), where dy_i is the part of dy that belongs to
    f_i(x).

    x may have any shape that all layers take. Their outputs must have the same shape, apart from the last axis of
    outputs that are concatenated. Parameters and gradients are tuples with an entry for each layer. A key is split
    into one for each layer.

    Attributes:
        layers: The layers f_1 ... f_N, or names of activations, stored as a tuple of layers.
        join: "sum" or "concatenation".

    Raises:
        SettingError: If `join` is neither of the two, or if an element is neither a layer nor the name of an
            activation.
        ValueError: If there are no layers, or if their `sizes` state different numbers of features of the input, or of
            outputs that are added. In `forward`, if the outputs do not fit together.

    Source: Szegedy et al. 2015, section 4, for the concatenation.
    """

    layers: Sequence[Layer]
    join: str = "sum"

    exposes_parts = True

    def __post_init__(self) -> None:
        if isinstance(self.layers, str | Layer) or not isinstance(self.layers, Iterable):
            raise SettingError("layers", "to be a sequence of layers", self.layers)
        layers = tuple(resolve_layer(f"layers[{i}]", layer) for i, layer in enumerate(self.layers))
        object.__setattr__(self, "layers", layers)
        if not self.layers:
            raise ValueError("expected at least one layer in Parallel, got none")
        if self.join not in ("sum", "concatenation"):
            raise SettingError("join", "to be sum or concatenation", self.join)
        self._match_sizes("takes", [layer.sizes[0] for layer in self.layers])
        if self.join == "sum":
            self._match_sizes("returns", self._output_sizes)

    @property
    def _input_size(self) -> int | None:
        return next((layer.sizes[0] for layer in self.layers if layer.sizes[0] is not None), None)

    @property
    def _output_sizes(self) -> list[int | None]:
        return [
            self._input_size if layer.keeps_shape and layer.sizes[1] is None else layer.sizes[1]
            for layer in self.layers
        ]

    def _match_sizes(self, verb: str, sizes: list[int | None]) -> None:
        stated = [(layer, size) for layer, size in zip(self.layers, sizes, strict=True) if size is not None]
        for layer, size in stated[1:]:
            first, expected = stated[0]
            if size != expected:
                raise ValueError(
                    f"expected a layer in Parallel that {verb} {expected} features like {first}, "
                    f"got {layer}, which {verb} {size}"
                )

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        stated = [m for m in self._output_sizes if m is not None]
        if self.join == "sum":
            return self._input_size, next(iter(stated), None)
        return self._input_size, sum(stated) if len(stated) == len(self.layers) else None

    @property
    def keeps_shape(self) -> bool:
        return (self.join == "sum" or len(self.layers) == 1) and all(layer.keeps_shape for layer in self.layers)

    @property
    def vocabularies(self) -> dict[str, int]:
        return {name: size for layer in self.layers for name, size in layer.vocabularies.items()}

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, ...]:
        keys = jax.random.split(key, len(self.layers))
        return tuple(layer.init(k) for layer, k in zip(self.layers, keys, strict=True))

    def forward(self, params: PyTree, x: Input, key: PRNGKeyArray | None = None) -> tuple[Values, Any]:
        keys = [None] * len(self.layers) if key is None else jax.random.split(key, len(self.layers))
        pairs = [layer.forward(p, x, k) for layer, p, k in zip(self.layers, params, keys, strict=True)]
        ys, saved = zip(*pairs, strict=True)
        shapes = [y.shape if self.join == "sum" else y.shape[:-1] for y in ys]
        if len(set(shapes)) > 1:
            alike = "the same shape" if self.join == "sum" else "the same shape but for the last axis"
            raise ValueError(f"expected outputs of {alike} in Parallel, got {', '.join(str(y.shape) for y in ys)}")
        if self.join == "sum":
            return reduce(add, ys), (saved, ())
        return jnp.concatenate(ys, axis=-1), (saved, tuple(save_shape(y) for y in ys))

    def backward(self, params: PyTree, saved: Any, dy: Values) -> tuple[tuple[PyTree, ...], InputGradient]:
        inner, outputs = saved
        ends = list(accumulate(y.shape[-1] for y in outputs))[:-1]
        dys = [dy] * len(self.layers) if self.join == "sum" else jnp.split(dy, ends, axis=-1)  # y = Σ f_i or [f_1 ...]
        pairs = [layer.backward(p, s, d) for layer, p, s, d in zip(self.layers, params, inner, dys, strict=True)]
        grads, dxs = zip(*pairs, strict=True)
        floats = [dx for dx in map(drop_float0, dxs) if dx is not None]
        return grads, reduce(add, floats) if floats else None  # each f_i gets x, so that dx is the sum of theirs

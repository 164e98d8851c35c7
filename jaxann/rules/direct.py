"""Learning rules that do not send the error back from layer to layer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.base import InputGradient, Layer, Wrapper, drop_float0, map_layers, part_path, parts, path_name
from jaxann.nn.initializers import glorot_uniform
from jaxann.nn.reshape import save_shape
from jaxann.nn.shapes import example_of, layer_shapes
from jaxann.rules.base import Rule, layers_with_params


@dataclass(frozen=True)
class DirectFeedbackAlignment(Rule):
    """Direct feedback alignment: each layer gets the error at the network's output through a random matrix.

    dx = B δ at every layer with parameters but the first, where δ = ∂E/∂y is the gradient at the output of the
    network. B [n, m] is drawn as `Dense` draws W, and never changes; n is the number of inputs of the layer, and m the
    number of outputs of the network. Where x has several axes, as a feature map has, B is [*x.shape, m]: every place
    and channel has a row of its own. Layers inside a `Residual` or `Parallel` have matrices of their own. A skip
    connection passes on what arrives at its output, as in backprop, and adds it to the dx of the layer beside it.

    A model is refused with a ValueError if it is not a `Sequential`, or if the shapes of the x of later layers with
    parameters are not known. They are if the model begins with an `Input`, or if each x is a vector whose length the
    layer's `sizes` state, and the model's own `sizes` state m.

    Source: Nøkland 2016, equation 8, in which a hidden unit of a feature map is a channel at a place.
    """

    def alter(self, model: Layer) -> Layer:
        later = _later_layers(self, model)
        return map_layers(model, lambda path, layer: _DirectFeedback(layer) if path in later else layer)

    def init(self, model: Layer, key: PRNGKeyArray) -> dict[str, Array]:
        later = _later_layers(self, model)
        inputs, outputs = self._find_shapes(model, later)
        keys = jax.random.split(key, len(later) + 1)[1:]
        return {
            path: glorot_uniform(key, (prod(outputs), prod(inputs[path]))).T.reshape(*inputs[path], *outputs)
            for path, key in zip(later, keys, strict=True)
        }

    def _find_shapes(self, model: Layer, later: dict[str, Layer]) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
        """Returns the shapes of the inputs of the later layers, by their paths, and that of the model's output."""
        if model.input_shape is not None:
            shapes = layer_shapes(model, *example_of(model, model.input_shape))
            return {path: shapes[path].x for path in later}, shapes[""].y
        for path, layer in later.items():
            if layer.sizes[0] is None:
                raise ValueError(f"expected layer {path} to have an input size for {self}, got {layer}")
        m = model.sizes[1]
        if later and m is None:
            raise ValueError(f"expected a model with an output size for {self}, got {model}")
        return {path: (cast(int, layer.sizes[0]),) for path, layer in later.items()}, (cast(int, m),)

    def backward(
        self, altered: Layer, params: PyTree, feedback: dict[str, Array], saved: Any, dy: Array
    ) -> tuple[PyTree, InputGradient]:
        def add_dx(layer: Layer, params: PyTree, path: str = "") -> PyTree:
            if isinstance(layer, _DirectFeedback):
                return params, jnp.tensordot(feedback[path].astype(dy.dtype), dy, dy.ndim)
            if not layer.exposes_parts:
                return params
            if isinstance(layer, Wrapper):
                return add_dx(layer.layer, params, path)
            inner = zip(parts(layer).items(), params, strict=True)
            return tuple(add_dx(part, p, part_path(layer, path, name)) for (name, part), p in inner)

        return altered.backward(add_dx(altered, params), saved, dy)


def _later_layers(rule: Rule, model: Layer) -> dict[str, Layer]:
    """Returns the layers with parameters except the first, by their paths."""
    return dict(list(layers_with_params(rule, model).items())[1:])


@dataclass(frozen=True)
class _DirectFeedback(Wrapper):
    """A layer whose backward takes the pair (params, dx) for its parameters, and returns that dx."""

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        y, saved = self.layer.forward(params, x, key)
        return y, (saved, save_shape(x))

    def backward(self, params: tuple[PyTree, Array], saved: Any, dy: Array) -> tuple[PyTree, Array]:
        (params, dx), (saved, x) = params, saved
        if dx.shape != x.shape[1:]:
            raise ValueError(
                f"expected a model that begins with an Input for DirectFeedbackAlignment, because {self.layer} takes x "
                f"of shape {x.shape[1:]}, got none"
            )
        return self.layer.backward(params, saved, dy)[0], dx  # y, saved = layer.forward(params, x)


@dataclass(frozen=True)
class OutputLayerOnly(Rule):
    """Training of nothing but the last layer that has parameters: the control for rules that claim to train more.

    The gradients of all other layers are 0, and so is dx, also where an error reaches them past the last layer, through
    a skip connection. A model that is not a `Sequential` is refused with a ValueError.
    """

    def alter(self, model: Layer) -> Layer:
        layers_with_params(self, model)  # raises if this rule does not apply
        return model

    def backward(
        self, altered: Layer, params: PyTree, feedback: PyTree, saved: Any, dy: Array
    ) -> tuple[PyTree, InputGradient]:
        *_, last = layers_with_params(self, altered)
        grads, dx = altered.backward(params, saved, dy)
        # What is computed for the zeros below is not used, and a compiled program leaves it out.
        grads = jax.tree_util.tree_map_with_path(
            lambda path, g: g if path_name(path).startswith(f"{last}.") else jnp.zeros_like(g), grads
        )
        floats = drop_float0(dx)
        return grads, dx if floats is None else jnp.zeros_like(floats)

"""Learning rules that do not send the error back from layer to layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.base import InputGradient, Layer, Wrapper, drop_float0, map_layers, part_path, parts, path_name
from jaxann.nn.dense import glorot_uniform
from jaxann.rules.base import Rule, layers_with_params


@dataclass(frozen=True)
class DirectFeedbackAlignment(Rule):
    """Direct feedback alignment: each layer gets the error at the network's output through a random matrix.

    dx = B δ at every layer with parameters but the first, where δ = ∂E/∂y is the gradient at the output of the
    network. B [n, m] is drawn as `Dense` draws W, and never changes; n is the number of inputs of the layer, and m the
    number of outputs of the network. Layers inside a `Residual` or `Parallel` have matrices of their own. A skip
    connection passes on what arrives at its output, as in backprop, and adds it to the dx of the layer beside it.

    A model is refused with a ValueError if it is not a `Sequential`, if the `sizes` of a later layer with parameters do
    not state n, or if its own `sizes` do not state m.

    Source: Nøkland 2016, equation 8.
    """

    def alter(self, model: Layer) -> Layer:
        later = _later_layers(self, model)
        return map_layers(model, lambda path, layer: _DirectFeedback(layer) if path in later else layer)

    def init(self, model: Layer, key: PRNGKeyArray) -> dict[str, Array]:
        later, (_, m) = _later_layers(self, model), model.sizes
        for path, layer in later.items():
            if layer.sizes[0] is None:
                raise ValueError(f"expected layer {path} to have an input size for {self}, got {layer}")
        if later and m is None:
            raise ValueError(f"expected a model with an output size for {self}, got {model}")
        keys = jax.random.split(key, len(later) + 1)[1:]
        return {
            path: glorot_uniform(key, (m, layer.sizes[0])).T
            for (path, layer), key in zip(later.items(), keys, strict=True)
        }

    def backward(
        self, altered: Layer, params: PyTree, feedback: dict[str, Array], saved: Any, dy: Array
    ) -> tuple[PyTree, InputGradient]:
        def add_dx(layer: Layer, params: PyTree, path: str = "") -> PyTree:
            if isinstance(layer, _DirectFeedback):
                return params, feedback[path].astype(dy.dtype) @ dy
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

    def backward(self, params: tuple[PyTree, Array], saved: Any, dy: Array) -> tuple[PyTree, Array]:
        params, dx = params
        return self.layer.backward(params, saved, dy)[0], dx


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

"""Learning rules by name, each a gradient function for the same model and the one thing that it does otherwise.

Other weights on the way back, another way for the error, or other deltas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer, Wrapper, parts
from jaxann.nn.dense import glorot_uniform
from jaxann.nn.sequential import Sequential, map_layers
from jaxann.rules.base import Rule, layers_with_params

# Another way for the error.


@dataclass(frozen=True)
class DirectFeedbackAlignment(Rule):
    """dx = B δ at every layer with parameters but the first, δ = ∂E/∂y of the whole network: no way back through W.

    B [n, m] is drawn as `Dense` draws W and kept. Raises ValueError for a model that is no chain, a `Sequential`, and
    for layers with parameters whose sizes it cannot tell. Source: Nøkland 2016, equation 8.
    """

    def alter(self, model: Layer) -> Layer:
        later = _later(self, model)
        return map_layers(model, lambda path, layer: _DirectFeedback(layer) if path in later else layer)

    def init(self, model: Layer, key: PRNGKeyArray) -> dict[str, Array]:
        later, (_, m) = _later(self, model), model.sizes
        for path, layer in later.items():
            if m is None or layer.sizes[0] is None:
                raise ValueError(
                    f"{self} needs the sizes of layer {path}, {layer}, and of the network, but one has none"
                )
        keys = jax.random.split(key, len(later) + 1)[1:]
        return {
            path: glorot_uniform(key, (m, layer.sizes[0])).T
            for (path, layer), key in zip(later.items(), keys, strict=True)
        }

    def backward(
        self, altered: Layer, params: PyTree, feedback: dict[str, Array], saved: Any, dy: Array
    ) -> tuple[PyTree, Array]:
        def told(layer: Layer, params: PyTree, path: str = "") -> PyTree:
            if isinstance(layer, _DirectFeedback):
                return params, feedback[path].astype(dy.dtype) @ dy
            if not isinstance(layer, Sequential):
                return params
            below = parts(layer).items()
            return tuple(
                told(part, p, f"{path}.{name}".lstrip(".")) for (name, part), p in zip(below, params, strict=True)
            )

        return altered.backward(told(altered, params), saved, dy)


def _later(rule: Rule, model: Layer) -> dict[str, Layer]:
    """The leaves with parameters but the first."""
    return dict(list(layers_with_params(rule, model).items())[1:])


@dataclass(frozen=True)
class _DirectFeedback(Wrapper):
    """Goes backward with the pair (params, dx), and gives that dx."""

    def backward(self, params: tuple[PyTree, Array], saved: Any, dy: Array) -> tuple[PyTree, Array]:
        params, dx = params
        return self.layer.backward(params, saved, dy)[0], dx


@dataclass(frozen=True)
class OutputLayerOnly(Rule):
    """dx = 0 at the last layer with parameters, so that it alone learns: the control for rules that claim to do more.

    Raises ValueError for a model that is no chain, a `Sequential`.
    """

    def alter(self, model: Layer) -> Layer:
        *_, last = layers_with_params(self, model)
        return map_layers(model, lambda path, layer: _OutputLayer(layer) if path == last else layer)


@dataclass(frozen=True)
class _OutputLayer(Wrapper):
    """Tells nothing to what is below: dx = 0."""

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, Array]:
        grads, dx = self.layer.backward(params, saved, dy)
        return grads, jnp.zeros_like(dx)

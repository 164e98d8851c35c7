"""Learning rules by name, each a gradient function for the same model and the one thing that it does otherwise.

Other weights on the way back, another way for the error, or other deltas.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.activations import Elementwise
from jaxann.nn.base import Layer, Wrapper
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.sequential import leaf_layers, map_layers
from jaxann.rules.base import Rule, layers_with_params

# Other deltas.


threshold = Elementwise(
    "threshold", lambda x: jnp.where(x > 0, 1, jnp.where(x <= 0, 0, x)), lambda x, y: jnp.zeros_like(x)
)
"""1 where x > 0, else 0; its derivative is 0, and nothing below it learns but by `StraightThrough`."""


@dataclass(frozen=True)
class StraightThrough(Rule):
    """dx = dy at a `threshold`, as if it were y = x, where |x| <= `within`; 0 beyond.

    Raises ValueError for a model without a threshold.
    Sources: Bengio et al. 2013, section 4; with `within` = 1, Hubara et al. 2016, equation 4.
    """

    within: float = inf

    def __post_init__(self) -> None:
        if not self.within > 0:
            raise ValueError(f"within is {self.within}, but a number above 0 is wanted")

    def alter(self, model: Layer) -> Layer:
        passing = replace(threshold, derivative=lambda x, y: jnp.where(jnp.abs(x) <= self.within, 1, 0))
        if threshold not in leaf_layers(model).values():
            raise ValueError(f"{self} needs a threshold in the chain of {model}, but there is none")
        return map_layers(model, lambda path, layer: passing if layer == threshold else layer)


@dataclass(frozen=True)
class ClippedDeltas(Rule):
    """δ ← min(1, C / ‖δ‖) δ for C = `max_norm`, at each layer with parameters and for each example, δ = ∂E/∂(W x + b).

    Raises ValueError for a `max_norm` that is no finite number above 0.
    """

    max_norm: float

    def __post_init__(self) -> None:
        validate_number("max_norm", self.max_norm, above=0)

    def alter(self, model: Layer) -> Layer:
        layers = layers_with_params(self, model)
        return map_layers(model, lambda path, layer: _ClippedDelta(layer, self.max_norm) if path in layers else layer)


@dataclass(frozen=True)
class _ClippedDelta(Wrapper):
    """dy is first scaled down to a norm of at most `max_norm`."""

    max_norm: float

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, Array]:
        size = jnp.sqrt(jnp.sum(dy * dy))
        return self.layer.backward(params, saved, dy * (self.max_norm / jnp.maximum(size, self.max_norm)))


@dataclass(frozen=True)
class NoisyDeltas(Rule):
    """δ ← δ + s rms(δ) ξ for s = `noise` and ξ standard normal, at each layer with parameters and for each example.

    Without a key there is no noise. Raises ValueError for a `noise` that is no finite number from 0.
    """

    noise: float

    def __post_init__(self) -> None:
        validate_number("noise", self.noise, least=0)

    def alter(self, model: Layer) -> Layer:
        layers = layers_with_params(self, model)
        return map_layers(model, lambda path, layer: _NoisyDelta(layer, self.noise) if path in layers else layer)


@dataclass(frozen=True)
class _NoisyDelta(Wrapper):
    """dy gets normal noise of `noise` times its root mean square first, drawn with a key that forward keeps."""

    noise: float

    @property
    def random(self) -> bool:
        return True

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        kept, key = (None, None) if key is None else jax.random.split(key)
        y, saved = self.layer.forward(params, x, key)
        return y, (saved, kept)

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, Array]:
        saved, key = saved
        if key is not None:
            dy = dy + self.noise * jnp.sqrt(jnp.mean(dy * dy)) * jax.random.normal(key, dy.shape, dy.dtype)
        return self.layer.backward(params, saved, dy)

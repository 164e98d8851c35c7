"""Learning rules that change the deltas in the backward pass, and the threshold that needs such a rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.activations import Elementwise
from jaxann.nn.axis import require_uncoupled
from jaxann.nn.base import InputGradient, Layer, Wrapper, leaf_layers, map_layers
from jaxann.nn.hyperparameters import validate_number
from jaxann.rules.base import Rule, layers_with_params


def _step(x: Array) -> Array:
    return jnp.where(x > 0, 1, jnp.where(x <= 0, 0, x))


def _zero_slope(x: Array, y: Array) -> Array:
    return jnp.zeros_like(x)


threshold = Elementwise("threshold", _step, _zero_slope)  # named functions, which can be stored
"""y = 1 where x > 0, else 0. Its derivative is 0, so the layers before it learn only by `StraightThrough`."""


@dataclass(frozen=True)
class StraightThrough(Rule):
    """The straight-through estimator: the backward pass treats a `threshold` as y = x.

    dx = dy where |x| <= `within`, and 0 beyond. A model without a threshold is refused with a ValueError.

    Attributes:
        within: The largest |x| at which the error passes, above 0; infinite by default.

    Raises:
        SettingError: If `within` is not a number above 0. It is a ValueError.

    Source: Bengio et al. 2013, section 4; with `within` = 1, Hubara et al. 2016, equation 4.
    """

    within: float = inf

    def __post_init__(self) -> None:
        if self.within != inf:
            validate_number("within", self.within, above=0)

    def alter(self, model: Layer) -> Layer:
        if threshold not in leaf_layers(model).values():
            raise ValueError(f"expected a model with a threshold for {self}, got {model}")
        passing = replace(threshold, derivative=lambda x, y: jnp.where(jnp.abs(x) <= self.within, 1, 0))
        return map_layers(model, lambda path, layer: passing if layer == threshold else layer)


@dataclass(frozen=True)
class ClippedDeltas(Rule):
    """Backprop with each example's delta clipped to a norm, at each layer with parameters.

    δ ← min(1, C / ‖δ‖) δ, where δ = ∂E/∂(W x + b) and C = max_norm. A model that is not a `Sequential`, or that couples
    the examples of a batch, is refused with a ValueError.

    Attributes:
        max_norm: C, a finite number above 0, in the units of δ's norm.

    Raises:
        SettingError: If `max_norm` is not a finite number above 0. It is a ValueError.
    """

    max_norm: float

    def __post_init__(self) -> None:
        validate_number("max_norm", self.max_norm, above=0)

    @property
    def linear(self) -> bool:
        return False

    def alter(self, model: Layer) -> Layer:
        require_uncoupled(model, str(self))
        layers = layers_with_params(self, model)
        return map_layers(model, lambda path, layer: _ClippedDelta(layer, self.max_norm) if path in layers else layer)


@dataclass(frozen=True)
class _ClippedDelta(Wrapper):
    """A layer whose backward first scales dy to a norm of at most `max_norm`."""

    max_norm: float

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, InputGradient]:
        size = jnp.sqrt(jnp.sum(dy * dy))
        return self.layer.backward(params, saved, dy * (self.max_norm / jnp.maximum(size, self.max_norm)))


@dataclass(frozen=True)
class NoisyDeltas(Rule):
    """Backprop with normal noise on each example's delta, at each layer with parameters.

    δ ← δ + s rms(δ) ξ, where δ = ∂E/∂(W x + b), s = noise and ξ is standard normal. Without a key no noise is drawn. A
    model that is not a `Sequential` is refused with a ValueError.

    Attributes:
        noise: s, the standard deviation of the noise relative to the root mean square of δ; a finite number of at
            least 0.

    Raises:
        SettingError: If `noise` is not a finite number of at least 0. It is a ValueError.
    """

    noise: float

    def __post_init__(self) -> None:
        validate_number("noise", self.noise, least=0)

    @property
    def linear(self) -> bool:
        return False

    def alter(self, model: Layer) -> Layer:
        layers = layers_with_params(self, model)
        return map_layers(model, lambda path, layer: _NoisyDelta(layer, self.noise) if path in layers else layer)


@dataclass(frozen=True)
class _NoisyDelta(Wrapper):
    """A layer whose backward first adds noise to dy, drawn with a key that its forward saves."""

    noise: float

    @property
    def random(self) -> bool:
        return True

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        noise_key, key = (None, None) if key is None else jax.random.split(key)
        y, saved = self.layer.forward(params, x, key)
        return y, (saved, noise_key)

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, InputGradient]:
        saved, key = saved
        if key is not None:
            dy = dy + self.noise * jnp.sqrt(jnp.mean(dy * dy)) * jax.random.normal(key, dy.shape, dy.dtype)
        return self.layer.backward(params, saved, dy)  # y, saved = layer.forward(params, x, key)

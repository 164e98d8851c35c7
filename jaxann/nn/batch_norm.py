"""Batch normalization, which couples the examples of a batch, and the layer that takes its place in evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.axis import BATCH, batch_size, example_share
from jaxann.nn.base import Layer
from jaxann.nn.factors import accumulation_dtype
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.normalization import Means, Normalization, rescale, rescale_backward
from jaxann.nn.places import Values, match_features, mean_places


@dataclass(frozen=True)
class BatchNorm(Normalization):
    """Normalization over the examples of a batch and the places, for each feature on its own.

    y = γ x̂ + β with x̂ = (x - μ) r, r = (v + ε)^-½, μ = Σ_i s_i mean x_i and v = Σ_i s_i mean (x_i - μ)², where s_i is
    the share of example i: 1/B, or w_i / Σ w for a batch with weights. An example of weight 0 moves no statistic, and
    one of weight 2 counts as two. The means are over all axes but the last. With g = γ dy,

    dx_i = r (g_i - s_i (Σ_j mean g_j + x̂_i Σ_j mean (g_j x̂_j))), ∂E/∂γ = Σ dy x̂ and ∂E/∂β = Σ dy.

    What `backward` returns for example i is its share of the gradient of the batch. The sum over the examples is the
    gradient of the batch's loss, but the summands are not gradients of the examples' own losses. Whatever needs those,
    such as per-example norms or Gauss-Newton products, refuses models with this layer.

    x is [n], or [..., n] with any number of axes of places, and y has the same shape. The parameters are
    {"scale": [n], "shift": [n]}, γ and β, drawn as ones and zeros. Statistics of a lower precision than float32 are
    computed in float32. No statistics are kept from step to step: to evaluate examples other than a training batch,
    `jaxann.calibrate` replaces this layer by an `Affine` with the statistics of the training examples.

    Attributes:
        n: Number of features: the length of the last axis of x, at least 1.
        scale: Whether there is a parameter γ; otherwise γ = 1.
        shift: Whether there is a parameter β; otherwise β = 0.
        epsilon: ε, a finite number above 0.

    Raises:
        SettingError: If a setting is out of range.
        ValueError: In `forward`, if the last axis of x does not have the length n, if the batch has one example with
            one place, or if the example is not in a batch.

    Source: Ioffe and Szegedy 2015, algorithm 1, without running averages.
    """

    @property
    def coupled(self) -> bool:
        return True

    def mean(self, a: Values) -> Means:
        return lax.psum(jnp.asarray(example_share(), a.dtype) * mean_places(a), BATCH)

    def count(self, x: Values) -> int:
        return batch_size(self) * (x.size // self.n)

    def forward(self, params: PyTree, x: Values, key: PRNGKeyArray | None = None) -> tuple[Values, Any]:
        y, (normalized, r) = super().forward(params, x, key)
        return y, (normalized, r, jnp.asarray(example_share(), r.dtype))

    def backward(self, params: PyTree, saved: Any, dy: Values) -> tuple[PyTree, Values]:
        normalized, r, share = saved
        grads, g = rescale_backward(params, normalized, dy.astype(r.dtype), self.scale, self.shift)  # y = γ x̂ + β
        # x̂ = (x - μ) r, where μ and r depend on the x of every example, and on this one by its share
        through_mean = lax.psum(mean_places(g), BATCH)
        through_r = normalized * lax.psum(mean_places(g * normalized), BATCH)
        dx = r * (g - share * (through_mean + through_r))
        return grads, dx.astype(dy.dtype)


@dataclass(frozen=True)
class Affine(Layer):
    """A scale and a shift for each feature: what a normalization is once its statistics are fixed.

    y = γ x + β, so that dx = γ dy, ∂E/∂γ = Σ dy x and ∂E/∂β = Σ dy, summed over all axes but the last.

    x is [..., n] with any number of axes of places, and y has the same shape. The parameters are
    {"scale": [n], "shift": [n]}, γ and β, drawn as ones and zeros. `jaxann.calibrate` puts this layer in the place of a
    `BatchNorm`.

    Attributes:
        n: Number of features: the length of the last axis of x, at least 1.

    Raises:
        SettingError: If n is out of range.
        ValueError: In `forward`, if the last axis of x does not have the length n.
    """

    n: int

    def __post_init__(self) -> None:
        validate_number("n", self.n, least=1, integer=True, note="the features of Affine")

    @property
    def sizes(self) -> tuple[int, int]:
        return self.n, self.n

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        return {"scale": jnp.ones(self.n), "shift": jnp.zeros(self.n)}

    def forward(self, params: PyTree, x: Values, key: PRNGKeyArray | None = None) -> tuple[Values, Values]:
        match_features(self, self.n, x)
        y = rescale(params, x.astype(accumulation_dtype(x)), True, True)
        return y.astype(x.dtype), x

    def backward(self, params: PyTree, saved: Values, dy: Values) -> tuple[PyTree, Values]:
        x = saved
        grads, dx = rescale_backward(params, x, dy.astype(accumulation_dtype(dy)), True, True)  # y = γ x + β
        return grads, dx.astype(dy.dtype)

"""Normalizations: layers that shift and scale their input to mean 0 and variance 1, over axes that each layer chooses.

All of them but `RMSNorm` are the same two formulas. They differ in the entries of x that a mean is taken over.
`BatchNorm`, whose means are also over the examples of a batch, is in `jaxann.nn.batch_norm`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass

import jax.numpy as jnp
from jax.lax import rsqrt
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.factors import accumulation_dtype
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.places import Values, expand_places, match_features, mean_places, sum_places

Means = Float[Array, "..."]  # as many axes as x has, of length 1 where a mean was taken


@dataclass(frozen=True)
class Normalization(Layer):
    """Base class of layers that normalize x to mean 0 and variance 1. A subclass defines `mean`.

    y = γ x̂ + β with x̂ = (x - mean x) r and r = (mean (x - mean x)² + ε)^-½, so that, with g = γ dy, ∂E/∂γ = Σ dy x̂,
    ∂E/∂β = Σ dy and dx = r (g - mean g - x̂ mean(g x̂)).

    x is [..., n] with any number of axes before its n features, and y has the same shape. The parameters are
    {"scale": [n], "shift": [n]}, γ and β, drawn as ones and zeros. Both sums are over all axes but the last. Means and
    variances of a lower precision than float32 are computed in float32.

    Attributes:
        n: Number of features: the length of the last axis of x, at least 1.
        scale: Whether there is a parameter γ; otherwise γ = 1.
        shift: Whether there is a parameter β; otherwise β = 0.
        epsilon: ε, a finite number above 0.

    Raises:
        SettingError: If a setting is out of range.
        ValueError: In `forward`, if the last axis of x does not have the length n, or if every mean would be over a
            single number, since then y = β whatever x is.
    """

    n: int
    _: KW_ONLY
    scale: bool = True
    shift: bool = True
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        _validate(self, self.n, self.epsilon)

    @property
    def sizes(self) -> tuple[int, int]:
        return self.n, self.n

    @abstractmethod
    def mean(self, a: Values) -> Means:
        """Averages `a` over the entries that are normalized together, in a shape that broadcasts with `a`."""

    @abstractmethod
    def count(self, x: Values) -> int:
        """Returns the number of entries of x that each mean is taken over."""

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        scale = {"scale": jnp.ones(self.n)} if self.scale else {}
        return scale | ({"shift": jnp.zeros(self.n)} if self.shift else {})

    def forward(
        self, params: PyTree, x: Values, key: PRNGKeyArray | None = None
    ) -> tuple[Values, tuple[Values, Means]]:
        match_features(self, self.n, x)
        if self.count(x) < 2:
            raise ValueError(f"{self} expected x with at least two numbers to normalize together, got {x.shape}")
        z = x.astype(accumulation_dtype(x))
        d = z - self.mean(z)
        r = rsqrt(self.mean(d * d) + self.epsilon)
        normalized = d * r
        y = rescale(params, normalized, self.scale, self.shift)
        return y.astype(x.dtype), (normalized.astype(x.dtype), r)

    def backward(self, params: PyTree, saved: tuple[Values, Means], dy: Values) -> tuple[PyTree, Values]:
        normalized, r = saved
        grads, g = rescale_backward(params, normalized, dy.astype(r.dtype), self.scale, self.shift)  # y = γ x̂ + β
        # x̂ = (x - mean x) r, where both the mean and r depend on every x that is normalized together
        dx = r * (g - self.mean(g) - normalized * self.mean(g * normalized))
        return grads, dx.astype(dy.dtype)


@dataclass(frozen=True)
class LayerNorm(Normalization):
    """Normalization over the features, at each place on its own.

    y = γ x̂ + β with x̂ = (x - mean x) r and r = (var x + ε)^-½ over the last axis, so that, with g = γ dy,
    dx = r (g - mean g - x̂ mean(g x̂)), ∂E/∂γ = Σ dy x̂ and ∂E/∂β = Σ dy, summed over the places.

    x is [n], or [..., n] with any number of axes of places, and y has the same shape. The parameters are
    {"scale": [n], "shift": [n]}, γ and β, drawn as ones and zeros. Means and variances of a lower precision than
    float32 are computed in float32.

    Attributes:
        n: Number of features: the length of the last axis of x, at least 2.
        scale: Whether there is a parameter γ; otherwise γ = 1.
        shift: Whether there is a parameter β; otherwise β = 0.
        epsilon: ε, a finite number above 0.

    Raises:
        SettingError: If a setting is out of range.
        ValueError: In `forward`, if the last axis of x does not have the length n.

    Source: Ba et al. 2016, section 3, equation 3.
    """

    def __post_init__(self) -> None:
        _validate(self, self.n, self.epsilon, least=2)

    def mean(self, a: Values) -> Means:
        return a.mean(-1, keepdims=True)

    def count(self, x: Values) -> int:
        return self.n


@dataclass(frozen=True)
class InstanceNorm(Normalization):
    """Normalization over the places, for each feature on its own.

    y = γ x̂ + β with x̂ = (x - mean x) r and r = (var x + ε)^-½ over all axes but the last, so that, with g = γ dy,
    dx = r (g - mean g - x̂ mean(g x̂)), ∂E/∂γ = Σ dy x̂ and ∂E/∂β = Σ dy.

    x is [..., n], for instance an image [height, width, n], and y has the same shape. The parameters are
    {"scale": [n], "shift": [n]}, γ and β, drawn as ones and zeros. Means and variances of a lower precision than
    float32 are computed in float32.

    Attributes:
        n: Number of features: the length of the last axis of x, at least 1.
        scale: Whether there is a parameter γ; otherwise γ = 1.
        shift: Whether there is a parameter β; otherwise β = 0.
        epsilon: ε, a finite number above 0.

    Raises:
        SettingError: If a setting is out of range.
        ValueError: In `forward`, if the last axis of x does not have the length n, or if x has only one place.

    Source: Ulyanov et al. 2016, section 2.
    """

    def mean(self, a: Values) -> Means:
        return mean_places(a)

    def count(self, x: Values) -> int:
        return x.size // self.n


@dataclass(frozen=True)
class GroupNorm(Normalization):
    """Normalization over the places and a group of features, for each group on its own.

    y = γ x̂ + β with x̂ = (x - mean x) r and r = (var x + ε)^-½ over all axes but the last and over the n / groups
    features of a group, so that, with g = γ dy, dx = r (g - mean g - x̂ mean(g x̂)), ∂E/∂γ = Σ dy x̂ and ∂E/∂β = Σ dy.
    The last two sums are over all axes but the last.

    Group k has the features k n / groups up to (k + 1) n / groups. With one group per feature this is `InstanceNorm`.
    x is [..., n], for instance an image [height, width, n], and y has the same shape. The parameters are
    {"scale": [n], "shift": [n]}, γ and β, drawn as ones and zeros. Means and variances of a lower precision than
    float32 are computed in float32.

    Attributes:
        n: Number of features: the length of the last axis of x, at least 1.
        groups: Number of groups of features, which divides n.
        scale: Whether there is a parameter γ; otherwise γ = 1.
        shift: Whether there is a parameter β; otherwise β = 0.
        epsilon: ε, a finite number above 0.

    Raises:
        SettingError: If a setting is out of range.
        ValueError: In `forward`, if the last axis of x does not have the length n, or if x has one place and a group
            has one feature.

    Source: Wu and He 2018, section 3.1, equation 7.
    """

    groups: int

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_number("groups", self.groups, least=1, integer=True)
        if self.n % self.groups:
            raise SettingError("groups", f"to divide the {self.n} features of {type(self).__name__}", self.groups)

    def mean(self, a: Values) -> Means:
        features = a.mean(tuple(range(a.ndim - 1))).reshape(self.groups, -1)  # the means over the places
        groups = jnp.broadcast_to(features.mean(-1, keepdims=True), features.shape)
        return expand_places(groups.reshape(-1), a)

    def count(self, x: Values) -> int:
        return x.size // self.groups


@dataclass(frozen=True)
class RMSNorm(Layer):
    """Division by the root mean square of the features, at each place on its own.

    y = γ x̂ with x̂ = x r and r = (mean x² + ε)^-½ over the last axis, so that, with g = γ dy,
    dx = r (g - x̂ mean(g x̂)) and ∂E/∂γ = Σ dy x̂, summed over the places.

    x is [n], or [..., n] with any number of axes of places, and y has the same shape. The parameters are
    {"scale": [n]}, γ, drawn as ones. Means of a lower precision than float32 are computed in float32.

    Attributes:
        n: Number of features: the length of the last axis of x, at least 2.
        scale: Whether there is a parameter γ; otherwise γ = 1.
        epsilon: ε, a finite number above 0.

    Raises:
        SettingError: If a setting is out of range.
        ValueError: In `forward`, if the last axis of x does not have the length n.

    Source: Zhang and Sennrich 2019, equation 4, without ε.
    """

    n: int
    _: KW_ONLY
    scale: bool = True
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        _validate(self, self.n, self.epsilon, least=2)

    @property
    def sizes(self) -> tuple[int, int]:
        return self.n, self.n

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        return {"scale": jnp.ones(self.n)} if self.scale else {}

    def forward(
        self, params: PyTree, x: Values, key: PRNGKeyArray | None = None
    ) -> tuple[Values, tuple[Values, Means]]:
        match_features(self, self.n, x)
        z = x.astype(accumulation_dtype(x))
        r = rsqrt((z * z).mean(-1, keepdims=True) + self.epsilon)
        normalized = z * r
        y = rescale(params, normalized, self.scale, False)
        return y.astype(x.dtype), (normalized.astype(x.dtype), r)

    def backward(self, params: PyTree, saved: tuple[Values, Means], dy: Values) -> tuple[PyTree, Values]:
        normalized, r = saved
        grads, g = rescale_backward(params, normalized, dy.astype(r.dtype), self.scale, False)  # y = γ x̂
        dx = r * (g - normalized * (g * normalized).mean(-1, keepdims=True))  # x̂ = x r, where r depends on every x
        return grads, dx.astype(dy.dtype)


def rescale(params: PyTree, x: Values, scale: bool, shift: bool) -> Values:
    """Computes y = γ x + β, with γ = 1 without `scale` and β = 0 without `shift`."""
    y = expand_places(params["scale"], x) * x if scale else x
    return y + expand_places(params["shift"], x) if shift else y


def rescale_backward(
    params: PyTree, x: Values, dy: Values, scale: bool, shift: bool
) -> tuple[dict[str, Array], Values]:
    """Computes ∂E/∂γ = Σ dy x and ∂E/∂β = Σ dy, summed over all axes but the last, and dx = γ dy."""
    grads = {"scale": sum_places(dy * x)} if scale else {}  # y = γ x + β: ∂E/∂γ = Σ dy x
    grads |= {"shift": sum_places(dy)} if shift else {}  # y = γ x + β: ∂E/∂β = Σ dy
    return grads, expand_places(params["scale"], dy) * dy if scale else dy  # y = γ x + β: ∂E/∂x = γ dy


def _validate(layer: Layer, n: int, epsilon: float, least: int = 1) -> None:
    validate_number("n", n, least=least, integer=True, note=f"the features of {type(layer).__name__}")
    validate_number("epsilon", epsilon, above=0)

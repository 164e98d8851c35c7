"""Positions of a sequence as the layers after it see them: added to the features, or as angles that turn them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.factors import accumulation_dtype
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.initializers import Initializer, draw_array

Tokens = Float[Array, "T n"]
Values = Float[Array, "..."]

_normal = Initializer("normal", (("stddev", 0.02),))


@dataclass(frozen=True)
class LearnedPositions(Layer):
    """A learned vector for each position, added to the features there.

    y_t = x_t + P_t, so that ∂E/∂P_t = dy_t for t < T, 0 for the positions after the sequence, and dx = dy.

    x is [T, n] with T of at most `length`, and y has the same shape. The parameters are {"P": [length, n]}. The
    gradient of P is an array and not an `Outer`, because P is added and multiplies nothing.

    Attributes:
        length: The number of positions, at least 1.
        n: Number of features, at least 1.
        weights: Initializer of P, from `jax.nn.initializers`. It draws an array [length, n]. Normal numbers with the
            standard deviation 0.02 by default.

    Raises:
        SettingError: If `length` or n is not a whole number of at least 1.
        ValueError: In `forward`, if x does not have the shape [T, n], or is longer than `length`.

    Source: Gehring et al. 2017, section 3.1; Radford et al. 2018, section 4.1, for the default of `weights`.
    """

    length: int
    n: int
    _: KW_ONLY
    weights: Callable = field(default_factory=lambda: _normal)

    def __post_init__(self) -> None:
        validate_number("length", self.length, least=1, integer=True, note="the positions of LearnedPositions")
        validate_number("n", self.n, least=1, integer=True, note="the features of LearnedPositions")

    @property
    def sizes(self) -> tuple[int, int]:
        return self.n, self.n

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        return {"P": draw_array(self.weights, key, (self.length, self.n))}

    def forward(self, params: PyTree, x: Values, key: PRNGKeyArray | None = None) -> tuple[Tokens, tuple[()]]:
        _match_sequence(self, self.n, x)
        if len(x) > self.length:
            raise ValueError(f"{self} expected x of at most {self.length} positions, got {x.shape}")
        return x + params["P"][: len(x)], ()

    def backward(
        self, params: PyTree, saved: tuple[()], dy: Tokens
    ) -> tuple[dict[str, Float[Array, "length n"]], Tokens]:
        # y = x + P[:T], where the positions from T on have no part in y
        return {"P": jnp.pad(dy, ((0, self.length - len(dy)), (0, 0)))}, dy


@dataclass(frozen=True)
class SinusoidalPositions(Layer):
    """Sines and cosines of the position, added to the features there.

    y_t = x_t + P_t with P_t,2i = sin(t / 10000^(2i / n)) and P_t,2i+1 = cos(t / 10000^(2i / n)), so that dx = dy.

    x is [T, n] of any length T, and y has the same shape. The layer has no parameters.

    Attributes:
        n: Number of features, at least 1.

    Raises:
        SettingError: If n is not a whole number of at least 1.
        ValueError: In `forward`, if x does not have the shape [T, n].

    Source: Vaswani et al. 2017, section 3.5.
    """

    n: int

    def __post_init__(self) -> None:
        validate_number("n", self.n, least=1, integer=True, note="the features of SinusoidalPositions")

    @property
    def sizes(self) -> tuple[int, int]:
        return self.n, self.n

    def forward(self, params: PyTree, x: Values, key: PRNGKeyArray | None = None) -> tuple[Tokens, tuple[()]]:
        _match_sequence(self, self.n, x)
        angles = _angles(len(x), self.n)
        P = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(x), -1)[:, : self.n]
        return x + jnp.asarray(P, x.dtype), ()

    def backward(self, params: PyTree, saved: tuple[()], dy: Tokens) -> tuple[PyTree, Tokens]:
        return (), dy  # y = x + P


def rotate(x: Float[Array, "*heads T d"], inverse: bool = False) -> Float[Array, "*heads T d"]:
    """Turns each pair of features by an angle proportional to the position, the rotary position embedding.

    y_2i = x_2i cos(t θ_i) - x_2i+1 sin(t θ_i) and y_2i+1 = x_2i sin(t θ_i) + x_2i+1 cos(t θ_i) at position t, with
    θ_i = 10000^(-2i / d). The map is linear, and its transposed is the map back: dx is dy turned by the angles -t θ_i.
    The inner product of y at position t with y at position s depends on x and on t - s only.

    Args:
        x: [..., T, d], queries or keys at positions 0 ... T - 1, with an even number d of features.
        inverse: Whether to turn by -t θ_i, which is the inverse of the map and the transposed of it.

    Returns:
        [..., T, d], in the dtype of x, computed in float32 or a higher precision.

    Source: Su et al. 2021, section 3.2.2, equation 34.
    """
    angles = _angles(*x.shape[-2:]) * (-1 if inverse else 1)
    dtype = accumulation_dtype(x)
    cos, sin = (
        jnp.broadcast_to(jnp.asarray(f(angles), dtype), x.shape[:-1] + angles.shape[1:]) for f in (np.cos, np.sin)
    )
    a, b = x[..., ::2].astype(dtype), x[..., 1::2].astype(dtype)
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape).astype(x.dtype)


def _angles(length: int, n: int) -> np.ndarray:
    """Returns t / 10000^(2i / n) [length, ⌈n / 2⌉], in float64 since float32 has few digits for a large angle."""
    return np.arange(length)[:, None] / 10000.0 ** (np.arange(0, n, 2) / n)


def _match_sequence(layer: Layer, n: int, x: Values) -> None:
    if x.ndim != 2 or x.shape[1] != n:
        raise ValueError(f"{layer} expected x of shape (T, {n}), got {x.shape}")

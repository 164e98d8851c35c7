"""Pooling: layers that summarize the entries of an image, a sequence or a volume in windows, for each channel alike.

The channels are the last axis: x is [width, C], [height, width, C] or [depth, height, width, C].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import prod
from operator import add
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Integer, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.base import Layer
from jaxann.nn.factors import accumulation_dtype
from jaxann.nn.reshape import save_shape, validate_shape
from jaxann.nn.text import format_expression
from jaxann.nn.window import parse_padding, repeat_setting
from jaxann.nn.xla import compute_once

Values = Float[Array, "*places C"]
Pooled = Float[Array, "*pooled C"]
Empty = Float[Array, "0 ..."]


@dataclass(frozen=True)
class Pool(Layer):
    """Base class of layers that summarize x in windows.

    Output place o sees the places s o + k - p of x, for every k in the window, in each axis of places: s is the stride
    and p the padding before the axis. Windows that would reach beyond the padded axis are left out.

    Attributes:
        size: Lengths of the window, one for each axis of places: (3,) for a sequence, (2, 2) for an image.
        stride: s, one number for every axis or a tuple with one for each; the size of the window by default, so that
            windows lie side by side.
        padding: p, one number for every axis or a tuple with one for each, at least 0 and less than the size. A number
            pads both ends of an axis; a pair (before, after) in the tuple pads them differently.
    """

    size: Sequence[int]
    stride: int | Sequence[int] | None = None
    padding: int | Sequence[int | tuple[int, int]] = 0

    def __post_init__(self) -> None:
        size = validate_shape("size", self.size)
        stride = size if self.stride is None else self.stride
        stride = validate_shape("stride", repeat_setting("stride", stride, len(size)))
        padding = parse_padding(self.padding, len(size), size)
        for name, value in (("size", size), ("stride", stride), ("padding", padding)):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return format_expression(self, stride=self.size)

    @property
    def _axes(self) -> list[tuple[int, int, int, int]]:
        """The length of the window, the stride and the padding before and after, for each axis of places."""
        settings = cast(Any, self)
        return [(k, s, *pair) for k, s, pair in zip(self.size, settings.stride, settings.padding, strict=True)]

    @property
    def _offsets(self) -> list[tuple[int, ...]]:
        return list(product(*map(range, self.size)))  # every k, the last axis running fastest

    def _output_places(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != len(self.size) + 1:
            raise ValueError(f"{self} expected x of {len(self.size) + 1} axes, the last for channels, got {shape}")
        last = [n + before + after - k for n, (k, _, before, after) in zip(shape, self._axes, strict=False)]
        if min(last) < 0:
            raise ValueError(f"{self} expected x at least as large as the window when padded, got {shape}")
        return tuple(start // s + 1 for start, (_, s, _, _) in zip(last, self._axes, strict=True))

    def _gather(self, x: Values, fill: float) -> list[Pooled]:
        """Returns x[s o + k - p] for all o, one array for each k; `fill` is the value in the padding."""
        places = self._output_places(x.shape)
        edges = [(before, after, 0) for _, _, before, after in self._axes]
        padded = lax.pad(x, jnp.asarray(fill, x.dtype), [*edges, (0, 0, 0)])
        strides = [s for _, s, _, _ in self._axes]
        return [
            padded[tuple(slice(i, i + s * (o - 1) + 1, s) for i, s, o in zip(k, strides, places, strict=True))]
            for k in self._offsets
        ]

    def _scatter(self, d: Pooled, k: tuple[int, ...], shape: tuple[int, ...]) -> Values:
        """Returns the array of the given shape with d[o] at s o + k - p and zeros elsewhere: `_gather` transposed."""
        edges = [
            (i - before, n - (i - before) - s * (o - 1) - 1, s - 1)  # a negative edge cuts the padding off
            for i, (_, s, before, _), o, n in zip(k, self._axes, d.shape, shape, strict=False)
        ]
        return lax.pad(d, jnp.zeros((), d.dtype), [*edges, (0, 0, 0)])

    @property
    def _lie_side_by_side(self) -> bool:
        return self.stride == self.size

    def _expand(self, d: Shaped[Array, "*pooled C"]) -> Shaped[Array, "*blocks C"]:
        """Returns d[o] with an axis of length 1 after each axis of places, for the entries of window o."""
        return jnp.expand_dims(d, tuple(range(1, 2 * len(self.size), 2)))

    def _join_windows(self, entries: Float[Array, "*blocks C"], shape: tuple[int, ...]) -> Values:
        """Returns the array of the given shape with entries[o, k] at s o + k - p, for windows that lie side by side."""
        covered = [o * k for o, k in zip(entries.shape[:-1:2], self.size, strict=True)]
        edges = [
            (-before, n - (m - before), 0) for n, m, (_, _, before, _) in zip(shape, covered, self._axes, strict=False)
        ]
        return lax.pad(entries.reshape(*covered, shape[-1]), jnp.zeros((), entries.dtype), [*edges, (0, 0, 0)])


@dataclass(frozen=True)
class MaxPool(Pool):
    """The largest entry of each window.

    y[o] = max_k x[s o + k - p], so that dx[i] = Σ dy[o] over the windows o whose largest entry is x[i].

    x is [..., C] with an axis for each length of the window, and y has the same axes. Padding is never the largest. If
    entries of a window are equal, the whole dy goes to the first of them, in the order in which the last axis of places
    runs fastest. If a window contains a NaN, its y is a NaN. The layer has no parameters.

    Attributes:
        size: Lengths of the window, one for each axis of places: (3,) for a sequence, (2, 2) for an image.
        stride: s, one number for every axis or a tuple with one for each; the size of the window by default, so that
            windows lie side by side. With a smaller stride they overlap.
        padding: p, one number for every axis or a tuple with one for each, at least 0 and less than the size. A number
            pads both ends of an axis; a pair (before, after) in the tuple pads them differently.

    Raises:
        SettingError: If a setting is out of range.
        ValueError: In `forward`, if x has another number of axes, or the window is larger than the padded x.

    Source: LeCun et al. 1998 for pooling; Scherer et al. 2010, section 3.2, for the maximum.
    """

    def forward(
        self, params: PyTree, x: Values, key: PRNGKeyArray | None = None
    ) -> tuple[Pooled, tuple[Empty, Integer[Array, "*pooled C"]]]:
        y, first = compute_once(self._find_largest)(x)
        return y, (save_shape(x), first)

    def _find_largest(self, x: Values) -> tuple[Pooled, Integer[Array, "*pooled C"]]:
        """Returns y[o] = max_k x[s o + k - p], and the first k at which it is."""
        y, *others = self._gather(x, -jnp.inf)
        first = jnp.zeros(y.shape, jnp.uint8 if len(others) < 256 else jnp.int32)
        for k, entry in enumerate(others, 1):
            larger = (entry > y) | jnp.isnan(entry)  # a comparison with NaN is False, and would drop it
            y, first = jnp.where(larger, entry, y), jnp.where(larger, jnp.asarray(k, first.dtype), first)
        return y, first

    def backward(self, params: PyTree, saved: tuple[Array, Array], dy: Pooled) -> tuple[PyTree, Values]:
        shape, first = saved[0].shape[1:], saved[1]
        # y[o] = x[s o + k - p] for the k that is saved in `first`
        if self._lie_side_by_side:
            entries = np.arange(prod(self.size), dtype=first.dtype).reshape(
                [n for k in self.size for n in (1, k)] + [1]
            )
            d = jnp.where(self._expand(first) == entries, self._expand(dy), 0)
            return (), self._join_windows(d, shape)
        terms = [self._scatter(jnp.where(first == k, dy, 0), at, shape) for k, at in enumerate(self._offsets)]
        return (), reduce(add, terms)


@dataclass(frozen=True)
class AvgPool(Pool):
    """The mean of each window.

    y[o] = Σ_k x[s o + k - p] / K, where K is the number of entries of a window, so that dx[i] = Σ dy[o] / K over the
    windows o that contain x[i].

    x is [..., C] with an axis for each length of the window, and y has the same axes. Padding counts as entries that
    are 0. Sums of a lower precision than float32 are computed in float32. The layer has no parameters.

    Attributes:
        size: Lengths of the window, one for each axis of places: (3,) for a sequence, (2, 2) for an image.
        stride: s, one number for every axis or a tuple with one for each; the size of the window by default, so that
            windows lie side by side. With a smaller stride they overlap.
        padding: p, one number for every axis or a tuple with one for each, at least 0 and less than the size. A number
            pads both ends of an axis; a pair (before, after) in the tuple pads them differently.

    Raises:
        SettingError: If a setting is out of range.
        ValueError: In `forward`, if x has another number of axes, or the window is larger than the padded x.

    Source: LeCun et al. 1998, section 2.B, without its trainable coefficient and bias.
    """

    def forward(self, params: PyTree, x: Values, key: PRNGKeyArray | None = None) -> tuple[Pooled, Empty]:
        entries = self._gather(x.astype(accumulation_dtype(x)), 0.0)
        return (reduce(add, entries) / prod(self.size)).astype(x.dtype), save_shape(x)

    def backward(self, params: PyTree, saved: Empty, dy: Pooled) -> tuple[PyTree, Values]:
        d = dy.astype(accumulation_dtype(dy)) / prod(self.size)
        shape = saved.shape[1:]
        # y[o] = Σ_k x[s o + k - p] / K
        if self._lie_side_by_side:
            blocks = [n for pair in zip(d.shape, self.size, strict=False) for n in pair]
            return (), self._join_windows(jnp.broadcast_to(self._expand(d), (*blocks, shape[-1])), shape).astype(
                dy.dtype
            )
        return (), reduce(add, [self._scatter(d, k, shape) for k in self._offsets]).astype(dy.dtype)


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """The mean over all places, for each channel.

    y = Σ_i x[i] / N over all N places i, so that dx[i] = dy / N.

    x is [..., C] with one or more axes of places, and y is [C]. The layer has no parameters.

    Raises:
        ValueError: In `forward`, if x has fewer than two axes.

    Source: Lin et al. 2014, section 3.2.
    """

    def forward(self, params: PyTree, x: Values, key: PRNGKeyArray | None = None) -> tuple[Float[Array, " C"], Empty]:
        if x.ndim < 2:
            raise ValueError(f"{self} expected x with at least one axis before its channels, got {x.shape}")
        return x.mean(tuple(range(x.ndim - 1))), save_shape(x)

    def backward(self, params: PyTree, saved: Empty, dy: Float[Array, " C"]) -> tuple[PyTree, Values]:
        *places, _ = shape = saved.shape[1:]
        return (), jnp.broadcast_to(dy / prod(places), shape)  # y = Σ_i x[i] / N


@dataclass(frozen=True)
class AdaptiveAvgPool(Layer):
    """Means of windows that divide x into a given number of places.

    In each axis, y[o] is the mean of x[i] for ⌊o n / m⌋ ≤ i < ⌈(o + 1) n / m⌉, where n and m are the lengths of the
    axis in x and y. This is y = A x with a matrix A [m, n] for each axis, so that dx = Aᵀ dy.

    x is [..., C] with an axis for each length in `shape`, and y is [*shape, C]. If m does not divide n, neighbouring
    windows overlap in an entry. If m exceeds n, entries of x are repeated. The layer has no parameters.

    Attributes:
        shape: Lengths m of the axes of places of y, stored as a tuple.

    Raises:
        SettingError: If `shape` is empty, or holds anything but whole numbers of at least 1.
        ValueError: In `forward`, if x does not have one axis more than `shape` has lengths.

    Source: `torch.nn.AdaptiveAvgPool2d`, whose windows these are; He et al. 2015, section 2.2, for the idea.
    """

    shape: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", validate_shape("shape", self.shape))

    def forward(self, params: PyTree, x: Values, key: PRNGKeyArray | None = None) -> tuple[Pooled, Empty]:
        if x.ndim != len(self.shape) + 1:
            raise ValueError(f"{self} expected x of {len(self.shape) + 1} axes, the last for channels, got {x.shape}")
        y = x
        for axis, (n, m) in enumerate(zip(x.shape, self.shape, strict=False)):
            y = _multiply(_averages(n, m), y, axis)
        return y, save_shape(x)

    def backward(self, params: PyTree, saved: Empty, dy: Pooled) -> tuple[PyTree, Values]:
        dx = dy
        for axis, (n, m) in enumerate(zip(saved.shape[1:], self.shape, strict=False)):
            dx = _multiply(_averages(n, m).T, dx, axis)  # y = A x along this axis
        return (), dx


def _averages(n: int, m: int) -> np.ndarray:
    """Returns A [m, n]: row o is 1 / K at the K entries of window o, and 0 elsewhere."""
    o, i = np.arange(m)[:, None], np.arange(n)
    inside = (o * n // m <= i) & (i < -(-(o + 1) * n // m))
    return inside / inside.sum(axis=1, keepdims=True)


def _multiply(A: np.ndarray, x: Values, axis: int) -> Pooled:
    y = jnp.tensordot(jnp.asarray(A, x.dtype), x, (1, axis), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(y, 0, axis)

"""The window that a convolution looks through, with the three convolutions that its forward and backward consist of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxann.nn.hyperparameters import SettingError, validate_number

Images = Float[Array, "N *places C"]
Outputs = Float[Array, "N *outputs m"]
Kernel = Float[Array, "*window c m"]  # c = C / groups


@dataclass(frozen=True)
class Window:
    """Window of a convolution: output place o sees the places s o + d k - p of x, for every k in the window.

    All its methods take batches, and images with the channels last. XLA computes on a CPU, inside a loop, convolutions
    in any other layout many times slower (openxla/xla, reported as jax-ml/jax#12868).

    Attributes:
        size: Lengths of the window, one for each axis of places.
        stride: s, one for each axis.
        padding: p before and after each axis.
        dilation: d, one for each axis.
        groups: Number of groups of channels that are convolved separately.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @property
    def _layout(self) -> tuple[str, str, str]:
        axes = "DHW"[-len(self.size) :]
        return f"N{axes}C", f"{axes}IO", f"N{axes}C"

    def kernel(self, W: Float[Array, "m n"]) -> Kernel:
        """Returns a matrix [m, c·k] with a row for each output channel as a kernel [*window, c, m]."""
        return jnp.moveaxis(W.reshape(len(W), -1, *self.size), (0, 1), (-1, -2))

    def output_places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the lengths of the axes of places of y; one below 1 says that the window is larger than x."""
        return tuple((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(places, *self._axes, strict=True))

    def input_places(self, outputs: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the smallest lengths of the axes of places of x for which y has the given ones."""
        return tuple(s * (o - 1) + d * (k - 1) + 1 - sum(p) for o, k, s, p, d in zip(outputs, *self._axes, strict=True))

    def convolve(self, x: Images, K: Kernel) -> Outputs:
        """Computes y[o] = Σ_k K[k]ᵀ x[s o + d k - p]."""
        return lax.conv_general_dilated(
            x,
            K,
            self.stride,
            self.padding,
            rhs_dilation=self.dilation,
            dimension_numbers=self._layout,
            feature_group_count=self.groups,
        )

    def convolve_transposed(self, dy: Outputs, K: Kernel, places: tuple[int, ...]) -> Images:
        """Computes dx[i] = Σ_k K[k] dy[(i + p - d k) / s] over the k for which the place of dy is a whole number.

        Args:
            dy: [N, *outputs, m].
            K: [*window, c, m].
            places: Lengths of the axes of places of x, from which `convolve` makes those of dy.
        """
        *_, c, m = K.shape
        g = self.groups
        flipped = jnp.flip(K, range(len(self.size)))  # i + p - d k runs backwards as k runs forwards
        transposed = jnp.moveaxis(flipped.reshape(*self.size, c, g, m // g), -3, -1)  # [*window, g, m/g, c]
        transposed = jnp.moveaxis(transposed, -3, -2).reshape(*self.size, m // g, g * c)
        padding = []
        for n, o, k, s, (p, _), d in zip(places, dy.shape[1:], *self._axes, strict=False):
            before = d * (k - 1) - p
            padding.append((before, n - (s * (o - 1) + 1) - before + d * (k - 1)))
        return lax.conv_general_dilated(
            dy,
            transposed,
            (1,) * len(self.size),
            padding,
            lhs_dilation=self.stride,
            rhs_dilation=self.dilation,
            dimension_numbers=self._layout,
            feature_group_count=g,
        )

    def kernel_gradient(self, x: Images, dy: Outputs) -> Float[Array, "m n"]:
        """Computes dK[k] = Σ_N Σ_o x[s o + d k - p] dy[o]ᵀ, as a matrix [m, c·k].

        It is the convolution of x with dy in which examples are channels, and stride and dilation change places.
        """
        padding = [
            (p, d * (k - 1) + s * (o - 1) + 1 - n - p)
            for n, o, k, s, (p, _), d in zip(x.shape[1:], dy.shape[1:], *self._axes, strict=False)
        ]
        dK = lax.conv_general_dilated(
            x.swapaxes(0, -1),  # [C, *places, N]
            jnp.moveaxis(dy, 0, -2),  # [*outputs, N, m]
            self.dilation,
            padding,
            rhs_dilation=self.stride,
            dimension_numbers=self._layout,
            batch_group_count=self.groups,
        )  # [c, *window, m]
        return jnp.moveaxis(dK, -1, 0).reshape(dy.shape[-1], -1)

    def patches(self, x: Images) -> Float[Array, "N *outputs n"]:
        """Returns the entries of x that each output place sees, as rows [C·k] in the order of a row of the matrix W."""
        return lax.conv_general_dilated_patches(
            x, self.size, self.stride, self.padding, rhs_dilation=self.dilation, dimension_numbers=self._layout
        )

    @property
    def _axes(self) -> tuple[Any, ...]:
        return self.size, self.stride, self.padding, self.dilation


def parse_padding(padding: Any, axes: int, size: tuple[int, ...] | None = None) -> tuple[tuple[int, int], ...]:
    """Checks a padding, and returns it as a pair (before, after) for each axis of places.

    Args:
        padding: One number for every axis, or a sequence with a number or a pair for each.
        axes: The number of axes.
        size: The lengths of the window, if the padding must be less than they are.

    Raises:
        SettingError: If the value is not such a padding, or a number is out of range.
    """
    pairs = [(p, p) if np.ndim(p) == 0 else tuple(p) for p in repeat_setting("padding", padding, axes)]
    for axis, pair in enumerate(pairs):
        if len(pair) != 2:
            raise SettingError(f"padding[{axis}]", "to be a number or a pair (before, after)", pair)
        bound = {} if size is None else {"below": size[axis], "note": "the window's size"}
        for number in pair:
            validate_number(f"padding[{axis}]", number, least=0, integer=True, **bound)
    return tuple(pairs)


def repeat_setting(name: str, value: Any, axes: int) -> tuple[Any, ...]:
    """Returns a setting with a value for each axis of places, from one value for all of them or from a sequence.

    Args:
        name: The name of the setting.
        value: Its value.
        axes: The number of axes.

    Raises:
        SettingError: If a sequence does not have a value for each axis.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        return (value,) * axes
    if len(value) != axes:
        raise SettingError(name, f"to have {axes} entries, as size has", value)
    return tuple(value)

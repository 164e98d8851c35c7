"""The window that a convolution looks through, with the three convolutions that its forward and backward consist of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxann.nn.folding import Folding
from jaxann.nn.hyperparameters import SettingError, validate_number

Images = Float[Array, "N *places C"]
Outputs = Float[Array, "N *outputs m"]
Kernel = Float[Array, "*window c m"]  # c = C / groups


@dataclass(frozen=True)
class Window:
    """Window of a convolution: output place o sees the places s o + d k - p of x, for every k in the window.

    All its methods take batches, and images with the channels last. XLA computes on a CPU, inside a loop, convolutions
    in any other layout many times slower (openxla/xla, reported as jax-ml/jax#12868). Images with a few channels are
    folded on a CPU, where `find_folding` says so.

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

    def matrix(self, K: Kernel) -> Float[Array, "m n"]:
        """Returns a kernel [*window, c, m] as the matrix [m, c·k]: the inverse of `kernel`."""
        return jnp.moveaxis(K, (-1, -2), (0, 1)).reshape(K.shape[-1], -1)

    def convolve(self, x: Images, K: Kernel) -> Outputs:
        """Computes y[o] = Σ_k K[k]ᵀ x[s o + d k - p]."""
        folding = self.find_folding(x.shape[-2], *K.shape[-2:])
        if folding is None:
            return self._convolve(x, K)

        def convolve_folded(x: Images, K: Kernel) -> Outputs:
            return folding.unfold_y(self._fold(folding)._convolve(folding.fold_x(x), folding.fold_kernel(K)))

        return lax.platform_dependent(x, K, cpu=convolve_folded, default=self._convolve)

    def convolve_transposed(self, dy: Outputs, K: Kernel, places: tuple[int, ...]) -> Images:
        """Computes dx[i] = Σ_k K[k] dy[(i + p - d k) / s] over the k for which the place of dy is a whole number.

        Args:
            dy: [N, *outputs, m].
            K: [*window, c, m].
            places: Lengths of the axes of places of x, from which `convolve` makes those of dy.
        """
        transpose = partial(self._convolve_transposed, places=places)
        folding = self.find_folding(places[-1], *K.shape[-2:])
        if folding is None:
            return transpose(dy, K)

        def transpose_folded(dy: Outputs, K: Kernel) -> Images:
            folded = self._fold(folding)
            F, lengths = folding.fold_kernel(K), (*places[:-1], folding.folded_places)
            return folding.unfold_x(folded._convolve_transposed(folding.fold_y(dy), F, lengths))

        return lax.platform_dependent(dy, K, cpu=transpose_folded, default=transpose)

    def kernel_gradient(self, x: Images, dy: Outputs) -> Float[Array, "m n"]:
        """Computes dK[k] = Σ_N Σ_o x[s o + d k - p] dy[o]ᵀ, as a matrix [m, c·k]."""
        folding = self.find_folding(x.shape[-2], x.shape[-1], dy.shape[-1])
        if folding is None:
            return self.matrix(self._kernel_gradient(x, dy))

        def differentiate_folded(x: Images, dy: Outputs) -> Kernel:
            F = self._fold(folding)._kernel_gradient(folding.fold_x(x), folding.fold_y(dy))
            return folding.unfold_kernel(F)

        return self.matrix(lax.platform_dependent(x, dy, cpu=differentiate_folded, default=self._kernel_gradient))

    def find_folding(self, places: int, c: int, m: int) -> Folding | None:
        """Returns the folding of the last axis of places that is faster on a CPU, or None if folding is not.

        XLA computes a convolution on a CPU as a product of matrices whose columns are the channels. A few channels do
        not fill the processor's vectors. The thresholds are those at which folding took less time, for windows of 3
        and 5 places in images of 14 to 32 places.

        Args:
            places: The length of that axis in x.
            c: The number of channels of x.
            m: The number of channels of y.
        """
        k, fewer, more = self.size[-1], min(c, m), max(c, m)
        count = 4 if fewer == 1 and more <= 32 else 2 if fewer <= 8 and more <= 16 else 1
        outputs = places + sum(self.padding[-1]) - k + 1
        if count == 1 or outputs < count or k == 1 or (self.stride[-1], self.dilation[-1], self.groups) != (1, 1, 1):
            return None
        return Folding(count, k, self.padding[-1][0], places, outputs)

    def _fold(self, folding: Folding) -> Window:
        """Returns the window of the folded image, whose last axis of places has its padding already."""
        size, padding = (*self.size[:-1], folding.folded_size), (*self.padding[:-1], (0, 0))
        return replace(self, size=size, padding=padding)

    def _convolve(self, x: Images, K: Kernel) -> Outputs:
        return lax.conv_general_dilated(
            x,
            K,
            self.stride,
            self.padding,
            rhs_dilation=self.dilation,
            dimension_numbers=self._layout,
            feature_group_count=self.groups,
        )

    def _convolve_transposed(self, dy: Outputs, K: Kernel, places: tuple[int, ...]) -> Images:
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

    def _kernel_gradient(self, x: Images, dy: Outputs) -> Kernel:
        # The convolution of x with dy in which examples are channels, and stride and dilation change places.
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
        return jnp.moveaxis(dK, 0, -2)

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

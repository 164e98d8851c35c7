"""Convolutions of images, sequences and volumes, whose kernels are matrices with a row for each output channel.

The channels are the last axis: x is [width, n], [height, width, n] or [depth, height, width, n].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer, parts
from jaxann.nn.factors import Factor, accumulation_dtype
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.initializers import draw_array, glorot_uniform
from jaxann.nn.outer import Outer
from jaxann.nn.reshape import validate_shape
from jaxann.nn.window import Window, parse_padding, repeat_setting

Values = Float[Array, "*places n"]
Outputs = Float[Array, "*outputs m"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Patches(Factor):
    """What a window sees at each output place, as rows [C·k].

    The rows would hold each entry of x as often as windows contain it. Sums over places are convolutions instead.

    Attributes:
        x: [..., *places, C].
        window: The window, of a convolution without groups.
    """

    x: Float[Array, "*t C"]
    window: Window = field(metadata={"static": True})

    @property
    def features(self) -> int:
        return self.x.shape[-1] * prod(self.window.size)

    def rows(self) -> Float[Array, "*t k"]:
        rows = self.window.patches(self._merge_batch(self.x))
        return rows.reshape(*self.x.shape[: -len(self.window.size) - 1], *rows.shape[1:])

    def multiply(self, other: Float[Array, "*t m"]) -> Float[Array, "k m"]:
        x = self._merge_batch(self.x).astype(other.dtype)
        return self.window.kernel_gradient(x, self._merge_batch(other)).T

    def _merge_batch(self, a: Float[Array, "..."]) -> Float[Array, "N ..."]:
        return a.reshape(-1, *a.shape[-len(self.window.size) - 1 :])


@dataclass(frozen=True)
class Convolution(Layer):
    """Base class of convolutions: their settings and their parameters.

    Attributes:
        n: Number of input channels, at least 1.
        m: Number of output channels, at least 1.
        size: Lengths of the window, one for each axis of places: (3,) for a sequence, (3, 3) for an image.
        stride: s, one number for every axis or a tuple with one for each.
        padding: p, one number for every axis or a tuple with one for each. A number pads both ends of an axis; a pair
            (before, after) in the tuple pads them differently.
        dilation: d, the distance between neighbouring entries of the window, given like the stride.
        groups: Number of groups of channels that are convolved separately; it divides n and m. With groups = n every
            channel is convolved on its own ("depthwise").
        bias: Whether there is a parameter b. Without one, b = 0: a normalization above would subtract it.
        weights: Initializer of the kernel, from `jax.nn.initializers`. It draws an array [*size, inputs, outputs] of
            the channels of one group, from which initializers compute fan-in and fan-out.
        biases: Initializer of b, from `jax.nn.initializers`; zeros by default.
    """

    n: int
    m: int
    size: Sequence[int]
    stride: int | Sequence[int] = 1
    padding: int | Sequence[int | tuple[int, int]] | str = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1
    bias: bool = True
    weights: Callable = field(default_factory=lambda: glorot_uniform)  # as a class attribute it would become a method
    biases: Callable = field(default_factory=lambda: initializers.zeros)

    def __post_init__(self) -> None:
        name = type(self).__name__
        validate_number("n", self.n, least=1, integer=True, note=f"the input channels of {name}")
        validate_number("m", self.m, least=1, integer=True, note=f"the output channels of {name}")
        validate_number("groups", self.groups, least=1, integer=True)
        if self.n % self.groups or self.m % self.groups:
            raise SettingError("groups", f"to divide the {self.n} input and {self.m} output channels", self.groups)
        size = validate_shape("size", self.size)
        if len(size) > 3:
            raise SettingError("size", "to have one length for each of at most 3 axes of places", size)
        stride, dilation = (
            validate_shape(setting, repeat_setting(setting, getattr(self, setting), len(size)))
            for setting in ("stride", "dilation")
        )
        padding = self._parse_padding(size, dilation)
        for setting, value in (("size", size), ("stride", stride), ("padding", padding), ("dilation", dilation)):
            object.__setattr__(self, setting, value)

    def _parse_padding(self, size: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        return parse_padding(self.padding, len(size))

    @property
    def sizes(self) -> tuple[int, int]:
        return self.n, self.m

    @property
    def window(self) -> Window:
        """The window, which the settings describe."""
        settings: Any = self
        return Window(settings.size, settings.stride, settings.padding, settings.dilation, self.groups)

    def _draw(self, key: PRNGKeyArray, inputs: int, outputs: int) -> dict[str, Array]:
        """Draws W [outputs, inputs·k], with a row for each channel of `outputs`, and b [m]."""
        weights_key, biases_key = jax.random.split(key)
        kernel = draw_array(self.weights, weights_key, (*self.size, inputs // self.groups, outputs))
        W = jnp.moveaxis(kernel, (-1, -2), (0, 1)).reshape(outputs, -1)
        return {"W": W, "b": self.biases(biases_key, (self.m,))} if self.bias else {"W": W}

    def _validate_input(self, x: Values) -> None:
        if x.ndim != len(self.size) + 1 or x.shape[-1] != self.n:
            raise ValueError(
                f"{self} expected x of {len(self.size) + 1} axes, the last for {self.n} channels, got {x.shape}"
            )

    def _add_bias(self, params: PyTree, y: Outputs) -> Outputs:
        return y + jnp.broadcast_to(params["b"], y.shape) if self.bias else y

    def _differentiate_bias(self, dy: Outputs) -> dict[str, Array]:
        places = tuple(range(dy.ndim - 1))
        return {"b": dy.sum(places, dtype=accumulation_dtype(dy))} if self.bias else {}  # y = ... + b at every place

    def _multiply_patches(self, rows: Float[Array, "..."], image: Float[Array, "..."]) -> Outer | Array:
        """Returns Σ_o rows[o] patch(image)[o]ᵀ, where patch(image)[o] is what the window sees at place o."""
        if self.groups == 1:
            return Outer(rows, Patches(image, self.window))
        dtype = accumulation_dtype(rows, image)  # channels of different groups see different patches: not one product
        return self.window.kernel_gradient(image[None].astype(dtype), rows[None].astype(dtype))


@dataclass(frozen=True)
class Conv(Convolution):
    """Convolution: the affine map `Dense` at every place, applied to what a window sees there.

    y[o] = Σ_k W[k] x[s o + d k - p] + b, so that ∂E/∂W[k] = Σ_o dy[o] x[s o + d k - p]ᵀ, ∂E/∂b = Σ_o dy[o] and
    dx[i] = Σ_k W[k]ᵀ dy[(i + p - d k) / s] over the k for which the place of dy is a whole number.

    x is [..., n] with an axis for each length of the window, and y is [..., m] with the same axes. Entries outside x
    are 0. An axis of length N becomes one of length ⌊(N + 2 p - d (k - 1) - 1) / s⌋ + 1.

    The parameters are {"W": [m, n / groups · k], "b": [m]}: a row for each output channel, whose entries are ordered as
    in PyTorch's `weight.reshape(m, -1)`. The kernel of a convolution without groups is therefore a matrix like that of
    `Dense`, for learning rules, per-example gradients and K-FAC alike. With groups its gradient is an array.

    Inside a compiled loop on a CPU, as in `fit`, train with this backward rather than with `jax.grad`: XLA:CPU computes
    the convolutions that `jax.grad` makes there several times slower (jax-ml/jax#12868).

    Attributes:
        n: Number of input channels, at least 1.
        m: Number of output channels, at least 1.
        size: Lengths k of the window, one for each axis of places: (3,) for a sequence, (3, 3) for an image.
        stride: s, one number for every axis or a tuple with one for each, at least 1.
        padding: p, one number for every axis or a tuple with one for each, at least 0. A number pads both ends of an
            axis; a pair (before, after) in the tuple pads them differently. "same" pads by d (k - 1) in all, so that
            with stride 1 y has the places of x.
        dilation: d, the distance between neighbouring entries of the window, given like the stride.
        groups: Number of groups of channels that are convolved separately; it divides n and m. With groups = n every
            channel is convolved on its own ("depthwise").
        bias: Whether there is a parameter b. Without one, b = 0.
        weights: Initializer of the kernel, from `jax.nn.initializers`. It draws an array [*size, n / groups, m], from
            which initializers compute fan-in and fan-out. Glorot's uniform initializer by default.
        biases: Initializer of b, from `jax.nn.initializers`; zeros by default.

    Raises:
        SettingError: If a setting is out of range.
        ValueError: In `forward`, if x has other axes or channels, or is smaller than the window when padded.

    Source: LeCun et al. 1998, section 2.A; Dumoulin and Visin 2016 for stride, padding and dilation.
    """

    def _parse_padding(self, size: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        if self.padding == "same":
            extents = [d * (k - 1) for k, d in zip(size, dilation, strict=True)]
            return tuple((extent // 2, extent - extent // 2) for extent in extents)
        if isinstance(self.padding, str):
            raise SettingError("padding", "to be a number, a number or pair for each axis, or same", self.padding)
        return super()._parse_padding(size, dilation)

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        return self._draw(key, self.n, self.m)

    def forward(self, params: PyTree, x: Values, key: PRNGKeyArray | None = None) -> tuple[Outputs, Values]:
        self._validate_input(x)
        if min(self.window.output_places(x.shape[:-1])) < 1:
            raise ValueError(f"{self} expected x at least as large as the window when padded, got {x.shape}")
        y = self.window.convolve(x[None], self.window.kernel(params["W"]))[0]
        return self._add_bias(params, y), x

    def backward(self, params: PyTree, saved: Values, dy: Outputs) -> tuple[PyTree, Values]:
        x, K = saved, self.window.kernel(params["W"])
        grads = {"W": self._multiply_patches(dy, x), **self._differentiate_bias(dy)}  # y[o] = W patch(x)[o] + b
        return grads, self.window.convolve_transposed(dy[None], K, x.shape[:-1])[0]  # y = convolve(x, K)


@dataclass(frozen=True)
class ConvTransposed(Convolution):
    """Transposed convolution: `Conv` from m to n channels with the roles of forward and dx exchanged.

    y[i] = Σ_k W[k]ᵀ x[(i + p - d k) / s] + b over the k for which the place of x is a whole number, so that
    ∂E/∂W[k] = Σ_o x[o] dy[s o + d k - p]ᵀ, ∂E/∂b = Σ_i dy[i] and dx[o] = Σ_k W[k] dy[s o + d k - p].

    x is [..., n] with an axis for each length of the window, and y is [..., m] with the same axes. An axis of length N
    becomes one of length s (N - 1) + d (k - 1) + 1 - 2 p + output_padding.

    The parameters are {"W": [n, m / groups · k], "b": [m]}: a row for each input channel, whose entries are ordered as
    in PyTorch's `weight.reshape(n, -1)`. With groups the gradient of W is an array, otherwise an `Outer`.

    Attributes:
        n: Number of input channels, at least 1.
        m: Number of output channels, at least 1.
        size: Lengths k of the window, one for each axis of places: (3,) for a sequence, (3, 3) for an image.
        stride: s, one number for every axis or a tuple with one for each, at least 1.
        padding: p, the places cut off y at the ends of an axis: one number for every axis or a tuple with a number or a
            pair (before, after) for each, at least 0.
        dilation: d, the distance between neighbouring entries of the window, given like the stride.
        groups: Number of groups of channels that are convolved separately; it divides n and m.
        bias: Whether there is a parameter b. Without one, b = 0.
        weights: Initializer of the kernel, from `jax.nn.initializers`. It draws an array [*size, m / groups, n], the
            kernel of the convolution from m to n channels. Glorot's uniform initializer by default.
        biases: Initializer of b, from `jax.nn.initializers`; zeros by default.
        output_padding: Number of places added at the end of each axis of y, given like the stride, below the larger of
            stride and dilation. With a stride, several lengths of y belong to one length of x; this number chooses.

    Raises:
        SettingError: If a setting is out of range.
        ValueError: In `forward`, if x has another number of axes or channels, or y would have no places.

    Source: Dumoulin and Visin 2016, chapter 4; Zeiler et al. 2010 for the layer.
    """

    output_padding: int | Sequence[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        extra = repeat_setting("output_padding", self.output_padding, len(self.size))
        for axis, (value, s, d) in enumerate(zip(extra, self.window.stride, self.window.dilation, strict=True)):
            note = "the larger of stride and dilation"
            validate_number(f"output_padding[{axis}]", value, least=0, below=max(s, d), integer=True, note=note)
        object.__setattr__(self, "output_padding", extra)

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        return self._draw(key, self.m, self.n)

    def forward(self, params: PyTree, x: Values, key: PRNGKeyArray | None = None) -> tuple[Outputs, Values]:
        self._validate_input(x)
        extra: Any = self.output_padding
        places = tuple(map(add, self.window.input_places(x.shape[:-1]), extra))
        if min(places) < 1:
            raise ValueError(f"{self} expected x for which y has at least one place, got {x.shape}")
        y = self.window.convolve_transposed(x[None], self.window.kernel(params["W"]), places)[0]
        return self._add_bias(params, y), x

    def backward(self, params: PyTree, saved: Values, dy: Outputs) -> tuple[PyTree, Values]:
        x, K = saved, self.window.kernel(params["W"])
        # y = convolve_transposed(x, K) + b, where convolve is the transpose of convolve_transposed
        grads = {"W": self._multiply_patches(x, dy), **self._differentiate_bias(dy)}
        return grads, self.window.convolve(dy[None], K)[0]


def has_convolution(layer: Layer) -> bool:
    """Returns whether a layer is a convolution or has one among its parts, at any depth."""
    return isinstance(layer, Convolution) or any(map(has_convolution, parts(layer).values()))

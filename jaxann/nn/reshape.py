"""Layers that change the shape of their input and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError, validate_number


@dataclass(frozen=True)
class Reshape(Layer):
    """The entries of x in another shape, in the same order, the last index running fastest.

    y = x in the shape `after`, so that dx = dy in the shape `before`.

    The layer has no parameters.

    Attributes:
        before: The shape of x, stored as a tuple of at least one number, each at least 1.
        after: The shape of y, stored as a tuple of at least one number, each at least 1.

    Raises:
        SettingError: If a number is out of range, or the two shapes have different numbers of entries.
        ValueError: In `forward`, if x does not have the shape `before`.
    """

    before: Sequence[int]
    after: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "before", validate_shape("before", self.before))
        object.__setattr__(self, "after", validate_shape("after", self.after))
        if prod(self.before) != prod(self.after):
            raise SettingError("after", f"to have as many entries as before={self.before}", self.after)

    @property
    def sizes(self) -> tuple[int, int]:
        return self.before[-1], self.after[-1]

    @property
    def keeps_entries(self) -> bool:
        return True

    def forward(
        self, params: PyTree, x: Shaped[Array, "..."], key: PRNGKeyArray | None = None
    ) -> tuple[Shaped[Array, "..."], tuple[()]]:
        match_shape(self, self.before, x)
        return x.reshape(self.after), ()

    def backward(self, params: PyTree, saved: tuple[()], dy: Float[Array, "..."]) -> tuple[PyTree, Float[Array, "..."]]:
        return (), dy.reshape(self.before)  # y = x in another shape


@dataclass(frozen=True)
class Flatten(Layer):
    """The entries of x in one row, the last index running fastest.

    y = x in the shape [n], where n is the number of entries of x, so that dx = dy in the shape of x.

    The layer has no parameters.

    Attributes:
        shape: The shape of x, stored as a tuple. With it, `Sequential` compares n with the next layer when it is built.
            With None, the default, x may have any shape.

    Raises:
        SettingError: If `shape` is empty, or holds anything but whole numbers of at least 1.
        ValueError: In `forward`, if x does not have the shape `shape`.
    """

    shape: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.shape is not None:
            object.__setattr__(self, "shape", validate_shape("shape", self.shape))

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        return (None, None) if self.shape is None else (self.shape[-1], prod(self.shape))

    @property
    def keeps_entries(self) -> bool:
        return True

    def forward(
        self, params: PyTree, x: Shaped[Array, "..."], key: PRNGKeyArray | None = None
    ) -> tuple[Shaped[Array, " n"], Shaped[Array, "0 ..."]]:
        if self.shape is not None:
            match_shape(self, self.shape, x)
        return x.reshape(-1), save_shape(x)

    def backward(
        self, params: PyTree, saved: Shaped[Array, "0 ..."], dy: Float[Array, " n"]
    ) -> tuple[PyTree, Float[Array, "..."]]:
        return (), dy.reshape(saved.shape[1:])  # y = x in one row


def match_shape(layer: Layer, shape: Sequence[int], x: Shaped[Array, "..."]) -> None:
    """Checks that the input of a layer has a shape.

    Raises:
        ValueError: If it does not.
    """
    if x.shape != shape:
        raise ValueError(f"{layer} expected x of shape {shape}, got {x.shape}")


def save_shape(x: Array) -> Shaped[Array, "0 ..."]:
    """Returns an array without entries, from which `backward` can tell the shape of x as `saved.shape[1:]`."""
    return jnp.zeros((0, *x.shape), x.dtype)


def validate_shape(name: str, shape: Any) -> tuple[int, ...]:
    """Checks that a setting is a shape: at least one whole number, each at least 1.

    Args:
        name: The name of the setting.
        shape: Its value.

    Returns:
        The shape as a tuple.

    Raises:
        SettingError: If it is not one.
    """
    if isinstance(shape, str) or not isinstance(shape, Sequence) or not shape:
        raise SettingError(name, "to be a tuple of at least one whole number", shape)
    for axis, length in enumerate(shape):
        validate_number(f"{name}[{axis}]", length, least=1, integer=True)
    return tuple(shape)

"""The contract of a layer, and the gradient of a matrix in its factors.

A layer is three pure functions on one example; a network is a layer too, and a batch is a `jax.vmap` around it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

import jax
from jaxtyping import Array, PRNGKeyArray, PyTree


class Layer(ABC):
    """y = f(x; params) and, by hand, its transposed derivative.

    Subclasses are frozen dataclasses: they hold sizes and settings, never arrays. Parameters are a pytree beside
    the layer, and `saved` holds what `backward` needs of the forward pass, never parameters: `backward` may be
    called with other parameters than `forward` was.
    """

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        """(n, m), the number of features in and out; (None, None) where any number goes and is kept."""
        return None, None

    @property
    def random(self) -> bool:
        """Whether `forward` draws with its key, as a layer does that is made of any that draws."""
        return any(part.random for part in parts(self).values())

    def init(self, key: PRNGKeyArray) -> PyTree:
        """Parameters, drawn with `key`; () where there are none."""
        return ()

    @abstractmethod
    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        """y = f(x; params), and what backward needs of this pass.

        Only layers with randomness use `key`; without one they evaluate.
        """

    @abstractmethod
    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, Array]:
        """From dy = ∂E/∂y to ∂E/∂params, shaped like `params` with an `Outer` for a matrix, and dx = ∂E/∂x."""


@dataclass(frozen=True)
class Wrapper(Layer):
    """`layer` itself: what is put around a layer is a subclass, which overrides what it does otherwise."""

    layer: Layer

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        return self.layer.sizes

    def init(self, key: PRNGKeyArray) -> PyTree:
        return self.layer.init(key)

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        return self.layer.forward(params, x, key)

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, Array]:
        return self.layer.backward(params, saved, dy)  # y, saved = layer.forward(params, x)


def map_parts(layer: Layer, change: Callable[[str, Layer], Layer]) -> Layer:
    """`layer` with `change(name, part)` for each layer that it is made of: a field that is one, or a tuple of them.

    A part's name is its field's, or its place in the tuple.
    """
    new: dict[str, Any] = {}
    for field in fields(layer) if is_dataclass(layer) else ():
        value = getattr(layer, field.name)
        if isinstance(value, Layer):
            new[field.name] = change(field.name, value)
        elif isinstance(value, tuple) and value and all(isinstance(part, Layer) for part in value):
            new[field.name] = tuple(change(str(place), part) for place, part in enumerate(value))
    return replace(cast(Any, layer), **new) if new else layer


def parts(layer: Layer) -> dict[str, Layer]:
    """The layers that `layer` is made of, by name; none for a leaf."""
    found: dict[str, Layer] = {}
    map_parts(layer, found.setdefault)
    return found


def path_name(path: tuple[Any, ...]) -> str:
    """Returns the path of a leaf in a pytree as it is written in reports: "2.W"."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def join_path(path: str, name: str) -> str:
    """Returns the path of what is called `name` inside `path`, "2.W"; either may be empty."""
    return f"{path}.{name}".strip(".")

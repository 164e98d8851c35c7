"""The contract of a layer, and the functions that visit and name the layers that a layer is made of."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.initializers import to_initializer
from jaxann.nn.text import format_expression

InputGradient = Array | np.ndarray | None
"""dx = ∂E/∂x in the shape of x. Integers have no gradient: there it is None, or an array of JAX's dtype float0."""


class Layer(ABC):
    """Base class of layers: a function y = f(x; params) of one example, with a handwritten backward pass.

    A layer is three pure functions on one example:

        init(key)                    -> params
        forward(params, x, key=None) -> (y, saved)
        backward(params, saved, dy)  -> (grads, dx)

    A network is a layer too. A batch is made outside, by `jax.vmap` over `forward` and `backward`, along an axis with
    the name "batch".

    Subclasses are frozen dataclasses, and therefore hashable. Their fields are sizes and settings, never arrays:
    the parameters are a pytree that is passed in.

    `saved` holds what `backward` needs of the forward pass, and never parameters. `backward` can therefore be called
    with other parameters than `forward` was: feedback alignment is `backward(feedback, saved, dy)`.

    `backward` returns the gradients of one example. The gradient of a matrix W [m, n] is an `Outer`, which keeps the
    factors of Σ_t left_t right_tᵀ apart, so that norms and means over a batch never need the product of one example.
    The gradient of any other parameter is an array of its shape.

    Attributes:
        exposes_parts: Whether `saved` and the gradients contain, unchanged, what `forward` and `backward` of each layer
            inside return. Probes, which add their records there, can then be put around the layers inside.
    """

    exposes_parts: bool = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Lets subclasses inherit `__repr__`: `dataclass` generates one only for a class that has none of its own."""
        super().__init_subclass__(**arguments)
        if "__repr__" not in vars(cls):
            type.__setattr__(cls, "__repr__", cls.__repr__)

    def __repr__(self) -> str:
        """Returns the expression that makes the layer, with the settings that differ from their defaults."""
        return format_expression(self)

    def __format__(self, specification: str) -> str:
        """Returns the layer as an expression of one line, for messages, where `str` may return a table."""
        return format(repr(self), specification)

    def __deepcopy__(self, memo: Any) -> Any:
        """Returns the layer itself, because it cannot change."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Returns the fields for `pickle`, with initializers of JAX, which cannot be pickled, by name."""
        return {name: to_initializer(value) for name, value in vars(self).items()}

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        """The lengths (n, m) of the last axes of x and y, each None where the layer does not state it, the default."""
        return None, None

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of x, or None where the layer does not state it, the default. An `Input` states it for a chain."""
        return None

    @property
    def keeps_shape(self) -> bool:
        """Whether x may have any number of features and y always has the shape of x, as with an activation.

        By default this is False, and nothing is concluded about the shape of y except what `sizes` states.
        """
        return False

    @property
    def keeps_entries(self) -> bool:
        """Whether the entries of y are those of x, perhaps in another shape. By default this is False."""
        return False

    @property
    def vocabularies(self) -> dict[str, int]:
        """The numbers of ids that x may hold, by the names of the layers inside that look rows up by these ids.

        Every entry of x is at least 0, and below each of these numbers. By default there are none, and x holds no ids.
        """
        return {}

    @property
    def random(self) -> bool:
        """Whether `forward` draws random numbers; by default, whether any part of this layer does."""
        return any(part.random for part in parts(self).values())

    @property
    def coupled(self) -> bool:
        """Whether y also depends on the other examples of the batch; by default, whether that holds for any part.

        A layer that couples examples, as `BatchNorm` does, uses collectives over the axis "batch" in `forward` and
        `backward`, such as `jax.lax.pmean(a, "batch")`. Its `backward` returns this example's share of the gradient of
        the batch.
        """
        return any(part.coupled for part in parts(self).values())

    def init(self, key: PRNGKeyArray) -> PyTree:
        """Draws the parameters.

        Args:
            key: The random key to draw with.

        Returns:
            A pytree of arrays, or () for a layer without parameters, which is the default.
        """
        return ()

    @abstractmethod
    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        """Computes y = f(x; params) for one example.

        Args:
            params: The parameters, as `init` returns them.
            x: The input, of shape [n] for most layers; each layer states its shapes.
            key: A random key for layers that draw random numbers, as `Dropout` does. Without a key such layers
                run in evaluation mode, which is deterministic.

        Returns:
            The output y, of shape [m] for most layers, and `saved`: a pytree of what `backward` needs of this forward
            pass, without any parameters.
        """

    @abstractmethod
    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, InputGradient]:
        """Computes the gradients of E with respect to the parameters and the input, for one example.

        Args:
            params: The parameters, usually those that `forward` was called with.
            saved: What `forward` returned beside y.
            dy: ∂E/∂y, in the shape of y.

        Returns:
            ∂E/∂params in the structure of `params`, with an `Outer` for each matrix, and dx = ∂E/∂x in the shape of x.
            Where x holds integers, which have no gradient, dx is None or an array of JAX's dtype float0.
        """


@dataclass(frozen=True)
class Wrapper(Layer):
    """Base class of layers around another layer: it behaves as `layer` does until a subclass overrides a method.

    Attributes:
        layer: The layer inside.
    """

    layer: Layer

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        return self.layer.sizes

    @property
    def keeps_shape(self) -> bool:
        return self.layer.keeps_shape

    @property
    def keeps_entries(self) -> bool:
        return self.layer.keeps_entries

    @property
    def vocabularies(self) -> dict[str, int]:
        return self.layer.vocabularies

    def init(self, key: PRNGKeyArray) -> PyTree:
        return self.layer.init(key)

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        return self.layer.forward(params, x, key)

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, InputGradient]:
        return self.layer.backward(params, saved, dy)  # y, saved = layer.forward(params, x)


def drop_float0(dx: InputGradient) -> Any:
    """Returns the gradient of an input, or None where its dtype is float0, which stands for "no gradient"."""
    return None if getattr(dx, "dtype", None) == jax.dtypes.float0 else dx


def map_parts(layer: Layer, change: Callable[[str, Layer], Layer]) -> Layer:
    """Replaces each part of a layer: each layer that is one of its fields, or an element of a tuple of layers there.

    Args:
        layer: Any layer. Only a dataclass has parts.
        change: Maps the name of a part and the part to the layer that takes its place. The name is that of the field,
            or the position in the tuple.

    Returns:
        A copy of the layer with the new parts, or the layer itself if it has no parts.
    """
    replaced: dict[str, Any] = {}
    for name, value in _part_fields(layer).items():
        if isinstance(value, Layer):
            replaced[name] = change(name, value)
        else:
            replaced[name] = tuple(change(str(position), part) for position, part in enumerate(value))
    return replace(cast(Any, layer), **replaced) if replaced else layer


def parts(layer: Layer) -> dict[str, Layer]:
    """Returns the layers that a layer is made of, by the names that `map_parts` gives them; {} if it has none."""
    named: dict[str, Layer] = {}
    for name, value in _part_fields(layer).items():
        named |= {name: value} if isinstance(value, Layer) else {str(i): part for i, part in enumerate(value)}
    return named


def _part_fields(layer: Layer) -> dict[str, Layer | tuple[Layer, ...]]:
    """Returns the fields of a layer that hold a layer or a tuple of layers."""
    values = {field.name: getattr(layer, field.name) for field in fields(layer)} if is_dataclass(layer) else {}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, Layer)
        or (isinstance(value, tuple) and value and all(isinstance(part, Layer) for part in value))
    }


def part_path(layer: Layer, path: str, name: str) -> str:
    """Returns the path of a part's parameters inside those of a model.

    A wrapper has no parameters of its own: those of the layer inside lie at its path.

    Args:
        layer: The layer that the part belongs to.
        path: The path of that layer.
        name: The name of the part, as `map_parts` gives it.
    """
    return path if isinstance(layer, Wrapper) else join_path(path, name)


def leaf_layers(model: Layer, path: str = "") -> dict[str, Layer]:
    """Collects the layers of a network at any depth: those inside every layer that `exposes_parts`.

    Args:
        model: A `Sequential`, a `Residual` or another layer that exposes its parts. Any other layer is the only leaf.
        path: The path of the model inside a larger one; empty by default.

    Returns:
        The layers that do not expose parts, by the paths of their parameters such as "2" or "1.0", from first to last.
    """
    if not model.exposes_parts:
        return {path: model}
    leaves: dict[str, Layer] = {}
    for name, part in parts(model).items():
        leaves |= leaf_layers(part, part_path(model, path, name))
    return leaves


def map_layers(model: Layer, change: Callable[[str, Layer], Layer], path: str = "") -> Layer:
    """Replaces each layer of a network at any depth: those inside every layer that `exposes_parts`.

    Args:
        model: A `Sequential`, a `Residual` or another layer that exposes its parts. Any other layer is replaced itself.
        change: Maps the path of a layer and the layer to the one that takes its place. The paths are those of
            `leaf_layers`.
        path: The path of the model inside a larger one; empty by default.

    Returns:
        A copy of the model with the new layers.
    """
    if not model.exposes_parts:
        return change(path, model)
    return map_parts(model, lambda name, part: map_layers(part, change, part_path(model, path, name)))


def path_name(path: tuple[Any, ...]) -> str:
    """Returns the path of a leaf in a pytree as reports write it, for instance "2.W".

    Args:
        path: The path, as `jax.tree_util.tree_flatten_with_path` gives it.
    """
    return jax.tree_util.keystr(path, simple=True, separator=".")


def join_path(path: str, name: str) -> str:
    """Returns the path of `name` inside `path`, for instance "2.W" for "2" and "W". Either may be empty."""
    return f"{path}.{name}".strip(".")

"""The contract of a layer, and the gradient of a matrix in its factors.

A layer is three pure functions on one example; a network is a layer too, and a batch is a `jax.vmap` around it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
from jax.core import Tracer

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

    Number = float | int | Float[Array, ""]  # a setting, which a sweep traces


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
class Wrapped(Layer):
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


def rebuilt(layer: Layer, change: Callable[[str, Layer], Layer]) -> Layer:
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
    rebuilt(layer, found.setdefault)
    return found


SMALL = 2**14  # multiplications, up to which XLA's CPU has a fused loop done before a product has begun


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Outer:
    """Σ_t left_t right_tᵀ over all leading axes t: a matrix's gradient, still in its factors.

    left [..., m] and right [..., n] stand for an [m, n] matrix. Whether a leading axis is a batch, the positions of
    a sequence or the steps of a recurrence, the sum is the same.
    """

    left: Float[Array, "*t m"]
    right: Float[Array, "*t n"]

    def sum(self) -> Float[Array, "m n"]:
        """The matrix itself, as the one product leftᵀ right, summed in float32 or better."""
        dtype = summing(self.left, self.right)
        left, right = (factor.reshape(-1, factor.shape[-1]).astype(dtype) for factor in (self.left, self.right))
        if left.size * right.shape[1] <= SMALL:
            return jnp.sum(left[:, :, None] * right[:, None, :], axis=0)
        return left.T @ right

    def __add__(self, other: Outer) -> Outer:
        """The sum of two: their terms in one row. For a matrix that a layer uses more than once."""
        return Outer(_joined(self.left, other.left), _joined(self.right, other.right))


def _joined(*factors: Float[Array, "... k"]) -> Float[Array, "terms k"]:
    return jnp.concatenate([factor.reshape(-1, factor.shape[-1]) for factor in factors])


def formed(grads: PyTree) -> PyTree:
    """grads, every `Outer` multiplied out to the matrix that it stands for."""
    return by_leaf(Outer.sum, lambda leaf: leaf, grads)


def sum_examples(grads: PyTree) -> PyTree:
    """Σ over the leading example axis of every leaf, an `Outer`'s as one matrix product, in float32 or better."""
    return by_leaf(Outer.sum, lambda leaf: leaf.sum(axis=0, dtype=summing(leaf)), grads)


def traced(value: Any) -> bool:
    """Whether a value is being traced, as a setting in a sweep is: there is nothing yet to look at."""
    return isinstance(value, Tracer)


def example_keys(key: PRNGKeyArray | None, examples: int) -> Key[Array, " B"] | None:
    """A key for each of so many examples; None where there is none, for then the layers evaluate."""
    return None if key is None else jax.random.split(key, examples)


def summing(*terms: Array) -> jnp.dtype:
    """The precision for a sum of many terms: theirs, but not below float32."""
    return jnp.result_type(jnp.float32, *terms)


def by_leaf(outer: Callable[[Outer], Any], array: Callable[[Array], Any], grads: PyTree) -> PyTree:
    """`grads` with `outer` of every `Outer` and `array` of every other leaf."""
    return jax.tree.map(
        lambda leaf: outer(leaf) if isinstance(leaf, Outer) else array(leaf),
        grads,
        is_leaf=lambda leaf: isinstance(leaf, Outer),
    )

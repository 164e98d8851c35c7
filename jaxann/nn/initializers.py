"""Initializers as values: equal where their settings are equal, and stored by name, unlike the functions of JAX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import getclosurevars, signature
from typing import Any, cast

from jax.nn import initializers
from jaxtyping import Array, PRNGKeyArray

from jaxann.nn.hyperparameters import SettingError, is_traced, is_tracing
from jaxann.nn.xla import LIGHT_OPTIMIZATION, jit_for_cpu


@dataclass(frozen=True)
class Initializer:
    """An initializer of `jax.nn.initializers`, by the name of the function that makes it and its arguments.

    Initializer("normal", (("stddev", 0.02),)) draws what `jax.nn.initializers.normal(stddev=0.02)` draws,
    up to rounding.

    Attributes:
        name: The name of a function in `jax.nn.initializers` that returns an initializer, such as "he_normal".
        settings: The names and values of its arguments.
    """

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    def __call__(self, key: PRNGKeyArray, shape: Sequence[int], *arguments: Any) -> Array:
        """Draws an array of a shape; further arguments are those of the initializers of JAX, such as the dtype."""
        fixed = self, tuple(shape), arguments
        is_compiled = not is_tracing() and not is_traced(key) and _is_hashable(fixed)
        return (_draw_compiled if is_compiled else _draw)(*fixed, key)


def _draw(initializer: Initializer, shape: tuple[int, ...], arguments: tuple[Any, ...], key: PRNGKeyArray) -> Array:
    return getattr(initializers, initializer.name)(**dict(initializer.settings))(key, shape, *arguments)


# JAX would compile a program for each operation, which takes three times as long.
_draw_compiled = jit_for_cpu(LIGHT_OPTIMIZATION, static=3)(_draw)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:  # a setting is an array or a traced number
        return False
    return True


def draw_array(initializer: Any, key: PRNGKeyArray, shape: Sequence[int]) -> Array:
    """Draws an array of weights with an initializer.

    Args:
        initializer: The initializer, from the setting `weights` of a layer.
        key: The random key to draw with.
        shape: The shape of the array.

    Raises:
        SettingError: If the value is not an initializer, such as the function `he_normal`, which returns one.
    """
    array = initializer(key, shape) if callable(initializer) else None
    if getattr(array, "shape", None) != tuple(shape):
        raise SettingError("weights", "to be an initializer, such as jax.nn.initializers.he_normal()", initializer)
    return cast(Array, array)


def to_initializer(value: Any) -> Any:
    """Returns the `Initializer` that draws what a function made by `jax.nn.initializers` draws.

    Such a function, as `he_normal()` is one, keeps its settings in a closure, which neither `pickle` nor a file stores.

    Args:
        value: Anything.

    Returns:
        The `Initializer`, or the value itself if it is not such a function.
    """
    name, _, rest = getattr(value, "__qualname__", "").partition(".<locals>.")
    make = getattr(initializers, name, None)
    if rest != "init" or make is None or not getattr(value, "__module__", "").startswith("jax."):
        return value
    settings = getclosurevars(value).nonlocals
    known = settings.keys() <= signature(make).parameters.keys()
    return Initializer(name, tuple(sorted(settings.items()))) if known else value


glorot_uniform = Initializer("glorot_uniform")

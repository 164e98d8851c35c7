"""NumPy code traced by JAX: an array that NumPy's functions take and that hands each operation to `jax.numpy`.

Code that leaves NumPy, such as a buffer of `np.zeros` that is filled entry by entry, cannot be traced in this way; it
raises, and the caller does without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MOST_STEPS = 100  # of a loop over an array, because each step becomes a part of the traced program
REDUCTIONS = {"add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min"}


class TracedArray(np.lib.mixins.NDArrayOperatorsMixin):
    """A JAX array that NumPy's functions, operators and methods accept.

    As a NumPy array it can be changed in place; a slice of it is a copy, though, and no view.

    Attributes:
        value: The JAX array.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **settings: Any) -> Any:
        if method == "__call__":
            result = getattr(jnp, ufunc.__name__)(*unwrap(inputs), **unwrap(settings))
        elif method == "reduce":
            result = getattr(jnp, REDUCTIONS[ufunc.__name__])(*unwrap(inputs), **unwrap(settings))
        elif method == "at" and ufunc is np.add and isinstance(inputs[0], TracedArray):
            inputs[0].value = inputs[0].value.at[unwrap(inputs[1])].add(unwrap(inputs[2]))
            return None
        else:
            return NotImplemented
        if out is None:
            return wrap(result)
        out[0].value = result  # an AttributeError if it is a NumPy array, which cannot hold a traced result
        return out[0]

    def __array_function__(self, function: Callable, types: Any, args: Any, settings: Any) -> Any:
        module = jnp.linalg if function.__module__ == "numpy.linalg" else jnp
        return wrap(getattr(module, function.__name__)(*unwrap(args), **unwrap(settings)))

    def __array__(self, *args: Any, **settings: Any) -> Any:
        raise TypeError("expected code that keeps to NumPy's functions, which are traced, got a conversion to an array")

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.value, name)
        if not callable(attribute):
            return wrap(attribute)
        return lambda *args, **settings: wrap(attribute(*unwrap(args), **unwrap(settings)))

    def __getitem__(self, index: Any) -> Any:
        return wrap(self.value[unwrap(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.value = self.value.at[unwrap(index)].set(unwrap(value))

    def __iter__(self) -> Iterator[Any]:
        if len(self) > MOST_STEPS:
            raise TypeError(f"expected at most {MOST_STEPS} steps of a loop over an array, got {len(self)}")
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __float__(self) -> float:
        return float(self.value)


def wrap(value: Any) -> Any:
    """Returns a value with a `TracedArray` in place of every JAX array."""
    if isinstance(value, list | tuple):
        return type(value)(map(wrap, value)) if type(value) in (list, tuple) else tuple(map(wrap, value))
    return TracedArray(value) if isinstance(value, jax.Array) else value


def unwrap(value: Any) -> Any:
    """Returns a value with the JAX array in place of every `TracedArray`, also in tuples, lists and dictionaries."""
    if isinstance(value, list | tuple):
        return type(value)(map(unwrap, value)) if type(value) in (list, tuple) else tuple(map(unwrap, value))
    if isinstance(value, dict):
        return {key: unwrap(item) for key, item in value.items()}
    return value.value if isinstance(value, TracedArray) else value

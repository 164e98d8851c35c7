"""The arguments of code from elsewhere: which hold floats, their names, and the kinds in which they are given."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxann.gradcheck.arguments import is_float
from jaxann.gradcheck.numpy_tracer import TracedArray
from jaxann.nn.base import join_path, path_name
from jaxann.nn.hyperparameters import is_traced


@dataclass(frozen=True, eq=False)
class Argument:
    """A float array among the arguments of a user's code.

    Attributes:
        name: Its name in a report: the name of the parameter of `forward`, with the path inside it.
        example: The value that the user gave; values are handed to the code in the same kind.
    """

    name: str
    example: Any

    def restore(self, value: Any) -> Any:
        """Returns a value in the kind of the example: a tensor, a JAX array, a NumPy array or a number."""
        if is_traced(value) or isinstance(value, TracedArray):
            return value
        return convert_like(value, self.example)


def convert_like(value: Any, example: Any) -> Any:
    """Returns a copy of an array in the kind of another one: a tensor, a JAX array, a NumPy array or a number."""
    if is_tensor(example):
        torch: Any = importlib.import_module("torch")
        return torch.tensor(to_array(value), device=example.device)
    if isinstance(example, jax.Array):
        return jnp.asarray(value)
    if isinstance(example, float):
        return float(value)
    return np.array(value)


def is_tensor(value: Any) -> bool:
    """Returns whether a value is a tensor of PyTorch, without importing it."""
    return any(cls.__module__ == "torch" and cls.__name__ == "Tensor" for cls in type(value).__mro__)


def to_array(value: Any) -> Any:
    """Returns what a user's code returned as a NumPy array, and a tracer as it is."""
    if isinstance(value, TracedArray):
        return value.value
    if is_traced(value):
        return value
    return value.detach().cpu().numpy() if is_tensor(value) else np.asarray(value)


def collect_arguments(names: Sequence[str], args: Sequence[Any]) -> tuple[list[Argument], Callable]:
    """Finds the float arrays among the arguments of a function.

    Args:
        names: The name of each argument in a report.
        args: The arguments; each may be a pytree.

    Returns:
        The float arrays in order, and a function that puts other values in their places and returns the arguments.
    """
    places: list[int] = []
    found: list[Argument] = []
    leaves, structure = jax.tree.flatten(list(args))
    for place, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(list(args))):
        if (is_tensor(leaf) and leaf.dtype.is_floating_point) or (not is_tensor(leaf) and _is_float_array(leaf)):
            position: Any = path[0]  # in the list of arguments
            found.append(Argument(join_path(str(names[position.idx]), path_name(path[1:])), leaf))
            places.append(place)

    def restore(values: Sequence[Any]) -> list[Any]:
        changed = [copy.copy(leaf) for leaf in leaves]
        for place, argument, value in zip(places, found, values, strict=True):
            changed[place] = argument.restore(value)
        return jax.tree.unflatten(structure, changed)

    return found, restore


def parameter_names(function: Callable, count: int) -> list[str]:
    """Returns names of the first arguments of a function: those of its parameters where it has them."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [*names, *(f"argument {i + 1}" for i in range(len(names), count))][:count]


def count_positional(function: Callable) -> tuple[int, float | int]:
    """Returns how many positional arguments a function wants at least and takes at most."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0, np.inf
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    most = np.inf if any(p.kind == p.VAR_POSITIONAL for p in parameters) else len(positional)
    return sum(p.default is p.empty for p in positional), most


def _is_float_array(leaf: Any) -> bool:
    return isinstance(leaf, float | np.ndarray | np.generic | jax.Array) and is_float(leaf)


def is_integer(leaf: Any) -> bool:
    """Returns whether a leaf of the arguments is an array of integers, such as targets."""
    if is_tensor(leaf):
        return not leaf.dtype.is_floating_point and not leaf.dtype.is_complex
    return isinstance(leaf, np.ndarray | jax.Array) and jnp.issubdtype(leaf.dtype, jnp.integer)


def is_list_of_numbers(value: Any) -> bool:
    """Returns whether a value is a list of numbers, or of such lists, which stands for an array."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, int | float) or is_list_of_numbers(v) for v in value)
    )

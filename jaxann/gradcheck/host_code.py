"""Code that people wrote elsewhere, as functions of named float arrays: NumPy, PyTorch, JAX, functions or an object.

Arguments are handed to the code in the kind in which the user gave them, and in float64.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
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


def _is_integer(leaf: Any) -> bool:
    if is_tensor(leaf):
        return not leaf.dtype.is_floating_point and not leaf.dtype.is_complex
    return isinstance(leaf, np.ndarray | jax.Array) and jnp.issubdtype(leaf.dtype, jnp.integer)


class HostCode:
    """A user's forward and backward as functions of named float arrays.

    Args:
        forward: The forward pass.
        backward: The backward pass, in one of the forms that `check_function` describes.
        args: The arguments of `forward`.
        cache: Whether `forward` returns (y, cache) for `backward(dy, cache)`; None finds out.
        parameters: The attributes of the object that `forward` and `backward` are methods of, each with the attribute
            that has its gradient; None for functions.
        names: The names of the arguments in a report; those of the parameters of `forward` by default.

    Attributes:
        arguments: The float arrays in order: those among `args`, then the parameters of the object.
        integers: The integer arrays among `args`, by name.
        without_gradient: The names of arguments for which the last backward returned None.

    Raises:
        ValueError: If the form of the pair cannot be found out, or the object has no such attribute.
        Exception: Whatever `forward` raises.
    """

    def __init__(
        self,
        forward: Callable,
        backward: Callable,
        args: Sequence[Any],
        cache: bool | None = None,
        parameters: Mapping[str, str] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.name = getattr(forward, "__qualname__", type(forward).__name__)
        self._forward, self._backward = forward, backward
        self._all_names = [*(parameter_names(forward, len(args)) if names is None else names)]
        self._args, self._restore = collect_arguments(self._all_names, args)
        paths = [f"{argument.name}." for argument in self._args]
        self._names = [name for name in self._all_names if any(p.startswith(f"{name}.".lstrip(".")) for p in paths)]
        self._owner, self._parameters = None, dict(parameters or {})
        if parameters is not None or count_positional(backward)[1] == 1:
            self._owner = _find_owner(forward, backward)
            for name in [*self._parameters]:
                if not hasattr(self._owner, name):
                    raise ValueError(
                        f"expected {type(self._owner).__name__} to have its parameter as .{name}, got none"
                    )
        owned = [Argument(name, getattr(self._owner, name)) for name in self._parameters]
        self.arguments = [*self._args, *owned]
        leaves = jax.tree_util.tree_leaves_with_path(dict(zip(self._all_names, args, strict=True)))
        self.integers = {path_name(path): to_array(leaf) for path, leaf in leaves if _is_integer(leaf)}
        self.without_gradient: tuple[str, ...] = ()
        with _jax_defaults():
            self._cache = cache if cache is not None or self._owner is not None else self._find_form(args)
            self._example = self._run([a.example for a in self.arguments])[0]

    @property
    def names(self) -> list[str]:
        """The names of all arguments of forward, also of those that hold no floats."""
        return self._all_names

    def forward(self, values: Mapping[str, Any]) -> Any:
        """Returns the output y as an array; several outputs as one vector."""
        with _jax_defaults():
            return _join(self._run([values[a.name] for a in self.arguments])[0])

    def backward(self, values: Mapping[str, Any], dy: Any) -> dict[str, Any]:
        """Returns the gradients of <dy, y> by the names of the arguments; those that are None are left out.

        Raises:
            StructureError: If there are more or fewer gradients than arguments.
            Exception: Whatever the code raises.
        """
        with _jax_defaults():
            return self._run_backward([values[a.name] for a in self.arguments], self._split(dy))

    def _run_backward(self, numbers: Sequence[Any], dy: Any) -> dict[str, Any]:
        if self._owner is not None:
            _, owner = self._run(numbers)
            gradients = self._name_gradients(_method(owner, self._backward)(dy))
            for name, gradient in self._parameters.items():
                if not hasattr(owner, gradient):
                    raise StructureError(f"expected the gradient of {name} as .{gradient}, which does not exist")
                gradients[name] = getattr(owner, gradient)
        elif self._cache:
            gradients = self._name_gradients(self._backward(dy, self._run(numbers)[1]))
        else:
            gradients = self._name_gradients(self._backward(dy, *self._restore(numbers)))
        return {name: np.array(to_array(g)) for name, g in gradients.items() if g is not None}

    def _run(self, values: Sequence[Any]) -> tuple[Any, Any]:
        """Returns what forward returns, and the cache or the object that it leaves behind."""
        args = self._restore(values[: len(self._args)])
        if self._owner is None:
            y = self._forward(*args)
            return y if self._cache else (y, None)
        owner = _copy(self._owner)
        for argument, value in zip(self.arguments[len(self._args) :], values[len(self._args) :], strict=True):
            setattr(owner, argument.name, argument.restore(value))
        return _method(owner, self._forward)(*args), owner

    def _find_form(self, args: Sequence[Any]) -> bool:
        """Returns whether forward returns (y, cache)."""
        out, (least, most) = (
            self._forward(*self._restore([a.example for a in self._args])),
            count_positional(self._backward),
        )
        if isinstance(out, tuple) and len(out) == 2 and least <= 2 <= most < np.inf:
            return True
        if not least <= len(args) + 1 <= most:
            names = ", ".join(parameter_names(self._forward, len(args)))
            raise ValueError(
                f"expected backward(dy, {names}), or a forward that returns (y, cache) for backward(dy, cache), "
                f"got a backward of {least} arguments and a forward that returns {type(out).__name__}"
            )
        return False

    def _name_gradients(self, returned: Any) -> dict[str, Any]:
        """Returns the gradients by the names of the arguments of forward."""
        floats, returned_names = self._names, list(returned) if isinstance(returned, Mapping) else []
        if returned_names and (len(floats) > 1 or floats[0] in returned_names):
            given = {name if name in floats else name.removeprefix("d"): returned[name] for name in returned_names}
        elif isinstance(returned, tuple | list) and len(returned) in (len(self._all_names), len(floats)):
            names = self._all_names if len(returned) == len(self._all_names) else floats
            given = {name: g for name, g in zip(names, returned, strict=True) if name in floats}
        elif len(floats) == 1:
            given = {floats[0]: returned}
        else:
            count = len(returned) if isinstance(returned, tuple | list) else 1
            raise StructureError(
                f"expected {len(floats)} gradients, for {', '.join(floats)}, got {count} from backward"
            )
        self.without_gradient = tuple(name for name, gradient in given.items() if gradient is None)
        named = {}
        for name, gradient in given.items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
                named[join_path(name, path_name(path))] = leaf
        return named

    def _split(self, dy: Any) -> Any:
        """Returns the cotangent in the structure and the kind of the output."""
        leaves, structure = jax.tree.flatten(self._example)
        sizes = np.cumsum([np.size(to_array(leaf)) for leaf in leaves])[:-1]
        parts = [dy] if len(leaves) == 1 else np.split(np.ravel(dy), sizes)
        shaped = [
            convert_like(part.reshape(np.shape(to_array(leaf))), leaf) for part, leaf in zip(parts, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, shaped)


class StructureError(TypeError):
    """Raised if a backward returns gradients of another structure than the arguments have."""


def _jax_defaults() -> Any:
    """Returns a context in which arrays of different ranks are broadcast, as other code may rely on."""
    return jax.numpy_rank_promotion("allow")


def _join(y: Any) -> Any:
    leaves = [to_array(leaf) for leaf in jax.tree.leaves(y)]
    if len(leaves) == 1:
        return leaves[0]
    return (jnp if is_traced(leaves[0]) else np).concatenate([leaf.ravel() for leaf in leaves])


def _find_owner(forward: Callable, backward: Callable) -> Any:
    owner = getattr(forward, "__self__", None)
    if owner is None or getattr(backward, "__self__", None) is not owner:
        raise ValueError("expected forward and backward as methods of one object, where backward takes dy alone")
    return owner


def _method(owner: Any, method: Any) -> Callable:
    return getattr(owner, method.__name__)


def _copy(owner: Any) -> Any:
    """Returns a copy of an object, so that what it collects in one call does not reach the next one."""
    try:
        return copy.deepcopy(owner)
    except Exception:  # an object that cannot be copied is used as it is
        return owner

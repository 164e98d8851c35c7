"""Code that people wrote elsewhere, as functions of named float arrays: NumPy, PyTorch, JAX, functions or an object.

Arguments are handed to the code in the kind in which the user gave them, and in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxann.gradcheck.host_arguments import (
    Argument,
    collect_arguments,
    convert_like,
    count_positional,
    is_integer,
    parameter_names,
    to_array,
)
from jaxann.nn.base import join_path, path_name
from jaxann.nn.hyperparameters import is_traced


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
        self.integers = {path_name(path): to_array(leaf) for path, leaf in leaves if is_integer(leaf)}
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

"""The user's own code, which the command line names: "module:Class(5, rate=0.1)" or "module:function"."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.shapes import InputError, resolve_input

LAYER_FORM = "to be module:Class, module:Class(5, rate=0.1) or module:instance"


def import_object(name: str, setting: str, form: str, kind: str) -> Any:
    """Imports the object that a text such as "module:loss" stands for.

    Importing the module, which may lie in the current folder, runs its code.

    Args:
        name: The text.
        setting: The setting that has the text as its value.
        form: The form of the text for error messages, such as "to be module:function".
        kind: What the object is for the user, such as "function".

    Raises:
        ValueError: If the text is not of this form, or if importing fails.
    """
    value, call = _import(name, setting, form, kind)
    if call is not None:
        raise SettingError(setting, form, name)
    return value


def import_layer(name: str) -> Layer:
    """Imports the layer that a text such as "module:Class(5, rate=0.1)" stands for.

    Importing the module runs its code. Nothing in it is called unless it is a subclass of `Layer`.

    Raises:
        ValueError: If the text is not of this form or does not stand for a layer, or if importing or constructing the
            layer fails.
    """
    value, call = _import(name, "layer", LAYER_FORM, "layer")
    if isinstance(value, Layer):
        if call is not None:
            raise SettingError("layer", "to have no arguments after an instance", name)
        return value
    if not isinstance(value, type) or not issubclass(value, Layer):
        expectation = f"to name a subclass or an instance of jaxann.nn.Layer, not the {_describe_type(value)}"
        raise SettingError("layer", expectation, name)
    positional, keywords = call or ([], {})
    with report_failure(name, "constructed"):
        return value(*positional, **keywords)


def import_function(name: str, setting: str = "function", form: str = "to be module:function") -> Callable:
    """Imports the function that a text such as "module:loss" stands for, without calling it.

    Args:
        name: The text.
        setting: The setting that has the text as its value.
        form: The form of the text for error messages.

    Raises:
        ValueError: If the text is not of this form or does not stand for a function, or if importing it fails.
    """
    function = import_object(name, setting, form, "function")
    if not callable(function):
        raise SettingError(setting, f"to name a function, not the {_describe_type(function)}", name)
    return function


def import_pair(name: str) -> tuple[Callable, Callable]:
    """Imports the two functions that a text such as "module:forward,backward" stands for, without calling them.

    Raises:
        ValueError: If the text is not of this form or does not stand for two functions, or if importing one fails.
    """
    module, _, text = name.partition(":")
    names = [part.strip() for part in text.split(",")]
    if not module or len(names) != 2 or not all(part.isidentifier() for part in names):
        raise SettingError("function", "to be module:forward,backward", name)
    forward, backward = (import_function(f"{module}:{part}") for part in names)
    return forward, backward


def make_arguments(
    name: str, function: Callable, args: str | None, shapes: Sequence[str], seed: int
) -> tuple[Any, ...]:
    """Returns the arguments for a user's function: none, those that a module holds, or random arrays.

    Args:
        name: How the user named the function.
        function: The function.
        args: The text "module:name" for a tuple of arguments, or for a function without parameters that returns the
            tuple; None for no such tuple.
        shapes: A shape for each argument, such as "3,4", or "()" for a scalar. The arrays are drawn from the standard
            normal distribution.
        seed: The seed of the random arrays.

    Raises:
        ValueError: If both are given, if a text is not of its form, if the arguments cannot be imported or computed, or
            if the function takes other arguments.
    """
    validate_number("seed", seed, least=0, integer=True)
    if args is not None and shapes:
        raise SettingError("shapes", "only without args", " ".join(shapes))
    if args is None:
        rng = np.random.default_rng(seed)
        values = tuple(rng.normal(size=_parse_shape(text)) for text in shapes)
    else:
        values = _import_arguments(args)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function that is not written in Python may have no signature
        return values
    try:
        signature.bind(*values)
    except TypeError as error:
        expectation = f"to give the arguments of {name} ({error})"
        given = ("shapes", expectation, " ".join(shapes)) if shapes else ("args", expectation, args)
        raise SettingError(*given) from None
    return values


def _import_arguments(name: str) -> tuple[Any, ...]:
    """Returns the tuple that a text names, or that the function that it names returns."""
    values = import_object(name, "args", "to be module:tuple or module:function", "tuple")
    if callable(values):
        with report_failure(name, "called", "function"):
            values = values()
    if not isinstance(values, tuple | list):
        raise SettingError("args", f"to stand for a tuple of arguments, not the {_describe_type(values)}", name)
    return tuple(values)


@contextmanager
def report_failure(name: str, action: str, kind: str = "layer") -> Iterator[None]:
    """Converts whatever a user's code raises inside the `with` block, even a SystemExit, to an error of one sentence.

    Args:
        name: How the user named the code.
        action: What is done with the code in the block, such as "imported".
        kind: What the code is, such as "layer" or "function".

    Raises:
        ValueError: If anything but a KeyboardInterrupt or a `SettingError` is raised.
    """
    try:
        yield
    except (KeyboardInterrupt, SettingError):
        raise
    except BaseException as error:
        raise ValueError(f"the {kind} {name!r} cannot be {action}: {type(error).__name__}: {error}") from None


def draw_input(
    layer: Layer, params: PyTree, shape: tuple[int, ...] | None, default: tuple[int, ...], key: PRNGKeyArray
) -> Array:
    """Draws one random input of a layer: normal numbers, or zeros and ones if its forward rejects floats.

    Args:
        layer: The layer.
        params: Its parameters.
        shape: The shape of the input; None stands for `default`.
        default: The shape that is tried if the user gives none.
        key: The key to draw with.

    Raises:
        SettingError: If the layer's forward takes no input of that shape.
    """
    size = shape or default
    try:
        one, _ = resolve_input(layer, params, jax.ShapeDtypeStruct(size, jnp.result_type(int)))
    except InputError as error:
        if shape is None:
            expected = f"to be given, because {layer} cannot take an input of shape {size} ({error.reason})"
        else:
            expected = f"to be the shape of an input that {layer} can take ({error.reason})"
        raise SettingError("shape", expected, shape) from None
    except Exception:  # its forward is wrong, as the report is going to say
        return jax.random.normal(key, size)
    is_float = jnp.issubdtype(one.dtype, jnp.floating)
    return (
        jax.random.normal(key, size)
        if is_float
        else jax.random.randint(key, size, 0, min([2, *layer.vocabularies.values()]))
    )


def _import(name: str, setting: str, form: str, kind: str) -> tuple[Any, tuple[list[Any], dict[str, Any]] | None]:
    """Returns the object that a text names, and the arguments in the text; None if it has no parentheses."""
    module, _, text = name.partition(":")
    try:
        target, call = _parse(module, text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):  # Python's parser raises all of these
        raise SettingError(setting, form, name) from None
    if sys.path[0]:
        sys.path.insert(0, "")
    with report_failure(name, "imported", kind):
        return getattr(importlib.import_module(module), target), call


def _parse(module: str, text: str) -> tuple[str, tuple[list[Any], dict[str, Any]] | None]:
    """Returns the name of an object in a module, and its arguments; None if the text has no parentheses."""
    expression = ast.parse(text, mode="eval").body
    call = expression if isinstance(expression, ast.Call) else None
    target = call.func if call else expression
    if not module or not isinstance(target, ast.Name):
        raise SyntaxError("expected the name of a module and a name in it")
    if call is None:
        return target.id, None
    positional = [ast.literal_eval(argument) for argument in call.args]
    keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    return target.id, (positional, keywords)


def _parse_shape(text: str) -> tuple[int, ...]:
    """Returns the shape that a text such as "3,4" stands for, such as "3,4" or "3x4"; "()" is that of a scalar."""
    numbers = text.strip("()").replace("x", ",").split(",")
    numbers = numbers[:-1] if not numbers[-1] else numbers
    if not all(number.strip().isascii() and number.strip().isdigit() and len(number) < 10 for number in numbers):
        raise SettingError("shapes", "to be sizes with commas, such as 3,4", text)
    shape = tuple(int(number) for number in numbers)
    if min(shape, default=1) < 1:
        raise SettingError("shapes", "to have sizes of at least 1", text)
    return shape


def _describe_type(value: Any) -> str:
    return f"class {value.__name__}" if isinstance(value, type) else f"object of type {type(value).__name__}"

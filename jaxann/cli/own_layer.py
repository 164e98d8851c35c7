"""The user's own layers, which the command line names in the form "module:Class(5, rate=0.1)"."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError
from jaxann.nn.shapes import InputError, resolve_input

FORM = "to be module:Class, module:Class(5, rate=0.1) or module:instance"


def import_layer(name: str) -> Layer:
    """Imports the layer that a text such as "module:Class(5, rate=0.1)" stands for.

    Importing the module runs its code. Nothing in it is called unless it is a subclass of `Layer`.

    Raises:
        ValueError: If the text is not of this form or does not stand for a layer, or if importing or constructing the
            layer fails.
    """
    module, target, call = _parse(name)
    sys.path.insert(0, "")
    with report_failure(name, "imported"):
        value = getattr(importlib.import_module(module), target)
    if isinstance(value, Layer):
        if call is not None:
            raise SettingError("layer", "to have no arguments after an instance", name)
        return value
    if not isinstance(value, type) or not issubclass(value, Layer):
        other = f"class {value.__name__}" if isinstance(value, type) else f"object of type {type(value).__name__}"
        raise SettingError("layer", f"to name a subclass or an instance of jaxann.nn.Layer, not the {other}", name)
    positional, keywords = call or ([], {})
    with report_failure(name, "constructed"):
        return value(*positional, **keywords)


@contextmanager
def report_failure(name: str, action: str) -> Iterator[None]:
    """Converts whatever a user's layer raises inside the `with` block, even a SystemExit, to an error of one sentence.

    Args:
        name: How the user named the layer.
        action: What is done with the layer in the block, such as "imported".

    Raises:
        ValueError: If anything but a KeyboardInterrupt or a `SettingError` is raised.
    """
    try:
        yield
    except (KeyboardInterrupt, SettingError):
        raise
    except BaseException as error:
        raise ValueError(f"the layer {name!r} cannot be {action}: {type(error).__name__}: {error}") from None


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
    return jax.random.normal(key, size) if is_float else jax.random.randint(key, size, 0, 2)


def _parse(name: str) -> tuple[str, str, tuple[list[Any], dict[str, Any]] | None]:
    """Returns the name of the module, the name in it, and the arguments; None if the text has no parentheses."""
    module, _, text = name.partition(":")
    try:
        expression = ast.parse(text, mode="eval").body
        call = expression if isinstance(expression, ast.Call) else None
        target = call.func if call else expression
        if not module or not isinstance(target, ast.Name):
            raise SyntaxError("expected the name of a module and a name in it")
        if call is None:
            return module, target.id, None
        positional = [ast.literal_eval(argument) for argument in call.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        return module, target.id, (positional, keywords)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):  # Python's parser raises all of these
        raise SettingError("layer", FORM, name) from None

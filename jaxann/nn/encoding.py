"""Layers as JSON and back: the names of their classes and their settings, from which an equal layer is built."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

import numpy as np

from jaxann.nn.activations import ACTIVATIONS
from jaxann.nn.base import Layer
from jaxann.nn.initializers import Initializer, to_initializer
from jaxann.nn.text import describe_value

HOME = "jaxann.nn"  # the room whose classes are stored by their name alone
INITIALIZERS = "jax.nn.initializers"


def encode(value: Any, place: str = "the model") -> Any:
    """Returns a layer or one of its settings as JSON.

    Args:
        value: A layer, a number, a text, None, a function or class of a module, or a tuple of these.
        place: What the value is, for the message.

    Returns:
        What `json.dumps` takes and `decode` turns into an equal value.

    Raises:
        ValueError: If a value cannot be stored, such as a lambda or a class that is defined inside a function.
    """
    value = to_initializer(value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else {"number": str(value)}
    if isinstance(value, tuple | list):
        return [encode(item, f"{place}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Layer) and ACTIVATIONS.get(f"{value}") is value:
        return {"activation": f"{value}"}
    if isinstance(value, Layer | Initializer) and (is_dataclass(value) or not vars(value)):
        names = [field.name for field in fields(value) if field.init] if is_dataclass(value) else []
        name = type(value).__name__
        settings = {field: encode(getattr(value, field), f"{field} of {name}") for field in names}
        return {"class": _name(type(value), f"the class {name}"), "settings": settings}
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return {"object": _name(value, place)}
    raise ValueError(f"expected {place} to be a layer, a number or a text, to be stored, got {describe_value(value)}")


def decode(content: Any) -> Any:
    """Returns the layer or the setting that `encode` turned into JSON, importing the modules that the JSON names.

    Raises:
        ValueError: If the JSON has another form, or names an object that cannot be imported or is not a layer.
        Exception: What the class of a layer raises for its settings.
    """
    if isinstance(content, list):
        return tuple(decode(item) for item in content)
    if not isinstance(content, dict):
        return content
    match content:
        case {"number": str(number)}:
            return float(number)
        case {"activation": str(name)} if name in ACTIVATIONS:
            return ACTIVATIONS[name]
        case {"object": str(name)}:
            return _find(name)
        case {"class": str(name), "settings": dict(settings)}:
            kind = _find(name)
            if not isinstance(kind, type) or not issubclass(kind, Layer | Initializer):
                raise ValueError(f"expected {describe_value(name)} to be a class of layers, got another object")
            return kind(**{field: decode(setting) for field, setting in settings.items()})
    raise ValueError(f"expected the description of a layer, got {describe_value(content)}")


def _name(value: Any, place: str) -> str:
    """Returns the name by which `_find` finds a class or a function: "Dense", or "module:name" outside `jaxann.nn`."""
    name = value.__qualname__
    if getattr(importlib.import_module(HOME), name, None) is value:
        return name
    public = getattr(importlib.import_module(INITIALIZERS), name, None) is value
    path = f"{INITIALIZERS if public else value.__module__}:{name}"
    try:
        is_importable = value.__module__ != "__main__" and _find(path) is value
    except ValueError:
        is_importable = False
    if not is_importable:
        expectation = f"expected {place} to be defined by name in a module that other programs can import"
        raise ValueError(f"{expectation}, got {describe_value(path)}")
    return path


def _find(name: str) -> Callable:
    """Returns the class or function of a name."""
    module, _, path = name.rpartition(":")
    try:
        value: Any = importlib.import_module(module or HOME)
        for part in path.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"expected {describe_value(name)} to be importable: {error}") from None
    return value

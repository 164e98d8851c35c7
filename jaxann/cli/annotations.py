"""Annotations of settings: checks whether a value from JSON fits an annotation, and descriptions for messages."""

from __future__ import annotations

from math import inf
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_NAMES = {float: "a number", int: "a whole number", bool: "true or false", NoneType: "null"}


def matches(value: Any, annotation: Any) -> bool:
    """Returns whether a value that was read from JSON fits an annotation. A list stands for a tuple."""
    if annotation is Any:
        return True
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return any(matches(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, list) and all(matches(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(matches(item, args[1]) for item in value.values())
    if annotation in (int, float):
        return isinstance(value, (int, annotation)) and not isinstance(value, bool)
    return isinstance(value, annotation)


def convert(value: Any, annotation: Any) -> Any:
    """Converts a value that `matches` an annotation to its type: lists to tuples, and integers to floats.

    An integer too large for a float becomes infinite, as it does where the same digits are given on the command line.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return convert(value, next(arg for arg in args if matches(value, arg)))
    if origin is tuple:
        return tuple(convert(item, args[0]) for item in value)
    if origin is dict:
        return {name: convert(item, args[1]) for name, item in value.items()}
    if annotation is not float:
        return value
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


def describe_annotation(annotation: Any) -> str:
    """Returns a phrase for the values that an annotation allows in a JSON file, such as "a number or null"."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(map(describe_annotation, args))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin is tuple:
        return f"a list in which each element is {describe_annotation(args[0])}"
    if origin is dict:
        return f"an object in which each value is {describe_annotation(args[1])}"
    return _NAMES.get(annotation, "a string")

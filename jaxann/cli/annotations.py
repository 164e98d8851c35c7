"""Annotations of settings: whether a value read from JSON fits one, and how a message describes it."""

from __future__ import annotations

from math import inf
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_NAMES = {float: "a number", int: "a whole number", bool: "true or false", NoneType: "null"}


def matches(value: Any, annotation: Any) -> bool:
    """Returns whether a value, as JSON holds it, fits an annotation, where a list stands for a tuple."""
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
    """Returns a value that `matches` an annotation in the type that it names: lists as tuples, integers as floats.

    An integer beyond every float becomes infinite, as Python reads a number with as many digits on the command line.
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
    """Returns what an annotation allows in a JSON file, in words: "a number or null"."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(map(describe_annotation, args))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin is tuple:
        return f"a list in which each element is {describe_annotation(args[0])}"
    if origin is dict:
        return f"an object in which each value is {describe_annotation(args[1])}"
    return _NAMES.get(annotation, "a text")

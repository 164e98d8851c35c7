"""The grid of a sweep: settings of train.py and their values, as the command line takes and a table shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxann.cli.settings import ELSEWHERE, Settings, matches

TRAIN_ONLY = ("patience", "evaluate_every", "score", "tensorboard", "checkpoint_seconds", *ELSEWHERE)
ALIKE = ("dataset", "target", "weights", "kind", "seed", "split", "precision", "optimizer_settings", "plots")


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """The values of each setting in the grid. Raises ValueError for what is none."""
    hints, found = get_type_hints(Settings), {}
    known = [field.name for field in fields(Settings) if field.name not in (*TRAIN_ONLY, *ALIKE)]
    for text in texts:
        given, there, listed = text.partition("=")
        name = given.replace("-", "_")
        if not there or not listed:
            raise ValueError(f"grid has {text!r}, but a setting and its values are wanted: learning_rate=0.01,0.1")
        if name not in known:
            what = f"{name} cannot be swept" if name in hints else f"there is no setting {name}"
            raise ValueError(f"{what}, only {', '.join(known)}")
        if name in found:
            raise ValueError(f"grid has {name} twice")
        found[name] = [parse_value(name, one, hints[name]) for one in listed.split(",")]
        for i, one in enumerate(found[name]):
            if one in found[name][:i]:
                raise ValueError(f"{name} has the value {format_value(one)} twice")
    return found


def parse_value(name: str, text: str, hint: Any) -> Any:
    """What `text` stands for, as an annotation has it. Raises ValueError where it stands for no such thing."""

    def readings() -> Iterator[Any]:
        yield from (None, []) if text == "none" else ()
        for number in (float, int):
            for read in (number, lambda text, number=number: [number(part) for part in text.split("-")]):
                with suppress(ValueError):
                    yield read(text)
        yield text

    for reading in readings():
        if matches(reading, hint):
            return tuple(reading) if isinstance(reading, list) else reading
    raise ValueError(f"{name} is {text!r}, but {describe_hint(hint)} is wanted")


def describe_hint(hint: Any) -> str:
    """An annotation in words."""
    kind, args = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(map(describe_hint, args))
    if kind is Literal:
        return " or ".join(args)
    return {float: "a number", int: "a whole number", NoneType: "none"}.get(hint, "one such as 64-32")


def format_value(value: Any) -> str:
    """A value as the grid takes it."""
    return "none" if value in (None, ()) else "-".join(map(str, value)) if isinstance(value, tuple) else str(value)

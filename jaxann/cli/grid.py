"""Grids of a sweep: settings with several values, as the command line takes them and a table shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxann.cli.annotations import matches
from jaxann.cli.data_settings import COLUMNS
from jaxann.cli.settings import UNSTORED, Settings
from jaxann.nn.hyperparameters import SettingError

# Settings that only `jaxann train` takes, and those that are the same for all members of a sweep.
TRAIN_ONLY = ("patience", "evaluate_every", "tensorboard", "checkpoint_seconds", "keep", *UNSTORED)
SHARED = ("dataset", *COLUMNS, "tokenizer", "score", "seed", "split", "precision", "optimizer_settings", "plots")


def sweepable_settings() -> list[str]:
    """Returns the names of the settings that a grid may vary."""
    return [field.name for field in fields(Settings) if field.name not in (*TRAIN_ONLY, *SHARED)]


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Reads the values of each setting of a grid from texts such as "learning_rate=0.01,0.1".

    Raises:
        SettingError: If a text is not of this form, if it names a setting that does not exist or cannot be swept, if
            the setting cannot have a value, or if a setting or a value is given twice. It is a ValueError.
    """
    annotations, grid = get_type_hints(Settings), {}
    sweepable = sweepable_settings()
    for text in texts:
        written, _, listed = text.partition("=")
        name = written.replace("-", "_")
        if not listed:
            raise SettingError("grid", "to hold settings and values such as learning_rate=0.01,0.1", text)
        if name not in sweepable:
            raise SettingError("grid", f"to hold only settings that can be swept: {', '.join(sweepable)}", written)
        if name in grid:
            raise SettingError("grid", "to hold each setting once", f"{written} twice")
        grid[name] = [parse_value(written, value, annotations[name]) for value in listed.split(",")]
        for i, value in enumerate(grid[name]):
            if value in grid[name][:i]:
                raise SettingError(written, "to have each value once", f"{format_value(value)} twice")
    return grid


def written_names(texts: Sequence[str]) -> dict[str, str]:
    """Returns each setting's name in a grid as the caller wrote it, with underscores or dashes."""
    names = {text.partition("=")[0].replace("-", "_"): text.partition("=")[0] for text in texts}
    return {name: written for name, written in names.items() if name in sweepable_settings()}


def parse_value(name: str, text: str, annotation: Any) -> Any:
    """Returns the value of a setting that a text stands for: "64-32" for (64, 32), "none" for None or ().

    Args:
        name: The name of the setting, for the error message.
        text: The text.
        annotation: The annotation of the setting.

    Raises:
        SettingError: If the text stands for no value that the annotation allows.
    """
    for value in _read_values(text):
        if matches(value, annotation):
            return tuple(value) if isinstance(value, list) else value
    raise SettingError(name, f"to be {_describe_texts(annotation)}", text)


def format_value(value: Any) -> str:
    """Returns the text that stands for a value in a grid."""
    if value in (None, ()):
        return "none"
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _read_values(text: str) -> Iterator[Any]:
    """Yields all values that a text may stand for, with a list in place of a tuple."""
    yield from (None, []) if text == "none" else ()
    for number in (float, int):
        for parse in (number, lambda text, number=number: [number(part) for part in text.split("-")]):
            with suppress(ValueError):
                yield parse(text)
    yield text


def _describe_texts(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(map(_describe_texts, args))
    if origin is Literal:
        return " or ".join(args)
    return {float: "a number", int: "a whole number", NoneType: "none"}.get(annotation, "numbers such as 64-32")

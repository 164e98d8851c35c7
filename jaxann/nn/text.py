"""Text that people read: layers and values of bounded length in messages, names that cannot steer a terminal."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any
from unicodedata import category

_JOINERS = "\u200c\u200d"  # the spelling of several scripts needs them, and they do not move any text


def make_printable(text: str, keep: str = "") -> str:
    r"""Replaces control and formatting characters by escapes, such as \x1b or \u202e.

    Names from data then cannot steer a terminal, as escape sequences do, or disguise the text around them, as
    characters that reverse the direction of text do.

    Args:
        text: Any text.
        keep: Characters that stay as they are, such as the new lines of a table.
    """
    if text.isprintable():
        return text
    return "".join(character if _is_harmless(character, keep) else _escape(character) for character in text)


def shorten(text: str, most: int = 60) -> str:
    """Returns printable text of at most `most` characters, with "..." in place of the middle of a longer text."""
    shown, end = make_printable(text), (most - 3) // 2
    return shown if len(shown) <= most else f"{shown[: most - 3 - end]}...{shown[len(shown) - end :]}"


def describe_value(value: Any, most: int = 120) -> str:
    """Returns a refused value as a message shows it: text in quotes, and anything else as `str` converts it.

    Args:
        value: The value.
        most: The largest number of characters; the middle of a longer value is left out.
    """
    try:
        return shorten(repr(value) if isinstance(value, str) else str(value), most)
    except ValueError:  # Python converts no integer of more than 4300 digits to text
        return "a number with too many digits"


def format_expression(value: Any, **defaults: Any) -> str:
    """Returns the expression that makes a layer, such as "Conv(3, 8, (3, 3), stride=(2, 2))".

    It leaves out settings that have their default value, and functions such as initializers, whose text is long. A
    tuple that repeats the default, such as the stride (1, 1), counts as the default.

    Args:
        value: The layer. Only a dataclass has settings.
        defaults: The default values of settings whose default depends on other settings.
    """
    required, changed = [], []
    for setting in fields(value) if is_dataclass(value) else ():
        entry, default = getattr(value, setting.name), defaults.get(setting.name, setting.default)
        if default is MISSING and setting.default_factory is MISSING:
            required.append(repr(entry))
        elif not callable(entry) and not _is_default(entry, default):
            changed.append(f"{setting.name}={entry!r}")
    return f"{type(value).__name__}({', '.join(required + changed)})"


def _is_default(value: Any, default: Any) -> bool:
    try:
        if value == default:
            return True
    except (TypeError, ValueError):  # a traced value, which has no number yet, or an array
        return False
    return isinstance(value, tuple) and value != () and all(_is_default(entry, default) for entry in value)


def _is_harmless(character: str, keep: str) -> bool:
    return character.isprintable() or character in keep or character in _JOINERS or category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

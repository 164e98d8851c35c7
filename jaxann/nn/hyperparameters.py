"""Hyperparameters: plain numbers, or traced ones where a sweep varies them, and the one check of their range."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from numbers import Integral
from typing import Any

from jax.core import Tracer
from jaxtyping import Array, Float

Number = float | int | Float[Array, ""]  # a sweep traces it


class SettingError(ValueError):
    """A setting with a value that is refused: "expected batch_size between 1 and 150, got 0".

    The message names the setting as a Python caller wrote it; the command line spells it as a flag.
    """

    def __init__(self, name: str, expectation: str, value: Any) -> None:
        self.name, self.expectation, self.value = name, expectation, value
        super().__init__(self.spell(lambda name: name))

    def spell(self, spelling: Callable[[str], str]) -> str:
        """Returns the message, with `spelling(name)` for the name of the setting."""
        value = repr(self.value) if isinstance(self.value, str) else self.value
        return f"expected {spelling(self.name)} {self.expectation}, got {value}"


def is_traced(value: Any) -> bool:
    """Returns whether a value is being traced by JAX, as a setting in a sweep is, so that it has no number yet."""
    return isinstance(value, Tracer)


def validate_number(
    name: str,
    value: Any,
    *,
    above: float | int | None = None,
    least: float | int | None = None,
    below: float | int | None = None,
    most: float | int | None = None,
    integer: bool = False,
    note: str = "",
) -> None:
    """Checks that a setting is a finite number in its range. A traced value passes, for it has no number yet.

    Args:
        name: The name of the setting, as a Python caller writes it.
        value: What was given for it.
        above: The value must be larger than this.
        least: The value must be at least this.
        below: The value must be smaller than this.
        most: The value must be at most this.
        integer: Whether only whole numbers are allowed.
        note: What the range is, in a few words, such as "the number of examples".

    Raises:
        SettingError: If the value is not a finite number, not a whole one where `integer` asks for that, or out of
            range. It is a ValueError.
    """
    if is_traced(value):
        return
    kind = "a whole number" if integer else "a finite number"
    try:
        numeric = not isinstance(value, bool) and bool(isfinite(value)) and (not integer or isinstance(value, Integral))
    except TypeError:
        numeric = False
    if not numeric:
        raise SettingError(name, f"to be {kind}", value)
    inside = (above is None or value > above) and (least is None or value >= least)
    inside = inside and (below is None or value < below) and (most is None or value <= most)
    if not inside:
        raise SettingError(name, _describe_range(above, least, below, most) + (f" ({note})" if note else ""), value)


def _describe_range(*bounds: float | int | None) -> str:
    above, least, below, most = bounds
    low, high = above if least is None else least, below if most is None else most
    if low is None or high is None:
        words = {"above": above, "of at least": least, "below": below, "of at most": most}
        return " and ".join(f"{word} {bound}" for word, bound in words.items() if bound is not None)
    exclusive = [str(bound) for bound in (above, below) if bound is not None]
    return f"between {low} and {high}" + (f", excluding {' and '.join(exclusive)}" if exclusive else "")

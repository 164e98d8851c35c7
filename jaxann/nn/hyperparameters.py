"""Hyperparameters: their type, the error for a setting that is refused, and the check that a number is in its range."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from numbers import Integral
from typing import Any

import jax
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from jaxann.nn.text import describe_value

Number = float | int | Float[Array, ""]
"""A hyperparameter: a plain number, or a scalar array where a sweep traces it."""

LARGEST = 2**63 - 1  # the largest whole number of NumPy and JAX, an int64


class SettingError(ValueError):
    """Error for a setting whose value is refused, such as "expected batch_size between 1 and 150, got 0".

    The message names the setting as a Python caller writes it, and the command line spells it as a flag.

    Attributes:
        name: The name of the setting, as a Python caller writes it.
        expectation: How the sentence goes on after the name, such as "between 1 and 150" or "to be a finite number".
        value: The value that is refused.
    """

    def __init__(self, name: str, expectation: str, value: Any) -> None:
        self.name, self.expectation, self.value = name, expectation, value
        super().__init__(name, expectation, value)  # as they are, so that the error can be pickled

    def __str__(self) -> str:
        return self.spell(lambda name: name)

    def spell(self, spelling: Callable[[str], str]) -> str:
        """Returns the message with the name of the setting spelled as `spelling(name)`, and a long value shortened."""
        return f"expected {spelling(self.name)} {self.expectation}, got {describe_value(self.value)}"


def is_traced(value: Any) -> bool:
    """Returns whether JAX is tracing a value, as it does with a setting in a sweep: its number is not known yet."""
    return isinstance(value, Tracer)


def is_tracing() -> bool:
    """Returns whether the calling code is traced as under `jax.jit`, where operations on constants are traced, too.

    Under `jax.grad` or `jax.vmap` alone it is False.
    """
    return is_traced(jax.device_put(0.0))


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
    """Checks that a setting is a finite number in its range.

    A traced value passes, because its number is not known yet.

    Args:
        name: The name of the setting, as a Python caller writes it.
        value: The value of the setting.
        above: A bound that the value must exceed.
        least: The smallest value allowed.
        below: A bound that the value must stay under.
        most: The largest value allowed.
        integer: Whether only whole numbers are allowed.
        note: What the range or the setting is, in a few words, such as "the number of examples".

    Raises:
        SettingError: If the value is not a finite number, is not a whole number although `integer` is set, or is out
            of range. If `integer` is set and `most` is None, the largest value allowed is 2⁶³ - 1.
    """
    if is_traced(value):
        return
    if integer and not _is_integer(value):
        raise SettingError(name, "to be a whole number", value)
    if not integer and not _is_finite(value):
        raise SettingError(name, "to be a finite number", value)
    if integer and most is None and value > LARGEST:
        raise SettingError(name, f"of at most {LARGEST}", value)
    inside = (above is None or value > above) and (least is None or value >= least)
    inside = inside and (below is None or value < below) and (most is None or value <= most)
    if not inside:
        raise SettingError(name, _describe_range(above, least, below, most) + (f" ({note})" if note else ""), value)


def resolve_key(key: Any) -> PRNGKeyArray:
    """Returns the random key that the setting `key` stands for.

    Args:
        key: A key of JAX, or a whole number, which `jax.random.key` turns into a key.

    Raises:
        SettingError: If it is neither, or if the number is not between 0 and 2³² - 1.
    """
    if isinstance(key, jax.Array):
        return key
    if not _is_integer(key):
        raise SettingError("key", "to be a whole number or a key such as jax.random.key(0)", key)
    validate_number("key", key, least=0, most=2**32 - 1, integer=True)
    return jax.random.key(key)


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and bool(isfinite(value))
    except (TypeError, ValueError, OverflowError):  # not a number, or a whole number beyond every float
        return False


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _describe_range(*bounds: float | int | None) -> str:
    above, least, below, most = bounds
    low, high = above if least is None else least, below if most is None else most
    if low is None or high is None:
        words = {"above": above, "of at least": least, "below": below, "of at most": most}
        return " and ".join(f"{word} {bound}" for word, bound in words.items() if bound is not None)
    exclusive = [str(bound) for bound in (above, below) if bound is not None]
    return f"between {low} and {high}" + (f", excluding {' and '.join(exclusive)}" if exclusive else "")

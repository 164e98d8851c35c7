"""Settings of layers, losses and optimisers: plain numbers, or traced ones where a sweep varies them."""

from __future__ import annotations

from math import isfinite
from typing import Any

from jax.core import Tracer
from jaxtyping import Array, Float

Number = float | int | Float[Array, ""]  # a setting, which a sweep traces


def is_traced(value: Any) -> bool:
    """Whether a value is being traced, as a setting in a sweep is: there is nothing yet to look at."""
    return isinstance(value, Tracer)


def validate_number(name: str, value: Any, *, above: int | None = None, least: int | None = None) -> None:
    """Raises ValueError for what is no finite number in its range; what is being traced has no value to look at."""
    if is_traced(value):
        return
    good = isfinite(value) and (above is None or value > above) and (least is None or value >= least)
    if not good:
        wanted = f" above {above}" if above is not None else f" of at least {least}" if least is not None else ""
        raise ValueError(f"{name} is {value}, but a finite number{wanted} is wanted")

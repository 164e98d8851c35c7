"""What a user declares: which gradients are wrong on purpose, and which kind of thing is to be checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxann.gradcheck.report import ON_PURPOSE, WRONG, Row
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError

# Paths, or a mapping from paths to the causes that are meant.
Declarations = Mapping[str, str | None] | Sequence[str] | str


def name_causes(on_purpose: Declarations) -> Mapping[str, str | None]:
    """Returns the cause that is meant for each declared path; None for any."""
    if isinstance(on_purpose, Mapping):
        return on_purpose
    return dict.fromkeys((on_purpose,) if isinstance(on_purpose, str) else on_purpose)


def accept_on_purpose(rows: list[Row], on_purpose: Declarations) -> tuple[Row, ...]:
    """Returns the rows, with another verdict for the wrong gradients that are declared.

    Args:
        rows: The rows of a report.
        on_purpose: Paths, each of which stands for all gradients at it or inside it; or a mapping from paths to causes,
            with which a gradient that is wrong for another cause stays wrong.

    Raises:
        SettingError: If no gradient has such a path.
    """
    causes = name_causes(on_purpose)
    for path in causes:
        if not any(f"{row.path}.".startswith(f"{path}.") for row in rows):
            paths = ", ".join(row.path for row in rows)
            raise SettingError("on_purpose", f"to name gradients of the report ({paths})", path)

    def is_accepted(row: Row) -> bool:
        meant = [cause for path, cause in causes.items() if f"{row.path}.".startswith(f"{path}.")]
        is_meant = any(cause in (None, row.cause) for cause in meant)
        return is_meant and row.verdict == WRONG and bool(row.handwritten.size and np.isfinite(row.handwritten).all())

    def describe(row: Row) -> str:
        if not np.isfinite(row.degrees):
            return "it or the true gradient is zero, so the angle between them is not defined"
        angle = f"{row.degrees:.1f} degrees from the true gradient"
        return angle if row.cause == "none" else f"{angle}; {row.diagnosis}"

    return tuple(replace(row, verdict=ON_PURPOSE, diagnosis=describe(row)) if is_accepted(row) else row for row in rows)


def require_layer(value: Any) -> None:
    """Raises a TypeError, which says what checks the value, unless it is a `Layer`."""
    if not isinstance(value, Layer):
        raise TypeError(f"expected a Layer to check, got {type(value).__name__}; {name_check(value)}")


def name_check(value: Any) -> str:
    """Returns a sentence on which function checks a value."""
    if isinstance(value, Layer):
        return "jaxann.check_layer checks a layer, and jaxann.check a network with its loss"
    return (
        "jaxann.check_function checks a forward with its backward, jaxann.check_gradient a number with its gradient, "
        "and jaxann.audit the custom derivatives inside a JAX function"
    )

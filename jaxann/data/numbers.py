"""Numbers from Python, NumPy, JAX and pandas as arrays, with sentences for text and for columns that hold it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxann.nn.text import describe_value


def to_numbers(name: str, values: Any) -> Array | np.ndarray:
    """Returns values as an array after checking that they are real numbers.

    Args:
        name: What the values are, for the message, such as "features".
        values: An array, nested sequences, or a DataFrame or Series of pandas, whose missing numbers become NaN.

    Returns:
        An array of JAX as it is, and anything else as one of NumPy.

    Raises:
        ValueError: If rows have different lengths, or if the values are not real numbers. The message names the column
            of a DataFrame, or tells how numbers are made of labels.
    """
    if hasattr(values, "iloc"):
        values = _read_frame(name, values)
    elif not isinstance(values, jax.Array):
        try:
            values = np.asarray(values)
        except ValueError:
            raise ValueError(f"expected {name} in rows of equal length, got rows of different lengths") from None
    if values.dtype.kind in "biu" or jnp.issubdtype(values.dtype, jnp.floating):
        return values
    text = next((value for value in np.asarray(values).flat if isinstance(value, str)), None)
    if text is not None and name == "targets":
        raise ValueError(
            f"expected real numbers for targets, got {describe_value(str(text))} "
            "(names, t = numpy.unique(labels, return_inverse=True) makes numbers of labels)"
        )
    raise ValueError(f"expected real numbers for {name}, got dtype {values.dtype}")


def _read_frame(name: str, frame: Any) -> np.ndarray:
    """Returns a DataFrame or a Series of pandas as an array, whatever mixture of numbers and booleans it holds."""
    is_table = hasattr(frame, "columns")
    dtypes = zip(frame.columns, frame.dtypes, strict=True) if is_table else [(frame.name, frame.dtype)]
    for column, dtype in dtypes:
        if is_table and getattr(dtype, "kind", "O") not in "biuf":
            raise ValueError(
                f"expected real numbers for {name}, got dtype {dtype} in column {describe_value(column)} "
                "(leave the column out, or make numbers of it)"
            )
    array = np.asarray(frame)
    # A mixture of booleans and numbers, and numbers of which some are missing, may be arrays of objects.
    is_number = is_table or getattr(frame.dtype, "kind", "O") in "biuf"
    return frame.to_numpy(dtype=float, na_value=np.nan) if is_number and array.dtype.kind == "O" else array

"""The standardization of features and targets: x ↦ (x - mean) / sd.

Means and standard deviations are computed from numbers that are divided by a power of two, by which the results are
then multiplied. No digit of an ordinary result changes, and squares of very large or very small numbers neither
overflow nor vanish.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxann.nn.text import shorten

BATCH = 8192  # examples to fit the scaling on at a time, because each step copies them in float64
ORDINARY = 64  # standard deviations from 2^-64 to 2^64 need no power of two, not even in float32


class Scaling(NamedTuple):
    """The map x ↦ (x - mean) / sd, which standardizes features.

    Attributes:
        mean: [n], the mean of each feature over the training part.
        sd: [n], its standard deviation there, or 1 for a feature that is constant there.
    """

    mean: np.ndarray
    sd: np.ndarray

    def __call__(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Returns (x - mean) / sd.

        Args:
            x: Features [N, n].
            out: An array [N, n] to write the result to, which may be `x` itself; by default a new one.

        Returns:
            The standardized features [N, n], in the precision of `x` if that is a float, and in float64 otherwise.
            Numbers that are too large for that precision become infinite.
        """
        if out is None:
            out = np.empty(x.shape, np.result_type(x.dtype, np.float32))
        mean, sd = self
        exponent = np.frexp(sd)[1]
        extreme = np.abs(exponent) > ORDINARY
        with np.errstate(over="ignore"):
            if extreme.any():  # x - mean could overflow, or lose digits among the numbers next to 0
                shift = np.where(extreme, -exponent, 0)
                x, mean, sd = np.ldexp(x, shift), np.ldexp(mean, shift), np.ldexp(sd, shift)
            np.subtract(x, mean, out=out, casting="same_kind")
            return np.divide(out, sd, out=out, casting="same_kind")


def fit_scaling(source: str, x: np.ndarray, columns: tuple[str, ...], scaling: str) -> Scaling:
    """Returns the map that standardizes features.

    Args:
        source: The file or table, for the message.
        x: Features [N, n] of the training part, finite floats.
        columns: The names of the features, for the message.
        scaling: "feature", "all" or "none", as for `load_dataset`.

    Raises:
        ValueError: If a feature varies so little that float64 cannot represent its standard deviation precisely.
    """
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils import gen_batches

    n = x.shape[1]
    if scaling == "none":
        return Scaling(np.zeros(n), np.ones(n))
    low, high = np.asarray(x.min(axis=0), float), np.asarray(x.max(axis=0), float)
    if scaling == "all":
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    exponent = _exponent(low, high)
    scaler: Any = StandardScaler()  # its attributes' types are None before it is fitted
    for rows in gen_batches(len(x), BATCH):
        part = np.ldexp(x[rows], -exponent)
        scaler.partial_fit(part if scaling == "feature" else part.reshape(-1, 1))
    constant = scaler.scale_ == 1  # no other feature has a scale of 1, because all numbers lie between -1/2 and 1/2
    mean = np.where(low == high, low, np.ldexp(scaler.mean_, exponent))
    sd = np.where(constant, 1, np.ldexp(scaler.scale_, np.where(constant, 0, exponent)))
    mean, sd = np.broadcast_to(mean, n).copy(), np.broadcast_to(sd, n).copy()
    for i in np.flatnonzero(sd < np.finfo(float).tiny):
        raise ValueError(
            f"expected features that are constant or have a standard deviation of at least "
            f"{np.finfo(float).tiny:g} in {source}, got {sd[i]:g} in column {shorten(columns[i])}"
        )
    return Scaling(mean, sd)


def mean_and_sd(t: np.ndarray) -> tuple[float, float]:
    """Returns the mean and the standard deviation of numbers [N]; the latter is 1 if all numbers are equal.

    Raises:
        ValueError: If the numbers vary so little that float64 cannot represent their standard deviation precisely.
    """
    low, high = t.min(), t.max()
    if low == high:  # then the computed standard deviation is only the rounding error of 0
        return float(low), 1.0
    exponent = _exponent(np.float64(low), np.float64(high))
    scaled = np.ldexp(t if t.dtype.kind == "f" else t.astype(float), -exponent)
    mean, sd = (float(np.ldexp(float(value), exponent)) for value in (scaled.mean(), scaled.std()))
    if sd < np.finfo(float).tiny:
        raise ValueError(
            f"expected targets that are constant or have a standard deviation of at least {np.finfo(float).tiny:g}, "
            f"got {sd:g}"
        )
    return mean, sd


def _exponent(low: Any, high: Any) -> Any:
    """Returns the e for which numbers from `low` to `high`, divided by 2ᵉ, lie between -1/2 and 1/2."""
    return np.frexp(np.maximum(high, -low))[1] + 1

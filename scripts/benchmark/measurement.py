"""Timing several runs in turn, and the lines of a table that compare two measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import floor, inf, log10
from time import perf_counter
from typing import Any, NamedTuple

import jax
import numpy as np

Run = Callable[[], Any]  # after jax.block_until_ready on its result, its work is done


def time_in_turn(runs: Mapping[str, Run], rounds: int, before: Run = lambda: None) -> dict[str, np.ndarray]:
    """Measures several runs in every round, in the order A B A B ..., so that disturbances affect all alike.

    Args:
        runs: What to measure.
        rounds: How many rounds to measure; one more, before them, warms up and is not counted.
        before: What to do before each measurement.

    Returns:
        The seconds [rounds] of each run.
    """
    seconds = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            before()
            start = perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(perf_counter() - start)
    return {name: np.array(measured[1:]) for name, measured in seconds.items()}


class Row(NamedTuple):
    """A line of a table: two measurements, and the ratio of their rounds.

    Attributes:
        what: What is compared, as "a : b".
        a: The median of the first measurement.
        b: The median of the second one.
        unit: The unit of both.
        ratio: The median ratio.
        low: The lower quartile of the ratios.
        high: The upper quartile of the ratios.
        at_most: The largest ratio that meets the target, or None.
        at_least: The smallest ratio that meets the target, or None.
    """

    what: str
    a: float
    b: float
    unit: str
    ratio: float
    low: float
    high: float
    at_most: float | None = None
    at_least: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Returns the cells of the line, the last ones for the target and whether it is met."""
        target = "" if self.at_least is None else f">= {self.at_least}"
        target = target if self.at_most is None else f"<= {self.at_most}"
        is_met = (self.at_most is None or self.ratio <= self.at_most) and self.ratio >= (self.at_least or -inf)
        return (
            self.what,
            f"{format_quantity(self.a, self.unit)} : {format_quantity(self.b, self.unit)}",
            f"{self.ratio:.4g}",
            f"{self.low:.3g} to {self.high:.3g}",
            target,
            ("met" if is_met else "missed") * bool(target),
        )

    def worsens(self, before: Row) -> bool:
        """Returns whether the quartiles of the ratio lie beyond those of an earlier measurement, on the worse side.

        Without a target no side is the worse one, and any difference counts.
        """
        is_higher, is_lower = self.low > before.high, self.high < before.low
        return (is_higher and self.at_least is None) or (is_lower and self.at_most is None)


def compare(
    what: str,
    pair: Iterable[np.ndarray],
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Row:
    """Compares two measurements by the median ratio of their rounds.

    Args:
        what: What is compared, as "a : b".
        pair: The two measurements [rounds] or [].
        unit: The unit of both.
        at_most: The largest ratio that meets the target.
        at_least: The smallest ratio that meets the target.
    """
    a, b = pair
    low, ratio, high = np.quantile(a / b, [0.25, 0.5, 0.75]).tolist()
    return Row(what, float(np.median(a)), float(np.median(b)), unit, ratio, low, high, at_most, at_least)


def format_quantity(value: float, unit: str) -> str:
    """Returns a value with the SI prefix that brings it between 1 and 1000, for instance "3.29 ms"."""
    thousands = floor(log10(abs(value)) / 3) if value else 0
    prefix = ("", "k", "M", "G", "T", "µ", "m")[thousands]  # the last two for -2 and -1
    return f"{value / 1000**thousands:.3g} {prefix}{unit}"

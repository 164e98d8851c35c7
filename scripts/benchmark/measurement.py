"""Timing several runs in turn, and the lines of a table that compare two measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import floor, inf, log10
from time import perf_counter
from typing import Any

import jax
import numpy as np

Run = Callable[[], Any]  # after jax.block_until_ready on its result, its work is done
Row = tuple[str, str, str, str, str]


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


def compare(what: str, pair: Iterable[np.ndarray], unit: str, *, at_most: float = inf, at_least: float = 0) -> Row:
    """Compares two measurements by the median ratio of their rounds.

    Args:
        what: What is compared, as "a : b".
        pair: The two measurements [rounds] or [].
        unit: The unit of both.
        at_most: The largest ratio that meets the target.
        at_least: The smallest ratio that meets the target.

    Returns:
        A line of the table: what, both medians, the ratio, the target if there is one, and whether it was met.
    """
    a, b = pair
    ratio = np.median(a / b)
    target = f"<= {at_most}" if at_most < inf else f">= {at_least}" if at_least else ""
    verdict = "met" if at_least <= ratio <= at_most else "missed"
    return (
        what,
        f"{format_quantity(a, unit)} : {format_quantity(b, unit)}",
        f"{ratio:.4g}",
        target,
        verdict * bool(target),
    )


def format_quantity(values: np.ndarray, unit: str) -> str:
    """Returns the median with the SI prefix that brings it between 1 and 1000, for instance "3.29 ms"."""
    median = float(np.median(values))
    thousands = floor(log10(abs(median)) / 3) if median else 0
    prefix = ("", "k", "M", "G", "T", "µ", "m")[thousands]  # the last two for -2 and -1
    return f"{median / 1000**thousands:.3g} {prefix}{unit}"

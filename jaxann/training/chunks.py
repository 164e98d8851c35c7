"""Chunks of a sweep: how many members a program trains at a time."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import psutil

WIDTH = 32  # members at a time on a CPU's device, whose caches hold few more: 64 are no faster, 128 slower (measured)


def fit_chunk(
    make_program: Callable[[int], Any], members: int, devices: list[Any], budget: int | float | None
) -> tuple[Any, int]:
    """Returns the program for the largest chunk that the budget allows, and the number of members in it.

    The number is a multiple of the number of devices. A program is usually compiled once, and again only if its
    memory analysis says that the chunk was too large.

    Args:
        make_program: A function from the number of members in a chunk to its compiled program.
        members: The number of all members.
        devices: The devices that they are spread over.
        budget: The most memory to use, in bytes, as for `sweep`.

    Raises:
        ValueError: If the budget is too small for a member on each device.
    """
    on_cpu, size = devices[0].platform == "cpu", largest_chunk(members, devices)
    while True:
        program = make_program(size)
        stats = None if on_cpu else devices[0].memory_stats()
        allowed = stats["bytes_limit"] if budget is None and stats else budget
        if allowed is None:
            return program, size
        analysis = program.memory_analysis()
        needed = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
        needed *= len(devices) if on_cpu else 1  # the devices of a CPU share its memory
        left = allowed - (stats["bytes_in_use"] if stats else held_memory())
        if needed <= left:
            return program, size
        width = size // len(devices)
        if width == 1:
            raise ValueError(
                f"expected a budget that leaves {needed:,} bytes for a member on each of {len(devices)} devices, "
                f"got {allowed:,.0f}, of which {max(left, 0):,.0f} are left"
            )
        size = _divide(members, len(devices), max(1, min(width - 1, int(width * left / needed))))


def largest_chunk(members: int, devices: list[Any]) -> int:
    """Returns the number of members in a chunk when memory sets no limit."""
    return _divide(members, len(devices), WIDTH if devices[0].platform == "cpu" else members)


def _divide(members: int, devices: int, limit: int) -> int:
    """Returns the size of chunks of about equal size with at most `limit` members on each device."""
    share = ceil(members / devices)
    return ceil(share / ceil(share / limit)) * devices


def held_memory() -> int:
    """Returns the memory that this process holds, in bytes."""
    return psutil.Process().memory_info().rss

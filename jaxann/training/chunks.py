"""Chunks of a sweep: how many members a program trains at a time, and the programs of several groups side by side."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
    """Returns how many of the members a chunk has if memory sets no limit."""
    return _divide(members, len(devices), WIDTH if devices[0].platform == "cpu" else members)


def _divide(members: int, devices: int, limit: int) -> int:
    """Returns the size of chunks with at most `limit` members on a device, and about as many in every chunk."""
    share = ceil(members / devices)
    return ceil(share / ceil(share / limit)) * devices


def held_memory() -> int:
    """Returns the memory that this process holds, in bytes."""
    return psutil.Process().memory_info().rss


def compile_ahead(lowerings: Iterable[Callable[[], Any]]) -> Iterator[Future]:
    """Compiles programs side by side, one on each core, ahead of the one that is asked for.

    Args:
        lowerings: For each program a function that returns it lowered, as `lower` of a jitted function does.

    Yields:
        For each program its future, whose result is the compiled program, or raises what went wrong.
    """
    cores = os.cpu_count() or 1
    threads, ahead = ThreadPoolExecutor(cores), deque[Future]()
    try:
        for lower in lowerings:
            try:
                ahead.append(threads.submit(lower().compile))
            except Exception as error:  # is raised when it is the program's turn
                ahead.append(Future())
                ahead[-1].set_exception(error)
            if len(ahead) > cores:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()
    finally:
        threads.shutdown(cancel_futures=True)

"""How a gradient check computes: in a given precision, with programs that are cheap to compile."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial, wraps
from typing import Any

import jax

from jaxann.nn.xla import LIGHT_OPTIMIZATION, for_cpu


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Makes `dtype`, "float32" or "float64", the default inside a `with` block.

    Inside the block matrix products are computed in full precision, which is not the default on every device.
    """
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        yield


@contextmanager
def rare_collections() -> Iterator[None]:
    """Makes Python look for reference cycles less often inside a `with` block, or in a function that this decorates.

    Tracing creates many objects that live on, so that looking at all of them as often as usual takes a tenth of the
    time.
    """
    usual = gc.get_threshold()
    gc.set_threshold(max(100_000, usual[0]) if usual[0] else 0, max(50, usual[1]), max(100, usual[2]))
    try:
        yield
    finally:
        gc.set_threshold(*usual)


_LEVEL = ContextVar("level", default=1)  # how much XLA optimizes the programs of `jit_cheaply`


@contextmanager
def optimization(level: int) -> Iterator[None]:
    """Sets XLA's optimization level, 0 or 1, for the programs of `jit_cheaply` inside a `with` block.

    At level 0 a program compiles in a quarter of the time, but it may be wrong on a CPU. XLA may compute a value twice,
    and at level 0 it fuses a product and a sum into one operation in some places and not in others, so that the two
    values differ in their last bit. Then no entry equals the maximum of all entries, and the gradient of the maximum is
    infinite. Therefore a value that is not finite, and a gradient that seems wrong, must be computed again at level 1.
    """
    token = _LEVEL.set(level)
    try:
        yield
    finally:
        _LEVEL.reset(token)


_PROGRAMS: list[Any] = []


def clear_programs() -> None:
    """Discards every program that `jit_cheaply` has compiled. Each check begins with this call.

    The layer's code may have changed since a program was compiled, even though the layer still compares equal.
    Besides, a process can hold only a limited number of programs, too few for those of hundreds of checks.
    """
    for program in _PROGRAMS:
        program.cache_clear()


def jit_cheaply(function: Callable, static: int) -> Callable:
    """Compiles a function for few calls: with little optimization, because compiling takes longer than running.

    Args:
        function: The function.
        static: The number of leading arguments that are static. Each combination of them has a program of its own.

    Returns:
        The compiled function. Its programs are kept until `clear_programs` is called.
    """

    @cache
    def program(level: int, *fixed: Any) -> Callable:
        options = {**LIGHT_OPTIMIZATION, "xla_backend_optimization_level": level}
        return jax.jit(partial(function, *fixed), compiler_options=for_cpu(options))

    _PROGRAMS.append(program)
    return wraps(function)(lambda *args: program(_LEVEL.get(), *args[:static])(*args[static:]))

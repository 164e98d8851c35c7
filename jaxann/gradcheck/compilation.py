"""How a gradient check computes: in the precision asked for, by programs that run once and are compiled in haste."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import Any

import jax


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """With `dtype` for a default, and matrix products that use all of it."""
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        yield


_PROGRAMS: list[Any] = []


def clear_programs() -> None:
    """Every program of `once`: the code that it was made of may have been edited since, its layer equal as before.

    Besides, a process can hold only so many programs, and one that checks hundreds of networks must not keep them all.
    """
    for program in _PROGRAMS:
        program.cache_clear()


def jit_cheaply(function: Callable, static: int) -> Callable:
    """`jax.jit` of `function`, its first `static` arguments static: compiled in haste, and kept until `forget`."""

    @cache
    def program(*fixed: Any) -> Callable:
        return jax.jit(partial(function, *fixed), compiler_options=_cheap_options())

    _PROGRAMS.append(program)
    return wraps(function)(lambda *args: program(*args[:static])(*args[static:]))


@cache
def _cheap_options() -> dict[str, int | bool]:
    """The compiler's options for less work, those of them that this jaxlib has.

    Not optimisation level 0: on a CPU it was seen to make infinities of finite numbers.
    """
    options = {"xla_backend_optimization_level": 1}
    more = options | {"xla_cpu_use_fusion_emitters": False}  # the older ones compile in two thirds of the time
    try:
        jax.jit(lambda: 0, compiler_options=more)()
    except jax.errors.JaxRuntimeError:
        return options
    return more

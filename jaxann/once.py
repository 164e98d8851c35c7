"""How a gradient check computes: in the precision asked for, by programs that run once and are compiled in haste."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial, wraps
from typing import Any

import jax


@contextmanager
def precisely(dtype: str) -> Iterator[None]:
    """With `dtype` for a default, and matrix products that use all of it."""
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        yield


def once(function: Callable, static: int) -> Callable:
    """`jax.jit` of `function`, its first `static` arguments static: compiled in haste, and forgotten in time.

    A process can hold only so many programs, and one that checks hundreds of networks must not keep them all.
    """

    @lru_cache(maxsize=256)
    def program(*fixed: Any) -> Callable:
        return jax.jit(partial(function, *fixed), compiler_options=_haste())

    return wraps(function)(lambda *args: program(*args[:static])(*args[static:]))


@cache
def _haste() -> dict[str, int | bool]:
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

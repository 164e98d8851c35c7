"""How a computation is compiled for a CPU, where that differs from other devices and the results do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def compute_once(function: Callable) -> Callable:
    """Returns a function with the same results, which XLA on a CPU computes once and keeps in memory.

    XLA otherwise fuses cheap operations with whatever reads their results: it computes a result again each time that it
    is read. An `optimization_barrier` does not prevent this, because XLA removes it before it fuses.

    Args:
        function: A function of arrays, cheap to compute and read several times.
    """

    def compute(*args: Any) -> Any:
        with set_xla_metadata(inlineable="true"):  # for the functions of jnp that it calls, which are compiled as well
            return function(*args)

    def call(*args: Any) -> Any:
        with set_xla_metadata(inlineable="false"):  # what is not inlined is not fused with what reads it
            return jax.jit(compute)(*args)

    return lambda *args: jax.lax.platform_dependent(*args, cpu=call, default=function)

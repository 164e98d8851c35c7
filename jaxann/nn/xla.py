"""How a computation is compiled for a CPU, where that differs from other devices and the results do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

Options = dict[str, Any]  # settings of the compiler, as `jax.jit` takes them

# Code as fast as with the compiler's defaults, compiled in half the time, measured in sweeps of seven networks. Level 0
# compiled some programs wrongly.
FAST_CODE: Options = {
    "xla_backend_optimization_level": 1,
    "xla_cpu_parallel_codegen_split_count": 1,  # splitting a small program makes its compilation a fifth longer
}
# For programs that run once in many steps, such as the drawing of parameters and batches, and for small networks, where
# faster code would save less time than it takes to compile.
LIGHT_OPTIMIZATION: Options = FAST_CODE | (
    # The older emitters compile in two thirds of the time. Later versions do not have them.
    {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
)
# On a CPU, the XLA of these versions leaves convolutions to the library YNNPACK, which computes them in one thread. Its
# own convolutions take all threads. Products and sums stay with the library.
_HAS_YNNPACK, _YNNPACK = (0, 10) <= jax.__version_info__ < (0, 12), "xla_cpu_experimental_ynn_fusion_type"
THREADS: Options = {_YNNPACK: "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"} if _HAS_YNNPACK else {}
# The same with each product by itself, for larger ones: fused with the multiplication by σ'(z) a product took 1.7 times
# as long, and a step of 784-512-512-10 took 1.1 times as long. The tiny products of a sweep are faster fused.
LARGE_PRODUCTS: Options = (
    {_YNNPACK: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"} if _HAS_YNNPACK else {}
)


def for_cpu(options: Options) -> Options | None:
    """Returns options of the compiler as `jax.jit` takes them, or None where the default device is no CPU."""
    return dict(options) or None if jax.default_backend() == "cpu" else None


def jit_for_cpu(options: Options, static: int) -> Callable[[Callable], Callable]:
    """Returns a decorator that compiles a function with `options` on a CPU, and with the defaults elsewhere.

    Args:
        options: The options of the compiler.
        static: The number of leading arguments that are compiled in.
    """

    def decorate(function: Callable) -> Callable:
        @cache  # called with the first arguments, because to ask for the device begins to use it
        def compile_function() -> Callable:
            return jax.jit(function, static_argnums=range(static), compiler_options=for_cpu(options))

        return wraps(function)(lambda *args: compile_function()(*args))

    return decorate


def compute_once(function: Callable) -> Callable:
    """Returns a function with the same results, which XLA on a CPU computes once, by itself, and keeps in memory.

    XLA otherwise fuses operations with what reads their results: it computes a cheap result again each time that it is
    read, and keeps the parts of an expensive one for a later reader. An `optimization_barrier` does not prevent this,
    because XLA removes it before it fuses.

    Args:
        function: A function of arrays, whose results are worth keeping and whose parts are not.
    """

    def compute(*args: Any) -> Any:
        with set_xla_metadata(inlineable="true"):  # for the functions of jnp that it calls, which are compiled as well
            return function(*args)

    def call(*args: Any) -> Any:
        with set_xla_metadata(inlineable="false"):  # what is not inlined is not fused with what reads it
            return jax.jit(compute)(*args)

    return lambda *args: jax.lax.platform_dependent(*args, cpu=call, default=function)

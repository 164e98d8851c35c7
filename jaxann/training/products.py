"""Small matrix products, which a CPU computes faster as sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxann.gradcheck.evaluation import Evaluation

# Products of at most this many multiplications are computed as sums. Measured for single networks on a CPU: a step of
# 4-50-20-10-3 with batches of 2 takes half the time. With 16,000 multiplications or more, sums are slower; so they are
# for several networks together, as under `jax.vmap`.
SMALL_PRODUCT = 4_000
FLOATS = (jnp.float32, jnp.float64)  # a sum of shorter floats would round each product


def sum_small_products(function: Callable) -> Callable:
    """Returns a function with the same results up to rounding, in which products of small matrices are sums on a CPU.

    Cᵢⱼ = Σₖ Aᵢₖ Bⱼₖ is computed as a multiplication and a sum, which XLA fuses with the operations around it. A product
    of matrices is a call of a library, which takes longer than the arithmetic if the matrices are small. Products
    inside `jax.checkpoint`, `jax.shard_map` and functions with a custom derivative stay as they are.

    Args:
        function: A function of arrays that can be traced.
    """
    if jax.default_backend() != "cpu":
        return function

    def call(*args: Any) -> Any:
        program, outputs = jax.make_jaxpr(function, return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(outputs), _Sums().run(program, jax.tree.leaves(args)))

    return call


class _Sums(Evaluation):
    """An evaluation that computes small matrix products as sums."""

    def replaces(self, equation: Any) -> bool:
        if equation.primitive.name != "dot_general":
            return False
        (a_axes, b_axes), batch_axes = equation.params["dimension_numbers"]
        (a, b), y = (variable.aval for variable in equation.invars), equation.outvars[0].aval
        is_plain = len(a_axes) == len(b_axes) == 1 and batch_axes == ((), ()) and a.dtype == b.dtype == y.dtype
        return is_plain and y.dtype in FLOATS and y.size * a.shape[a_axes[0]] <= SMALL_PRODUCT

    def replace(self, equation: Any, inputs: list[Any]) -> list[Any]:
        ((a_axis,), (b_axis,)), _ = equation.params["dimension_numbers"]
        a, b = jnp.moveaxis(inputs[0], a_axis, -1), jnp.moveaxis(inputs[1], b_axis, -1)
        a, b = jnp.expand_dims(a, range(a.ndim - 1, a.ndim + b.ndim - 2)), jnp.expand_dims(b, range(a.ndim - 1))
        return [jnp.sum(a * b, axis=-1)]

    def keeps(self, equation: Any) -> bool:
        # To enter them would lose what they tell the compiler: not to remember, not to inline, or for which platform.
        is_checkpoint = equation.primitive.name in ("remat", "remat2", "checkpoint")
        return is_checkpoint or bool(equation.ctx.xla_metadata or equation.params.get("branches_platforms"))

"""Products of small matrices in programs for a CPU, which are faster as sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxann.gradcheck.evaluation import Evaluation
from jaxann.gradcheck.jaxprs import bind_equation

# The most multiplications in a product that is computed as a sum. Measured for single networks on a CPU: a step of
# 4-50-20-10-3 with batches of 2 takes 3.3 instead of 5.7 µs. From 16,000 on, sums are slower. With several networks in
# one program, as under `jax.vmap`, products are faster.
SMALL_PRODUCT = 4_000


def sum_small_products(function: Callable) -> Callable:
    """Returns a function with the same results up to rounding, in which products of small matrices are sums on a CPU.

    Cᵢⱼ = Σₖ Aᵢₖ Bⱼₖ is computed as a multiplication and a sum, which XLA fuses with the operations around it. A product
    of matrices is a call of a library, which takes longer than the arithmetic if the matrices are small.

    Args:
        function: A function of arrays that can be traced.
    """

    def call(*args: Any) -> Any:
        program, outputs = jax.make_jaxpr(function, return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(outputs), _Sums().run(program, jax.tree.leaves(args)))

    return call


class _Sums(Evaluation):
    def replaces(self, equation: Any) -> bool:
        if equation.primitive.name != "dot_general":
            return False
        (a_axes, b_axes), batch_axes = equation.params["dimension_numbers"]
        a, b = (variable.aval for variable in equation.invars)
        is_plain = len(a_axes) == len(b_axes) == 1 and batch_axes == ((), ()) and a.dtype == b.dtype
        is_plain = is_plain and a.dtype == equation.outvars[0].aval.dtype and jnp.issubdtype(a.dtype, jnp.floating)
        return is_plain and equation.outvars[0].aval.size * a.shape[a_axes[0]] <= SMALL_PRODUCT

    def replace(self, equation: Any, inputs: list[Any]) -> list[Any]:
        ((a_axis,), (b_axis,)), _ = equation.params["dimension_numbers"]

        def sum_products(a: Array, b: Array) -> Array:
            a, b = jnp.moveaxis(a, a_axis, -1), jnp.moveaxis(b, b_axis, -1)
            a, b = jnp.expand_dims(a, range(a.ndim - 1, a.ndim + b.ndim - 2)), jnp.expand_dims(b, range(a.ndim - 1))
            return jnp.sum(a * b, axis=-1)

        multiply = bind_equation(equation)
        return [jax.lax.platform_dependent(*inputs, cpu=sum_products, default=lambda *pair: multiply(*pair)[0])]

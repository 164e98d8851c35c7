"""Readings of JAX's intermediate programs, where versions of JAX differ: the only module that knows how.

Each function reads one equation of a jaxpr. Tried with jax 0.10 and 0.12.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Literal

CUSTOM = ("custom_vjp_call", "custom_vjp_call_jaxpr", "custom_jvp_call")
CALLS = ("jit", "pjit", "closed_call", "core_call", "eval_jaxpr", "remat", "checkpoint", "remat2")


def is_custom(equation: Any) -> bool:
    """Returns whether an equation calls a function with a custom derivative."""
    return equation.primitive.name in CUSTOM


def custom_primal(equation: Any) -> ClosedJaxpr:
    """Returns the function that a call with a custom derivative computes, without that derivative."""
    return equation.params.get("call_jaxpr") or equation.params["fun_jaxpr"]


def count_constants(equation: Any) -> int:
    """Returns how many of the first inputs of a call are values that its function closes over."""
    return equation.params.get("num_consts", 0)


def called_program(equation: Any) -> ClosedJaxpr | None:
    """Returns the program that an equation calls as it is, as `jit` and `remat` do; None for any other equation."""
    if equation.primitive.name not in CALLS:
        return None
    inner = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
    return inner if hasattr(inner, "jaxpr") else ClosedJaxpr(inner, ())


def inner_programs(equation: Any) -> list[Any]:
    """Returns every program among the parameters of an equation."""
    params = {**equation.params, **getattr(equation.params.get("_prim"), "__dict__", {})}
    values = [v for value in params.values() for v in (value if isinstance(value, tuple | list) else [value])]
    return [value if hasattr(value, "jaxpr") else ClosedJaxpr(value, ()) for value in values if _is_program(value)]


def split_scan(equation: Any, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Splits the inputs of a scan into its constants, its carry, and the arrays that it runs over."""
    if "num_consts" in equation.params:
        consts, carry = equation.params["num_consts"], equation.params["num_carry"]
    else:
        parts = equation.params["ft_in"].elts
        consts, carry = (len(list(part.vals)) for part in parts[:2])
    return list(values[:consts]), list(values[consts : consts + carry]), list(values[consts + carry :])


def bind_equation(equation: Any) -> Callable[..., list[Any]]:
    """Returns an equation as a function of its inputs, with its own derivative, that returns a list of outputs."""
    bound = equation.primitive.get_bind_params(equation.params)
    functions, params = bound if isinstance(bound, tuple) else ([], bound)

    def call(*inputs: Any) -> list[Any]:
        outputs = equation.primitive.bind(*functions, *inputs, **params)
        # Some primitives return their outputs in a tree of JAX's own.
        return list(getattr(outputs, "vals", outputs)) if equation.primitive.multiple_results else [outputs]

    return call


def read_value(variable: Any, environment: dict[Any, Any]) -> Any:
    """Returns the value of an input of an equation, which may be a literal."""
    return variable.val if isinstance(variable, Literal) else environment[variable]


def custom_name(equation: Any) -> tuple[str, str]:
    """Returns the name of a function with a custom derivative, and its file and line as "file.py:12"."""
    information = getattr(custom_primal(equation).jaxpr.debug_info, "func_src_info", None) or ""
    name, _, place = information.partition(" at ")
    path, _, line = place.rpartition(":")
    return name or equation.primitive.name, f"{os.path.basename(path)}:{line}" if path else ""


def operation_name(equation: Any) -> str:
    """Returns the name of the operation of an equation, such as "shard_map"."""
    primitive = equation.params.get("_prim")  # newer versions of JAX have operations that are objects
    return equation.primitive.name if primitive is None else type(primitive).__name__


def is_derivative(equation: Any) -> bool:
    """Returns whether an equation comes from a derivative that the program itself takes, as `jax.grad` does."""
    return "jvp(" in str(equation.source_info.name_stack)


def _is_program(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr) or (hasattr(value, "eqns") and hasattr(value, "invars"))

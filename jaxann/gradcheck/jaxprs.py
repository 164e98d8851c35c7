"""Readings of JAX's intermediate programs, where versions of JAX differ: the only module that knows how.

Each function reads one equation of a jaxpr. Tried with jax 0.10 and 0.12.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
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


def default_branch(equation: Any) -> ClosedJaxpr | None:
    """Returns what a choice by platform computes on platforms that it does not name; None for any other equation.

    Its first input is the number of the platform's branch, which the program does not take.
    """
    platforms = equation.params.get("branches_platforms")
    return equation.params["branches"][platforms.index(None)] if platforms and None in platforms else None


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
        with equation.ctx.manager:  # the settings of JAX under which it was traced
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


# Code that calls primitives on behalf of a user's line: these folders, and these packages wherever they are installed.
_GRADCHECK = Path(__file__).parent
_HELPING_FOLDERS = tuple(
    f"{folder}{os.sep}" for folder in (Path(jax.__file__).parent, _GRADCHECK, _GRADCHECK.parent / "gradients")
)
_HELPING_PACKAGES = ("jaxlib", "flax", "equinox", "optax", "numpy", "jaxtyping", "beartype")
_HELPING_PARTS = tuple(
    f"{os.sep}{kind}-packages{os.sep}{name}{os.sep}" for kind in ("site", "dist") for name in _HELPING_PACKAGES
)


class Position(NamedTuple):
    """A place in a source file.

    Attributes:
        file: The path of the file.
        line: The number of the first line, counted from 1.
        end_line: The number of the last line.
        column: Where the expression begins in the first line, in bytes; -1 if that is not known.
        end_column: Where the expression ends in the last line, in bytes; -1 if that is not known.
        caller: Where the function that contains the expression is called in the user's code; None if that is not known.
    """

    file: str
    line: int
    end_line: int
    column: int
    end_column: int
    caller: Position | None = None


def is_users_file(file: str) -> bool:
    """Returns whether a source file is a user's: not JAX's, not of a package built on it, and not the checker's."""
    return not file.startswith(("<frozen", "<@", *_HELPING_FOLDERS)) and not any(
        part in file for part in _HELPING_PARTS
    )


def source_position(equation: Any) -> Position | None:
    """Returns the expression of the user's code that an equation comes from, or None if JAX does not know it.

    It is in the innermost frame of the user's code. If every frame belongs to another package, such as Flax, the
    innermost frame outside JAX and the checker counts.
    """
    traceback = getattr(equation.source_info, "traceback", None)
    if traceback is None:
        return None
    frames = list(zip(*traceback.raw_frames(), strict=True))
    outside = [frame for frame in frames if not frame[0].co_filename.startswith(("<", *_HELPING_FOLDERS))]
    users = [frame for frame in frames if is_users_file(frame[0].co_filename)] or outside[:1]
    positions = [_read_position(*frame) for frame in users[:2]]
    if not positions or positions[0] is None:
        return None
    return positions[0] if len(positions) < 2 else positions[0]._replace(caller=positions[1])


def _read_position(code: Any, instruction: int) -> Position | None:
    line, end_line, column, end_column = next(islice(code.co_positions(), instruction // 2, None), (None,) * 4)
    if line is None:
        return None
    if end_line is None or column is None or end_column is None:
        return Position(code.co_filename, line, line, -1, -1)
    return Position(code.co_filename, line, end_line, column, end_column)


def defining_file(program: Any) -> str:
    """Returns the path of the file that defines the function of a program; empty if JAX does not know it."""
    information = getattr(program.jaxpr.debug_info, "func_src_info", None) or ""
    return information.partition(" at ")[2].rpartition(":")[0]

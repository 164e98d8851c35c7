"""Calls of autodiff while some code runs, however the code imported it: from JAX, or from PyTorch."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

# The functions that every derivative passes through. They are known by name alone, so that nothing is replaced, and a
# function that was imported or wrapped before is noticed as well.
_DIFFERENTIATING = {
    "jax._src.interpreters.ad": ("jvp", "vjp", "linearize", "backward_pass"),
    "torch.autograd": ("backward", "grad"),
}
_LIBRARIES = {"beartype", "contextlib", "functools", "jax", "jaxann", "jaxtyping", "torch"}


@contextmanager
def record_autodiff() -> Iterator[list[str]]:
    """Records where the code inside a `with` block uses autodiff, in this thread.

    A compiled function that JAX has traced before runs without Python, so that it must be traced anew: `jax.vmap` with
    an `axis_name` that is a new object does that.

    Yields:
        A list that grows by the place of each use: the file, the line and its source, or "" where no code outside the
        libraries called it.
    """
    places: list[str] = []

    def observe(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name in _DIFFERENTIATING.get(_module(frame), ()):
            place = _find_place(frame)
            if place is not None and place not in places:
                places.append(place)

    before = sys.getprofile()
    sys.setprofile(observe)
    try:
        yield places
    finally:
        sys.setprofile(before)


def _find_place(frame: FrameType) -> str | None:
    """Returns the innermost line outside the libraries that led to a frame; None for a solver of linear equations.

    JAX's solvers transpose their matrix when they are called, even if nothing is differentiated.
    """
    caller = frame.f_back
    while caller is not None:
        module = _module(caller)
        if module == "jax._src.lax.control_flow.solves":
            return None
        if module.startswith("jaxann.gradcheck."):
            return ""
        if module.partition(".")[0] not in _LIBRARIES:
            file, line = caller.f_code.co_filename, caller.f_lineno
            return f"{Path(file).name}, line {line}: {linecache.getline(file, line).strip()}".removesuffix(": ")
        caller = caller.f_back
    return ""


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))

"""What a search for changes of a backward pass is given and returns, and the points at which it compares gradients."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from jaxann.gradcheck.arguments import Args, by_name, is_float
from jaxann.gradcheck.steps import Program
from jaxann.nn.base import path_name

POINTS = 4  # at which the changes are compared with the wrong gradients
ROUNDING = 1e-9  # by how much the right gradients may differ, relative to the largest entry


class Change(NamedTuple):
    """A change of the true backward pass that gives a wrong gradient.

    Attributes:
        cause: A key for programs; several, joined by " + ", where several mistakes come together.
        sentence: The mistake as it follows "consistent with".
    """

    cause: str
    sentence: str


class Findings(NamedTuple):
    """What a search has found.

    Attributes:
        changes: The change for each wrong gradient that one explains, by the name of the gradient.
        reason: Why the search is not complete; empty if it is.
    """

    changes: dict[str, Change]
    reason: str


class Wrong(NamedTuple):
    """A wrong gradient at R points. That of a parameter is summed over the batch.

    Attributes:
        a: The wrong gradient, [R, ...].
        b: The true gradient, [R, ...].
        tolerance: By how much an entry may differ at each point, [R, 1, ...].
    """

    a: np.ndarray
    b: np.ndarray
    tolerance: np.ndarray


def choose_points(wrong: dict[str, Wrong]) -> np.ndarray:
    """Returns the indices of at most `POINTS` of the points."""
    count = len(next(iter(wrong.values())).a)
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).astype(int))


def round_off(b: np.ndarray) -> np.ndarray:
    """Returns by how much a right gradient may differ at each point, [R, 1, ...]."""
    return ROUNDING * np.abs(b).max(axis=tuple(range(1, b.ndim)), keepdims=True, initial=0)


def flatten_leaves(args: Args) -> list[np.ndarray]:
    """Returns the leaves of the parameters, inputs and other arguments, with one axis for points and examples."""
    points, examples = np.shape(args.dy)[:2]
    params = [np.repeat(np.asarray(leaf), examples, axis=0) for leaf in jax.tree.leaves(args.params)]
    others = [np.asarray(leaf) for leaf in jax.tree.leaves((args.x, args.aux))]
    return params + [leaf.reshape(points * examples, *leaf.shape[2:]) for leaf in others]


def name_variables(program: Program, one: Args) -> dict[str, int]:
    """Returns the numbers of the variables that have a gradient, by the name of the gradient."""
    numbers = iter(program.inputs)
    named = dict(zip(by_name(one.params, ()), numbers, strict=False))
    leaves = jax.tree_util.tree_leaves_with_path(one.x)
    for (path, _), number in zip(leaves, numbers, strict=False):
        named[path_name(path) or "dx"] = number
    floats = [is_float(leaf) for leaf in jax.tree.leaves((one.params, one.x))]
    return {name: number for (name, number), keep in zip(named.items(), floats, strict=True) if keep}

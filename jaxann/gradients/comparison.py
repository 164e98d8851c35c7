"""The comparison of two gradients, leaf by leaf, computed on the host in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jaxann.nn.base import path_name
from jaxann.nn.outer import materialize
from jaxann.nn.table import format_html_table, format_table

_NUMBERS = (2, 3, 4)  # the columns that are aligned to the right


class Leaf(NamedTuple):
    """The difference of one leaf a from its reference b.

    Two equal leaves have error 0, ratio 1 and cosine 1, even if both are zero.

    Attributes:
        path: Where the leaf lies in the gradient, such as "2.W".
        shape: The shape of a and of b.
        error: max|a - b| / max|b|.
        ratio: ⟨a, b⟩ / ⟨b, b⟩. If a is a multiple of b, as after a forgotten factor, it is that factor.
        cosine: The cosine of the angle between a and b.
    """

    path: str
    shape: tuple[int, ...]
    error: float
    ratio: float
    cosine: float


@dataclass(frozen=True)
class Comparison:
    """The comparison of a gradient with its reference, which prints as a table.

    Attributes:
        leaves: A `Leaf` for each leaf of the gradients.
    """

    leaves: tuple[Leaf, ...]

    @property
    def error(self) -> float:
        """The largest error of any leaf; NaN if one is NaN."""
        return float(np.max([leaf.error for leaf in self.leaves], initial=0))

    def __str__(self) -> str:
        return format_table(self._list_cells(), right=_NUMBERS)

    def _repr_html_(self) -> str:
        """Returns the table as Jupyter shows it."""
        return format_html_table(self._list_cells(), right=_NUMBERS)

    def _list_cells(self) -> list[tuple[str, ...]]:
        rows = [("leaf", "shape", "max|a-b|/max|b|", "ratio", "cosine")]
        for leaf in self.leaves:
            shape = "x".join(map(str, leaf.shape)) or "()"
            rows.append((leaf.path, shape, f"{leaf.error:.1e}", f"{leaf.ratio:.6f}", f"{leaf.cosine:.6f}"))
        return rows


def compare(grads: PyTree, reference: PyTree) -> Comparison:
    """Compares a gradient with a reference, leaf by leaf.

    An `Outer` is compared as the matrix that it stands for.

    Args:
        grads: The gradient, a pytree of arrays and `Outer`s.
        reference: The gradient that it is compared with, of the same structure.

    Returns:
        A `Comparison` with a row for each leaf.

    Raises:
        ValueError: If the two gradients do not have the same leaves, or if the shapes of two leaves differ.
    """
    a, b = (jax.tree_util.tree_leaves_with_path(materialize(tree)) for tree in (grads, reference))
    paths, expected = ([path_name(path) for path, _ in leaves] for leaves in (a, b))
    if paths != expected:
        raise ValueError(f"expected grads with the leaves {expected} of the reference, got {paths}")
    return Comparison(tuple(_compare_leaf(path, p, q) for path, (_, p), (_, q) in zip(paths, a, b, strict=True)))


def _compare_leaf(path: str, a: object, b: object) -> Leaf:
    a, b = (np.asarray(leaf, np.float64) for leaf in (a, b))
    if a.shape != b.shape:
        raise ValueError(f"expected leaf {path} of grads to have the reference's shape {b.shape}, got {a.shape}")
    with np.errstate(divide="ignore", invalid="ignore"):  # a reference of zeros gives an infinite error and no angle
        size, difference = np.max(np.abs(b), initial=0), np.max(np.abs(a - b), initial=0)
        if difference == 0:
            return Leaf(path, b.shape, 0.0, 1.0, 1.0)
        ratio = np.sum(a * b) / np.sum(b * b)
        cosine = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
        return Leaf(path, b.shape, float(difference / size), float(ratio), float(cosine))

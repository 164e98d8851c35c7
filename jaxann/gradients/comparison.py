"""The ruler between two gradients: one row a leaf, read on the host in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jaxann.nn.outer import materialize


class Leaf(NamedTuple):
    """How far one leaf a is from its reference b.

    error = max|a - b| / max|b|; ratio = <a, b> / <b, b>, which a forgotten factor makes constant; cosine of the angle
    between them. Two leaves of zeros have error 0, ratio and cosine 1.
    """

    path: str
    shape: tuple[int, ...]
    error: float
    ratio: float
    cosine: float


@dataclass(frozen=True)
class Comparison:
    """A `Leaf` for each pair of leaves; prints as a table."""

    leaves: tuple[Leaf, ...]

    @property
    def error(self) -> float:
        """The largest error of a leaf; NaN if any is NaN."""
        return float(np.max([leaf.error for leaf in self.leaves], initial=0))

    def __str__(self) -> str:
        rows = [("leaf", "shape", "max|a-b|/max|b|", "ratio", "cosine")]
        for leaf in self.leaves:
            shape = "x".join(map(str, leaf.shape)) or "()"
            rows.append((leaf.path, shape, f"{leaf.error:.1e}", f"{leaf.ratio:.6f}", f"{leaf.cosine:.6f}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        )


def compare(grads: PyTree, reference: PyTree) -> Comparison:
    """Leaf by leaf, how far `grads` are from `reference`; `Outer`s are compared as the matrices they stand for.

    Raises ValueError where the two trees or the shapes of two leaves differ.
    """
    a, b = (jax.tree_util.tree_leaves_with_path(materialize(tree)) for tree in (grads, reference))
    names = [[jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves] for leaves in (a, b)]
    if names[0] != names[1]:
        raise ValueError(f"grads have the leaves {names[0]}, the reference {names[1]}")
    return Comparison(tuple(_leaf(name, p, q) for name, (_, p), (_, q) in zip(names[0], a, b, strict=True)))


def _leaf(path: str, a: object, b: object) -> Leaf:
    p, q = (np.asarray(leaf, np.float64) for leaf in (a, b))
    if p.shape != q.shape:
        raise ValueError(f"leaf {path} of grads has shape {p.shape}, of the reference {q.shape}")
    with np.errstate(divide="ignore", invalid="ignore"):  # against zeros: infinitely wrong, and no angle
        size, apart = np.max(np.abs(q), initial=0), np.max(np.abs(p - q), initial=0)
        if apart == 0:
            return Leaf(path, q.shape, 0.0, 1.0, 1.0)
        ratio = np.sum(p * q) / np.sum(q * q)
        cosine = np.sum(p * q) / np.linalg.norm(p) / np.linalg.norm(q)
        return Leaf(path, q.shape, float(apart / size), float(ratio), float(cosine))

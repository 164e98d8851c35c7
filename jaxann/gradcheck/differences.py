"""The third voice of a gradient check: central differences, which know nothing of derivatives.

Where the function is not smooth within the step, as across a kink, a difference says nothing and does not count.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxann.gradcheck.compilation import jit_cheaply
from jaxann.gradcheck.subjects import Args, Subject, by_name, is_float

ENTRIES, DIRECTIONS = 8, 3
# Two step sizes leave an error of the order STEP⁴ = 1e-12, to be seen against the size of the fifth derivative.
STEP, TOLERANCE = 1e-3, 1e-5


class Differences(NamedTuple):
    """Of a leaf: the derivatives of <dy, f> along `directions` [K, size], which of them count, and their rounding."""

    directions: np.ndarray
    values: np.ndarray
    smooth: np.ndarray
    rounding: np.ndarray

    def gap(self, gradient: Any, truth: Any) -> tuple[float, float]:
        """The largest |value - <gradient, direction>| / |truth| of those that count, and over what is allowed.

        |·| is the largest entry where the direction is an entry, the Euclidean length otherwise. NaN if none counts.
        """
        k, flat = self.smooth, gradient.ravel()
        if not k.any() or not np.isfinite(flat).all():
            return np.nan, np.nan
        truth = truth if np.isfinite(truth).all() else gradient
        apart = np.abs(self.values[k] - self.directions[k] @ flat)
        entry = np.count_nonzero(self.directions[k], axis=1) == 1
        size = np.where(entry, np.abs(truth).max(initial=0), np.linalg.norm(truth))
        error = np.where(apart > 0, apart / size, 0)
        excess = np.where(apart > 0, apart / (TOLERANCE * size + self.rounding[k]), 0)
        return float(error.max()), float(excess.max())


def central_differences(
    subject: Subject, args: Args, draw: np.random.Generator, step: float = STEP
) -> dict[str, Differences]:
    """For x and every leaf of params, derivatives along some entries, or all of few, and some random directions.

    A direction in x stays within one example, so that fewer kinks are in its reach.
    """
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, (args.params, args.x)))
    here = np.asarray(_outputs(subject, args))
    scale = np.abs(args.dy * here).sum()
    found = {}
    for name, place in zip(by_name(args.params, args.x), range(len(leaves)), strict=True):
        leaf = leaves[place]
        if not (is_float(leaf) and leaf.size):
            continue

        def phi(move, leaf=leaf, place=place):
            """<dy, f> - <dy, f(0)> with `move` added to the leaf."""
            moved = [*leaves[:place], leaf + move.reshape(leaf.shape), *leaves[place + 1 :]]
            params, x = jax.tree.unflatten(structure, moved)
            return np.sum(args.dy * (np.asarray(_outputs(subject, args._replace(params=params, x=x))) - here))

        directions = _directions(leaf, draw, within=len(leaf) if name == "dx" else 1)
        steps = step * np.clip(np.abs(directions * leaf.ravel()).max(axis=1), 1e-2, 1)
        taken = [h * direction for h, direction in zip(steps, directions, strict=True)]
        far, back, near, near_back = np.array([[phi(s * move) for move in taken] for s in (1, -1, 0.5, -0.5)])
        values = (4 * (near - near_back) / steps - (far - back) / (2 * steps)) / 3
        rounding = 1e-15 * scale / steps
        # A smooth function's second difference is a quarter at half the step, up to STEP⁴; that of a kink a half.
        rough = np.abs(far + back - 4 * (near + near_back)) / steps
        smooth = rough <= TOLERANCE / 10 * np.nanmax(np.abs(values), initial=0) + 10 * rounding
        found[name] = Differences(directions, values, smooth, rounding)
    return found


def _directions(leaf: np.ndarray, draw: np.random.Generator, within: int) -> np.ndarray:
    """Entries and random directions of length one, [K, size], the latter each in one of `within` equal parts."""
    size, part = leaf.size, leaf.size // within
    chosen = np.arange(size) if size <= 2 * ENTRIES else draw.choice(size, ENTRIES, replace=False)
    random = DIRECTIONS if part > 1 else 0
    directions = np.zeros((len(chosen) + random, size))
    directions[np.arange(len(chosen)), chosen] = 1
    for row in directions[len(chosen) :]:
        begin, values = part * draw.integers(within), draw.normal(size=part)
        row[begin : begin + part] = values / np.linalg.norm(values)
    return directions


@partial(jit_cheaply, static=1)
def _outputs(subject: Subject, args: Args) -> Array:
    params, x, aux, _ = args
    return jax.vmap(subject.forward, (None, 0, 0))(params, x, aux)

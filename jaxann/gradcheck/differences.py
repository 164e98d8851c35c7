"""Central differences: the third source of a gradient, which uses only the value of the function.

Where the function is not smooth within the step, as across a kink, a difference estimates nothing and does not count.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxann.gradcheck.arguments import Args, by_name, is_float
from jaxann.gradcheck.subjects import Subject

ENTRIES, DIRECTIONS = 8, 3
# Two step sizes leave an error of the order STEP⁴ = 1e-12, relative to the size of the fifth derivative.
STEP, TOLERANCE = 1e-3, 1e-5


class Deviation(NamedTuple):
    """How far a gradient is from a reference; NaN where nothing could be compared.

    Attributes:
        error: The largest relative difference.
        excess: The largest difference as a multiple of its tolerance: above 1, the gradient is wrong.
    """

    error: float
    excess: float


class Directions(NamedTuple):
    """K = E + D directions in one parameter or input: single entries, then others.

    Attributes:
        entries: The places of single entries in the flattened array, [E].
        others: The other directions, flattened, [D, size].
    """

    entries: np.ndarray
    others: np.ndarray

    @property
    def is_entry(self) -> np.ndarray:
        """Whether each direction is a single entry, [K]."""
        return np.arange(len(self.entries) + len(self.others)) < len(self.entries)

    def slopes(self, gradient: Any) -> np.ndarray:
        """Returns the slopes along the directions that a gradient predicts, [K]."""
        flat = gradient.ravel()
        return np.concatenate([flat[self.entries], self.others @ flat])

    def lengths(self, leaf: np.ndarray) -> np.ndarray:
        """Returns the size of the largest entry of an array along each direction, [K]."""
        flat = np.abs(leaf.ravel())
        return np.array([*flat[self.entries], *(np.abs(direction * flat).max() for direction in self.others)])

    def move(self, leaf: np.ndarray, k: int, step: float) -> np.ndarray:
        """Returns an array that is moved by a step along the k-th direction."""
        if k >= len(self.entries):
            return leaf + (step * self.others[k - len(self.entries)]).reshape(leaf.shape)
        moved = leaf.copy()
        moved.flat[self.entries[k]] += step
        return moved


class Differences(NamedTuple):
    """Central differences of <dy, f> along K directions in one parameter or input.

    Attributes:
        directions: The directions.
        values: The directional derivatives, [K].
        smooth: Whether the function is smooth within the step, so that the value counts, [K].
        rounding: The rounding error of each value, [K].
    """

    directions: Directions
    values: np.ndarray
    smooth: np.ndarray
    rounding: np.ndarray

    def compare(self, gradient: Any, reference: Any) -> Deviation:
        """Compares a gradient with the differences that count.

        Args:
            gradient: The gradient, in the shape of the parameter or input.
            reference: The gradient whose size the error and the tolerance are relative to: the size of its largest
                entry where the direction is a single entry, and its Euclidean length otherwise.
        """
        k = self.smooth
        if not k.any() or not np.isfinite(gradient).all():
            return Deviation(np.nan, np.nan)
        reference = reference if np.isfinite(reference).all() else gradient
        difference = np.abs(self.values - self.directions.slopes(gradient))[k]
        size = np.where(self.directions.is_entry[k], np.abs(reference).max(initial=0), np.linalg.norm(reference))
        error = np.where(difference > 0, difference / size, 0)
        excess = np.where(difference > 0, difference / (TOLERANCE * size + self.rounding[k]), 0)
        return Deviation(float(error.max()), float(excess.max()))


def central_differences(
    subject: Subject, args: Args, rng: np.random.Generator, step: float = STEP, scale: float = 0
) -> dict[str, Differences]:
    """Computes central differences for the input and for every parameter of a subject.

    The directions are all entries of a small array and some of a large one, and a few random directions. A random
    direction in the input changes only one example, so that it meets fewer kinks.

    Args:
        subject: What to differentiate.
        args: The arguments at one point, with a batch x, aux, dy [B, ...].
        rng: The source of the random numbers.
        step: The step for entries of size 1 or more. The step for smaller entries is proportional to their size, and at
            least a hundredth of `step`.
        scale: The size of the terms that f adds up, as far as it is known: their rounding errors remain where the terms
            cancel. That of the result is always taken into account.

    Returns:
        The differences, by the names that `by_name` gives.
    """
    inputs = by_name((), args.x)
    return {
        name: differences_along(
            subject,
            args,
            name,
            _draw_directions(np.asarray(leaf), rng, len(leaf) if name in inputs else 1),
            step,
            scale,
        )
        for name, leaf in by_name(args.params, args.x).items()
        if is_float(leaf) and np.size(leaf)
    }


def differences_along(
    subject: Subject, args: Args, name: str, directions: Directions, step: float = STEP, scale: float = 0
) -> Differences:
    """Computes central differences of one argument along given directions.

    Args:
        subject: What to differentiate.
        args: The arguments at one point, with a batch x, aux, dy [B, ...].
        name: The name of the argument, as `by_name` gives it.
        directions: The directions.
        step: The step, as `central_differences` takes it.
        scale: The size of the terms that f adds up, as `central_differences` takes it.
    """
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, (args.params, args.x)))
    place = list(by_name(args.params, args.x)).index(name)
    leaf, center = leaves[place], subject.evaluate_forward(args)

    def phi(k: int, step: float) -> float:
        """Returns how much <dy, f> changes with a step along the k-th direction."""
        moved = [*leaves[:place], directions.move(leaf, k, step), *leaves[place + 1 :]]
        params, x = jax.tree.unflatten(structure, moved)
        return float(np.sum(args.dy * (subject.evaluate_forward(args._replace(params=params, x=x)) - center)))

    steps = step * np.clip(directions.lengths(leaf), 1e-2, 1)
    far, back, near, near_back = np.array([[phi(k, s * h) for k, h in enumerate(steps)] for s in (1, -1, 0.5, -0.5)])
    values = (4 * (near - near_back) / steps - (far - back) / (2 * steps)) / 3
    rounding = max(1e-15, 4 * subject.eps) * max(np.abs(args.dy * center).sum(), scale) / steps
    # Half the step quarters the second difference of a smooth function, up to STEP⁴, and halves that of a kink.
    rough = np.abs(far + back - 4 * (near + near_back)) / steps
    smooth = rough <= TOLERANCE / 10 * np.nanmax(np.abs(values), initial=0) + 10 * rounding
    return Differences(directions, values, smooth, rounding)


def _draw_directions(leaf: np.ndarray, rng: np.random.Generator, parts: int) -> Directions:
    """Draws entries, and random directions of length 1 that each stay in one of `parts` equal parts."""
    size, part = leaf.size, leaf.size // parts
    entries = np.arange(size) if size <= 2 * ENTRIES else rng.choice(size, ENTRIES, replace=False)
    others = np.zeros((DIRECTIONS if part > 1 else 0, size))
    for row in others:
        begin, values = part * rng.integers(parts), rng.normal(size=part)
        row[begin : begin + part] = values / np.linalg.norm(values)
    return Directions(entries, others)

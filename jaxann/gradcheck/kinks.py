"""Kinks: places where a function has several slopes, so that a handwritten gradient may choose another than autodiff.

At a tie in a maximum, or at 0 in |x|, differences estimate nothing and every choice of a slope is right.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxann.gradcheck.differences import STEP, Directions, differences_along
from jaxann.gradcheck.evidence import Evidence
from jaxann.gradcheck.subjects import LossSubject

ENTRIES = 6  # how many differing entries of a kind are tried at each point
MOST_TIES = 8  # how many equal entries are compared


class Kinks(NamedTuple):
    """Whether a wrong gradient differs from the true one at kinks.

    Attributes:
        only: Whether it differs at kinks only.
        points: At which points it differs at a kink, [R].
    """

    only: bool
    points: np.ndarray


def find_kinks(e: Evidence, rng: np.random.Generator) -> Kinks:
    """Finds out whether a gradient differs from the true one at kinks only, by differences in a few entries.

    A function that is only steep becomes smooth with a smaller step, a kink does not.

    Args:
        e: The evidence on the gradient.
        rng: The source of the entries that are tried.
    """
    points, only = np.zeros(len(e.a), bool), True
    if not e.subject.has_differences:
        return Kinks(False, points)
    for r in range(len(e.a)):
        values, differs = e.value[r].ravel(), e.differs[r].ravel()
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        likely = (counts[inverse.ravel()] > 1) | np.isin(values, (-1, 0, 1))  # most kinks are ties, or at 0 and ±1
        kinds = (rng.permutation(np.flatnonzero(differs & kind))[:ENTRIES] for kind in (likely, ~likely))
        places = np.concatenate(list(kinds))
        no_others = np.zeros((0, e.a[r].size))
        is_kink = np.ones(len(places), bool)
        for step in (STEP, STEP / 30):
            if is_kink.any():
                directions = Directions(places[is_kink], no_others)
                differences = differences_along(e.subject, e.args.select(r), e.name, directions, step)
                is_kink[is_kink] = ~differences.smooth & np.isfinite(differences.values)
        points[r], only = is_kink.any(), only and bool(is_kink.all())
    return Kinks(only, points)


def describe_kinks(e: Evidence) -> str:
    """Returns a sentence on a gradient that differs at kinks only: where they are, and both slopes if they exist."""
    differs = e.differs
    first = tuple(int(i) for i in np.argwhere(differs)[0])
    count = f"{differs.sum()} {'entry' if differs.sum() == 1 else 'entries'}"
    sentence = "another choice of slope at a kink, where the derivative does not exist: it differs only where"
    has_targets = isinstance(e.subject, LossSubject) and np.shape(e.args.aux) == differs.shape
    if has_targets and (e.value == e.args.aux)[differs].all():
        return f"{sentence} the output equals the target ({count})"
    if acts_on_each_entry(e, first):
        numbers = e.value[differs]
        zero = "-0" if np.signbit(numbers).all() else "0"
        names = sorted({f"{number:.6g}" if number else zero for number in numbers})
        where = " or ".join(names if len(names) <= 3 else [*names[:3], "..."])
        slopes = [f"{g[first] / e.args.dy[first] + 0.0:.4g}" for g in (e.a, e.b)]  # + 0.0 for no "-0"
        slopes = f"; the handwritten slope is {slopes[0]}, autodiff's {slopes[1]}"
        return f"{sentence} the input is {where} ({count}){slopes}"
    tied = _find_ties(e, first)
    if len(tied) > 1:
        places = [str([int(i) for i in place[e.leading :]]) for place in tied]
        shown = " and ".join(places) if len(places) <= 3 else f"{', '.join(places[:3])} and others"
        gradients = [f"[{', '.join(f'{g[place] + 0.0:.4g}' for place in tied)}]" for g in (e.a, e.b)]
        return (
            f"{sentence} entries tie ({count}), such as {shown} of the input, which are all "
            f"{e.value[first] + 0.0:.6g}; their handwritten gradients are {gradients[0]}, autodiff's {gradients[1]}"
        )
    return f"{sentence} the function has a kink ({count}), as at {[int(i) for i in first[e.leading :]]}"


def _find_ties(e: Evidence, place: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Returns the places of the entries that equal the entry at a place and affect some of the same outputs."""
    begin = place[: e.leading]
    equal = [(*begin, *map(int, rest)) for rest in np.argwhere(e.value[begin] == e.value[place])]
    outputs = _find_affected(e, place)
    return [other for other in equal[:MOST_TIES] if other == place or (_find_affected(e, other) & outputs).any()]


def _find_affected(e: Evidence, place: tuple[int, ...]) -> np.ndarray:
    """Returns which outputs at the point of an entry change with a small change of the entry."""
    before, affected = e.subject.evaluate_forward(e.args.select(place[0])), False
    for step in (STEP, -STEP):
        moved = e.value.copy()
        moved[place] += step
        after = e.subject.evaluate_forward(e.change_argument(e.name, moved).select(place[0]))
        affected = affected | (before != after)
    return np.asarray(affected)


def acts_on_each_entry(e: Evidence, place: tuple[int, ...]) -> bool:
    """Returns whether a change of one entry of the input changes only the same entry of the output."""
    if not e.is_elementwise:
        return False
    moved = e.value.copy()
    moved[place] += 0.37
    before, after = (args.select(place[0]) for args in (e.args, e.change_argument(e.name, moved)))
    changed = e.subject.evaluate_forward(before) != e.subject.evaluate_forward(after)
    changed[place[1:]] = False
    return not changed.any()

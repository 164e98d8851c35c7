"""Kinks: places where a function has several slopes, so that a handwritten gradient may choose another than autodiff.

At a tie in a maximum, or at 0 in |x|, differences estimate nothing and every choice of a slope is right.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from jaxann.gradcheck.differences import STEP, differences_along
from jaxann.gradcheck.evidence import Evidence
from jaxann.gradcheck.subjects import LossSubject

ENTRIES = 6  # how many of the differing entries are tried at each point


class Kinks(NamedTuple):
    """Whether a wrong gradient differs from the true one at kinks.

    Attributes:
        only: Whether it differs at kinks only.
        points: At which points it differs at a kink, [R].
    """

    only: bool
    points: np.ndarray


def find_kinks(e: Evidence, rng: np.random.Generator) -> Kinks:
    """Finds out at which points a gradient differs from the true one at a kink, by differences in a few entries.

    A function that is only steep becomes smooth with a smaller step, a kink does not.

    Args:
        e: The evidence on the gradient.
        rng: The source of the entries that are tried.
    """
    points, only = np.zeros(len(e.a), bool), True
    if not e.subject.has_differences:
        return Kinks(False, points)
    for r in range(len(e.a)):
        places = rng.permutation(np.flatnonzero(e.differs[r]))
        sizes = np.abs(e.value[r].ravel()[places])
        kinds = places[sizes == 0], places[sizes == 1], places[(sizes != 0) & (sizes != 1)]  # most kinks are at 0 and 1
        places = np.array([place for some in zip_longest(*kinds) for place in some if place is not None][:ENTRIES], int)
        directions = np.zeros((len(places), e.a[r].size))
        directions[np.arange(len(places)), places] = 1
        is_kink = np.ones(len(places), bool)
        for step in (STEP, STEP / 30):
            if is_kink.any():
                differences = differences_along(e.subject, e.args.select(r), e.name, directions[is_kink], step)
                is_kink[is_kink] = ~differences.smooth & np.isfinite(differences.values)
        points[r], only = is_kink.any(), only and bool(is_kink.all())
    return Kinks(only, points)


def describe_kinks(e: Evidence) -> str:
    """Returns a sentence on a gradient that differs at kinks only: where they are, and both slopes if they exist."""
    differs = e.differs
    first = tuple(int(i) for i in np.argwhere(differs)[0])
    count = f"{differs.sum()} {'entry' if differs.sum() == 1 else 'entries'}"
    sentence = "another choice of slope at a kink, where every slope is right: it differs only where"
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
    begin = first[: e.leading]
    equal = np.argwhere(e.value[begin] == e.value[first])
    if len(equal) > 1:
        tied = [str([int(i) for i in place]) for place in equal]
        tied = " and ".join(tied if len(tied) <= 3 else [*tied[:3], "..."])
        return f"{sentence} entries tie ({count}), such as {tied} of the input, which are all {e.value[first]:.6g}"
    return f"{sentence} the function has a kink ({count}), as at {[int(i) for i in first[e.leading :]]}"


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

"""One subject of a gradient check on trial: what its voices say, in two precisions, and the verdict on each gradient."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxann.differences import Quotients, quotients
from jaxann.once import once, precisely
from jaxann.report import NOT_FINITE, RIGHT, WRONG, Row
from jaxann.stories import Evidence, tell, tell_shape
from jaxann.subjects import Args, OneGradient, Subject, named, real

if TYPE_CHECKING:
    from jaxtyping import PyTree

# Of max|a - b| / max|b|: some hundred roundings in float32, some thousand in float64.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
# How far a gradient moves is seen at two distances, for across a kink it jumps, however near.
WIGGLES = (1e-6, 1e-2)


class Voices(NamedTuple):
    """What a subject says in R trials: y [R, B, ...], and its gradients [R, ...] by name."""

    y: Any
    by_hand: dict[str, Any]
    automatic: dict[str, Any]


@np.errstate(all="ignore")  # what is not finite is looked for, and told
def judged(
    subject: Subject, args: Args, given: int, draw: np.random.Generator, dtypes: Sequence[str] = tuple(TOLERANCE)
) -> list[Row]:
    """A row for each gradient of `subject`, given R trials of which the first `given` are at its true inputs.

    Where a trial beyond those is not finite it does not count: it may lie outside of what the function is for.
    """
    args = args.cast("float64")
    try:
        problems = _problems(subject, args.example())
        voices = {dtype: _heard(subject, args, dtype) for dtype in dtypes}
        wiggled = {share: _heard(subject, args.wiggled(share, draw), "float64").automatic for share in WIGGLES}
        with precisely("float64"):
            third = {} if isinstance(subject, OneGradient) else quotients(subject, args.at(given - 1), draw)
    except Exception as error:  # whatever it is, it is the subject's: a row, never a traceback
        return [raising(subject.leaf(""), subject.name, error)]
    rows = []
    for name, b in voices["float64"].automatic.items():
        row = partial(Row, subject.leaf(name), subject.name, b.shape[1:])
        if name in problems:
            rows.append(row(WRONG, *tell_shape(voices["float64"].by_hand.get(name), b, problems[name])))
        else:
            sway = np.fmin.reduce([_largest(other[name] - b) / share for share, other in wiggled.items()])
            rows.append(_row(row, Leaf(subject, name, args, given, voices, sway, third.get(name))))
    strange = {name: problem for name, problem in problems.items() if name not in voices["float64"].automatic}
    return rows + [Row(subject.leaf(name), subject.name, (), WRONG, "structure", p) for name, p in strange.items()]


class Leaf(NamedTuple):
    """All that is known of one gradient. `sway` [R]: how far it moves for a relative move of its arguments by one."""

    subject: Subject
    name: str
    args: Args
    given: int
    voices: dict[str, Voices]
    sway: np.ndarray
    third: Quotients | None

    def pair(self, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """The gradients by hand and automatic, [R, ...]."""
        return self.voices[dtype].by_hand[self.name], self.voices[dtype].automatic[self.name]

    def counting(self, dtype: str) -> np.ndarray:
        """Which trials count: those at the true inputs, and the others where all is finite, [R]."""
        y, _, automatic = self.voices[dtype]
        return (np.arange(len(y)) < self.given) | _finite(y) & np.all([_finite(b) for b in automatic.values()], axis=0)

    def gap(self, dtype: str) -> tuple[float, float]:
        """max|a - b| / max|b| in the worst trial, and how many times what is allowed it is.

        What is allowed grows where the gradient is the small difference of large terms, as at a minimum: there the
        automatic one is no better. A few roundings of dy are always allowed.
        """
        a, b = self.pair(dtype)
        counts = self.counting(dtype) & _finite(b)
        if not counts.any():
            return np.nan, np.nan
        apart, size = _largest(a - b)[counts], _largest(b)[counts]
        allowed = TOLERANCE[dtype] * np.fmax(size, self.sway[counts])
        allowed = allowed + 4 * np.finfo(dtype).eps * _largest(self.args.dy)[counts]
        excess = np.divide(apart, allowed, out=np.where(apart > 0, np.inf, 0.0), where=allowed > 0)
        worst = np.argmax(excess)
        error = apart[worst] / size[worst] if size[worst] > 0 else np.inf if apart[worst] > 0 else 0.0
        return float(error), float(excess[worst])


def _row(row: partial[Row], leaf: Leaf) -> Row:
    """The verdict on one gradient whose shape is right."""
    a, b = leaf.pair("float64")
    shown = 0 if _finite(b[:1]) & (_largest(b[:1]) > 0) else leaf.given - 1
    gaps = {dtype: leaf.gap(dtype) for dtype in leaf.voices}
    (error64, excess64), (error32, excess32) = gaps["float64"], gaps.get("float32", (np.nan, 0))
    ratio, degrees = _angle(a[shown], b[shown])
    claimed, truth = a[leaf.given - 1], b[leaf.given - 1]
    (third, by_hand), (_, automatic) = (leaf.third.gap(g) if leaf.third else (np.nan, np.nan) for g in (claimed, truth))
    row = partial(
        row,
        float32=error32,
        float64=error64,
        differences=third,
        compared=int(leaf.third.smooth.sum()) if leaf.third else 0,
        rough=int((~leaf.third.smooth).sum()) if leaf.third else 0,
        ratio=ratio,
        degrees=degrees,
        by_hand=a[shown],
        automatic=b[shown],
    )
    given = slice(leaf.given)
    if not _finite(b[given]).all():
        if _finite(a[given]).all() and by_hand <= 1:
            return row(RIGHT, "autodiff", f"autodiff gives {_odd(b[given])}, the differences agree with the handwritten")
        return row(NOT_FINITE, "not finite", f"autodiff gives {_odd(b[given])}, the handwritten {_odd(a[given])}")
    for dtype in leaf.voices:
        counts = leaf.counting(dtype) & _finite(leaf.pair(dtype)[1])
        if not _finite(leaf.pair(dtype)[0][counts]).all():
            where = _odd(leaf.pair(dtype)[0][counts])
            return row(WRONG, "not finite", f"it is not finite in {dtype}, where autodiff is: {where}")
    if excess64 <= 1 and excess32 <= 1:
        if by_hand > 1:
            sentence = "it agrees with autodiff, but not with differences of the forward pass, as if that had a derivative of its own"
            return row(WRONG, "custom derivative", sentence)
        return row(RIGHT)
    if excess64 <= 1:
        return row(WRONG, "float32", f"it is right in float64, but loses digits in float32: error {error32:.1e}")
    if by_hand <= 1 < automatic:
        return row(RIGHT, "autodiff", "autodiff differs, and the differences agree with the handwritten")
    counts = leaf.counting("float64") & _finite(b)
    evidence = Evidence(
        leaf.subject,
        leaf.name,
        leaf.args.at(counts),
        leaf.voices["float64"].y[counts],
        a[counts],
        {name: g[counts] for name, g in leaf.voices["float64"].automatic.items()},
        leaf.sway[counts],
    )
    return row(WRONG, *tell(evidence))


def _angle(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """<a, b> / <b, b>, and the angle between a and b in degrees; NaN where one is zero."""
    product, sizes = np.sum(a * b), np.linalg.norm(a) * np.linalg.norm(b)
    return float(product / np.sum(b * b)), float(np.degrees(np.arccos(np.clip(product / sizes, -1, 1))))


def _largest(values: np.ndarray) -> np.ndarray:
    """max|values| of each trial, [R]."""
    return np.abs(values).reshape(len(values), -1).max(axis=1, initial=0)


def _finite(values: np.ndarray) -> np.ndarray:
    """Whether all of a trial is finite, [R]."""
    return np.isfinite(values).reshape(len(values), -1).all(axis=1)


def _odd(values: np.ndarray) -> str:
    """The first value of some trials that is not finite, and its place; "finite values" where all are."""
    places = np.argwhere(~np.isfinite(values))
    if not len(places):
        return "finite values"
    return f"{values[tuple(places[0])]} at {places[0][1:].tolist()}"


def _heard(subject: Subject, args: Args, dtype: str) -> Voices:
    args = args.cast(dtype)
    with precisely(dtype):
        trials = [_voices(subject, args.at(r)) for r in range(len(args.dy))]
    return jax.tree.map(lambda *each: np.stack([np.asarray(leaf, np.float64) for leaf in each]), *trials)


@partial(once, static="subject")
def _voices(subject: Subject, args: Args) -> Voices:
    y, automatic = subject.automatic(*args)
    return Voices(y, subject.by_hand(*args), automatic)


def _problems(subject: Subject, one: Args) -> dict[str, str]:
    """What is wrong with the form of the handwritten gradients of one example, by name."""

    def by_hand(one):
        pair = subject.backward(*one)
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise TypeError(f"backward gives {type(pair).__name__}, not the pair (grads, dx)")
        return named(*pair)

    with precisely("float64"):
        found = jax.eval_shape(by_hand, one)
    wanted = {name: leaf for name, leaf in named(one.params, one.x).items() if real(leaf)}
    problems = {name: "it is missing" for name in wanted if name not in found}
    for name, leaf in found.items():
        if name not in wanted and name != "dx":
            problems[name] = "it is the gradient of a parameter that does not exist"
        elif name in wanted and leaf.shape != wanted[name].shape:
            problems[name] = f"it has shape {leaf.shape}, not {wanted[name].shape}"
        elif name in wanted and leaf.dtype != wanted[name].dtype:
            problems[name] = f"it is {leaf.dtype} where the parameter is {wanted[name].dtype}"
    return problems


def raising(path: str, of: str, error: Exception) -> Row:
    """The row of something that raises."""
    first = next(iter(str(error).strip().splitlines()), "")
    return Row(path, of, (), WRONG, "raises", f"it raises {type(error).__name__}: {first}")

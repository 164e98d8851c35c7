"""One subject of a gradient check on trial: what its voices say in two precisions, and the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxann.gradcheck.compilation import jit_cheaply, precision
from jaxann.gradcheck.diagnoses import diagnose, diagnose_shape
from jaxann.gradcheck.differences import STEP, Differences, central_differences
from jaxann.gradcheck.evidence import Evidence
from jaxann.gradcheck.report import NOT_FINITE, RIGHT, WRONG, Row
from jaxann.gradcheck.subjects import Args, GradientSubject, Subject, by_name, is_float

# Of max|a - b| / max|b|: some hundred roundings in float32, some thousand in float64.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
WIGGLE = 1e-6
FINITE = "finite values"


class Gradients(NamedTuple):
    """What a subject says in R trials: y [R, B, ...], and its gradients [R, ...] by name."""

    y: Any
    handwritten: dict[str, Any]
    automatic: dict[str, Any]


@np.errstate(all="ignore")  # what is not finite is looked for, and told
def judge(
    subject: Subject, args: Args, given: int, draw: np.random.Generator, dtypes: Sequence[str] = tuple(TOLERANCE)
) -> list[Row]:
    """A row for each gradient of `subject`, given R trials of which the first `given` are at its true inputs.

    Where a trial beyond those is not finite it does not count: it may lie outside of what the function is for.
    """
    args = args.cast("float64")
    try:
        problems = _problems(subject, args.example())
        voices = {dtype: _heard(subject, args, dtype) for dtype in dtypes}
        wiggled = _heard(subject, args.perturbed(WIGGLE, draw), "float64").automatic
        with precision("float64"):
            third = (
                {}
                if isinstance(subject, GradientSubject)
                else _third(
                    subject, args.at(given - 1), {n: b[given - 1] for n, b in voices["float64"].automatic.items()}, draw
                )
            )
    except Exception as error:  # whatever it is, it is the subject's: a row, never a traceback
        return [failure_row(subject.leaf("") or "backward", subject.name, error)]
    rows = []
    for name, b in voices["float64"].automatic.items():
        row = partial(Row, subject.leaf(name), subject.name, b.shape[1:])
        if name in problems:
            rows.append(row(WRONG, *diagnose_shape(voices["float64"].handwritten.get(name), b, problems[name])))
        else:
            sway = _largest(wiggled[name] - b) / WIGGLE
            rows.append(_row(row, Leaf(subject, name, args, given, voices, sway, third.get(name))))
    strange = {name: problem for name, problem in problems.items() if name not in voices["float64"].automatic}
    return rows + [Row(subject.leaf(name), subject.name, (), WRONG, "structure", p) for name, p in strange.items()]


class Leaf(NamedTuple):
    """All that is known of one gradient. `sway` [R]: how far it moves for a relative move of its arguments by one."""

    subject: Subject
    name: str
    args: Args
    given: int
    voices: dict[str, Gradients]
    sensitivity: np.ndarray
    third: Differences | None

    def pair(self, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """The gradient by hand, a, and automatic, b: [R, ...]."""
        return self.voices[dtype].handwritten[self.name], self.voices[dtype].automatic[self.name]

    def counting(self, dtype: str) -> np.ndarray:
        """Which trials count, [R]: where b is finite, and beyond the given ones all else too."""
        y, _, automatic = self.voices[dtype]
        invented = _finite(y) & np.all([_finite(b) for b in automatic.values()], axis=0)
        return np.where(np.arange(len(y)) < self.given, _finite(automatic[self.name]), invented)

    def gap(self, dtype: str) -> tuple[float, float]:
        """max|a - b| / max|b| in the worst trial, and how many times what is allowed it is; NaN and 0 if none counts.

        What is allowed grows where the gradient is the small difference of large terms, as at a minimum: there the
        automatic one is no better. A few roundings of dy are always allowed.
        """
        counts = self.counting(dtype) if dtype in self.voices else np.zeros(1, bool)
        if not counts.any():
            return np.nan, 0.0
        a, b = (gradient[counts] for gradient in self.pair(dtype))
        apart, size = _largest(a - b), _largest(b)
        rounding = 4 * np.finfo(dtype).eps * _largest(self.args.dy[counts])
        excess = apart / (TOLERANCE[dtype] * np.fmax(size, self.sensitivity[counts]) + rounding)
        worst = int(np.nanargmax(excess)) if np.isfinite(excess).any() else 0
        return float(_share(apart, size)[worst]), float(excess[worst])


def _row(row: partial[Row], leaf: Leaf) -> Row:
    """The row of a gradient whose form is right."""
    a, b = leaf.pair("float64")
    last = leaf.given - 1
    shown = 0 if _finite(b)[0] and _largest(b)[0] > 0 else last
    ratio, degrees = _angle(a[shown], b[shown])
    return row(
        *_verdict(leaf),
        float32=leaf.gap("float32")[0],
        float64=leaf.gap("float64")[0],
        differences=leaf.third.gap(a[last], b[last])[0] if leaf.third else np.nan,
        compared=int(leaf.third.smooth.sum()) if leaf.third else 0,
        nonsmooth=int((~leaf.third.smooth).sum()) if leaf.third else 0,
        ratio=ratio,
        degrees=degrees,
        handwritten=np.asarray(a[shown]),
        automatic=np.asarray(b[shown]),
    )


def _verdict(leaf: Leaf) -> tuple[str, str, str]:
    """The verdict, its story by name, and its diagnosis."""
    given, last = slice(leaf.given), leaf.given - 1
    a, b = leaf.pair("float64")
    agrees = [bool(leaf.third) and leaf.third.gap(g[last], b[last])[1] <= 1 for g in (a, b)]
    if not _finite(b[given]).all():
        if _finite(a[given]).all() and agrees[0]:
            return RIGHT, "autodiff", f"autodiff gives {_odd(b[given])}, differences agree with the handwritten"
        return NOT_FINITE, "not finite", f"autodiff gives {_odd(b[given])}, the handwritten {_odd(a[given])}"
    for dtype in leaf.voices:
        odd = _odd(leaf.pair(dtype)[0][leaf.counting(dtype)])
        if odd != FINITE:
            return WRONG, "not finite", f"it is {odd} in {dtype}, where autodiff is finite"
    if leaf.gap("float64")[1] > 1:
        if agrees == [True, False]:
            return RIGHT, "autodiff", "autodiff differs from it, and differences agree with the handwritten"
        counts = leaf.counting("float64")
        y, _, automatic = leaf.voices["float64"]
        truth = {name: g[counts] for name, g in automatic.items()}
        evidence = Evidence(
            leaf.subject, leaf.name, leaf.args.at(counts), y[counts], a[counts], truth, leaf.sensitivity[counts]
        )
        return WRONG, *diagnose(evidence)
    if agrees == [False, True]:
        return WRONG, "differences", "it is within rounding of autodiff, but differences side with autodiff"
    error, excess = leaf.gap("float32")
    if excess > 1:
        return WRONG, "float32", f"it is right in float64, but loses digits in float32, where it is off by {error:.1e}"
    if leaf.third and leaf.third.smooth.any() and agrees == [False, False]:
        return WRONG, "custom derivative", "autodiff agrees, differences do not: forward has a derivative of its own"
    narrow = _odd(leaf.pair("float32")[1][given]) if "float32" in leaf.voices else FINITE
    return (RIGHT, "", "") if narrow == FINITE else (RIGHT, "range", f"in float32 autodiff gives {narrow}")


def _angle(a: Any, b: Any) -> tuple[float, float]:
    """<a, b> / <b, b>, and the angle between a and b in degrees; NaN where one is zero."""
    product, sizes = np.sum(a * b), np.linalg.norm(a) * np.linalg.norm(b)
    return float(product / np.sum(b * b)), float(np.degrees(np.arccos(np.clip(product / sizes, -1, 1))))


def _largest(values: np.ndarray) -> np.ndarray:
    """max|values| of each trial, [R]."""
    return np.abs(values).reshape(len(values), -1).max(axis=1, initial=0)


def _finite(values: np.ndarray) -> np.ndarray:
    """Whether all of a trial is finite, [R]."""
    return np.all(np.isfinite(values).reshape(len(values), -1), axis=1)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and nothing of nothing is 0."""
    return np.where(part == 0, 0, part / whole)


def _odd(values: np.ndarray) -> str:
    """The first value of some trials that is not finite, and its place."""
    places = np.argwhere(~np.isfinite(values))
    if not len(places):
        return FINITE
    return f"{values[tuple(places[0])]} at {places[0][1:].tolist()}"


def _heard(subject: Subject, args: Args, dtype: str) -> Gradients:
    args = args.cast(dtype)
    with precision(dtype):
        trials = [_voices(subject, args.at(r)) for r in range(len(args.dy))]
    return jax.tree.map(lambda *each: np.stack([np.asarray(leaf, np.float64) for leaf in each]), *trials)


@partial(jit_cheaply, static=1)
def _voices(subject: Subject, args: Args) -> Gradients:
    y, automatic = subject.automatic(*args)
    return Gradients(y, subject.handwritten(*args), automatic)


def _problems(subject: Subject, one: Args) -> dict[str, str]:
    """What is wrong with the form of the handwritten gradients of one example, by name."""

    def by_hand(one):
        pair = subject.backward(*one)
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise TypeError(f"backward gives {type(pair).__name__}, not the pair (grads, dx)")
        return by_name(*pair)

    with precision("float64"):
        found = jax.eval_shape(by_hand, one)
    leaves = by_name(one.params, one.x)
    wanted = {name: leaf for name, leaf in leaves.items() if is_float(leaf)}
    problems = {name: "it is missing" for name in wanted if name not in found}
    for name, leaf in found.items():
        if name not in leaves and name != "dx":
            problems[name] = "it is the gradient of a parameter that does not exist"
        elif name in wanted and leaf.shape != wanted[name].shape:
            problems[name] = f"it has shape {leaf.shape}, not {wanted[name].shape}"
        elif name in wanted and leaf.dtype != wanted[name].dtype:
            problems[name] = f"it is {leaf.dtype} where the parameter is {wanted[name].dtype}"
    return problems


def _third(
    subject: Subject, args: Args, automatic: dict[str, Any], draw: np.random.Generator
) -> dict[str, Differences]:
    """Central differences; with a smaller step where they disagree with autodiff, for the function may be steep."""
    found = central_differences(subject, args, draw)
    if any(quotient.gap(automatic[name], automatic[name])[1] > 1 for name, quotient in found.items()):
        return central_differences(subject, args, draw, STEP / 30)
    return found


def failure_row(path: str, of: str, error: Exception) -> Row:
    """The row of something that raises."""
    first = next(iter(str(error).strip().splitlines()), "")
    return Row(path, of, (), WRONG, "raises", f"it raises {type(error).__name__}: {first}")

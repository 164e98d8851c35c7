"""The verdicts on the gradients of one subject, compared with autodiff in two precisions and with differences."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from jaxann.gradcheck.arguments import Args, by_name
from jaxann.gradcheck.compilation import optimization
from jaxann.gradcheck.diagnoses import Deadline, diagnose
from jaxann.gradcheck.differences import STEP, Differences, central_differences
from jaxann.gradcheck.evidence import Evidence
from jaxann.gradcheck.kinks import describe_kinks, find_kinks
from jaxann.gradcheck.leaf import TOLERANCE, Leaf, is_finite, largest
from jaxann.gradcheck.report import NOT_FINITE, RIGHT, WRONG, Row
from jaxann.gradcheck.structure import diagnose_structure, find_structure_errors
from jaxann.gradcheck.subjects import Subject

PERTURBATION = 1e-6  # the relative change of the arguments from which the sensitivity is estimated
FINITE = "finite values"


@np.errstate(all="ignore")  # values that are not finite are looked for and reported
def judge(
    subject: Subject,
    args: Args,
    actual: int,
    rng: np.random.Generator,
    dtypes: Sequence[str] = tuple(TOLERANCE),
    deadline: Deadline | None = None,
) -> list[Row]:
    """Judges every gradient of a subject.

    Args:
        subject: A layer, a loss, a function or a gradient function.
        args: Its arguments at R points. A drawn point may lie where the function is not defined, so it does not count
            if a value is not finite there.
        actual: How many points, counted from the first, are at the data; the others were drawn.
        rng: The source of the random numbers.
        dtypes: The precisions to compare in; "float64" is one of them.
        deadline: When to stop looking for a diagnosis; None for never.

    Returns:
        A row for each gradient. If the subject raises, a single row says so.
    """
    args = args.cast("float64")
    try:
        errors = find_structure_errors(subject, args.first_example())
        measure = partial(_measure, subject, args, actual, dtypes, frozenset(errors))
        measured = {}
        if subject.is_traceable and not errors:
            with suppress(Exception):
                measured = measure(0, deepcopy(rng))
        if not measured or not all(_is_sound(leaf, verdict) for leaf, verdict in measured.values()):
            measured = measure(1, rng)
    except Exception as error:  # whatever a user's code raises becomes a row, not a traceback
        return [failure_row(subject.leaf_path("") or "backward", subject.name, error)]
    rows: dict[str, Row] = {}
    evidence: dict[str, Evidence] = {}
    counts, smooth = np.ones((2, len(args.dy)), bool)  # the points for a diagnosis, and those where nothing has a kink
    inputs = by_name((), args.x)
    for name, (leaf, verdict) in measured.items():
        a, b = leaf.pair("float64")
        is_single = subject.is_single and name in inputs  # parameters have no axis of examples
        row = partial(Row, subject.leaf_path(name), subject.name, b.shape[2 if is_single else 1 :])
        if name in errors:
            if is_single:
                a, b = None if a is None else a[:, 0], b[:, 0]
            rows[name] = row(WRONG, *diagnose_structure(a, b, errors[name]))
            continue
        if verdict is None:
            verdict, evidence[name] = (WRONG, "none", ""), _collect_evidence(leaf)
            counted = leaf.counts("float64")
            kinks = find_kinks(evidence[name].select(counted), rng)
            smooth[counted] &= ~kinks.points
            if kinks.only:
                verdict = RIGHT, "kink", describe_kinks(evidence.pop(name).select(counted))
            else:
                counts &= counted
        rows[name] = _make_row(row, leaf, verdict)
    if all(e.differs[counts & smooth].any() for e in evidence.values()):
        counts &= smooth
    evidence = {name: e.select(counts) for name, e in evidence.items()}
    for name, (cause, sentence) in diagnose(evidence, deadline).items():
        rows[name] = replace(rows[name], cause=cause, diagnosis=sentence)
    superfluous = {name: error for name, error in errors.items() if name not in measured}
    return [*rows.values()] + [
        Row(subject.leaf_path(name), subject.name, (), WRONG, "structure", error) for name, error in superfluous.items()
    ]


def failure_row(path: str, owner: str, error: Exception) -> Row:
    """Returns the row of a layer, loss or gradient function that raises.

    Args:
        path: The path of the row.
        owner: The name of what raises.
        error: What it raises.
    """
    first = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, NameError) and "unbound axis name" in first:  # as by lax.pmean over the axis of a batch
        first += " A layer gets one example at a time, and not a batch."
    return Row(path, owner, (), WRONG, "raises", f"it raises {type(error).__name__}: {first}")


def _measure(
    subject: Subject,
    args: Args,
    actual: int,
    dtypes: Sequence[str],
    malformed: frozenset[str],
    level: int,
    rng: np.random.Generator,
) -> dict[str, tuple[Leaf, tuple[str, str, str] | None]]:
    """Returns every gradient of a subject with its verdict; those called `malformed` have none.

    `level` is the optimization level of the programs.
    """
    with optimization(level):
        gradients = {dtype: subject.evaluate(args, dtype) for dtype in dtypes}
        autodiff = gradients["float64"].autodiff
        names = dict.fromkeys([*by_name(args.params, args.x), *autodiff])  # a compiled program sorts them
        true = {name: autodiff[name] for name in names if name in autodiff}
        # The rounding error of autodiff may be small by chance. It is measured once more if a gradient may be wrong.
        perturbed = subject.perturb(args, PERTURBATION, rng, dtypes if level else ("float64",))
        differences = _compute_differences(subject, args, actual - 1, true, rng) if subject.has_differences else {}
    finite = {
        dtype: np.all([is_finite(value) for value in (y, *b.values())], axis=0)
        for dtype, (y, _, b, _) in gradients.items()
    }
    most = np.max([largest(b) for b in true.values()], axis=0, initial=0)
    measured = {}
    for name, b in true.items():
        near = perturbed["float64"][name]
        sensitivity = largest(near - b) / PERTURBATION
        rounding = {dtype: largest(gradients[dtype].autodiff[name] - b) for dtype in dtypes}
        rounding |= {dtype: np.fmax(rounding[dtype], largest(perturbed[dtype][name] - near)) for dtype in perturbed}
        leaf = Leaf(subject, name, args, actual, gradients, sensitivity, rounding, differences.get(name), finite, most)
        measured[name] = leaf, None if name in malformed else _find_verdict(leaf)
    return measured


def _is_sound(leaf: Leaf, verdict: tuple[str, str, str] | None) -> bool:
    """Returns whether a gradient is right without reserve, and all values from which that follows are finite."""
    if verdict != (RIGHT, "", ""):
        return False
    compared = [value for dtype in leaf.gradients for value in (*leaf.pair(dtype), leaf.gradients[dtype].y)]
    values = [*compared, leaf.sensitivity, leaf.differences.values if leaf.differences else 0.0]
    return all(np.isfinite(value).all() for value in values)


def _make_row(row: partial[Row], leaf: Leaf, verdict: tuple[str, str, str]) -> Row:
    """Returns the row of a gradient of the right shape and type."""
    a, b = leaf.pair("float64")
    last = leaf.actual - 1
    shown = 0 if is_finite(b)[0] and largest(b)[0] > 0 else last
    place = (shown, 0) if leaf.subject.is_single and leaf.name in by_name((), leaf.args.x) else shown
    ratio, degrees = _compare_directions(a[shown], b[shown])
    differences = leaf.differences
    measured = {
        "float64": leaf.deviations["float64"].error,
        "differences": differences.compare(a[last], b[last]).error if differences else np.nan,
        "compared": int(differences.smooth.sum()) if differences else 0,
        "nonsmooth": int((~differences.smooth).sum()) if differences else 0,
    }
    if leaf.name in leaf.gradients["float64"].error:  # b itself comes from differences
        measured = {"differences": measured["float64"], "compared": b[0].size}
    return row(
        *verdict,
        float32=leaf.deviations["float32"].error,
        **measured,
        ratio=ratio,
        degrees=degrees,
        handwritten=np.asarray(a[place]),
        autodiff=np.asarray(b[place]),
    )


def _find_verdict(leaf: Leaf) -> tuple[str, str, str] | None:
    """Returns the verdict, the cause and the diagnosis; None for a wrong gradient that wants a diagnosis."""
    actual, last = slice(leaf.actual), leaf.actual - 1
    a, b = leaf.pair("float64")
    agrees = [
        leaf.differences is not None and leaf.differences.compare(gradient[last], b[last]).excess <= 1
        for gradient in (a, b)
    ]
    if not is_finite(b[actual]).all():
        nonfinite = f"autodiff gives {_describe(b[actual])}"
        if is_finite(a[actual]).all() and agrees[0]:
            return RIGHT, "autodiff", f"{nonfinite}; differences agree with the handwritten gradient"
        return NOT_FINITE, "not finite", f"{nonfinite}, the handwritten backward {_describe(a[actual])}"
    for dtype in leaf.gradients:
        values = _describe(leaf.pair(dtype)[0][leaf.counts(dtype)])
        if values != FINITE:
            return WRONG, "not finite", f"it is {values} in {dtype}, where autodiff's gradient is finite"
    if leaf.deviations["float64"].excess > 1:
        if agrees == [True, False]:
            return RIGHT, "autodiff", "autodiff differs from it, but differences agree with the handwritten gradient"
        return None
    if agrees == [False, True]:
        return (
            WRONG,
            "differences",
            "it equals autodiff's within the tolerance, but differences agree only with autodiff",
        )
    error, excess = leaf.deviations["float32"]
    if excess > 1:
        return WRONG, "float32", f"it is right in float64, but inaccurate in float32: its relative error is {error:.1e}"
    if leaf.differences and leaf.differences.smooth.any() and agrees == [False, False]:
        return (
            WRONG,
            "custom derivative",
            "it equals autodiff's, but not the differences: forward changes its own derivative, as by stop_gradient or "
            "custom_vjp",
        )
    values = _describe(leaf.pair("float32")[1][actual]) if "float32" in leaf.gradients else FINITE
    return (RIGHT, "", "") if values == FINITE else (RIGHT, "range", f"in float32 autodiff gives {values}")


def _collect_evidence(leaf: Leaf) -> Evidence:
    y, handwritten, autodiff, _ = leaf.gradients["float64"]
    return Evidence(leaf.subject, leaf.name, leaf.args, y, handwritten, autodiff, leaf.sensitivity, leaf.error)


def _compare_directions(a: Any, b: Any) -> tuple[float, float]:
    """Returns <a, b> / <b, b>, and the angle between a and b in degrees; NaN where one is zero."""
    product, sizes = np.sum(a * b), np.linalg.norm(a) * np.linalg.norm(b)
    return float(product / np.sum(b * b)), float(np.degrees(np.arccos(np.clip(product / sizes, -1, 1))))


def _describe(values: np.ndarray) -> str:
    """Returns the first value that is not finite and its place, or `FINITE`."""
    finite = np.isfinite(values)
    if finite.all():
        return FINITE
    place = np.argwhere(~finite)[0]
    return f"{values[tuple(place)]} at {place[1:].tolist()}"


def _compute_differences(
    subject: Subject, args: Args, point: int, autodiff: dict[str, Any], rng: np.random.Generator
) -> dict[str, Differences]:
    """Returns central differences at one point, with a smaller step if they disagree with autodiff."""
    args = args.select(point)
    scale = max((float(np.nanmax(np.abs(b[point]), initial=0)) for b in autodiff.values()), default=0)
    differences = central_differences(subject, args, rng, scale=scale)
    gradients = {name: autodiff[name][point] for name in differences}
    if any(d.compare(gradients[name], gradients[name]).excess > 1 for name, d in differences.items()):
        return central_differences(subject, args, rng, STEP / 30, scale)  # the function may be steep
    return differences

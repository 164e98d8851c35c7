"""Simple stories that may explain how a handwritten gradient differs from the true one.

Each is tried on every trial and told only where it explains the difference to rounding. Even then it is no more than
consistent with what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from jaxann.gradcheck.compilation import precision
from jaxann.gradcheck.evidence import ROUNDING, Evidence
from jaxann.gradcheck.rerun_diagnoses import changed_step, diagonal, other_derivative, wrong_argument
from jaxann.gradcheck.subjects import GradientSubject, LossSubject, by_name


def diagnose(e: Evidence) -> tuple[str, str]:
    """The first story that explains the difference, its name and its words; where none does, "none" and figures."""
    if isinstance(e.subject, LossSubject):
        e = e.of_one()
    with precision("float64"):
        for name, story in DIAGNOSES.items():
            with suppress(Exception):  # what a story tries may not be possible with what a user has written
                found = story(e)
                if found:
                    return name, f"consistent with {found}"
    place = np.unravel_index(np.argmax(np.abs(e.a - e.b)), e.a.shape)
    product, sizes = np.sum(e.a * e.b), np.linalg.norm(e.a) * np.linalg.norm(e.b)
    size = np.max(np.abs(e.a - e.b)) / np.max(np.abs(e.b), initial=np.finfo(float).tiny)
    figures = f"max|a-b|/max|b| {size:.2g}, cosine {product / sizes if sizes else np.nan:.4f}"
    worst = f"worst at {[int(i) for i in place[1:]]}: {e.a[place]:.6g} by hand, {e.b[place]:.6g} in truth"
    return "none", f"no simple story explains it; {figures}, {worst}"


def diagnose_shape(a: np.ndarray | None, b: np.ndarray, problem: str) -> tuple[str, str]:
    """The story of a gradient whose form is wrong: `problem`, and what makes a [R, ...] the true b [R, ...]."""
    if a is not None:
        alike = partial(np.allclose, rtol=ROUNDING, atol=ROUNDING * np.abs(b).max(initial=0))
        for axes in _subsets(range(1, a.ndim)):
            summed = a.sum(axis=axes)
            if summed.shape == b.shape and alike(summed, b):
                return (
                    "not summed",
                    f"{problem}, consistent with a sum left out over axis {_listed(i - 1 for i in axes)}",
                )
        if a.ndim >= 3 and a.swapaxes(-1, -2).shape == b.shape and alike(a.swapaxes(-1, -2), b):
            return "transposed", f"{problem}, consistent with the transposed"
    return "structure", problem


def _rounding(e: Evidence) -> str | None:
    size = np.max(np.abs(e.a - e.b) / np.maximum(e.tolerance / ROUNDING, np.finfo(float).tiny))
    if size > 1e-6:
        return None
    return f"rounding, by cancellation or by arithmetic in less than float64: it is off by {size:.1g}"


def _zero(e: Evidence) -> str | None:
    return None if e.a.any() else "zeros"


def _sign(e: Evidence) -> str | None:
    return "its sign flipped" if e.agree(e.a, -e.b) else None


def _factor(e: Evidence) -> str | None:
    factor = np.sum(e.a * e.b) / np.sum(e.b * e.b) if e.b.any() else 0
    if not factor or not e.agree(e.a, factor * e.b):
        return None
    meanings = [meaning for meaning, number in _numbers(e) if abs(abs(factor) - number) <= 1e-6 * number]
    return f"a factor of {factor:.6g}" + "".join(f", which is {meaning}" for meaning in meanings[:1])


def _varying_factor(e: Evidence) -> str | None:
    factors = np.array([np.sum(a * b) / np.sum(b * b) if b.any() else 1 for a, b in zip(e.a, e.b, strict=True)])
    if len(factors) < 2 or not e.agree(e.a, factors.reshape(e.tolerance.shape) * e.b) or e.b[0].size < 2:
        return None
    return f"a factor that differs from trial to trial: {', '.join(f'{factor:.4g}' for factor in factors)}"


def _numbers(e: Evidence) -> Iterator[tuple[str, float]]:
    """Numbers that a factor may have come from, and what they are."""
    counts = {}
    if isinstance(e.subject, GradientSubject):
        counts["the number of examples in its batch"] = np.shape(e.args.aux[0])[2]
    if np.ndim(e.args.x) > 2:
        counts[f"the number of {'out' if isinstance(e.subject, LossSubject) else 'in'}puts"] = np.shape(e.args.x)[-1]
    if np.ndim(e.y) > 2:
        counts["the number of outputs"] = e.y.shape[-1]
    for name, count in counts.items():
        if count > 2:
            yield name, count
            yield f"1 / {name}", 1 / count
    thing = getattr(e.subject, "layer", getattr(e.subject, "loss", None))
    for field in fields(thing) if is_dataclass(thing) else ():
        p = getattr(thing, field.name)
        if isinstance(p, float) and p > 0:
            yield from {field.name: p, f"1 / {field.name}": 1 / p}.items()
            if p < 1:
                yield from {f"1 - {field.name}": 1 - p, f"1 / (1 - {field.name})": 1 / (1 - p)}.items()


def _kink(e: Evidence) -> str | None:
    if e.name != "dx" or np.shape(e.args.x) != e.a.shape:
        return None
    x, apart = e.args.x, np.abs(e.a - e.b) > e.tolerance
    if isinstance(e.subject, LossSubject) and np.shape(e.args.aux) == x.shape and (x == e.args.aux)[apart].all():
        return f"another slope at a kink: it differs only where the output is the target ({apart.sum()} entries)"
    found = x[apart]
    if not np.isin(found, [0, 1, -1]).all():
        return None
    zeros = "-0" if np.signbit(found).all() else "0"
    where = _listed(sorted({f"{value:g}" if value else zeros for value in found}))
    first = tuple(np.argwhere(apart)[0])
    values = f"{e.a[first] / e.args.dy[first]:.4g} by hand, {e.b[first] / e.args.dy[first]:.4g} in truth"
    values = f", {values}" if e.elementwise else ""
    return f"another slope at a kink: it differs only where the input is {where} ({apart.sum()} entries){values}"


def _entries(e: Evidence) -> str | None:
    apart = np.abs(e.a - e.b) > e.tolerance
    every = (0, 1) if e.name == "dx" else (0,)
    mask = apart.any(axis=every)
    if not mask.ndim or not 0 < mask.sum() <= mask.size / 2:
        return None
    if apart[..., mask].sum() < np.count_nonzero(e.b[..., mask]) / 2:  # a region of values, not a place
        return None
    places = [[int(i) for i in place] for place in np.argwhere(mask)[:3]]
    how = "differences" if e.a[..., mask].any() else "zeros"
    more = ", ..." if mask.sum() > 3 else ""
    return f"{how} in {mask.sum()} of its {mask.size} entries only: {', '.join(map(str, places))}{more}"


def _transposed(e: Evidence) -> str | None:
    if e.a.ndim >= 3 and e.name != "dx" and e.agree(e.a, e.b.swapaxes(-1, -2)):
        return "its transposed"
    if e.name == "dx" and np.ndim(e.args.dy) == 3:
        for name, W in by_name(e.args.params, ()).items():
            if W.ndim == 3 and W.shape[1] == W.shape[2]:
                products = [np.einsum(how, W, e.args.dy) for how in ("rij,rbj->rbi", "rji,rbj->rbi")]
                for (one, other), told in zip((products, products[::-1]), (("", "ᵀ"), ("ᵀ", "")), strict=True):
                    if e.agree(e.a, one) and e.agree(e.b, other):
                        return f"the transposed matrix, {name}{told[0]} dy instead of {name}{told[1]} dy"
    return None


def _passed_on(e: Evidence) -> str | None:
    return "dy handed on as it is: the derivative is left out" if e.elementwise and e.agree(e.a, e.args.dy) else None


def _passed_by(e: Evidence) -> str | None:
    for sign, how in ((-1, "missing"), (1, "too much")) if e.elementwise else ():
        if e.agree(e.a - e.b, sign * e.args.dy):
            return f"dy itself {how}: what flows past the layer in a residual connection"
    return None


def _axis(e: Evidence) -> str | None:
    for axes in _subsets(range(1, e.b.ndim)):
        wide = np.broadcast_to(e.b.sum(axis=axes, keepdims=True), e.b.shape)
        if e.agree(e.a, wide):
            return f"a sum over axis {_listed(i - 1 for i in axes)} of the gradient in every entry"
    if e.name == "dx" or np.ndim(e.args.dy) < 3:
        return None
    dy, x = e.args.dy, e.args.x
    for what, terms in {"dy": dy, "dy x": dy * x if x.shape == dy.shape else None, "dy y": dy * e.y}.items():
        for axes in _subsets(range(2, dy.ndim)):
            if terms is not None and e.agree(e.a, terms.sum(axis=(1, *axes))):
                return f"a sum of {what} over axis {_listed(i - 2 for i in axes)}, which is the wrong one"
    return None


def _another(e: Evidence) -> str | None:
    return next(
        (f"the gradient of {name}" for name, g in e.automatic.items() if name != e.name and e.agree(e.a, g)), None
    )


def _decay(e: Evidence) -> str | None:
    p, apart = by_name(e.args.params, ()).get(e.name), e.a - e.b
    if p is None or not p.any():
        return None
    weight = e.args.dy.sum(axis=1) if isinstance(e.subject, GradientSubject) else np.full(len(p), e.args.dy.shape[1])
    p = p * weight.reshape(-1, *(1,) * (p.ndim - 1))
    share = np.sum(apart * p) / np.sum(p * p)
    if not share or not e.agree(apart, share * p):
        return None
    return f"{abs(share):.4g} times the parameter itself {'added' if share > 0 else 'missing'}, as by weight decay"


def _clipped(e: Evidence) -> str | None:
    if e.name != "dx":
        return None
    for one, other, how in ((e.a, e.b, "clipped at"), (e.b, e.a, "not clipped, where it is meant to be, at")):
        bound = np.abs(one).max()
        if e.agree(one, np.clip(other, -bound, bound)):
            return f"a gradient {how} ±{bound:.4g}"
    return None


def _term(e: Evidence) -> str | None:
    if not e.elementwise or e.a.ndim != 3 or e.a.shape[2] < 3:
        return None
    ones, apart = np.ones_like(e.a), e.a - e.b
    spans = {
        "the same number in every feature, as a mean is": [ones],
        "a multiple of the output": [e.y],
        "a multiple of the input": [e.args.x],
        "a multiple of the input plus a number": [ones, e.args.x],
    }
    for what, span in spans.items():
        if len(span) + 2 <= e.a.shape[2] and e.agree(_projected(apart, np.stack(span, axis=-1)), apart):
            return f"a missing term, which is {what} in each example"
    return None


def _projected(d: np.ndarray, span: np.ndarray) -> np.ndarray:
    """d [R, B, n] on what `span` [R, B, n, k] spans."""
    q, _ = np.linalg.qr(span)
    return np.einsum("rbnk,rbmk,rbm->rbn", q, q, d)


def _subsets(axes: Any) -> Iterator[tuple[int, ...]]:
    axes = list(axes)
    for k in range(1, len(axes) + 1):
        yield from combinations(axes, k)


def _listed(items: Any) -> str:
    return " and ".join(map(str, items))


DIAGNOSES: dict[str, Callable[[Evidence], str | None]] = {
    "rounding": _rounding,
    "zero": _zero,
    "sign": _sign,
    "factor": _factor,
    "varying factor": _varying_factor,
    "kink": _kink,
    "entries": _entries,
    "transposed": _transposed,
    "derivative missing": _passed_on,
    "residual": _passed_by,
    "taken elsewhere": wrong_argument,
    "diagonal": diagonal,
    "axis": _axis,
    "another gradient": _another,
    "weight decay": _decay,
    "clipping": _clipped,
    "another derivative": other_derivative,
    "missing term": _term,
    "step": changed_step,
}

"""The diagnoses: simple mistakes that may explain how a handwritten gradient differs from the true one.

Each mistake is compared with the gradient at every point, and reported only if it explains the difference up to
rounding. Even then the gradient is no more than consistent with that mistake.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from jaxann.gradcheck.arguments import by_name
from jaxann.gradcheck.compilation import precision
from jaxann.gradcheck.deadline import Deadline
from jaxann.gradcheck.evidence import ROUNDING, Evidence, NotDefinedError
from jaxann.gradcheck.jacobian_diagnoses import assigned, diagonal, forward_applied
from jaxann.gradcheck.rerun_diagnoses import (
    changed_steps,
    cotangent,
    formula,
    left_out,
    nonlinear,
    other_derivative,
    weights_ignored,
    wrong_argument,
)
from jaxann.gradcheck.structure import name_axes, subsets
from jaxann.gradcheck.subjects import GradientSubject, LossSubject


def diagnose(evidence: dict[str, Evidence], deadline: Deadline | None = None) -> dict[str, tuple[str, str]]:
    """Diagnoses the wrong gradients of one subject.

    A mistake that explains all of them at once is preferred to several mistakes that explain one each.

    Args:
        evidence: The evidence on each gradient, by its name.
        deadline: When to stop the search; None for never.

    Returns:
        For each name the key in `DIAGNOSES` of the first diagnosis that explains the difference, and the diagnosis as a
        sentence. If no diagnosis does, "none" and a sentence with the size of the difference.
    """
    evidence = {
        name: e.divide_by_cotangent() if isinstance(e.subject, LossSubject) else e for name, e in evidence.items()
    }
    diagnoses: dict[str, tuple[str, str]] = {}
    with precision("float64"):
        for name, e in evidence.items():
            for cause, find in DIAGNOSES.items():
                if deadline is not None and deadline.is_over():
                    break
                mistake = _try(cause, find, e)
                if mistake:
                    diagnoses[name] = cause, f"consistent with {mistake}"
                    break
        if len(diagnoses) < len(evidence) or len(set(diagnoses.values())) > 1:
            steps = _try("step", lambda e: changed_steps(e, deadline), evidence) or {}
            if steps.keys() == evidence.keys() and len(set(steps.values())) == 1:
                diagnoses = {}  # one mistake instead of several
            diagnoses = {name: ("step", f"consistent with {mistake}") for name, mistake in steps.items()} | diagnoses
    unexplained = "the search for a mistake ended after {} s; " if deadline is not None and deadline.is_over() else ""
    unexplained = unexplained.format(deadline.seconds if deadline is not None else 0)
    return {name: diagnoses.get(name, ("none", unexplained + _describe_difference(e))) for name, e in evidence.items()}


def _try(cause: str, find: Callable, evidence: object) -> Any:
    """Returns what a diagnosis finds, and warns if it fails, so that a failure never looks like a finding."""
    try:
        return find(evidence)
    except NotDefinedError:  # a user's code need not support what a diagnosis tries with it
        return None
    except Exception as error:
        warnings.warn(f"the diagnosis {cause!r} failed: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)
        return None


def _describe_difference(e: Evidence) -> str:
    place = np.unravel_index(np.argmax(np.abs(e.a - e.b)), e.a.shape)
    product, sizes = np.sum(e.a * e.b), np.linalg.norm(e.a) * np.linalg.norm(e.b)
    error = np.max(np.abs(e.a - e.b)) / np.max(np.abs(e.b), initial=np.finfo(float).tiny)
    return (
        f"no known mistake explains the difference: max|a-b|/max|b| is {error:.2g}, the cosine "
        f"{product / sizes if sizes else np.nan:.4f}; the largest difference is at {[int(i) for i in place[1:]]}, "
        f"where the handwritten gradient is {e.a[place]:.6g} and the true one {e.b[place]:.6g}"
    )


def _rounding(e: Evidence) -> str | None:
    error = np.max(np.abs(e.a - e.b) / np.maximum(e.tolerance / ROUNDING, np.finfo(float).tiny))
    if error > 1e-6:
        return None
    return f"rounding, by cancellation or by arithmetic in less than float64: its relative error is {error:.1g}"


def _zero(e: Evidence) -> str | None:
    return None if e.a.any() else "zeros in place of the gradient"


def _sign(e: Evidence) -> str | None:
    return "a flipped sign" if e.agree(e.a, -e.b) else None


def _factor(e: Evidence) -> str | None:
    factor = np.sum(e.a * e.b) / np.sum(e.b * e.b) if e.b.any() else 0
    if not factor or not e.agree(e.a, factor * e.b):
        return None
    meanings = [meaning for meaning, number in _list_numbers(e) if abs(abs(factor) - number) <= 1e-6 * number]
    return f"a factor of {factor:.6g}" + "".join(f", which is {meaning}" for meaning in meanings[:1])


def _varying_factor(e: Evidence) -> str | None:
    factors = np.array([np.sum(a * b) / np.sum(b * b) if b.any() else 1 for a, b in zip(e.a, e.b, strict=True)])
    if len(factors) < 2 or not e.agree(e.a, factors.reshape(e.tolerance.shape) * e.b) or e.b[0].size < 2:
        return None
    return f"a factor that varies between the inputs tried: {', '.join(f'{factor:.4g}' for factor in factors)}"


def _list_numbers(e: Evidence) -> Iterator[tuple[str, float]]:
    """Yields numbers that may occur as a factor by mistake, each after its meaning."""
    counts = {}
    if isinstance(e.subject, GradientSubject):
        counts["the number of examples in its batch"] = np.shape(e.args.aux[0])[2]
    x = e.arguments.get("dx")
    if x is not None and x.ndim > 2:
        counts[f"the number of {'out' if isinstance(e.subject, LossSubject) else 'in'}puts"] = x.shape[-1]
    if np.ndim(e.y) > 2:
        counts["the number of outputs"] = e.y.shape[-1]
    for name, value in e.arguments.items():
        if name in by_name((), e.args.x) and name != "dx":
            counts |= {f"the size of axis {axis} of {name}": size for axis, size in enumerate(value.shape[2:])}
    for name, count in counts.items():
        if count > 2:
            yield name, count
            yield f"1 / {name}", 1 / count
    owner = getattr(e.subject, "layer", getattr(e.subject, "loss", None))
    for field in fields(owner) if is_dataclass(owner) else ():
        p = getattr(owner, field.name)
        if isinstance(p, float) and p > 0:
            yield from {field.name: p, f"1 / {field.name}": 1 / p}.items()
            if p < 1:
                yield from {f"1 - {field.name}": 1 - p, f"1 / (1 - {field.name})": 1 / (1 - p)}.items()


def _unused(e: Evidence) -> str | None:
    if e.b.any() or not e.a.any():
        return None
    return f"a gradient for a value that forward does not use: the true gradient is zero, also at other {_kind(e)}s"


def _kind(e: Evidence) -> str:
    return "input" if e.is_input else "parameter"


def _mask(e: Evidence) -> str | None:
    """Diagnoses a gradient that differs only where the true one is zero, as if a mask were forgotten."""
    zero = e.b == 0
    if not e.differs.any() or not zero[e.differs].all() or not (e.b != 0).any() or not e.a[e.differs].all():
        return None
    return (
        f"a mask that is forgotten: the gradient is right wherever the true one is not zero, and {e.differs.sum()} "
        "entries that should be zero are not"
    )


def _entries(e: Evidence) -> str | None:
    """Diagnoses a gradient that is wrong in some of its entries, the same ones at every point, or zero in most."""
    every = tuple(range(e.leading))
    mask = e.differs.any(axis=every)
    if not mask.ndim or not mask.any() or mask.all():
        return None
    if e.differs[..., mask].sum() < np.count_nonzero(e.b[..., mask]) / 2:  # it depends on the value, not on the place
        return None
    is_zero = not e.a[..., mask].any()
    if mask.sum() > mask.size / 2 and not is_zero:
        return None
    shown = mask if mask.sum() <= mask.size / 2 else ~mask
    places = [str([int(i) for i in place]) for place in np.argwhere(shown)]
    places = ", ".join(places if len(places) <= 3 else [*places[:3], "..."])
    if shown is not mask:
        return f"zeros in {mask.sum()} of its {mask.size} entries, all but {places}"
    return f"{'zeros' if is_zero else 'wrong values'} in only {mask.sum()} of its {mask.size} entries: {places}"


def _transposed(e: Evidence) -> str | None:
    if e.a.ndim >= e.leading + 2 and e.agree(e.a, e.b.swapaxes(-1, -2)):
        return "the transpose of the gradient"
    dy = e.args.dy
    if e.is_input and dy.ndim >= 3:
        for name, W in e.float_arguments().items():
            W = W[:, 0] if name in by_name((), e.args.x) and W.shape[1] == 1 else W
            if W.ndim == 3 and W.shape[1] == W.shape[2] == dy.shape[-1]:
                product, transposed = (np.einsum(f"{W_axes},r...j->r...i", W, dy) for W_axes in ("rij", "rji"))
                if e.agree(e.a, product) and e.agree(e.b, transposed):
                    return f"a matrix that should be transposed: {name} dy instead of {name}ᵀ dy"
                if e.agree(e.a, transposed) and e.agree(e.b, product):
                    return f"a matrix that should not be transposed: {name}ᵀ dy instead of {name} dy"
    return None


def _missing_derivative(e: Evidence) -> str | None:
    return "dx = dy: the derivative is left out" if e.is_elementwise and e.agree(e.a, e.args.dy) else None


def _residual(e: Evidence) -> str | None:
    if e.is_elementwise and e.agree(e.a - e.b, -e.args.dy):
        return "a missing term dy, the gradient of a residual (skip) connection"
    if e.is_elementwise and e.agree(e.a - e.b, e.args.dy):
        return "an additional term dy, as if for a residual (skip) connection"
    return None


def _axis(e: Evidence) -> str | None:
    for axes in subsets(range(e.leading, e.b.ndim)):
        wide = np.broadcast_to(e.b.sum(axis=axes, keepdims=True), e.b.shape)
        if e.agree(e.a, wide):
            return (
                f"a sum over {name_axes(axes, skip=e.leading)}: each entry holds the sum of the true gradient's entries"
            )
    dy = e.args.dy
    if e.name not in e.arguments or e.value.shape == dy.shape or dy.ndim < 3:
        return None
    terms = {"dy": dy, "dy y": dy * e.y}
    terms |= {f"dy {name}": dy * x for name, x in e.float_arguments().items() if x.shape == dy.shape}
    for name, product in terms.items():
        name = name.replace("dx", "x")
        for axes in subsets(range(2, dy.ndim)):
            total = product.sum(axis=axes if e.is_input else (1, *axes))
            if e.agree(e.a, total):
                return f"a sum of {name} over the wrong axes: it is summed over {name_axes(axes, skip=2)}"
    return None


def _other_gradient(e: Evidence) -> str | None:
    for name, gradient in e.autodiff.items():
        if name != e.name and e.agree(e.a, gradient):
            other = e.handwritten.get(name)
            if np.shape(other) == e.b.shape and e.agree(other, e.b):
                return f"the gradients of {' and '.join(sorted((e.name, name)))} swapped"
            return f"the gradient of {name} instead of its own"
    return None


def _weight_decay(e: Evidence) -> str | None:
    p, difference = by_name(e.args.params, ()).get(e.name), e.a - e.b
    if p is None or not p.any():
        return None
    weight = e.args.dy.sum(axis=1) if isinstance(e.subject, GradientSubject) else np.full(len(p), e.args.dy.shape[1])
    p = p * weight.reshape(-1, *(1,) * (p.ndim - 1))
    decay = np.sum(difference * p) / np.sum(p * p)
    if not decay or not e.agree(difference, decay * p):
        return None
    return f"{'an additional' if decay > 0 else 'a missing'} weight decay: {abs(decay):.4g} times the parameter"


def _clipping(e: Evidence) -> str | None:
    if not e.is_input:
        return None
    clipped, unclipped = "a gradient clipped to ±{:.4g}", "a gradient that is not clipped to ±{:.4g}, as it should be"
    for one, other, sentence in ((e.a, e.b, clipped), (e.b, e.a, unclipped)):
        bound = np.abs(one).max()
        if e.agree(one, np.clip(other, -bound, bound)):
            return sentence.format(bound)
    return None


def _missing_term(e: Evidence) -> str | None:
    if not e.is_elementwise or e.a.ndim != 3 or e.a.shape[2] < 3:
        return None
    ones, difference = np.ones_like(e.a), e.a - e.b
    spans = {
        "one number for all features, such as a mean": [ones],
        "a multiple of the output": [e.y],
        "a multiple of the input": [e.value],
        "a multiple of the input plus a number": [ones, e.value],
    }
    for term, span in spans.items():
        if len(span) + 2 <= e.a.shape[2] and e.agree(_project(difference, np.stack(span, axis=-1)), difference):
            return f"a missing term, which in each example is {term}"
    return None


def _project(d: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Projects d [R, B, n] onto the space that the k vectors of `span` [R, B, n, k] span."""
    q, _ = np.linalg.qr(span)
    return np.einsum("rbnk,rbmk,rbm->rbn", q, q, d)


# In the order in which they are tried. Each returns the mistake as it follows "consistent with", or None.
DIAGNOSES: dict[str, Callable[[Evidence], str | None]] = {
    "rounding": _rounding,
    "unused": _unused,
    "zero": _zero,
    "sign": _sign,
    "factor": _factor,
    "varying factor": _varying_factor,
    "entries": _entries,
    "transposed": _transposed,
    "derivative missing": _missing_derivative,
    "residual": _residual,
    "another gradient": _other_gradient,
    "cotangent": cotangent,
    "wrong argument": wrong_argument,
    "weights ignored": weights_ignored,
    "diagonal": diagonal,
    "transposed step": forward_applied,
    "assigned": assigned,
    "mask": _mask,
    "axis": _axis,
    "weight decay": _weight_decay,
    "clipping": _clipping,
    "another derivative": other_derivative,
    "formula": formula,
    "argument missing": left_out,
    "missing term": _missing_term,
    "not linear": nonlinear,
}

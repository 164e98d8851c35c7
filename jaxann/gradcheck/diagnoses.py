"""The diagnoses: simple mistakes that may explain how a handwritten gradient differs from the true one.

Each mistake is compared with the gradient at every point, and reported only if it explains the difference up to
rounding. Even then the gradient is no more than consistent with that mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass

import numpy as np

from jaxann.gradcheck.arguments import by_name
from jaxann.gradcheck.compilation import precision
from jaxann.gradcheck.evidence import ROUNDING, Evidence
from jaxann.gradcheck.rerun_diagnoses import changed_step, diagonal, other_derivative, wrong_argument
from jaxann.gradcheck.structure import name_axes, subsets
from jaxann.gradcheck.subjects import GradientSubject, LossSubject


def diagnose(e: Evidence) -> tuple[str, str]:
    """Diagnoses a wrong gradient.

    Args:
        e: The evidence.

    Returns:
        The key in `DIAGNOSES` of the first diagnosis that explains the difference, and the diagnosis as a sentence. If
        no diagnosis does, "none" and a sentence with the size of the difference.
    """
    if isinstance(e.subject, LossSubject):
        e = e.divide_by_cotangent()
    with precision("float64"):
        for cause, find in DIAGNOSES.items():
            with suppress(Exception):  # a user's layer need not support what a diagnosis tries with it
                mistake = find(e)
                if mistake:
                    return cause, f"consistent with {mistake}"
    return "none", _describe_difference(e)


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
    if np.ndim(e.args.x) > 2:
        counts[f"the number of {'out' if isinstance(e.subject, LossSubject) else 'in'}puts"] = np.shape(e.args.x)[-1]
    if np.ndim(e.y) > 2:
        counts["the number of outputs"] = e.y.shape[-1]
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


def _kink(e: Evidence) -> str | None:
    """Diagnoses a dx that differs only where a layer's input is 0 or ±1, or where the output equals a loss's target."""
    if e.name != "dx" or np.shape(e.args.x) != e.a.shape:
        return None
    x, differs = e.args.x, np.abs(e.a - e.b) > e.tolerance
    count = f"{differs.sum()} entries"
    if isinstance(e.subject, LossSubject) and np.shape(e.args.aux) == x.shape and (x == e.args.aux)[differs].all():
        return f"a different slope at a kink: it differs only where the output equals the target ({count})"
    values = x[differs]
    if not np.isin(values, [0, 1, -1]).all():
        return None
    zero = "-0" if np.signbit(values).all() else "0"
    where = " or ".join(sorted({f"{value:g}" if value else zero for value in values}))
    first = tuple(np.argwhere(differs)[0])
    slopes = [f"{gradient[first] / e.args.dy[first] + 0.0:.4g}" for gradient in (e.a, e.b)]  # + 0.0 for no "-0"
    slopes = f"; the handwritten slope is {slopes[0]}, autodiff's {slopes[1]}" if e.is_elementwise else ""
    return f"a different slope at a kink: it differs only where the input is {where} ({count}){slopes}"


def _entries(e: Evidence) -> str | None:
    """Diagnoses a gradient that differs in at most half of its entries, the same ones at every point."""
    differs = np.abs(e.a - e.b) > e.tolerance
    every = (0, 1) if e.name == "dx" else (0,)
    mask = differs.any(axis=every)
    if not mask.ndim or not 0 < mask.sum() <= mask.size / 2:
        return None
    if differs[..., mask].sum() < np.count_nonzero(e.b[..., mask]) / 2:  # it depends on the value, not on the place
        return None
    places = [str([int(i) for i in place]) for place in np.argwhere(mask)]
    places = places if len(places) <= 3 else [*places[:3], "..."]
    kind = "wrong values" if e.a[..., mask].any() else "zeros"
    return f"{kind} in only {mask.sum()} of its {mask.size} entries: {', '.join(places)}"


def _transposed(e: Evidence) -> str | None:
    if e.a.ndim >= 3 and e.name != "dx" and e.agree(e.a, e.b.swapaxes(-1, -2)):
        return "the transpose of the gradient"
    if e.name == "dx" and np.ndim(e.args.dy) == 3:
        for name, W in by_name(e.args.params, ()).items():
            if W.ndim == 3 and W.shape[1] == W.shape[2]:
                product, transposed = (np.einsum(f"{W_axes},rbj->rbi", W, e.args.dy) for W_axes in ("rij", "rji"))
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
    for axes in subsets(range(1, e.b.ndim)):
        wide = np.broadcast_to(e.b.sum(axis=axes, keepdims=True), e.b.shape)
        if e.agree(e.a, wide):
            return f"a sum over {name_axes(axes, skip=1)}: each entry holds the sum of the true gradient's entries"
    if e.name == "dx" or np.ndim(e.args.dy) < 3:
        return None
    dy, x = e.args.dy, e.args.x
    for name, terms in {"dy": dy, "dy x": dy * x if x.shape == dy.shape else None, "dy y": dy * e.y}.items():
        for axes in subsets(range(2, dy.ndim)):
            if terms is not None and e.agree(e.a, terms.sum(axis=(1, *axes))):
                return f"a sum of {name} over the wrong axes: it is summed over {name_axes(axes, skip=2)}"
    return None


def _other_gradient(e: Evidence) -> str | None:
    others = (name for name, gradient in e.autodiff.items() if name != e.name and e.agree(e.a, gradient))
    return next((f"the gradient of {name} instead of its own" for name in others), None)


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
    if e.name != "dx":
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
        "a multiple of the input": [e.args.x],
        "a multiple of the input plus a number": [ones, e.args.x],
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
    "zero": _zero,
    "sign": _sign,
    "factor": _factor,
    "varying factor": _varying_factor,
    "kink": _kink,
    "entries": _entries,
    "transposed": _transposed,
    "derivative missing": _missing_derivative,
    "residual": _residual,
    "wrong argument": wrong_argument,
    "diagonal": diagonal,
    "axis": _axis,
    "another gradient": _other_gradient,
    "weight decay": _weight_decay,
    "clipping": _clipping,
    "another derivative": other_derivative,
    "missing term": _missing_term,
    "step": changed_step,
}

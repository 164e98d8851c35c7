"""Diagnoses that compare a wrong gradient with the true one, and with the arguments, as they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import numpy as np

from jaxann.gradcheck.arguments import by_name
from jaxann.gradcheck.evidence import ROUNDING, Evidence
from jaxann.gradcheck.gradient_subject import GradientSubject
from jaxann.gradcheck.rerun_diagnoses import other_derivative
from jaxann.gradcheck.structure import name_axes, subsets
from jaxann.gradcheck.subjects import LossSubject


def rounding(e: Evidence) -> str | None:
    """Diagnoses a difference that rounding may explain."""
    error = np.max(np.abs(e.a - e.b) / np.maximum(e.tolerance / ROUNDING, np.finfo(float).tiny))
    if error > 1e-6:
        return None
    return f"rounding, by cancellation or by arithmetic in less than float64: its relative error is {error:.1g}"


def zero(e: Evidence) -> str | None:
    """Diagnoses zeros."""
    return None if e.a.any() else "zeros in place of the gradient"


def flipped_sign(e: Evidence) -> str | None:
    """Diagnoses a flipped sign."""
    return "a flipped sign" if e.agree(e.a, -e.b) else None


def constant_factor(e: Evidence) -> str | None:
    """Diagnoses a factor, and names it if it is the size of an axis or a setting of the layer."""
    factor = np.sum(e.a * e.b) / np.sum(e.b * e.b) if e.b.any() else 0
    if not factor or not e.agree(e.a, factor * e.b):
        return None
    meanings = [meaning for meaning, number in _list_numbers(e) if abs(abs(factor) - number) <= 1e-6 * number]
    return f"a factor of {factor:.6g}" + "".join(f", which is {meaning}" for meaning in meanings[:1])


def varying_factor(e: Evidence) -> str | None:
    """Diagnoses a factor for each point."""
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
            counts |= {f"the size of axis {axis} of {e.show(name)}": size for axis, size in enumerate(value.shape[2:])}
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


def unused_argument(e: Evidence) -> str | None:
    """Diagnoses a gradient of an argument that the forward does not use."""
    if e.b.any() or not e.a.any():
        return None
    if e.name in e.arguments:  # it may be zero at the points only, as where a hinge does not act
        elsewhere = 3 * np.random.default_rng(0).normal(size=e.value.shape)
        if e.evaluate_true(e.change_argument(e.name, elsewhere)).any():
            return None
    return f"a gradient for a value that forward does not use: the true gradient is zero, also at other {_kind(e)}s"


def _kind(e: Evidence) -> str:
    return "input" if e.is_input else "parameter"


def forgotten_mask(e: Evidence) -> str | None:
    """Diagnoses a gradient that differs only where the true one is zero, as if a mask were forgotten."""
    zero = e.b == 0
    if not e.differs.any() or not zero[e.differs].all() or not (e.b != 0).any() or not e.a[e.differs].all():
        return None
    if e.is_loss and other_derivative(e):  # where the target is zero, both gradients of many losses differ
        return None
    return (
        f"a mask that is forgotten: the gradient is right wherever the true one is not zero, and {e.differs.sum()} "
        "entries that should be zero are not"
    )


def few_entries(e: Evidence) -> str | None:
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


def transposed(e: Evidence) -> str | None:
    """Diagnoses a gradient, or a matrix in it, that is transposed."""
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


def missing_derivative(e: Evidence) -> str | None:
    """Diagnoses dx = dy."""
    if not e.is_elementwise or not e.agree(e.a, e.args.dy) or _find_swapped(e):
        return None
    return "dx = dy: the derivative is left out"


def residual_term(e: Evidence) -> str | None:
    """Diagnoses a term dy that is missing, or too many."""
    if e.is_elementwise and e.agree(e.a - e.b, -e.args.dy):
        return "a missing term dy, the gradient of a residual (skip) connection"
    if e.is_elementwise and e.agree(e.a - e.b, e.args.dy):
        return "an additional term dy, as if for a residual (skip) connection"
    return None


def wrong_axis(e: Evidence) -> str | None:
    """Diagnoses a sum over the wrong axes."""
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
        totals = {
            axes: product.sum(axis=axes if e.is_input else (1, *axes)) for axes in ((), *subsets(range(2, dy.ndim)))
        }
        if any(e.agree(e.b, total) for total in totals.values()):
            for axes, total in totals.items():
                if axes and e.agree(e.a, total):
                    return f"a sum of {name} over the wrong axes: it is summed over {name_axes(axes, skip=2)}"
            for axes in totals:
                for some in subsets(axes):
                    for index, word in ((0, "first"), (-1, "last")):
                        part = product.take([index], some[0])
                        for axis in some[1:]:
                            part = part.take([index], axis)
                        if e.agree(e.a, part.sum(axis=axes if e.is_input else (1, *axes))):
                            return f"a sum of {name} that counts only the {word} entry along {name_axes(some, skip=2)}"
    return None


def other_gradient(e: Evidence) -> str | None:
    """Diagnoses the gradient of another argument."""
    swapped = _find_swapped(e)
    if swapped:
        return f"the gradients of {' and '.join(map(e.show, sorted((e.name, swapped))))} swapped"
    for name, gradient in e.autodiff.items():
        if name != e.name and e.agree(e.a, gradient):
            return f"the gradient of {e.show(name)} instead of its own"
    return None


def _find_swapped(e: Evidence) -> str | None:
    """Returns the name of another argument, where each of the two has the gradient of the other."""
    for name, gradient in e.autodiff.items():
        other = e.handwritten.get(name)
        if name != e.name and other is not None and e.agree(e.a, gradient) and e.agree(other, e.b):
            return name
    return None


def weight_decay(e: Evidence) -> str | None:
    """Diagnoses a weight decay."""
    parameters = e.arguments if e.subject.is_single else by_name(e.args.params, ())
    if e.name not in parameters or not e.value.any():
        return None
    value, dy, difference = e.value, e.args.dy, e.a - e.b
    weights = [] if isinstance(e.subject, GradientSubject) else [np.full(len(value), dy.shape[1])]
    weights.append(dy.reshape(len(dy), -1).sum(axis=1))  # the decay of a loss is scaled as the loss is
    for weight in weights:
        p = value * weight.reshape(-1, *(1,) * (value.ndim - 1))
        decay = np.sum(difference * p) / np.sum(p * p)
        if decay and e.agree(difference, decay * p):
            kind = "an additional" if decay > 0 else "a missing"
            return f"{kind} weight decay: {abs(decay):.4g} times the parameter"
    return None


def clipping(e: Evidence) -> str | None:
    """Diagnoses a gradient that is clipped, or should be."""
    if not e.is_input:
        return None
    clipped, unclipped = "a gradient clipped to ±{:.4g}", "a gradient that is not clipped to ±{:.4g}, as it should be"
    scale = np.where(e.cotangent == 0, 1, e.cotangent) if e.is_loss else np.ones_like(e.a)
    for one, other, sentence in ((e.a, e.b, clipped), (e.b, e.a, unclipped)):
        sizes = np.abs(one / scale)
        bound = sizes.max()
        if sentence == unclipped and np.ptp(sizes) <= ROUNDING * bound:  # such as the sign, the derivative of |x|
            continue
        if e.agree(one, scale * np.clip(other / scale, -bound, bound)):
            return sentence.format(bound)
    return None


def missing_term(e: Evidence) -> str | None:
    """Diagnoses a missing term that is a multiple of the input, of the output or of ones."""
    if not e.is_elementwise or e.a.ndim < 3 or e.a.shape[-1] < 3:
        return None
    rows = len(e.a), -1, e.a.shape[-1]
    difference, x, y = (array.reshape(rows) for array in (e.a - e.b, e.value, e.y))
    ones = np.ones_like(x)
    spans = {
        "one number for all features, such as a mean": [ones],
        "a multiple of the output": [y],
        "a multiple of the input": [x],
        "a multiple of the input plus a number": [ones, x],
    }
    for term, span in spans.items():
        projection = _project(difference, np.stack(span, axis=-1)).reshape(e.a.shape)
        if len(span) + 2 <= e.a.shape[-1] and e.agree(projection, e.a - e.b):
            return f"a missing term, which in each example is {term}"
    return None


def _project(d: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Projects d [R, B, n] onto the space that the k vectors of `span` [R, B, n, k] span."""
    q, _ = np.linalg.qr(span)
    return np.einsum("rbnk,rbmk,rbm->rbn", q, q, d)

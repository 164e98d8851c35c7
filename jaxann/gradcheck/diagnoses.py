"""The diagnoses: simple mistakes that may explain how a handwritten gradient differs from the true one.

Each mistake is compared with the gradient at every point, and reported only if it explains the difference up to
rounding. Even then the gradient is no more than consistent with that mistake.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxann.gradcheck.compilation import precision
from jaxann.gradcheck.deadline import Deadline
from jaxann.gradcheck.evidence import Evidence, NotDefinedError
from jaxann.gradcheck.gradient_subject import GradientSubject
from jaxann.gradcheck.jacobian_diagnoses import assigned, diagonal, forward_applied
from jaxann.gradcheck.rerun_diagnoses import (
    changed_cotangent,
    changed_steps,
    cotangent,
    formula,
    left_out,
    nonlinear,
    other_derivative,
    weights_ignored,
    wrong_argument,
)
from jaxann.gradcheck.simple_diagnoses import (
    clipping,
    constant_factor,
    few_entries,
    flipped_sign,
    forgotten_mask,
    missing_derivative,
    missing_term,
    other_gradient,
    residual_term,
    rounding,
    transposed,
    unused_argument,
    varying_factor,
    weight_decay,
    wrong_axis,
    zero,
)
from jaxann.gradcheck.step_points import Findings
from jaxann.gradcheck.subjects import LossSubject


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
    late = False
    # A bar is shown on a terminal if the search takes more than two seconds.
    names, steps = ", ".join(evidence), len(evidence) * len(DIAGNOSES)
    with (
        precision("float64"),
        tqdm(desc=f"diagnosis of {names}", total=steps, delay=2, leave=False, disable=None) as bar,
    ):
        for name, e in evidence.items():
            for cause, find in DIAGNOSES.items():
                late = late or (deadline is not None and deadline.is_over())
                applies = cause not in OF_BACKWARDS or not isinstance(e.subject, GradientSubject | LossSubject)
                mistake = _try(cause, find, e) if applies and not late else None
                bar.update()
                if mistake:
                    diagnoses[name] = cause, f"consistent with {mistake}"
                    break
        is_weak = any(diagnoses.get(name, ("none",))[0] in WEAK for name in evidence)
        if not late and (is_weak or len(set(diagnoses.values())) > 1):
            findings = _try("step", lambda evidence: changed_steps(evidence, deadline), evidence) or Findings({}, "")
            late = bool(findings.reason) and deadline is not None and deadline.is_over()
            found = {
                name: (change.cause, f"consistent with {change.sentence}") for name, change in findings.changes.items()
            }
            is_one = found.keys() == evidence.keys() and len(set(found.values())) == 1
            for name, step in found.items():
                if is_one or diagnoses.get(name, ("none",))[0] in WEAK:  # one mistake is preferred to several
                    diagnoses[name] = step
    ended = f"the search for a mistake ended after {deadline.seconds:g} s; " if late and deadline is not None else ""
    return {name: diagnoses.get(name, ("none", ended + _describe_difference(e))) for name, e in evidence.items()}


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


# What may be said better by a step of the forward pass.
WEAK = frozenset(
    (
        *("none", "entries", "formula", "another derivative", "another cotangent"),
        *("varying factor", "missing term", "not linear"),
    )
)

# What a loss or a gradient function, whose cotangent the check applies itself, cannot get wrong.
OF_BACKWARDS = frozenset({"cotangent", "wrong argument", "argument missing", "not linear"})

# In the order in which they are tried. Each returns the mistake as it follows "consistent with", or None.
DIAGNOSES: dict[str, Callable[[Evidence], str | None]] = {
    "rounding": rounding,
    "unused": unused_argument,
    "zero": zero,
    "sign": flipped_sign,
    "factor": constant_factor,
    "transposed": transposed,
    "derivative missing": missing_derivative,
    "mask": forgotten_mask,
    "residual": residual_term,
    "another gradient": other_gradient,
    "cotangent": cotangent,
    "wrong argument": wrong_argument,
    "weights ignored": weights_ignored,
    "diagonal": diagonal,
    "transposed step": forward_applied,
    "assigned": assigned,
    "clipping": clipping,
    "entries": few_entries,
    "axis": wrong_axis,
    "weight decay": weight_decay,
    "argument missing": left_out,
    "formula": formula,
    "another derivative": other_derivative,
    "another cotangent": changed_cotangent,
    "varying factor": varying_factor,
    "missing term": missing_term,
    "not linear": nonlinear,
}

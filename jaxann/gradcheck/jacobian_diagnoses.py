"""Diagnoses that need the Jacobian J of a function: only its diagonal, J in place of its transpose, a part assigned."""

from __future__ import annotations

import jax
import numpy as np

from jaxann.gradcheck.evidence import Evidence, NotDefinedError
from jaxann.gradcheck.gradient_subject import GradientSubject
from jaxann.gradcheck.subjects import LossSubject

MOST_OUTPUTS = 512  # of one example: a larger Jacobian is not formed
POINTS = 2


def diagonal(e: Evidence) -> str | None:
    """Diagnoses a backward that uses only the diagonal of the Jacobian, or everything but the diagonal."""
    if not e.is_elementwise or e.value[0, 0].size < 2:
        return None
    for kind in ("only", "all but"):
        if all(_matches_diagonal(*case, kind) for case in _cases(e)):
            uses = "uses only" if kind == "only" else "leaves out"
            return f"a backward that {uses} the diagonal of the Jacobian"
    return None


def forward_applied(e: Evidence) -> str | None:
    """Diagnoses J dy where Jᵀ dy is meant."""
    if not e.is_elementwise:
        return None
    if all(_agree(a, J @ dy, J) and not _agree(a, dy @ J, J) for J, dy, a in _cases(e)):
        return "the forward's Jacobian applied to dy, where its transpose is meant: J dy instead of Jᵀ dy"
    return None


def assigned(e: Evidence) -> str | None:
    """Diagnoses an entry that keeps only the last, or the first, of several outputs' contributions."""
    for which in ("last", "first"):
        if all(_matches_one(*case, which) for case in _cases(e)):
            return (
                "a gradient that is assigned where it should be added: of the contributions of several outputs to one "
                f"entry, only the {which} remains"
            )
    return None


def _matches_diagonal(J: np.ndarray, dy: np.ndarray, a: np.ndarray, kind: str) -> bool:
    diagonal = np.diag(J) * dy
    return _agree(a, diagonal if kind == "only" else dy @ J - diagonal, J)


def _matches_one(J: np.ndarray, dy: np.ndarray, a: np.ndarray, which: str) -> bool:
    contributions = dy[:, None] * J
    order = contributions[::-1] if which == "last" else contributions
    index = (order != 0).argmax(axis=0)
    one = order[index, np.arange(order.shape[1])]
    return _agree(a, one, J) and not _agree(a, contributions.sum(axis=0), J)


def _agree(a: np.ndarray, b: np.ndarray, J: np.ndarray) -> bool:
    return bool(np.abs(a - b).max(initial=0) <= 1e-6 * np.abs(J).max(initial=0))


def _cases(e: Evidence) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns J [outputs, inputs], dy [outputs] and the gradient a [inputs] of the first example at a few points.

    Raises:
        NotDefinedError: If the subject has no Jacobian, or one that is too large.
    """
    if "jacobian" not in e.cache:
        one = e.args.select_examples(slice(1)).select(slice(POINTS))
        if isinstance(e.subject, GradientSubject | LossSubject) or one.dy[0].size > MOST_OUTPUTS:
            raise NotDefinedError
        a, count = e.evaluate_handwritten(one), one.dy[0].size
        units = np.eye(count).reshape(count, *one.dy[0].shape)
        cases = []
        for r in range(len(a)):
            at_point = jax.tree.map(lambda leaf: np.stack([leaf] * count), one.select(r))
            J = e.evaluate_true(at_point._replace(dy=units)).reshape(count, -1)
            cases.append((J, one.dy[r].ravel(), a[r].ravel()))
        e.cache["jacobian"] = cases
    return e.cache["jacobian"]

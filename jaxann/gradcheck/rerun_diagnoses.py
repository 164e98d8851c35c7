"""Diagnoses that run a subject again: a backward on other saved values, or a forward with one operation changed."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.gradcheck.arguments import Args
from jaxann.gradcheck.compilation import jit_cheaply
from jaxann.gradcheck.evidence import Evidence
from jaxann.gradcheck.step_points import Wrong
from jaxann.gradcheck.step_search import find_changes
from jaxann.gradcheck.subjects import GradientSubject, LayerSubject, LossSubject, Subject
from jaxann.gradients.autodiff import AutodiffLayer
from jaxann.nn.activations import ACTIVATIONS
from jaxann.nn.base import Wrapper
from jaxann.nn.losses import LOSSES

EXAMPLES = 2  # of a batch, for the diagnosis that forms the Jacobian of each example
SECONDS = 20.0  # for the diagnosis that changes the derivatives of the forward pass


@dataclass(frozen=True)
class _SwappedSaved(Wrapper):
    """A layer that saves its input in place of its output, or its output in place of its input."""

    saves_output: bool

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        y, saved = self.layer.forward(params, x, key)
        old, new = (x, y) if self.saves_output else (y, x)
        return y, jax.tree.map(lambda leaf: new if leaf is old else leaf, saved)


def wrong_argument(e: Evidence) -> str | None:
    """Diagnoses a derivative evaluated at the input instead of at the output, or the other way round."""
    if not isinstance(e.subject, LayerSubject) or np.shape(e.args.x) != e.y.shape:
        return None
    for saves_output in (True, False):
        subject = replace(e.subject, layer=_SwappedSaved(e.subject.layer, saves_output))
        swapped = _handwritten_gradients(subject, e.args)[e.name]
        if e.agree(swapped, e.b) and not e.agree(swapped, e.a):
            wrong, right = ("input x", "output y") if saves_output else ("output y", "input x")
            return f"a derivative evaluated at the {wrong} instead of at the {right}"
    return None


def diagonal(e: Evidence) -> str | None:
    """Diagnoses a backward that uses only the diagonal of the Jacobian, or everything but the diagonal."""
    if not e.is_elementwise or e.a.ndim != 3 or not 1 < e.a.shape[2] <= 1024:
        return None
    few = slice(EXAMPLES)
    e = replace(e, args=e.args.select_examples(few), a=e.a[:, few], autodiff={"dx": e.b[:, few]})
    diagonal_product = _diagonals(e.subject, e.args) * e.args.dy
    if e.agree(e.a, diagonal_product):
        return "a backward that uses only the diagonal of the Jacobian"
    if e.agree(e.a, e.b - diagonal_product):
        return "a backward that leaves out the diagonal of the Jacobian"
    return None


def other_derivative(e: Evidence) -> str | None:
    """Diagnoses the derivative of another activation, or the gradient of another loss."""
    if not e.is_elementwise and not isinstance(e.subject, LossSubject):
        return None
    for name, gradient in _candidate_gradients(e).items():
        if e.agree(e.a, gradient):
            return name
    return None


def _candidate_gradients(e: Evidence) -> dict[str, np.ndarray]:
    """Returns what dx would be for every other activation or loss, by the diagnosis that it stands for."""
    if isinstance(e.subject, LayerSubject):
        twins = {
            f"the derivative of {name} instead of its own": LayerSubject("", AutodiffLayer(layer), name)
            for name, layer in ACTIVATIONS.items()
        }
    elif isinstance(e.subject, LossSubject):
        twins = {
            f"the gradient of {loss.__name__} instead of its own": LossSubject("", loss()) for loss in LOSSES.values()
        }
    else:
        return {}
    gradients = {}
    for name, twin in twins.items():
        try:
            gradients[name] = _handwritten_gradients(twin, e.args)["dx"]
        except (ValueError, TypeError):  # a loss for another kind of target
            continue
    if isinstance(e.subject, LossSubject) and e.args.x.shape == np.shape(e.args.aux):
        y, t = e.args.x, e.args.aux
        binary = "the gradient of binary cross-entropy, -t/y + (1 - t)/(1 - y), instead of its own"
        gradients[binary] = -t / y + (1 - t) / (1 - y)
    return gradients


def changed_step(e: Evidence) -> str | None:
    """Diagnoses operations of the forward pass that backward treats as constants or differentiates wrongly."""
    if isinstance(e.subject, GradientSubject):
        return None
    findings = find_changes(
        e.subject.forward,
        e.args,
        {e.name: Wrong(e.a, e.b, e.tolerance)},
        partial(_handwritten_gradients, e.subject),
        time.monotonic() + SECONDS,
    )
    change = findings.changes.get(e.name)
    return change.sentence if change else None


def _handwritten_gradients(subject: Subject, args: Args) -> dict[str, np.ndarray]:
    return jax.tree.map(np.asarray, _handwritten_at_points(subject, args))


@partial(jit_cheaply, static=1)
def _handwritten_at_points(subject: Subject, args: Args) -> dict[str, Array]:
    return jax.vmap(lambda args: subject.handwritten_gradients(*args))(args)


@partial(jit_cheaply, static=1)
def _diagonals(subject: Subject, args: Args) -> Array:
    """Returns ∂y_i/∂x_i of every example, [R, B, n]."""

    def differentiate_feature(i):
        unit = jnp.zeros_like(args.dy).at[..., i].set(1)
        return jax.vmap(lambda args: subject.autodiff_gradients(*args)[1]["dx"])(args._replace(dy=unit))[..., i]

    return jnp.moveaxis(jax.lax.map(differentiate_feature, jnp.arange(args.dy.shape[-1])), 0, -1)

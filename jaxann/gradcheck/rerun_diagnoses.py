"""Stories that take running something again: a backward on other savings, a forward with one step changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.gradcheck.compilation import jit_cheaply
from jaxann.gradcheck.evidence import Evidence
from jaxann.gradcheck.steps import change_step, list_steps
from jaxann.gradcheck.subjects import Args, GradientSubject, LayerSubject, LossSubject, Subject
from jaxann.gradients.autodiff import AutodiffLayer
from jaxann.nn.activations import ACTIVATIONS
from jaxann.nn.base import Layer
from jaxann.nn.losses import LOSSES


@dataclass(frozen=True)
class _SwappedSaved(Layer):
    """`layer` with its input saved in place of its output, or the other way round."""

    layer: Layer
    saves_output: bool

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        y, saved = self.layer.forward(params, x, key)
        wrong, right = (x, y) if self.saves_output else (y, x)
        return y, jax.tree.map(lambda leaf: right if leaf is wrong else leaf, saved)

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, Array]:
        return self.layer.backward(params, saved, dy)


def wrong_argument(e: Evidence) -> str | None:
    """The derivative taken at the input where it is meant at the output, or the other way round."""
    if not isinstance(e.subject, LayerSubject) or np.shape(e.args.x) != e.y.shape:
        return None
    for saves_output in (True, False):
        subject = replace(e.subject, layer=_SwappedSaved(e.subject.layer, saves_output))
        mended = _by_hand(subject, e.args)[e.name]
        if e.agree(mended, e.b) and not e.agree(mended, e.a):
            told = ("input x", "output y") if saves_output else ("output y", "input x")
            return f"the derivative taken at the {told[0]} where it is meant at the {told[1]}"
    return None


def diagonal(e: Evidence) -> str | None:
    """The Jacobian's diagonal alone, or all but that."""
    if not e.elementwise or e.a.ndim != 3 or not 1 < e.a.shape[2] <= 1024:
        return None
    few = 2
    e = replace(
        e,
        args=e.args._replace(
            **{k: jax.tree.map(lambda leaf: leaf[:, :few], getattr(e.args, k)) for k in ("x", "aux", "dy")}
        ),
        a=e.a[:, :few],
        automatic={"dx": e.b[:, :few]},
    )
    diagonal = _diagonals(e.subject, e.args)
    on = diagonal * e.args.dy
    if e.agree(e.a, on):
        return "the diagonal of the Jacobian alone"
    return "the Jacobian without its diagonal" if e.agree(e.a, e.b - on) else None


def other_derivative(e: Evidence) -> str | None:
    """The derivative of another activation, or the gradient of another loss."""
    if not e.elementwise and not isinstance(e.subject, LossSubject):
        return None
    for name, candidate in _candidates(e).items():
        if e.agree(e.a, candidate):
            return name
    return None


def _candidates(e: Evidence) -> dict[str, np.ndarray]:
    """What other activations and losses would have for dx, by their names."""
    if isinstance(e.subject, LayerSubject):
        twins = {
            f"the derivative of {n}": LayerSubject("", AutodiffLayer(layer), n) for n, layer in ACTIVATIONS.items()
        }
    elif isinstance(e.subject, LossSubject):
        twins = {f"the gradient of {loss.__name__}": LossSubject("", loss()) for loss in LOSSES.values()}
    else:
        return {}
    found = {}
    for name, twin in twins.items():
        try:
            found[name] = _by_hand(twin, e.args)["dx"]
        except (ValueError, TypeError):  # it takes another kind of target
            continue
    if isinstance(e.subject, LossSubject) and e.args.x.shape == np.shape(e.args.aux):
        y, t = e.args.x, e.args.aux
        found["the binary cross-entropy's derivative, -t/y + (1 - t)/(1 - y)"] = -t / y + (1 - t) / (1 - y)
    return found


def changed_step(e: Evidence) -> str | None:
    """One step of the forward pass taken for a constant, or its derivative left out or taken elsewhere."""
    if isinstance(e.subject, GradientSubject):
        return None
    one = e.args.example()
    found = list_steps(lambda params, x: e.subject.forward(params, x, one.aux), one.params, one.x)
    if len(found) > 64:
        return None
    sentences = {
        "constant": "{} taken for a constant: what flows back through it is left out",
        "constant operand": "an operand of {} taken for a constant: what flows back through it is left out",
        "one": "the derivative of {} left out",
        "at the output": "the derivative of {} taken at its output instead of its input",
    }
    for change, sentence in sentences.items():
        operands = 1 if change == "constant" else 3
        places = tuple((i, k) for i, (_, count) in enumerate(found) for k in range(min(count, operands)))
        for (i, _), gradient in zip(places, _changed_gradients(e.subject, e.name, places, change, e.args), strict=True):
            if gradient is not None and e.agree(e.a, np.asarray(gradient)):
                return sentence.format(f"step {i + 1} of its forward pass, {found[i][0]},")
    return None


@dataclass(frozen=True)
class _ChangedStep(Subject):
    """`subject` with one step of its forward pass changed."""

    subject: Subject
    place: tuple[int, int]
    change: str

    @property
    def name(self) -> str:
        return self.subject.name

    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Any:
        return change_step(lambda p, x: self.subject.forward(p, x, aux), *self.place, self.change)(params, x)

    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[PyTree, PyTree]:
        return self.subject.backward(params, x, aux, dy)


@partial(jit_cheaply, static=4)
def _changed_gradients(
    subject: Subject, name: str, places: tuple[tuple[int, int], ...], change: str, args: Args
) -> list[Array | None]:
    """The automatic gradient called `name` with the step at each of `places` changed; None where it cannot be."""

    def gradient(place):
        twin = _ChangedStep(subject.path, subject, place, change)
        try:
            return jax.vmap(lambda args: twin.automatic(*args)[1][name])(args)
        except (TypeError, ValueError):  # a step without a derivative, or of another shape
            return None

    return [gradient(place) for place in places]


def _by_hand(subject: Subject, args: Args) -> dict[str, np.ndarray]:
    return jax.tree.map(np.asarray, _by_hand_jitted(subject, args))


@partial(jit_cheaply, static=1)
def _by_hand_jitted(subject: Subject, args: Args) -> dict[str, Array]:
    return jax.vmap(lambda args: subject.handwritten(*args))(args)


@partial(jit_cheaply, static=1)
def _diagonals(subject: Subject, args: Args) -> Array:
    """∂y_i/∂x_i of every example, [R, B, n]."""

    def of_feature(i):
        unit = jnp.zeros_like(args.dy).at[..., i].set(1)
        return jax.vmap(lambda args: subject.automatic(*args)[1]["dx"])(args._replace(dy=unit))[..., i]

    return jnp.moveaxis(jax.lax.map(of_feature, jnp.arange(args.dy.shape[-1])), 0, -1)

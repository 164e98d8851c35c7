"""Diagnoses that evaluate a subject again at other arguments, or compare with the derivatives of other functions."""

from __future__ import annotations

import jax
import numpy as np

from jaxann.gradcheck.arguments import Args, by_name, is_float
from jaxann.gradcheck.deadline import Deadline
from jaxann.gradcheck.evidence import Evidence
from jaxann.gradcheck.gradient_subject import GradientSubject
from jaxann.gradcheck.kinks import acts_on_each_entry
from jaxann.gradcheck.step_points import Change, Findings, Wrong
from jaxann.gradcheck.step_recognition import list_wrong_gradients, recognize
from jaxann.gradcheck.step_search import find_changes
from jaxann.gradcheck.subjects import LayerSubject, LossSubject, Subject
from jaxann.gradients.autodiff import AutodiffLayer
from jaxann.nn.activations import ACTIVATIONS
from jaxann.nn.losses import LOSSES

# Slopes that people write, as functions of the input x and the output y.
FORMULAS = {
    "1 - y": lambda x, y: 1 - y,
    "y": lambda x, y: y,
    "y (1 - y)": lambda x, y: y * (1 - y),
    "1 - y²": lambda x, y: 1 - y * y,
    "1 + y²": lambda x, y: 1 + y * y,
    "y²": lambda x, y: y * y,
    "1 / y": lambda x, y: 1 / y,
    "1 - x": lambda x, y: 1 - x,
    "x": lambda x, y: x,
    "x (1 - x)": lambda x, y: x * (1 - x),
    "1 - x²": lambda x, y: 1 - x * x,
    "1 + x²": lambda x, y: 1 + x * x,
    "x²": lambda x, y: x * x,
    "1 / x": lambda x, y: 1 / x,
    "e^x": lambda x, y: np.exp(x),
    "1 where x < 0, otherwise 0": lambda x, y: np.where(x < 0, 1.0, 0.0),
    "1 where x > 0, otherwise 0": lambda x, y: np.where(x > 0, 1.0, 0.0),
}


def cotangent(e: Evidence) -> str | None:
    """Diagnoses a gradient that does not depend on the incoming cotangent."""
    ones = np.ones_like(e.args.dy)
    if not e.agree(e.evaluate_handwritten(e.args._replace(dy=-0.3 * e.args.dy)), e.a):
        return None
    sentence = "a gradient that does not depend on dy, the incoming gradient"
    if e.agree(e.a, e.evaluate_true(e.args._replace(dy=ones))):
        return f"{sentence}: it is right only for dy = 1"
    return sentence


def nonlinear(e: Evidence) -> str | None:
    """Diagnoses a gradient that is not linear in the incoming cotangent."""
    for factor, name in {2: "twice", -1: "minus"}.items():
        scaled = e.evaluate_handwritten(e.args._replace(dy=factor * e.args.dy))
        if not e.agree(scaled / factor, e.a):
            return f"a gradient that is not linear in dy: for {name} dy it is not {name} the gradient"
    return None


def wrong_argument(e: Evidence) -> str | None:
    """Diagnoses a derivative evaluated at the input instead of at the output, or the other way round."""
    for name, x in e.arguments.items():
        if np.shape(x) != e.y.shape or not np.issubdtype(np.asarray(x).dtype, np.floating):
            continue
        args = e.change_argument(name, e.y)
        true, swapped = e.evaluate_true(args), e.evaluate_handwritten(args)
        if e.agree(swapped, e.b) and not e.agree(swapped, e.a):
            return "a derivative evaluated at the input x instead of at the output y"
        if e.agree(true, e.a) and not e.agree(true, e.b) and acts_on_each_entry(e, (0,) * e.a.ndim):
            return "a derivative evaluated at the output y instead of at the input x"
    return None


def changed_cotangent(e: Evidence) -> str | None:
    """Diagnoses a gradient that is right for dy rounded, or multiplied by an argument or by the output."""
    if isinstance(e.subject, GradientSubject):
        return None
    dy = e.args.dy
    factors = {e.show(name): value for name, value in e.float_arguments().items()} | {"y": e.y}
    changed = {f"dy times {name}": dy * value for name, value in factors.items() if value.shape == dy.shape}
    changed |= {f"dy in {name}": dy.astype(name).astype(float) for name in ("float32", "float16")}
    for name, cotangent in changed.items():
        if e.agree(e.a, e.evaluate_true(e.args._replace(dy=cotangent))):
            return f"a gradient that uses {name} in place of dy, the incoming gradient"
    return None


def left_out(e: Evidence) -> str | None:
    """Diagnoses a gradient in which another argument, or the argument's own value, is left out: ones in its place."""
    for name, value in e.float_arguments().items():
        args = e.change_argument(name, np.ones_like(value))
        if e.agree(e.a, e.evaluate_true(args)):
            shown = e.show(name)
            return f"a gradient that leaves out {shown}: it is right only where {shown} is 1"
    return None


def weights_ignored(e: Evidence) -> str | None:
    """Diagnoses a gradient that ignores the weights of the examples, or any argument that needs no gradient itself."""
    if e.subject.is_single:
        for name, weights in by_name((), e.args.aux).items():
            ones = np.ones_like(weights)
            aux = jax.tree.map(lambda leaf, w=weights, ones=ones: ones if leaf is w else leaf, e.args.aux)
            if is_float(weights) and e.agree(e.a, e.evaluate_true(e.args._replace(aux=aux))):
                shown = name if isinstance(e.args.aux, dict) else "an argument"  # an audit knows no names
                return f"a gradient that ignores {shown}, such as a weight: it is right only where that is 1"
        return None
    if not isinstance(e.subject, GradientSubject) or len(e.args.aux) < 3:
        return None
    x, t, weights, *key = e.args.aux
    true = e.evaluate_true(e.args._replace(aux=(x, t, np.ones_like(weights), *key)))
    return "a gradient that ignores the weights of the examples" if e.agree(e.a, true) else None


def formula(e: Evidence) -> str | None:
    """Diagnoses an elementwise derivative by a formula of the input x and the output y."""
    if not e.is_elementwise or isinstance(e.subject, LossSubject):
        return None
    x, y, dy = e.value, e.y, e.args.dy
    for text, slope in FORMULAS.items():
        if e.agree(e.a, dy * slope(x, y)):
            return f"a derivative of {text}"
        if e.agree(e.a, e.b * slope(x, y)):
            return f"a derivative that is multiplied by {text}"
    return None


def other_derivative(e: Evidence) -> str | None:
    """Diagnoses the derivative of another activation, or the gradient of another loss."""
    if not e.is_elementwise and not e.is_loss:
        return None
    for name, gradient in _candidate_gradients(e).items():
        if e.agree(e.a, gradient):
            return name
    return None


def _candidate_gradients(e: Evidence) -> dict[str, np.ndarray]:
    """Returns what the gradient would be for every other activation or loss, by the diagnosis that it stands for."""
    gradients: dict[str, np.ndarray] = {}
    if e.is_loss:
        axes = e.value.ndim - 1  # before the outputs: of points, and of examples in a batch of any shape
        for t in _list_targets(e):
            x, target = (np.reshape(array, (len(array), -1, *np.shape(array)[axes:])) for array in (e.value, t))
            args = Args((), x, target, e.cotangent[..., 0].reshape(len(t), -1))
            for loss in LOSSES.values():
                twin = LossSubject("", loss())
                _add_gradient(gradients, f"the gradient of {loss.__name__} instead of its own", twin, args, e.a.shape)
            if t.shape == e.value.shape:
                binary = "the gradient of binary cross-entropy, -t/y + (1 - t)/(1 - y), instead of its own"
                gradients[binary] = e.cotangent * (-t / e.value + (1 - t) / (1 - e.value))
    elif not isinstance(e.subject, GradientSubject):
        args = Args((), e.value, np.zeros(e.args.dy.shape[:2], int), e.args.dy)
        for name, layer in ACTIVATIONS.items():
            twin = LayerSubject("", AutodiffLayer(layer), name)
            _add_gradient(gradients, f"the derivative of {name} instead of its own", twin, args, e.a.shape)
    return gradients


def _list_targets(e: Evidence) -> list[np.ndarray]:
    """Returns the arguments of a loss that may be its targets: of the shape of the outputs, or one for each row."""
    others = [*e.float_arguments().values(), *map(np.asarray, jax.tree.leaves(e.args.aux))]
    return [t for t in others if t.shape in (e.value.shape, e.value.shape[:-1])]


def _add_gradient(
    gradients: dict[str, np.ndarray], name: str, twin: Subject, args: Args, shape: tuple[int, ...]
) -> None:
    try:
        gradients[name] = twin.evaluate_handwritten(args)["dx"].reshape(shape)
    except (ValueError, TypeError):  # a loss for another kind of target
        return


def changed_steps(evidence: dict[str, Evidence], deadline: Deadline | None) -> Findings:
    """Diagnoses steps of the forward pass that backward treats as constants or differentiates wrongly.

    Args:
        evidence: The evidence on the wrong gradients of one subject, at the same points.
        deadline: When the search ends.
    """
    e = next(iter(evidence.values()))
    if not e.subject.is_traceable:
        changes = {name: _recognize_output(e) for name, e in evidence.items()}
        return Findings({name: change for name, change in changes.items() if change}, "")
    wrong = {name: Wrong(e.a, e.b, e.tolerance) for name, e in evidence.items() if name in e.arguments}
    if not wrong:  # only the value of a gradient function
        return Findings({}, "")
    end = np.inf if deadline is None else deadline.end
    return find_changes(e.subject.forward, e.args, wrong, e.subject.evaluate_handwritten, end)


def _recognize_output(e: Evidence) -> Change | None:
    """Diagnoses a wrong derivative of a function that is recognized by its values, such as a softmax."""
    if not e.is_elementwise:
        return None
    x, y, dy = (array.reshape(-1, *array.shape[2:]) for array in (e.value, e.y, e.args.dy))
    for function in recognize(x, y):
        for wrong in list_wrong_gradients(function, y.ndim - 1):
            if e.agree(e.a, wrong.gradient(dy, x, y).reshape(e.a.shape)):
                return Change(wrong.cause, wrong.sentence.replace("{step}", "the output"))
    return None

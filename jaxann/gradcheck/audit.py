"""The audit of a program: every custom derivative inside it, judged alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from jaxann.gradcheck.arguments import Args, by_name, is_float
from jaxann.gradcheck.compilation import clear_programs, precision
from jaxann.gradcheck.custom_rules import CustomCall, find_calls
from jaxann.gradcheck.deadline import Deadline
from jaxann.gradcheck.declarations import Declarations, accept_on_purpose, name_causes
from jaxann.gradcheck.differences import STEP
from jaxann.gradcheck.report import Report
from jaxann.gradcheck.subjects import Subject
from jaxann.gradcheck.verdict import judge
from jaxann.gradients.autodiff import vjp
from jaxann.nn.hyperparameters import is_traced, validate_number
from jaxann.nn.outer import sum_examples

OCCURRENCES = 2  # how many calls of one function with inputs of the same shapes are judged
MOST_DIFFERENCES = 2000  # entries of all inputs of a rule that is judged by central differences alone
# Functions of JAX whose rules are no derivatives for each input alone: the first takes a function and its solver apart.
NOT_ALONE = ("_custom_root",)


def audit(function: Any, *args: Any, on_purpose: Declarations = (), seconds: float | int = 20, seed: int = 0) -> Report:
    """Judges every custom derivative inside a program, each alone at its true input and its true incoming cotangent.

    The program may be any function that JAX can trace, such as the loss of a Flax or an Equinox model. Functions with a
    `jax.custom_vjp` or a `jax.custom_jvp` are found in it under `jit`, `vmap`, `scan`, `while_loop`, `cond` and
    `remat`, and inside one another. The derivative that such a function has by its rule is compared with `jax.vjp` of
    the same function without the rule, and both with central differences in float64. The incoming cotangent belongs to
    the inner product of the program's outputs with random numbers, and random cotangents are tried as well.

    In a loop, the first iteration and another one that is drawn at random are entered. Of several calls of one function
    with inputs of the same shapes, two are judged.

    Args:
        function: The program, a function of pytrees. It is given before it is differentiated, as by `jax.grad`, because
            a derivative no longer calls the functions that it comes from.
        *args: Its arguments. Floats are converted to float64. Leaves inside an argument that are no arrays, such as
            the activation function of an Equinox model, stay as they are.
        on_purpose: Names of functions whose rules are meant to differ from the true derivative, as that of a
            straight-through estimator does, or paths such as "ste.0" for a single input; or a mapping from such names
            to the cause that is meant, as in `check`.
        seconds: How many seconds the search for diagnoses may take, at least 0.
        seed: The seed of the iterations, the inputs and the cotangents that are drawn.

    Returns:
        A report with a row for each input of each rule. Its path is the name of the function and the position of the
        input, such as "rms_norm.0"; the owner of the row also says where the function is defined. If JAX cannot
        differentiate a function without its rule, as it cannot a Pallas kernel, the rule is compared with differences
        alone, and a note says so. What is not judged has a note, too: functions inside an operation that cannot be
        entered, such as a `shard_map`, and rules of complex numbers.

    Raises:
        TypeError: If `function` is not callable.
        SettingError: If no function or input has a name in `on_purpose`. It is a ValueError.
        Exception: Whatever the function raises when it is traced.

    Example:
        report = audit(loss, params, x, t)
        print(report)
        report.raise_if_wrong()
    """
    if not callable(function):
        raise TypeError(f"expected a function to audit, got {type(function).__name__}")
    validate_number("seconds", seconds, least=0)
    rng, rows, deadline = np.random.default_rng(seed), [], Deadline(seconds)
    clear_programs()
    with precision("float64"):
        found, notes = _find_calls(function, args, rng)
        calls, remarks = _select_calls(found)
        notes += remarks
        for path, call in calls.items():
            title = f"{path} ({call.place})"
            call, constants = call.align_batch().drop_constants(rng)
            notes += [
                f"Input {i} of {title} is not judged: its rule gives it no gradient, and it depends on no argument."
                for i in constants
            ]
            if not any(call.is_differentiable):
                continue
            subject, points = _RuleSubject(path, call), _draw_points(call, rng)
            if _closes_over_tracer(subject.handwritten_gradients, points):
                notes.append(f"{title} is not judged, because its rule uses a value of the program that is no input.")
                continue
            reason = _explain_failure(subject.autodiff_gradients, points)
            if reason:
                subject = _DifferencesSubject(path, call)
                too_large = sum(leaf[0].size for leaf in jax.tree.leaves((points.params, points.x))) > MOST_DIFFERENCES
                failure = too_large or _explain_failure(subject.autodiff_gradients, points)
                judged = "not judged" if failure else "judged by differences alone"
                notes.append(f"{title} is {judged}, because only its rule has a derivative: {reason}")
                if failure:
                    continue
            rows += judge(subject, points, 2, rng, ("float64",), deadline)
    if not (found or notes):
        notes.append("No function with a custom derivative is called.")
    causes = name_causes(on_purpose)
    declared = {path: causes[name] for name in causes for path in _expand(name, calls)}
    return Report(accept_on_purpose(rows, declared), 1, 1, tuple(notes))


def _expand(name: str, calls: dict[str, CustomCall]) -> list[str]:
    """Returns the path that a user declares, and the same path in further calls of the function."""
    function, dot, position = name.partition(".")
    return [name, *(f"{path}{dot}{position}" for path in calls if path.startswith(f"{function}#"))]


@dataclass(frozen=True, eq=False)
class _RuleSubject(Subject):
    """A function with a custom derivative: inputs that have one are `x`, and all others are `aux`."""

    path: str = field(compare=False)
    call: CustomCall

    is_single: ClassVar[bool] = True

    def __eq__(self, other: object) -> bool:  # two calls share no program, because their functions cannot be compared
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @property
    def name(self) -> str:
        return f"{self.call.name} ({self.call.place})" if self.call.place else self.call.name

    @property
    def eps(self) -> float:
        values = [*self.call.inputs, *self.call.primal(*self.call.inputs)]
        return max(float(jnp.finfo(jnp.result_type(value)).eps) for value in values if is_float(value))

    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Array:
        return self._apply(self.call.primal, x, aux)

    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[PyTree, PyTree]:
        _, pull = vjp(lambda x: self._apply(self.call.rule, x, aux), x)
        return (), pull(dy)[0]

    def _apply(self, function: Callable, x: PyTree, aux: PyTree) -> Array:
        """Returns the only float output, or several as one vector."""
        values = iter(x), iter(aux)
        inputs = [
            jnp.asarray(next(values[0] if differentiable else values[1]), jnp.result_type(value))
            for value, differentiable in zip(self.call.inputs, self.call.is_differentiable, strict=True)
        ]
        return _join([y for y in function(*inputs) if is_float(y)])


@dataclass(frozen=True, eq=False)
class _DifferencesSubject(_RuleSubject):
    """A function that JAX cannot differentiate without its rule, so that differences are the true gradients.

    Where the function is not smooth within the step, differences estimate nothing, and the rule's value stands for the
    true one.
    """

    @property
    def eps(self) -> float:
        # A difference loses three digits to its step in any precision, and three more to its error in float64.
        return max(1e3 * super().eps, 1e-9)

    def autodiff_gradients(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[Any, dict[str, Array]]:
        grads, dx = jax.vmap(self.backward, (None, 0, 0, 0))(params, x, aux, dy)
        handwritten, _ = ravel_pytree((sum_examples(grads), dx))
        point, unravel = ravel_pytree((params, x))

        def value(point: Array) -> Array:
            params, x = unravel(point)
            return jax.vmap(self.forward, (None, 0, 0))(params, x, aux)

        def difference(entry: Array) -> Array:
            step = STEP * jnp.clip(jnp.abs(point[entry]), 1e-2, 1)
            direction = jnp.zeros(point.size).at[entry].set(step)
            shifts = jnp.array([1, -1, 0.5, -0.5])
            far, back, near, near_back = jax.lax.map(lambda s: jnp.sum(dy * (value(point + s * direction) - y)), shifts)
            rough = jnp.abs(far + back - 4 * (near + near_back))
            slope = (4 * (near - near_back) - (far - back) / 2) / (3 * step)
            is_smooth = rough <= 1e-6 * step * jnp.abs(slope) + self.eps * jnp.sum(jnp.abs(dy * y))
            return jnp.where(is_smooth, slope, handwritten[entry])

        y = value(point)
        slopes = jax.lax.map(difference, jnp.arange(point.size))
        return y, by_name(*unravel(slopes))


def _explain_failure(function: Callable, points: Args) -> str:
    """Returns why a function of the arguments at one point cannot be traced; empty if it can be."""
    try:
        jax.eval_shape(function, *points.select(0))
    except Exception as error:  # JAX raises many kinds
        return str(error).partition(". ")[0].strip() or type(error).__name__
    return ""


def _closes_over_tracer(function: Callable, points: Args) -> bool:
    """Returns whether a function uses a tracer from the trace of the program, which has ended."""
    try:
        return any(map(is_traced, jax.make_jaxpr(function)(*points.select(0)).consts))
    except Exception:  # the verdict says what the rule raises
        return False


def _find_calls(
    function: Callable, args: tuple[Any, ...], rng: np.random.Generator
) -> tuple[list[CustomCall], list[str]]:
    """Returns the calls inside a program and notes on it: in float64, or as it is given if it is in float32 alone."""
    program, arrays = _close_over_constants(function, args)
    try:
        return find_calls(program, tuple(map(_to_float64, arrays)), rng)
    except TypeError as error:
        try:
            with precision("float32"):
                found, notes = find_calls(program, tuple(map(jnp.asarray, arrays)), rng)
        except Exception:
            raise error from None
        return found, [*notes, "The program is evaluated in float32, because it cannot be traced in float64."]


def _close_over_constants(function: Callable, args: tuple[Any, ...]) -> tuple[Callable, tuple[Any, ...]]:
    """Returns the program as a function of its arrays alone, which returns arrays alone, and the arrays."""
    leaves, structure = jax.tree.flatten([jnp.asarray(arg) if isinstance(arg, float) else arg for arg in args])

    def program(*arrays: Any) -> list[Any]:
        remaining = iter(arrays)
        values = [next(remaining) if _is_array(leaf) else leaf for leaf in leaves]
        return [y for y in jax.tree.leaves(function(*jax.tree.unflatten(structure, values))) if _is_array(y)]

    return program, tuple(filter(_is_array, leaves))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | np.generic | jax.Array)


def _to_float64(leaf: Any) -> Any:
    return jnp.asarray(leaf, float) if is_float(leaf) else leaf


def _select_calls(calls: list[CustomCall]) -> tuple[dict[str, CustomCall], list[str]]:
    """Returns the calls to judge, by the path in the report: the name, with a number if that is taken; and notes."""
    seen: dict[Any, int] = {}
    names: dict[str, int] = {}
    selected: dict[str, CustomCall] = {}
    notes: dict[str, None] = {}
    for call in calls:
        kind = call.name, call.place, tuple((np.shape(value), str(jnp.result_type(value))) for value in call.inputs)
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] > OCCURRENCES or not any(np.size(value) for value in call.floats or call.inputs):
            continue
        if call.name in NOT_ALONE:
            notes[f"{call.name} ({call.place}) is not judged, because its inputs depend on one another."] = None
            continue
        if not any(call.is_differentiable):
            if any(map(jnp.iscomplexobj, call.inputs)):
                notes[f"{call.name} ({call.place}) is not judged, because it is a function of complex numbers."] = None
            continue
        names[call.name] = names.get(call.name, 0) + 1
        selected[call.name if names[call.name] == 1 else f"{call.name}#{names[call.name]}"] = call
    return selected, list(notes)


def _draw_points(call: CustomCall, rng: np.random.Generator) -> Args:
    """Draws three points: the true input, with its true and with a random cotangent, and one near the true input."""
    inputs = list(zip(call.inputs, call.is_differentiable, strict=True))
    floats = tuple(np.asarray(value, float) for value, differentiable in inputs if differentiable)
    others = tuple(np.asarray(value) for value, differentiable in inputs if not differentiable)
    shape = jnp.shape(_join([y for y in call.primal(*call.inputs) if is_float(y)]))
    true = rng.normal(size=shape)
    if call.cotangents is not None:
        dy = np.asarray(_join([dy for dy in call.cotangents if dy is not None]), float)
        largest = np.abs(dy).max(initial=0)
        true = dy / largest if 0 < largest < np.inf else true
    near = tuple(_move(value, rng) for value in floats)
    points = [(floats, true), (floats, rng.normal(size=shape)), (near, rng.normal(size=shape))]
    # There is one example, which has an axis of its own.
    args = [jax.tree.map(lambda leaf: leaf[None], Args((), x, others, np.asarray(dy))) for x, dy in points]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *args)


def _move(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns an array near another one; zeros stay zeros unless all are, as those of an initial state."""
    noise = 0.1 * rng.normal(size=value.shape)
    return np.asarray(value * np.exp(noise) if value.any() else noise)


def _join(values: list[Any]) -> Array:
    values = [jnp.asarray(value).astype(float) for value in values]
    return values[0] if len(values) == 1 else jnp.concatenate([jnp.ravel(value) for value in values] or [jnp.zeros(0)])

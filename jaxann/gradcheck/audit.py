"""The audit of a program: every custom derivative inside it, judged alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxann.gradcheck.arguments import Args, is_float
from jaxann.gradcheck.compilation import clear_programs, precision
from jaxann.gradcheck.custom_rules import CustomCall, find_calls
from jaxann.gradcheck.declarations import accept_on_purpose
from jaxann.gradcheck.report import Report
from jaxann.gradcheck.subjects import Subject
from jaxann.gradcheck.verdict import judge
from jaxann.gradients.autodiff import vjp

OCCURRENCES = 2  # how many calls of one function with inputs of the same shapes are judged


def audit(function: Any, *args: Any, on_purpose: Sequence[str] | str = (), seed: int = 0) -> Report:
    """Judges every custom derivative inside a program, each alone at its true input and its true incoming cotangent.

    The program may be any function that JAX can trace, such as the loss of a Flax or an Equinox model. Functions with a
    `jax.custom_vjp` or a `jax.custom_jvp` are found in it under `jit`, `vmap`, `scan`, `while_loop`, `cond` and
    `remat`, and inside one another. The derivative that such a function has by its rule is compared with `jax.vjp` of
    the same function without the rule, and both with central differences in float64. The incoming cotangent belongs to
    the inner product of the program's outputs with random numbers, and random cotangents are tried as well.

    In a loop, the first iteration and one that is drawn at random are entered. Of several calls of one function with
    inputs of the same shapes, two are judged.

    Args:
        function: The program, a function of pytrees of arrays.
        *args: Its arguments. Floats are converted to float64.
        on_purpose: Names of functions whose rules are meant to differ from the true derivative, as that of a
            straight-through estimator does, or paths such as "ste.0" for a single input.
        seed: The seed of the iterations, the inputs and the cotangents that are drawn.

    Returns:
        A report with a row for each input of each rule. Its path is the name of the function and the position of the
        input, such as "rms_norm.0"; the owner of the row also says where the function is defined. A rule of a function
        that JAX cannot differentiate without it, such as one with a `while_loop`, is not judged but named in a note,
        and so are operations that cannot be entered, such as a `shard_map`.

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
    rng, rows = np.random.default_rng(seed), []
    clear_programs()
    with precision("float64"):
        args = jax.tree.map(_to_float64, args)
        found, notes = find_calls(function, args, rng)
        calls = _select_calls(found)
        for path, call in calls.items():
            subject, points = _RuleSubject(path, call), _draw_points(call, rng)
            try:
                jax.eval_shape(subject.autodiff_gradients, *points.select(0))
            except Exception as error:
                reason = str(error).partition(". ")[0]
                notes.append(f"{path}, {subject.name}, is not judged, because only its rule has a derivative: {reason}")
                continue
            rows += judge(subject, points, 2, rng, ("float64",))
    if not (found or notes):
        notes.append("No function with a custom derivative is called.")
    declared = (on_purpose,) if isinstance(on_purpose, str) else on_purpose
    return Report(accept_on_purpose(rows, [p for name in declared for p in _expand(name, calls)]), 1, 1, tuple(notes))


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


def _to_float64(leaf: Any) -> Any:
    return jnp.asarray(leaf, float) if is_float(leaf) else leaf


def _select_calls(calls: list[CustomCall]) -> dict[str, CustomCall]:
    """Returns the calls to judge, by the path in the report: the name, with a number if that is taken."""
    seen: dict[Any, int] = {}
    names: dict[str, int] = {}
    selected: dict[str, CustomCall] = {}
    for call in calls:
        kind = call.name, call.place, tuple((np.shape(value), str(jnp.result_type(value))) for value in call.inputs)
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] > OCCURRENCES or not any(call.is_differentiable):
            continue
        names[call.name] = names.get(call.name, 0) + 1
        selected[call.name if names[call.name] == 1 else f"{call.name}#{names[call.name]}"] = call
    return selected


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
    near = tuple(value * np.exp(0.1 * rng.normal(size=value.shape)) for value in floats)
    points = [(floats, true), (floats, rng.normal(size=shape)), (near, rng.normal(size=shape))]
    # There is one example, which has an axis of its own.
    args = [jax.tree.map(lambda leaf: leaf[None], Args((), x, others, np.asarray(dy))) for x, dy in points]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *args)


def _join(values: list[Any]) -> Array:
    values = [jnp.asarray(value).astype(float) for value in values]
    return values[0] if len(values) == 1 else jnp.concatenate([jnp.ravel(value) for value in values] or [jnp.zeros(0)])

"""The calls of functions with custom derivatives inside a program, each with its true inputs and incoming cotangent.

The program is traced to a jaxpr, which is evaluated equation by equation. Loops are entered at their first iteration
and at another one that is drawn at random; of a `cond` the branch that is taken is entered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxann.gradcheck.arguments import is_float
from jaxann.gradcheck.evaluation import Evaluation, Visit, contains
from jaxann.gradcheck.jaxprs import (
    bind_equation,
    count_constants,
    custom_name,
    custom_primal,
    is_derivative,
)
from jaxann.gradients.autodiff import vjp


class CustomCall(NamedTuple):
    """A call of a function with a custom derivative.

    Attributes:
        name: The name of the function.
        place: Where it is defined, as "file.py:12"; empty if JAX does not know it.
        rule: The function of the inputs, with its custom derivative.
        primal: The same function of the inputs without any custom derivative, also of functions that it calls.
        inputs: The inputs of the call.
        is_differentiable: For each input whether the rule has a derivative for it: not for integers, and not for values
            that the function closes over.
        cotangents: ∂E/∂y for each output, where E is the inner product of the program's outputs with random numbers;
            None where it is zero or not known.
        depends: A function of the position of an input that returns whether the program's derivative goes on from
            there to an argument of the program.
    """

    name: str
    place: str
    rule: Callable[..., list[Any]]
    primal: Callable[..., list[Any]]
    inputs: list[Any]
    is_differentiable: list[bool]
    cotangents: list[Any] | None
    depends: Callable[[int], bool]

    @property
    def floats(self) -> list[Any]:
        """The inputs for which the rule has a derivative."""
        return [value for value, chosen in zip(self.inputs, self.is_differentiable, strict=True) if chosen]

    def fill(self, floats: list[Any]) -> list[Any]:
        """Returns the inputs, with other values for those for which the rule has a derivative."""
        values, pairs = iter(floats), zip(self.inputs, self.is_differentiable, strict=True)
        return [next(values) if chosen else value for value, chosen in pairs]

    def drop_constants(self, rng: np.random.Generator) -> tuple[CustomCall, list[int]]:
        """Finds inputs that the rule gives no gradient, or zeros, and that depend on no argument of the program.

        The program needs no gradient for them, and a rule may return None there.

        Args:
            rng: The source of the cotangents at which the rule is tried.

        Returns:
            The call, in which these inputs have no derivative, and their positions.
        """
        try:
            outputs, pull = vjp(lambda floats: [y for y in self.rule(*self.fill(floats)) if is_float(y)], self.floats)
            (gradients,) = pull([jnp.asarray(rng.normal(size=y.shape), y.dtype) for y in outputs])
        except Exception:  # the verdict says what the rule raises
            return self, []
        gradients = self._replace(inputs=[None] * len(self.inputs)).fill(gradients)
        zero = [i for i, gradient in enumerate(gradients) if gradient is not None and not jnp.any(gradient != 0)]
        constants = [i for i in zero if not self.depends(i)]
        kept = [chosen and i not in constants for i, chosen in enumerate(self.is_differentiable)]
        return self._replace(is_differentiable=kept), constants

    def align_batch(self) -> CustomCall:
        """Returns the call with the axis of the batch first in every input, as `vmap` need not put it there.

        It is an axis along which each slice of the input has an effect only on the same slice of the output.
        """
        outputs = self.primal(*self.inputs)
        if len(outputs) != 1 or not is_float(outputs[0]) or not jnp.ndim(outputs[0]):
            return self
        axes = [self._find_batch(i, outputs[0]) for i in range(len(self.inputs))]
        if not any(axes):
            return self

        def call(function: Callable, *inputs: Any) -> list[Any]:
            pairs = zip(inputs, axes, strict=True)
            return function(*(jnp.moveaxis(x, 0, axis) if axis else x for x, axis in pairs))

        inputs = [jnp.moveaxis(x, axis, 0) if axis else x for x, axis in zip(self.inputs, axes, strict=True)]
        return self._replace(rule=partial(call, self.rule), primal=partial(call, self.primal), inputs=inputs)

    def _find_batch(self, position: int, y: Any) -> int:
        """Returns the axis of an input that is the first axis of the output, or 0."""
        x = self.inputs[position]
        if jnp.ndim(x) < 2 or not is_float(x) or len(y) < 2:
            return 0
        noise = np.random.default_rng(0).normal(size=x.shape)

        def follows(axis: int) -> bool:
            for index in (0, 1):
                place = (slice(None),) * axis + (index,)
                inputs = [*self.inputs]
                inputs[position] = jnp.asarray(x).at[place].add(noise[place])
                changed = jnp.any(jnp.reshape(self.primal(*inputs)[0] != y, (len(y), -1)), axis=1)
                if jnp.flatnonzero(changed).tolist() != [index]:
                    return False
            return True

        candidates = [axis for axis in range(1, jnp.ndim(x)) if x.shape[axis] == len(y)]
        if not candidates or (x.shape[0] == len(y) and follows(0)):
            return 0
        return next((axis for axis in candidates if follows(axis)), 0)


def find_calls(
    function: Callable, args: tuple[Any, ...], rng: np.random.Generator
) -> tuple[list[CustomCall], list[str]]:
    """Finds the calls of functions with custom derivatives that a function makes at its arguments.

    Args:
        function: A function of pytrees that JAX can trace.
        args: Its arguments.
        rng: The source of the iterations and cotangents that are drawn.

    Returns:
        The calls, in the order in which they are made, those inside a function with a custom derivative among them; and
        a note on everything that could not be found: the incoming cotangents, or calls inside an operation that cannot
        be entered, such as a `shard_map`.

    Raises:
        Exception: Whatever the function raises when it is traced.
    """
    program, leaves = jax.make_jaxpr(function)(*args), jax.tree.leaves(args)
    seed = int(rng.integers(2**31))
    found: list[CustomCall] = []

    def record(equation: Any, inputs: list[Any], outputs: list[Any]) -> list[Any]:
        rule, called = bind_equation(equation), custom_primal(equation)

        def primal(*inputs: Any) -> list[Any]:
            return Evaluation().run(called, inputs)

        constants = count_constants(equation)
        is_differentiable = [i >= constants and is_float(value) for i, value in enumerate(inputs)]
        rule, primal = (_accept_key_data(function, inputs) for function in (rule, primal))
        inputs = [jax.random.key_data(value) if _is_key(value) else value for value in inputs]
        depends = partial(_depends, program, leaves, seed, len(found))
        found.append(CustomCall(*custom_name(equation), rule, primal, inputs, is_differentiable, None, depends))
        shapes.append([jnp.zeros_like(output) if is_float(output) else None for output in outputs])
        return outputs

    shapes: list[list[Any]] = []
    visit = Visit(record, np.random.default_rng(seed))
    visit.run(program, leaves)
    notes = [f"Functions with a custom derivative inside {name} are not judged." for name in sorted(visit.closed)]
    if contains(is_derivative, program):
        notes.append(
            "A part of the program is the derivative of a function, and custom derivatives that it uses are not "
            "judged: give the function before it is differentiated."
        )
    for use_rules in (False, True):  # some functions have a derivative by their rules only
        opaque = [use_rules and not _has_derivative(call) for call in found]
        try:
            outputs, pull = vjp(partial(_run_with_taps, program, leaves, seed, opaque), shapes)
            (cotangents,) = pull([jnp.asarray(rng.normal(size=y.shape), y.dtype) for y in outputs])
        except Exception as error:  # a part of the program may have no derivative
            reason = str(error).partition(". ")[0]
        else:
            return [call._replace(cotangents=dy) for call, dy in zip(found, cotangents, strict=True)], notes
    return found, [*notes, f"All cotangents are random, because the program has no derivative: {reason}"]


def _run_with_taps(program: Any, leaves: list[Any], seed: int, opaque: list[bool], taps: list[list[Any]]) -> list[Any]:
    """Returns the float outputs of a program in which a tap is added to each output of a custom function.

    Functions that are opaque are called with their rules.
    """
    remaining = iter(zip(opaque, taps, strict=True))

    def add_tap(equation: Any, inputs: list[Any], outputs: list[Any]) -> list[Any]:
        is_opaque, taps = next(remaining)
        outputs = bind_equation(equation)(*inputs) if is_opaque else outputs
        return [y if tap is None else y + tap for y, tap in zip(outputs, taps, strict=True)]

    outputs = Visit(add_tap, np.random.default_rng(seed)).run(program, leaves)
    return [output for output in outputs if is_float(output)]


def _depends(program: Any, leaves: list[Any], seed: int, index: int, position: int) -> bool:
    """Returns whether the program's derivative reaches its arguments from one input of one call.

    If it takes no arguments, or if JAX cannot tell, the answer is yes.
    """
    floats = [leaf for leaf in leaves if is_float(leaf)]
    if not floats:
        return True

    def run(floats: list[Any]) -> Any:
        seen: list[list[Any]] = []

        def use_rule(equation: Any, inputs: list[Any], outputs: list[Any]) -> list[Any]:
            seen.append(inputs)
            return bind_equation(equation)(*inputs)

        values = iter(floats)
        arguments = [next(values) if is_float(leaf) else leaf for leaf in leaves]
        Visit(use_rule, np.random.default_rng(seed)).run(program, arguments)
        return seen[index][position]

    try:
        value, pull = vjp(run, floats)
        (gradients,) = pull(jnp.asarray(np.random.default_rng(seed).normal(size=value.shape), value.dtype))
    except Exception:  # JAX raises many kinds
        return True
    return any(jnp.any(gradient != 0) for gradient in gradients)


def _has_derivative(call: CustomCall) -> bool:
    """Returns whether JAX can differentiate a function in reverse without its rule."""

    def run(floats: list[Any]) -> list[Any]:
        return [y for y in call.primal(*call.fill(floats)) if is_float(y)]

    def pull_back(floats: list[Any]) -> Any:
        outputs, pull = vjp(run, floats)
        return pull(outputs)

    try:
        jax.eval_shape(pull_back, call.floats)
    except Exception:  # JAX raises many kinds
        return False
    return True


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key)


def _accept_key_data(function: Callable, inputs: list[Any]) -> Callable:
    """Returns a function that takes the integers of a key in place of each key among its inputs."""
    if not any(map(_is_key, inputs)):
        return function
    kinds = [jax.random.key_impl(value) if _is_key(value) else None for value in inputs]

    def call(*values: Any) -> Any:
        pairs = zip(values, kinds, strict=True)
        return function(*(v if kind is None else jax.random.wrap_key_data(v, impl=kind) for v, kind in pairs))

    return call

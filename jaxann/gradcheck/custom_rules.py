"""The calls of functions with custom derivatives inside a program, each with its true inputs and incoming cotangent.

The program is traced to a jaxpr, which is evaluated equation by equation. Loops are entered at their first iteration
and at one that is drawn at random; of a `cond` the branch that is taken is entered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxann.gradcheck.arguments import is_float
from jaxann.gradcheck.jaxprs import (
    bind_equation,
    called_program,
    count_constants,
    custom_name,
    custom_primal,
    inner_programs,
    is_custom,
    read_value,
    split_scan,
)
from jaxann.gradients.autodiff import stop_gradient, vjp


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
    """

    name: str
    place: str
    rule: Callable[..., list[Any]]
    primal: Callable[..., list[Any]]
    inputs: list[Any]
    is_differentiable: list[bool]
    cotangents: list[Any] | None


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
        rule, program = bind_equation(equation), custom_primal(equation)

        def primal(*inputs: Any) -> list[Any]:
            return Evaluation().run(program, inputs)

        constants = count_constants(equation)
        is_differentiable = [i >= constants and is_float(value) for i, value in enumerate(inputs)]
        found.append(CustomCall(*custom_name(equation), rule, primal, inputs, is_differentiable, None))
        shapes.append([jnp.zeros_like(output) if is_float(output) else None for output in outputs])
        return outputs

    shapes: list[list[Any]] = []
    visit = _Visit(record, np.random.default_rng(seed))
    visit.run(program, leaves)
    notes = [f"Functions with a custom derivative inside {name} are not judged." for name in sorted(visit.closed)]

    def run_with_taps(taps: list[list[Any]]) -> list[Any]:
        remaining = iter(taps)

        def add_tap(equation: Any, inputs: list[Any], outputs: list[Any]) -> list[Any]:
            return [y if tap is None else y + tap for y, tap in zip(outputs, next(remaining), strict=True)]

        outputs = _Visit(add_tap, np.random.default_rng(seed)).run(program, leaves)
        return [output for output in outputs if is_float(output)]

    try:
        outputs, pull = vjp(run_with_taps, shapes)
        (cotangents,) = pull([jnp.asarray(rng.normal(size=y.shape), y.dtype) for y in outputs])
    except Exception as error:  # a part of the program may have no derivative
        reason = str(error).partition(". ")[0]
        return found, [*notes, f"All cotangents are random, because the program has no derivative: {reason}"]
    return [call._replace(cotangents=dy) for call, dy in zip(found, cotangents, strict=True)], notes


class Evaluation:
    """An evaluation of programs, equation by equation, in which no function has a custom derivative.

    It may be traced and differentiated by JAX.
    """

    def run(self, program: Any, inputs: Sequence[Any]) -> list[Any]:
        """Returns the outputs of a program."""
        jaxpr = program.jaxpr
        values = dict(zip(jaxpr.constvars, program.consts, strict=True)) | dict(zip(jaxpr.invars, inputs, strict=True))
        for equation in jaxpr.eqns:
            arguments = [read_value(variable, values) for variable in equation.invars]
            values.update(zip(equation.outvars, self._evaluate(equation, arguments), strict=True))
        return [read_value(variable, values) for variable in jaxpr.outvars]

    def _evaluate(self, equation: Any, inputs: list[Any]) -> list[Any]:
        if is_custom(equation):
            return self.call_custom(equation, inputs)
        called, name = called_program(equation), equation.primitive.name
        if not any(map(_calls_custom, inner_programs(equation))):
            return bind_equation(equation)(*inputs)
        if called is not None:
            return self.run(called, inputs)
        if name == "scan":
            consts, carry, xs = split_scan(equation, inputs)
            body, length, reverse = (equation.params[name] for name in ("jaxpr", "length", "reverse"))
            xs = [x[::-1] for x in xs] if reverse else xs
            carry, ys = self.scan(body, consts, carry, xs, length)
            return [*carry, *(y[::-1] for y in ys)] if reverse else [*carry, *ys]
        if name == "while":
            first, second = equation.params["cond_nconsts"], equation.params["body_nconsts"]
            condition = partial(self._test, equation.params["cond_jaxpr"], inputs[:first])
            carry = inputs[first + second :]
            return self.repeat(condition, equation.params["body_jaxpr"], inputs[first : first + second], carry)
        if name == "cond":
            return self.choose(inputs[0], equation.params["branches"], inputs[1:])
        return self.call_closed(equation, inputs)

    def call_closed(self, equation: Any, inputs: list[Any]) -> list[Any]:
        """Returns the outputs of an equation that JAX evaluates in a way of its own, such as a `shard_map`."""
        return bind_equation(equation)(*inputs)

    def _test(self, condition: Any, consts: list[Any], carry: list[Any]) -> Any:
        return self.run(condition, [*consts, *carry])[0]

    def call_custom(self, equation: Any, inputs: list[Any]) -> list[Any]:
        """Returns the outputs of a function with a custom derivative."""
        return self.run(custom_primal(equation), inputs)

    def scan(self, body: Any, consts: list[Any], carry: list[Any], xs: list[Any], length: int) -> tuple[Any, Any]:
        """Returns the carry after a scan, and what it stacks."""
        n = len(carry)

        def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
            outputs = self.run(body, [*consts, *carry, *x])
            return outputs[:n], outputs[n:]

        return jax.lax.scan(step, carry, xs, length=length)

    def repeat(self, condition: Callable, body: Any, consts: list[Any], carry: list[Any]) -> list[Any]:
        """Returns the carry after a while loop."""
        return list(jax.lax.while_loop(condition, lambda carry: self.run(body, [*consts, *carry]), carry))

    def choose(self, index: Any, branches: Sequence[Any], inputs: list[Any]) -> list[Any]:
        """Returns the outputs of one of several programs."""
        return jax.lax.switch(index, [lambda *args, b=branch: self.run(b, args) for branch in branches], *inputs)


class _Visit(Evaluation):
    """An evaluation with known inputs that shows calls of custom functions to a visitor, which may change the outputs.

    Args:
        visit: A function of the equation, its inputs and its outputs, which returns the outputs to go on with.
        rng: The source of the iterations that are entered.

    Attributes:
        closed: The names of operations that call custom functions and could not be entered.
    """

    def __init__(self, visit: Callable[[Any, list[Any], list[Any]], list[Any]], rng: np.random.Generator) -> None:
        self._visit, self._rng, self._rest = visit, rng, Evaluation()
        self.closed: set[str] = set()

    def call_closed(self, equation: Any, inputs: list[Any]) -> list[Any]:
        self.closed.add(equation.primitive.name)
        return super().call_closed(equation, inputs)

    def call_custom(self, equation: Any, inputs: list[Any]) -> list[Any]:
        return self._visit(equation, inputs, super().call_custom(equation, inputs))

    def scan(self, body: Any, consts: list[Any], carry: list[Any], xs: list[Any], length: int) -> tuple[Any, Any]:
        pieces, begin = [], 0
        for entered in sorted({0, int(self._rng.integers(max(length, 1)))} if length else ()):
            before = [x[begin:entered] for x in xs]
            carry, ys = self._rest.scan(body, consts, carry, before, entered - begin)
            outputs = self.run(body, [*consts, *carry, *(x[entered] for x in xs)])
            carry, one = outputs[: len(carry)], [y[None] for y in outputs[len(carry) :]]
            pieces += [ys, one]
            begin = entered + 1
        carry, ys = self._rest.scan(body, consts, carry, [x[begin:] for x in xs], length - begin)
        return carry, [jnp.concatenate(parts) for parts in zip(*pieces, ys, strict=True)]

    def repeat(self, condition: Callable, body: Any, consts: list[Any], carry: list[Any]) -> list[Any]:
        # JAX has no derivative of a while loop in reverse, so that none passes it here either.
        consts, carry = jax.tree.map(lambda value: stop_gradient(jnp.asarray(value)), (consts, carry))
        if condition(carry):
            carry = [stop_gradient(value) for value in self.run(body, [*consts, *carry])]
        return self._rest.repeat(condition, body, consts, carry)

    def choose(self, index: Any, branches: Sequence[Any], inputs: list[Any]) -> list[Any]:
        return self.run(branches[int(jnp.clip(index, 0, len(branches) - 1))], inputs)


def _calls_custom(program: Any) -> bool:
    return any(is_custom(e) or any(map(_calls_custom, inner_programs(e))) for e in program.jaxpr.eqns)

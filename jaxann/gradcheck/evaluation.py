"""Evaluations of JAX's intermediate programs, equation by equation, that reach into loops, branches and calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from jaxann.gradcheck.jaxprs import (
    bind_equation,
    called_program,
    custom_primal,
    inner_programs,
    is_custom,
    operation_name,
    read_value,
    split_scan,
)
from jaxann.gradients.autodiff import stop_gradient


class Evaluation:
    """An evaluation of programs, equation by equation, that computes functions without their custom derivatives.

    JAX can trace and differentiate it. A subclass may replace other equations instead.
    """

    def replaces(self, equation: Any) -> bool:
        """Returns whether an equation is computed by `replace`."""
        return is_custom(equation)

    def replace(self, equation: Any, inputs: list[Any]) -> list[Any]:
        """Returns the outputs of an equation that is computed in another way."""
        return self.run(custom_primal(equation), inputs)

    def keeps(self, equation: Any) -> bool:
        """Returns whether an equation stays as it is, whatever is inside it."""
        return False

    def run(self, program: Any, inputs: Sequence[Any]) -> list[Any]:
        """Returns the outputs of a program."""
        if not contains(self.replaces, program):
            return list(jaxpr_as_fun(program)(*inputs))  # which keeps the source lines of its operations
        jaxpr = program.jaxpr
        values = dict(zip(jaxpr.constvars, program.consts, strict=True)) | dict(zip(jaxpr.invars, inputs, strict=True))
        for equation in jaxpr.eqns:
            arguments = [read_value(variable, values) for variable in equation.invars]
            values.update(zip(equation.outvars, self._evaluate(equation, arguments), strict=True))
        return [read_value(variable, values) for variable in jaxpr.outvars]

    def _evaluate(self, equation: Any, inputs: list[Any]) -> list[Any]:
        if self.replaces(equation):
            return self.replace(equation, inputs)
        called, name = called_program(equation), equation.primitive.name
        if self.keeps(equation) or not any(contains(self.replaces, p) for p in inner_programs(equation)):
            return bind_equation(equation)(*inputs)
        if called is not None:
            return self.run(called, inputs)
        if name == "scan":
            options = {name: equation.params[name] for name in ("length", "reverse", "unroll")}
            carry, ys = self.scan(equation.params["jaxpr"], *split_scan(equation, inputs), **options)
            return [*carry, *ys]
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

    def scan(self, body: Any, consts: list[Any], carry: list[Any], xs: list[Any], **options: Any) -> tuple[Any, Any]:
        """Returns the carry after a scan, and what it stacks; `options` are those of `jax.lax.scan`."""
        n = len(carry)

        def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
            outputs = self.run(body, [*consts, *carry, *x])
            return outputs[:n], outputs[n:]

        return jax.lax.scan(step, carry, xs, **options)

    def repeat(self, condition: Callable, body: Any, consts: list[Any], carry: list[Any]) -> list[Any]:
        """Returns the carry after a while loop."""

        def step(carry: list[Any]) -> list[Any]:
            return _select(condition(carry), self.run(body, [*consts, *carry]), carry)

        return list(jax.lax.while_loop(lambda carry: jnp.any(condition(carry)), step, carry))

    def choose(self, index: Any, branches: Sequence[Any], inputs: list[Any]) -> list[Any]:
        """Returns the outputs of one of several programs."""
        return jax.lax.switch(index, [lambda *args, b=branch: self.run(b, args) for branch in branches], *inputs)


class Visit(Evaluation):
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
        self.closed.add(operation_name(equation))
        return super().call_closed(equation, inputs)

    def replace(self, equation: Any, inputs: list[Any]) -> list[Any]:
        return self._visit(equation, inputs, super().replace(equation, inputs))

    def scan(self, body: Any, consts: list[Any], carry: list[Any], xs: list[Any], **options: Any) -> tuple[Any, Any]:
        length, pieces, begin = options["length"], [], 0
        order = slice(None, None, -1 if options["reverse"] else 1)
        xs = [x[order] for x in xs]
        # The first iteration may be special, because the carry is often zero there.
        for entered in sorted({0, int(self._rng.integers(min(1, length - 1), length))} if length else ()):
            before = [x[begin:entered] for x in xs]
            carry, ys = self._rest.scan(body, consts, carry, before, length=entered - begin)
            outputs = self.run(body, [*consts, *carry, *(x[entered] for x in xs)])
            carry, one = outputs[: len(carry)], [y[None] for y in outputs[len(carry) :]]
            pieces += [ys, one]
            begin = entered + 1
        carry, ys = self._rest.scan(body, consts, carry, [x[begin:] for x in xs], length=length - begin)
        return carry, [jnp.concatenate(parts)[order] for parts in zip(*pieces, ys, strict=True)]

    def repeat(self, condition: Callable, body: Any, consts: list[Any], carry: list[Any]) -> list[Any]:
        # JAX has no derivative of a while loop in reverse, so that none passes it here either.
        consts, carry = jax.tree.map(lambda value: stop_gradient(jnp.asarray(value)), (consts, carry))
        goes_on = condition(carry)
        if jnp.any(goes_on):
            carry = _select(goes_on, [stop_gradient(value) for value in self.run(body, [*consts, *carry])], carry)
        return self._rest.repeat(condition, body, consts, carry)

    def choose(self, index: Any, branches: Sequence[Any], inputs: list[Any]) -> list[Any]:
        return self.run(branches[int(jnp.clip(index, 0, len(branches) - 1))], inputs)


def contains(is_kind: Callable[[Any], bool], program: Any) -> bool:
    """Returns whether an equation of some kind is in a program or in a program inside it."""
    return any(
        is_kind(equation) or any(contains(is_kind, inner) for inner in inner_programs(equation))
        for equation in program.jaxpr.eqns
    )


def _select(is_active: Any, new: list[Any], old: list[Any]) -> list[Any]:
    """Returns the carry of a while loop that `vmap` has batched: of the examples that go on, the new one."""
    if not jnp.ndim(is_active):
        return new

    def choose(new: Any, old: Any) -> Any:
        return jnp.where(jnp.reshape(is_active, is_active.shape + (1,) * (jnp.ndim(new) - is_active.ndim)), new, old)

    return [choose(*pair) for pair in zip(new, old, strict=True)]

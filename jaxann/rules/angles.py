"""What a learning rule is: a backward pass that differs on purpose, with feedback that is no parameter.

`Ruled` makes a layer of a model and a rule, so that whatever takes a layer takes both; `Angles` watches a rule learn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.gradients.backprop import backprop
from jaxann.gradients.stateful import Stateful
from jaxann.nn.base import Layer
from jaxann.nn.loss import Loss
from jaxann.rules.base import Rule


@dataclass(frozen=True)
class WithAngles:
    """The gradient function of `rule`, which tells at every step, for each matrix, two angles in degrees.

    "gradient angle 0.W" is that between its gradient and the true one, "feedback angle 0.W" that between it and what
    the backward pass sees in its place, where that is another. It costs a second backward pass.
    """

    rule: Rule

    def __call__(self, model: Layer, loss: Loss) -> Stateful:
        """The gradient function, for training."""
        ruled, true = self.rule(model, loss), backprop(model, loss)

        def step(
            params: PyTree, feedback: PyTree, x: Array, t: Array, weights: Any = None, key: PRNGKeyArray | None = None
        ) -> tuple[Float[Array, ""], PyTree, PyTree, dict[str, Array]]:
            value, grads, after, metrics = ruled.step(params, feedback, x, t, weights, key)
            _, wanted = true(params, x, t, weights, key)
            told = _angles("gradient angle", grads, wanted) | _angles(
                "feedback angle", params, self.rule.backward_params(params, feedback)
            )
            return value, grads, after, metrics | told

        return replace(ruled, step=step)


def angle(a: Array, b: Array) -> Float[Array, ""]:
    """The angle between two arrays in degrees; 90 where one is zero, 0 where both are.

    2 atan2(‖u - v‖, ‖u + v‖) of the unit vectors, which is right to rounding where the arc cosine is not.
    Source: Kahan 2006, section 12.
    """
    u, v = (_unit(_unit(c.ravel(), jnp.inf), 2) for c in (a, b))  # by the largest first, whose square may be no number
    return jnp.degrees(2 * jnp.arctan2(jnp.linalg.norm(u - v), jnp.linalg.norm(u + v)))


def _unit(c: Array, order: Any) -> Array:
    size = jnp.linalg.norm(c, order)
    return c / jnp.where(size == 0, 1, size)


def _angles(name: str, one: PyTree, two: PyTree) -> dict[str, Array]:
    pairs = zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True)
    return {
        f"{name} {jax.tree_util.keystr(path, simple=True, separator='.')}": angle(a, b)
        for (path, a), b in pairs
        if a.ndim > 1 and a is not b
    }

"""The angles between a learning rule and backprop while a network learns by the rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.gradients.backprop import backprop
from jaxann.gradients.stateful import Stateful
from jaxann.nn.base import Layer, path_name
from jaxann.nn.loss import Loss
from jaxann.rules.base import Rule


@dataclass(frozen=True)
class WithAngles:
    """Wrapper of a rule that adds angles, in degrees and for each matrix, to the metrics of every step.

    "gradient angle 0.W" is the angle between the rule's gradient of 0.W and the true one. "feedback angle 0.W" is the
    angle between 0.W and what the backward pass uses in its place, for rules where the two differ. The angles cost a
    second backward pass.

    Attributes:
        rule: The rule that is measured.
    """

    rule: Rule

    def __call__(self, model: Layer, loss: Loss) -> Stateful:
        """Returns the gradient function of a model and a loss, for training.

        Args:
            model: The network.
            loss: The loss of one example.

        Returns:
            The rule's gradient function, with the angles in its metrics.

        Raises:
            ValueError: If the rule does not apply to this model.
        """
        ruled, true = self.rule(model, loss), backprop(model, loss)

        def step(
            params: PyTree, feedback: PyTree, x: Array, t: Array, weights: Any = None, key: PRNGKeyArray | None = None
        ) -> tuple[Float[Array, ""], PyTree, PyTree, dict[str, Array]]:
            value, grads, after, metrics = ruled.step(params, feedback, x, t, weights, key)
            _, true_grads = true(params, x, t, weights, key)
            gradient_angles = _matrix_angles("gradient angle", grads, true_grads)
            feedback_angles = _matrix_angles("feedback angle", params, self.rule.backward_params(params, feedback))
            return value, grads, after, metrics | gradient_angles | feedback_angles

        return replace(ruled, step=step)


def angle(a: Array, b: Array) -> Float[Array, ""]:
    """Computes the angle between two arrays.

    2 atan2(‖u - v‖, ‖u + v‖) for the unit vectors u and v. Unlike the arc cosine of ⟨u, v⟩, it is accurate to rounding
    for every angle.

    Args:
        a: An array of any shape.
        b: An array of the same shape.

    Returns:
        The angle in degrees, from 0 to 180: 90 if one of the arrays is zero, and 0 if both are.

    Source: Kahan 2006, section 12.
    """
    # Dividing by the largest entry first keeps the squares in the norm from overflowing or vanishing.
    u, v = (_divide_by_norm(_divide_by_norm(c.ravel(), jnp.inf), 2) for c in (a, b))
    return jnp.degrees(2 * jnp.arctan2(jnp.linalg.norm(u - v), jnp.linalg.norm(u + v)))


def _divide_by_norm(c: Array, order: Any) -> Array:
    size = jnp.linalg.norm(c, order)
    return c / jnp.where(size == 0, 1, size)


def _matrix_angles(name: str, one: PyTree, two: PyTree) -> dict[str, Array]:
    """Returns the angle between the two trees' leaves for each matrix, unless both leaves are the same array."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True)
    return {f"{name} {path_name(path)}": angle(a, b) for (path, a), b in pairs if a.ndim > 1 and a is not b}

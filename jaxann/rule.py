"""What a learning rule is: a backward pass that differs on purpose, with feedback that is no parameter.

`Ruled` makes a layer of a model and a rule, so that whatever takes a layer takes both; `Angles` watches a rule learn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxann.backprop import backprop
from jaxann.gradient import Stateful
from jaxann.layer import Layer
from jaxann.layers import Sequential, leaves
from jaxann.losses import Loss, shares
from jaxann.per_example import mean, per_example

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray, PyTree


@dataclass(frozen=True)
class Rule:
    """Backprop itself; a rule is a subclass that overrides what it does otherwise.

    Called as rule(model, loss) it is a gradient function with the feedback for its state, which `fit` takes.
    """

    @property
    def random(self) -> bool:
        """Whether `update` draws with its key."""
        return False

    def alter(self, model: Layer) -> Layer:
        """`model` with other backward passes: the same parameters and outputs. Raises ValueError for what has none."""
        return model

    def init(self, model: Layer, key: PRNGKeyArray) -> PyTree:
        """The feedback before the first step."""
        return ()

    def seen(self, params: PyTree, feedback: PyTree) -> PyTree:
        """The parameters that the backward pass sees in place of `params`."""
        return params

    def backward(self, altered: Layer, params: PyTree, feedback: PyTree, saved: Any, dy: Array) -> tuple[PyTree, Array]:
        """grads, dx of one example, from dy = ∂E/∂y of the whole model."""
        return altered.backward(self.seen(params, feedback), saved, dy)

    def update(self, model: Layer, params: PyTree, feedback: PyTree, grads: PyTree, key: PRNGKeyArray | None) -> PyTree:
        """The feedback after a step that had these `grads` at these `params`."""
        return feedback

    def __call__(self, model: Layer, loss: Loss) -> Stateful:
        """The gradient function of `model` and `loss` by this rule."""
        ruled = Ruled(model, self)
        of_each = per_example(ruled, loss)  # whose deltas are not yet shares of a mean, which a rule may depend on

        def step(
            params: PyTree, feedback: PyTree, x: Array, t: Array, weights: Any = None, key: PRNGKeyArray | None = None
        ) -> tuple[Float[Array, ""], PyTree, PyTree, dict[str, Array]]:
            losses, each = of_each((params, feedback), x, t, key)
            grads = mean(each, weights)
            after = self.update(model, params, feedback, grads, None if key is None else apart(key))
            return shares(weights, len(x)) @ losses, grads, after, {}

        return Stateful(step, lambda key: self.init(model, apart(key)), random=self.random or ruled.random)


@dataclass(frozen=True)
class Ruled(Layer):
    """`model` with its backward by `rule`, for the pair (params, feedback); its grads are those of params alone."""

    model: Layer
    rule: Rule

    @property
    def altered(self) -> Layer:
        """The model that runs."""
        return self.rule.alter(self.model)

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        return self.model.sizes

    @property
    def random(self) -> bool:
        return self.altered.random

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        params_key, feedback_key = jax.random.split(key)
        return self.model.init(params_key), self.rule.init(self.model, feedback_key)

    def forward(self, params: tuple[PyTree, PyTree], x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        return self.altered.forward(params[0], x, key)

    def backward(self, params: tuple[PyTree, PyTree], saved: Any, dy: Array) -> tuple[PyTree, Array]:
        return self.rule.backward(self.altered, *params, saved, dy)  # y, saved = altered.forward(params[0], x)


@dataclass(frozen=True)
class Angles:
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
                "feedback angle", params, self.rule.seen(params, feedback)
            )
            return value, grads, after, metrics | told

        return replace(ruled, step=step)


def apart(key: PRNGKeyArray) -> PRNGKeyArray:
    """A key that no layer or example has: those that `split` gives are `key` folded with 0, 1, ..."""
    return jax.random.fold_in(key, 2**32 - 1)


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


def trained_layers(rule: Rule, model: Layer) -> dict[str, Layer]:
    """The leaves with parameters. Raises ValueError for a model that is no chain or has none."""
    if not isinstance(model, Sequential):
        raise ValueError(f"{rule} needs a chain of layers, a Sequential, not {model}")
    found = {
        path: layer
        for path, layer in leaves(model).items()
        if jax.tree.leaves(jax.eval_shape(layer.init, jax.random.key(0)))
    }
    if not found:
        raise ValueError(f"{rule} needs a layer with parameters, but {model} has none")
    return found

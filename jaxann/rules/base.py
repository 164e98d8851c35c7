"""What a learning rule is: a backward pass that differs on purpose, with feedback that is no parameter.

`Ruled` makes a layer of a model and a rule, so that whatever takes a layer takes both; `Angles` watches a rule learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.gradients import per_example
from jaxann.gradients.per_example import mean
from jaxann.gradients.stateful import Stateful
from jaxann.nn.base import Layer
from jaxann.nn.loss import Loss, mean_weights
from jaxann.nn.sequential import Sequential, leaf_layers


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

    def backward_params(self, params: PyTree, feedback: PyTree) -> PyTree:
        """The parameters that the backward pass sees in place of `params`."""
        return params

    def backward(self, altered: Layer, params: PyTree, feedback: PyTree, saved: Any, dy: Array) -> tuple[PyTree, Array]:
        """grads, dx of one example, from dy = ∂E/∂y of the whole model."""
        return altered.backward(self.backward_params(params, feedback), saved, dy)

    def update(self, model: Layer, params: PyTree, feedback: PyTree, grads: PyTree, key: PRNGKeyArray | None) -> PyTree:
        """The feedback after a step that had these `grads` at these `params`."""
        return feedback

    def __call__(self, model: Layer, loss: Loss) -> Stateful:
        """The gradient function of `model` and `loss` by this rule."""
        ruled = RuledLayer(model, self)
        of_each = per_example.gradients(
            ruled, loss
        )  # whose deltas are not yet shares of a mean, which a rule may depend on

        def step(
            params: PyTree, feedback: PyTree, x: Array, t: Array, weights: Any = None, key: PRNGKeyArray | None = None
        ) -> tuple[Float[Array, ""], PyTree, PyTree, dict[str, Array]]:
            losses, each = of_each((params, feedback), x, t, key)
            grads = mean(each, weights)
            after = self.update(model, params, feedback, grads, None if key is None else fold_in_private(key))
            return mean_weights(weights, len(x)) @ losses, grads, after, {}

        return Stateful(step, lambda key: self.init(model, fold_in_private(key)), random=self.random or ruled.random)


@dataclass(frozen=True)
class RuledLayer(Layer):
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


def fold_in_private(key: PRNGKeyArray) -> PRNGKeyArray:
    """A key that no layer or example has: those that `split` gives are `key` folded with 0, 1, ..."""
    return jax.random.fold_in(key, 2**32 - 1)


def layers_with_params(rule: Rule, model: Layer) -> dict[str, Layer]:
    """The leaves with parameters. Raises ValueError for a model that is no chain or has none."""
    if not isinstance(model, Sequential):
        raise ValueError(f"{rule} needs a chain of layers, a Sequential, not {model}")
    found = {
        path: layer
        for path, layer in leaf_layers(model).items()
        if jax.tree.leaves(jax.eval_shape(layer.init, jax.random.key(0)))
    }
    if not found:
        raise ValueError(f"{rule} needs a layer with parameters, but {model} has none")
    return found

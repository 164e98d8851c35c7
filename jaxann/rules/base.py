"""The base class of learning rules, and the layer that a model and a rule make together.

A rule is a backward pass that differs from backprop on purpose. Its feedback is a state of the gradient function, apart
from the parameters. `RuledLayer` makes a layer of a model and a rule, for code that takes layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.gradients import per_example
from jaxann.gradients.backprop import backprop
from jaxann.gradients.moments import mean
from jaxann.gradients.stateful import Stateful
from jaxann.nn.base import InputGradient, Layer, leaf_layers
from jaxann.nn.loss import Loss, mean_weights
from jaxann.nn.recomputed import remove_recomputation
from jaxann.nn.sequential import Sequential


@dataclass(frozen=True)
class Rule:
    """Backprop, as a learning rule; other rules are subclasses that override the methods in which they differ.

    Called as `rule(model, loss)`, a rule returns a gradient function, so `fit(..., gradient=rule)` trains with it.
    """

    @property
    def random(self) -> bool:
        """Whether `update` draws random numbers with its key."""
        return False

    @property
    def linear(self) -> bool:
        """Whether the backward is linear in dy, as that of backprop is; forward mode needs it."""
        return True

    def alter(self, model: Layer) -> Layer:
        """Returns the model with backward passes of its own.

        Args:
            model: The network.

        Returns:
            A layer with the same parameters and outputs as `model`.

        Raises:
            ValueError: If the rule does not apply to this model.
        """
        return model

    def init(self, model: Layer, key: PRNGKeyArray) -> PyTree:
        """Returns the feedback before the first step.

        Args:
            model: The network.
            key: The key that the feedback is drawn with.

        Returns:
            The feedback, a pytree of arrays.
        """
        return ()

    def backward_params(self, params: PyTree, feedback: PyTree) -> PyTree:
        """Returns the parameters that the backward pass uses in place of the model's.

        Args:
            params: The parameters of the model.
            feedback: The feedback of this step.

        Returns:
            Parameters in the structure and shapes of `params`.
        """
        return params

    def backward(
        self, altered: Layer, params: PyTree, feedback: PyTree, saved: Any, dy: Array
    ) -> tuple[PyTree, InputGradient]:
        """Computes the gradients of one example.

        Args:
            altered: The model as `alter` returns it.
            params: The parameters of the model.
            feedback: The feedback of this step.
            saved: What the forward pass of `altered` saved.
            dy: ∂E/∂y, the gradient at the model's output.

        Returns:
            The gradients of the parameters, with an `Outer` for a matrix, and dx, which is None for integers.
        """
        return altered.backward(self.backward_params(params, feedback), saved, dy)

    def update(self, model: Layer, params: PyTree, feedback: PyTree, grads: PyTree, key: PRNGKeyArray | None) -> PyTree:
        """Returns the feedback after a step.

        Args:
            model: The network.
            params: The parameters before the step.
            feedback: The feedback of this step.
            grads: The mean gradient of the step by this rule, in the structure and shapes of `params`.
            key: The key to draw with, or None if the step was called without one.

        Returns:
            The feedback of the next step, in the structure and shapes of `feedback`.
        """
        return feedback

    def __call__(self, model: Layer, loss: Loss) -> Stateful:
        """Returns the gradient function of a model and a loss by this rule.

        Args:
            model: The network.
            loss: The loss of one example.

        Returns:
            A gradient function whose state is the feedback.

        Raises:
            ValueError: If the rule does not apply to this model.
        """
        ruled = RuledLayer(model, self)
        model = ruled.model
        # The mean's 1/B enters after the backward pass, as a rule may depend on the size of an example's own deltas.
        # The deltas of coupled examples depend on the weights of all of them, which therefore enter before it.
        compute_gradients = (backprop if ruled.coupled else per_example.gradients)(ruled, loss)

        def step(
            params: PyTree, feedback: PyTree, x: Array, t: Array, weights: Any = None, key: PRNGKeyArray | None = None
        ) -> tuple[Float[Array, ""], PyTree, PyTree, dict[str, Array]]:
            if ruled.coupled:
                losses, grads = compute_gradients((params, feedback), x, t, weights, key)  # their mean alone
            else:
                losses, example_grads = compute_gradients((params, feedback), x, t, key)
                grads = mean(example_grads, weights)
            after = self.update(model, params, feedback, grads, None if key is None else fold_in_private(key))
            return losses if ruled.coupled else mean_weights(weights, len(x)) @ losses, grads, after, {}

        return Stateful(step, lambda key: self.init(model, fold_in_private(key)), random=self.random or ruled.random)


@dataclass(frozen=True)
class RuledLayer(Layer):
    """A model whose backward follows a rule, as a layer whose parameters are the pair (params, feedback).

    Its backward returns gradients of params only.

    Attributes:
        model: The network. Every `Recomputed` in it is replaced by the layer inside, because the backward of a rule
            does not get the parameters with which the forward pass could be computed again.
        rule: The rule that its backward follows.
    """

    model: Layer
    rule: Rule

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", remove_recomputation(self.model))

    @property
    def altered(self) -> Layer:
        """The model as the rule alters it, whose forward this layer runs."""
        return self.rule.alter(self.model)

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        return self.model.sizes

    @property
    def keeps_shape(self) -> bool:
        return self.model.keeps_shape

    @property
    def vocabularies(self) -> dict[str, int]:
        return self.model.vocabularies

    @property
    def random(self) -> bool:
        return self.altered.random

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        params_key, feedback_key = jax.random.split(key)
        return self.model.init(params_key), self.rule.init(self.model, feedback_key)

    def forward(self, params: tuple[PyTree, PyTree], x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        return self.altered.forward(params[0], x, key)

    def backward(self, params: tuple[PyTree, PyTree], saved: Any, dy: Array) -> tuple[PyTree, InputGradient]:
        return self.rule.backward(self.altered, *params, saved, dy)  # y, saved = altered.forward(params[0], x)


def fold_in_private(key: PRNGKeyArray) -> PRNGKeyArray:
    """Returns a key that differs from the keys of all layers and examples.

    `jax.random.split` folds 0, 1, ... into a key, and this function folds in 2³² - 1.

    Args:
        key: The key that layers or examples get theirs from.

    Returns:
        A key for the rule alone.
    """
    return jax.random.fold_in(key, 2**32 - 1)


def layers_with_params(rule: Rule, model: Layer) -> dict[str, Layer]:
    """Returns the layers of a chain that have parameters.

    Args:
        rule: The rule that needs them, for the message of an error.
        model: The network.

    Returns:
        The layers by their paths, from first to last.

    Raises:
        ValueError: If the model is not a `Sequential`, or none of its layers has parameters.
    """
    if not isinstance(model, Sequential):
        raise ValueError(f"expected a Sequential for {rule}, got {model}")
    layers = {
        path: layer
        for path, layer in leaf_layers(model).items()
        if jax.tree.leaves(jax.eval_shape(layer.init, jax.random.key(0)))
    }
    if not layers:
        raise ValueError(f"expected a model with parameters for {rule}, got {model}")
    return layers

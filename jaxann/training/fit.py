"""Training, prediction and evaluation, each as one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.data.batches import Examples, make_lanes
from jaxann.data.validation import validate, validate_ids, validate_schedule, validate_weights
from jaxann.gradients.backprop import backprop
from jaxann.nn.axis import require_uncoupled
from jaxann.nn.base import Layer
from jaxann.nn.batch import forward_batch
from jaxann.nn.hyperparameters import is_traced
from jaxann.nn.loss import Loss, mean_weights
from jaxann.training.divergence import raise_if_nonfinite
from jaxann.training.memory import validate_memory
from jaxann.training.recipe import History, Recipe, start, train


def fit(
    model: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    x: Any,
    t: Any,
    *,
    key: PRNGKeyArray,
    epochs: int,
    batch_size: int,
    gradient: Callable = backprop,
    shuffle: bool = True,
    weights: Any = None,
) -> tuple[PyTree, History]:
    """Trains a network from randomly drawn parameters and returns the trained ones.

    Every step is one update W ← W - l ∂E/∂W, or whatever else the optimizer makes of the batch's mean gradient ∂E/∂W.
    A batch takes one example from each lane (see `jaxann.data.batches`). The orders of the examples, epochs · N 32-bit
    integers, are kept in memory.
    The function is pure: it may be called under `jit` and `vmap`, which may map over keys and over numbers inside the
    optimizer. It compiles once for the same model, loss and optimizer, so define the optimizer before a loop over
    calls of `fit`, not in it.
    A network with a `BatchNorm` predicts after `calibrate(model, params, x)`, which takes the training examples.

    Args:
        model: The network.
        loss: The loss between its outputs and the targets.
        optimizer: An optax transformation from mean gradients to updates.
        x: [N, ...], the features. Integers are converted to floats unless the model's forward rejects floats.
        t: [N, ...], the targets.
        key: The key that parameters, orders of the examples and dropout are drawn from.
        epochs: How many times every example is taken.
        batch_size: The number of examples in a batch, between 1 and N. Where it does not divide N, some batches are
            shorter.
        gradient: A function (model, loss) that returns a gradient function, such as `backprop`, `autodiff` or a
            learning rule.
        shuffle: Whether every epoch takes the examples in a new order.
        weights: [N], above 0, how much each example counts in the means; ones by default.

    Returns:
        The trained parameters, and the history of the run.

    Raises:
        ValueError: If the data, the weights or the schedule are not what `validate`, `validate_weights` and
            `validate_schedule` expect, or if the run needs more memory than `validate_memory` finds free.
        FloatingPointError: If the loss or the parameters stop being finite; the message names the epoch, the step and
            the layer. Inside `jit` or `vmap` it cannot be raised: check the loss and the parameters yourself there.
    """
    x, t = validate(model, loss, x, t)
    validate_schedule(len(x), epochs, batch_size)
    recipe = Recipe(model, loss, optimizer, batch_size, gradient, shuffle)
    validate_memory(recipe, key, x.shape[1:], dtype=x.dtype)
    lanes = make_lanes(Examples(x, t, validate_weights(weights, len(x))), batch_size)
    before = start(recipe, key)
    after, history = train(recipe, before, lanes, epochs)
    if not is_traced(history.loss):
        raise_if_nonfinite(recipe, before, after, history, lanes)
    return after.params, history


def apply(model: Layer, params: PyTree, x: Shaped[Array, "N ..."]) -> Float[Array, "N ..."]:
    """Returns the outputs of a network for a batch.

    Args:
        model: The network. No random numbers are drawn: layers such as dropout are in evaluation mode.
        params: Its parameters.
        x: [N, ...], the features.

    Returns:
        [N, ...], the outputs.

    Raises:
        ValueError: If the model couples the examples of a batch, as one with a `BatchNorm` does. `calibrate` returns
            the model and the parameters to predict with.
    """
    require_uncoupled(model, "predictions and evaluations (jaxann.calibrate returns one)")
    return forward_batch(model, params, x)[0]


def evaluate_batch(
    model: Layer, loss: Loss, params: PyTree, examples: Examples
) -> tuple[Float[Array, "N ..."], Float[Array, ""]]:
    """Returns the outputs of a network for a batch and the weighted mean loss over it.

    Args:
        model: The network. No random numbers are drawn: layers such as dropout are in evaluation mode.
        loss: The loss between its outputs and the targets.
        params: The parameters of the network.
        examples: N examples.

    Returns:
        [N, ...], the outputs, and the mean loss.

    Raises:
        ValueError: If the model couples the examples of a batch, as in `apply`.
    """
    x, t, weights = jax.tree.map(jnp.asarray, examples)
    y = apply(model, params, x)
    return y, mean_weights(weights, len(y)) @ jax.vmap(loss.value)(y, t)


def predict(model: Layer, params: PyTree, x: Any) -> Float[Array, "N ..."]:
    """Returns the outputs of a network for a batch, from a program that is compiled once for each model and shape.

    Args:
        model: The network. No random numbers are drawn: layers such as dropout are in evaluation mode.
        params: Its parameters.
        x: [N, ...], the features.

    Returns:
        [N, ...], the outputs.

    Raises:
        ValueError: If the features are ids and an id has no row in an embedding of the network.
        InputError: If a layer does not take its input. It is a ValueError.
    """
    validate_ids(model, x)
    return _apply_compiled(model, params, x)


_apply_compiled = jax.jit(apply, static_argnames="model")
evaluate = jax.jit(evaluate_batch, static_argnames=("model", "loss"))

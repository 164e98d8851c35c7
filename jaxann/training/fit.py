"""A whole training run as one pure program: epochs of reshuffled batches around an optax optimiser.

The gradient comes as an argument; everything random is drawn before the step loop, which keeps its compile short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.data.batches import Examples, Lanes
from jaxann.data.validation import validate, validate_schedule, validate_weights
from jaxann.gradients.backprop import backprop
from jaxann.gradients.probe import find_nonfinite, is_finite
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import is_traced
from jaxann.nn.loss import Loss, mean_weights
from jaxann.training.recipe import History, Recipe, TrainState, _batches, _step, start, train


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
    """Parameters drawn with `key` and trained on features x [N, n] and targets t [N, ...], and the run's history.

    Every epoch takes the examples in a new order (unless `shuffle` is off) in batches of `batch_size`: the
    next one of each lane, as `batches` says, where some may have none. Each step is one update W ← W - l ∂E/∂W, or
    whatever else `optimizer` makes of the batch's mean gradient, found by `gradient(model, loss)`; `weights` [N] make
    it a weighted one. Pure: it may be under `jit` and `vmap`, over keys or over numbers inside the optimiser. Takes
    epochs N integers of memory for the orders. It is compiled once for the same model, loss and optimiser: make the
    optimiser before a loop around `fit`, not in it.

    Raises ValueError as `validate`, `validate_weights` and `validate_schedule` do, and FloatingPointError, naming
    epoch, step and layer, when the loss or the parameters stop being finite. Inside `jit` or `vmap` nothing can be
    raised: look at both.
    """
    x, t = validate(model, loss, x, t)
    validate_schedule(len(x), epochs, batch_size)
    data = Examples(x, t, validate_weights(weights, len(x)))
    recipe = Recipe(model, loss, optimizer, batch_size, gradient, shuffle)
    before = start(recipe, key)
    after, history = train(recipe, before, data, epochs)
    if not is_traced(history.loss):
        raise_if_nonfinite(recipe, before, after, history, data)
    return after.params, history


def apply(model: Layer, params: PyTree, x: Shaped[Array, "N ..."]) -> Float[Array, "N ..."]:
    """The network's outputs for a batch x [N, ...]."""
    return jax.vmap(lambda x: model.forward(params, x)[0])(x)


def evaluate_batch(
    model: Layer, loss: Loss, params: PyTree, data: Examples
) -> tuple[Float[Array, "N ..."], Float[Array, ""]]:
    """The network's outputs for `data`, and the loss over it."""
    y = apply(model, params, data.x)
    return y, mean_weights(data.weights, len(y)) @ jax.vmap(loss.value)(y, data.t)


predict = jax.jit(apply, static_argnames="model")
evaluate = jax.jit(evaluate_batch, static_argnames=("model", "loss"))


def raise_if_nonfinite(
    recipe: Recipe, before: TrainState, after: TrainState, history: History, data: Examples | Lanes
) -> None:
    """Raises FloatingPointError, naming epoch, step and layer, if what `train` made of `before` is not finite.

    It looks by taking the last steps again, one by one, so that the run itself pays nothing.
    """
    if is_finite((after.params, history)):
        return
    good = np.isfinite(np.ravel(history.step_loss))
    first = len(good) if good.all() else int(np.argmin(good))
    epochs = max(first - 1, 0) // history.step_loss.shape[1]  # the step before may have made the parameters so
    state = train(recipe, before, data, epochs)[0] if epochs else before
    carry = state.params, state.opt_state, state.gradient_state
    data = data.lanes(recipe.batch_size)
    step = jax.jit(lambda carry, batch, data: _step(recipe, data)(carry, batch))  # no process may hold all the data
    batches = _batches(recipe, state, data, 2)
    steps = history.step_loss.shape[1]
    for i in range(2 * steps):
        batch = jax.tree.map(lambda leaf: leaf[divmod(i, steps)], batches)  # noqa: B023, it is called at once
        x, t, _ = data.at(batch.places)
        found = find_nonfinite(recipe.model, recipe.loss, carry[0], x, t, batch.key if recipe.model.random else None)
        carry, _ = step(carry, batch, data)
        if not found and not is_finite(carry[0]):
            found = "the parameters, after the optimiser's update"
        if found:
            where = f"epoch {int(state.epoch) + i // steps + 1}, step {i % steps + 1}"
            raise FloatingPointError(f"{where}: the first value that is not finite is in {found}")
    raise FloatingPointError("the run is not finite, though its steps, taken again one by one, are")

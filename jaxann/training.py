"""A whole training run as one pure program: epochs of reshuffled batches around an optax optimiser.

The gradient comes as an argument; everything random is drawn before the step loop, which keeps its compile short.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxann.backprop import backprop
from jaxann.layer import Layer
from jaxann.losses import Loss
from jaxann.probe import finite, first_nonfinite
from jaxann.validate import validate, validate_schedule

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped


class TrainState(NamedTuple):
    """Where a run stands: all that its next epoch depends on."""

    params: PyTree
    opt_state: PyTree
    key: PRNGKeyArray
    epoch: Int[Array, ""]


class History(NamedTuple):
    """The mean loss over each epoch's examples, and the loss of each step, both before the steps' own updates."""

    loss: Float[Array, " epochs"]
    step_loss: Float[Array, "epochs steps"]


class Recipe(NamedTuple):
    """What is to be trained and how: the part of a run that is compiled in."""

    model: Layer
    loss: Loss
    optimizer: optax.GradientTransformation
    batch_size: int
    gradient: Callable = backprop
    shuffle: bool = True


@partial(jax.jit, static_argnames="recipe")
def start(recipe: Recipe, key: PRNGKeyArray) -> TrainState:
    """The state before the first epoch: parameters drawn and the optimiser's state made."""
    params_key, shuffle_key = jax.random.split(key)
    params = recipe.model.init(params_key)
    return TrainState(params, recipe.optimizer.init(params), shuffle_key, jnp.zeros((), int))


@partial(jax.jit, static_argnames=("recipe", "epochs"))
def train(
    recipe: Recipe, state: TrainState, x: Float[Array, "N ..."], t: Shaped[Array, "N ..."], epochs: int
) -> tuple[TrainState, History]:
    """The next `epochs` epochs, in one compiled program; any split of a run into such pieces gives the same run."""
    orders, weights = _orders(recipe, state, len(x), epochs), _weights(recipe, len(x))
    step = _step(recipe, x, t)

    def epoch(carry, order):
        carry, step_loss = jax.lax.scan(step, carry, (order, weights))
        return carry, History(step_loss @ (weights.sum(axis=1) / len(x)), step_loss)

    (params, opt_state), history = jax.lax.scan(epoch, (state.params, state.opt_state), orders)
    return TrainState(params, opt_state, state.key, state.epoch + epochs), history


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
) -> tuple[PyTree, History]:
    """Parameters drawn with `key` and trained on features x [N, n] and targets t [N, ...], and the run's history.

    Every epoch takes the examples in a new order (unless `shuffle` is off) in batches of `batch_size`, the last one
    shorter where it must be; each step is one update W ← W - l ∂E/∂W, or whatever else `optimizer` makes of the
    batch's mean gradient, found by `gradient(model, loss)`. Pure: it may be under `jit` and `vmap`, over keys or
    over numbers inside the optimiser. Takes epochs N integers of memory for the orders. It is compiled once for the
    same model, loss and optimiser: make the optimiser before a loop around `fit`, not in it.

    Raises ValueError as `validate` and `validate_schedule` do, and FloatingPointError, naming epoch, step and layer,
    when the loss or the parameters stop being finite. Inside `jit` or `vmap` nothing can be raised: look at both.
    """
    x, t = validate(model, loss, x, t)
    validate_schedule(len(x), epochs, batch_size)
    recipe = Recipe(model, loss, optimizer, batch_size, gradient, shuffle)
    before = start(recipe, key)
    after, history = train(recipe, before, x, t, epochs)
    if not isinstance(history.loss, Tracer):
        raise_if_nonfinite(recipe, before, after, history, x, t)
    return after.params, history


@partial(jax.jit, static_argnames="model")
def predict(model: Layer, params: PyTree, x: Shaped[Array, "N ..."]) -> Float[Array, "N ..."]:
    """The network's outputs for a batch x [N, ...]."""
    return jax.vmap(lambda x: model.forward(params, x)[0])(x)


def raise_if_nonfinite(
    recipe: Recipe,
    before: TrainState,
    after: TrainState,
    history: History,
    x: Float[Array, "N ..."],
    t: Shaped[Array, "N ..."],
) -> None:
    """Raises FloatingPointError, naming epoch, step and layer, if what `train` made of `before` is not finite.

    It looks by taking the last steps again, one by one, so that the run itself pays nothing.
    """
    if finite((after.params, history)):
        return
    good = np.isfinite(np.ravel(history.step_loss))
    first = len(good) if good.all() else int(np.argmin(good))
    epochs = max(first - 1, 0) // history.step_loss.shape[1]  # the step before may have made the parameters so
    state = train(recipe, before, x, t, epochs)[0] if epochs else before
    carry, step, weights = state[:2], jax.jit(_step(recipe, x, t)), _weights(recipe, len(x))
    for epoch, order in enumerate(_orders(recipe, state, len(x), 2)):
        for i, batch in enumerate(zip(order, weights, strict=True)):
            found = first_nonfinite(recipe.model, recipe.loss, carry[0], x[batch[0]], t[batch[0]])
            carry, _ = step(carry, batch)
            if not found and not finite(carry[0]):
                found = "the parameters, after the optimiser's update"
            if found:
                where = f"epoch {int(state.epoch) + epoch + 1}, step {i + 1}"
                raise FloatingPointError(f"{where}: the first value that is not finite is in {found}")
    raise FloatingPointError("the run is not finite, though its steps, taken again one by one, are")


def _step(recipe: Recipe, x: Float[Array, "N ..."], t: Shaped[Array, "N ..."]) -> Callable:
    """(params, opt_state) and a batch's (indices, weights) -> the next (params, opt_state) and the batch's loss."""
    gradient = recipe.gradient(recipe.model, recipe.loss)
    update = optax.with_extra_args_support(recipe.optimizer).update

    def step(carry, batch):
        (params, opt_state), (indices, weights) = carry, batch
        data = x[indices], t[indices], weights
        value, grads = gradient(params, *data)
        updates, opt_state = update(  # what a few optimisers ask for beside the gradient
            grads, opt_state, params, value=value, grad=grads, value_fn=lambda params: gradient(params, *data)[0]
        )
        return (optax.apply_updates(params, updates), opt_state), value

    return step


def _orders(recipe: Recipe, state: TrainState, examples: int, epochs: int) -> Int[Array, "epochs steps B"]:
    """The examples of every step of the next `epochs`; the last batch of each filled up with example 0."""

    def order(epoch):
        indices = jnp.arange(examples)
        return jax.random.permutation(jax.random.fold_in(state.key, epoch), indices) if recipe.shuffle else indices

    filling = -examples % recipe.batch_size
    orders = jax.vmap(order)(state.epoch + jnp.arange(epochs))
    return jnp.pad(orders, ((0, 0), (0, filling))).reshape(epochs, -1, recipe.batch_size)


def _weights(recipe: Recipe, examples: int) -> Float[Array, "steps B"]:
    """1 for an example, 0 for what fills the last batch up."""
    places = -(-examples // recipe.batch_size) * recipe.batch_size
    return (jnp.arange(places) < examples).astype(float).reshape(-1, recipe.batch_size)

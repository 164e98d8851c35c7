"""A whole training run as one pure program: epochs of reshuffled batches around an optax optimiser.

The gradient comes as an argument; everything random is drawn before the step loop, which keeps its compile short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxann.backprop import backprop
from jaxann.batches import Batch, Examples, Lanes, drawn
from jaxann.gradient import stateful
from jaxann.layer import Layer, traced
from jaxann.losses import Loss, shares
from jaxann.probe import finite, first_nonfinite
from jaxann.validate import validate, validate_schedule, validate_weights

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped


class TrainState(NamedTuple):
    """Where a run stands: all that its next epoch depends on."""

    params: PyTree
    opt_state: PyTree
    key: PRNGKeyArray
    epoch: Int[Array, ""]
    gradient_state: PyTree = ()


class History(NamedTuple):
    """The mean loss over each epoch's examples, and the loss of each step, both before the steps' own updates.

    `metrics` are what a `Stateful` gradient tells beside, the mean over each epoch's steps.
    """

    loss: Float[Array, " epochs"]
    step_loss: Float[Array, "epochs steps"]
    metrics: dict[str, Float[Array, " epochs"]] = {}  # noqa: RUF012


class Recipe(NamedTuple):
    """What is to be trained and how: the part of a run that is compiled in."""

    model: Layer
    loss: Loss
    optimizer: optax.GradientTransformation
    batch_size: int
    gradient: Callable = backprop
    shuffle: bool = True


def started(recipe: Recipe, key: PRNGKeyArray) -> TrainState:
    """The state before the first epoch: parameters drawn, the optimiser's and the gradient's state made."""
    params_key, shuffle_key = jax.random.split(key)
    params, gradient = recipe.model.init(params_key), stateful(recipe.gradient(recipe.model, recipe.loss))
    gradient_state = gradient.init(jax.random.fold_in(params_key, 1))
    return TrainState(params, recipe.optimizer.init(params), shuffle_key, jnp.zeros((), int), gradient_state)


def trained(recipe: Recipe, state: TrainState, data: Examples | Lanes, epochs: int) -> tuple[TrainState, History]:
    """The next `epochs` epochs, and their history; any split of a run into such pieces gives the same run."""
    data = data.lanes(recipe.batch_size)
    step = _step(recipe, data)

    def epoch(carry, batches):
        carry, (step_loss, weight, metrics) = jax.lax.scan(step, carry, batches)
        return carry, History(step_loss @ (weight / weight.sum()), step_loss, jax.tree.map(jnp.mean, metrics))

    # Without the barrier XLA fuses drawing with a step that is the only one in its epoch, and rounds it otherwise in
    # pieces of other lengths.
    batches = jax.lax.optimization_barrier(_batches(recipe, state, data, epochs))
    carry = state.params, state.opt_state, state.gradient_state
    (params, opt_state, gradient_state), history = jax.lax.scan(epoch, carry, batches)
    return TrainState(params, opt_state, state.key, state.epoch + epochs, gradient_state), history


# Compiled once for a recipe; what traces numbers in a recipe, as a sweep does, compiles the plain functions itself.
start = jax.jit(started, static_argnames="recipe")
train = jax.jit(trained, static_argnames=("recipe", "epochs"))


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
    if not traced(history.loss):
        raise_if_nonfinite(recipe, before, after, history, data)
    return after.params, history


def outputs(model: Layer, params: PyTree, x: Shaped[Array, "N ..."]) -> Float[Array, "N ..."]:
    """The network's outputs for a batch x [N, ...]."""
    return jax.vmap(lambda x: model.forward(params, x)[0])(x)


def evaluated(
    model: Layer, loss: Loss, params: PyTree, data: Examples
) -> tuple[Float[Array, "N ..."], Float[Array, ""]]:
    """The network's outputs for `data`, and the loss over it."""
    y = outputs(model, params, data.x)
    return y, shares(data.weights, len(y)) @ jax.vmap(loss.value)(y, data.t)


predict = jax.jit(outputs, static_argnames="model")
evaluate = jax.jit(evaluated, static_argnames=("model", "loss"))


def raise_if_nonfinite(
    recipe: Recipe, before: TrainState, after: TrainState, history: History, data: Examples | Lanes
) -> None:
    """Raises FloatingPointError, naming epoch, step and layer, if what `train` made of `before` is not finite.

    It looks by taking the last steps again, one by one, so that the run itself pays nothing.
    """
    if finite((after.params, history)):
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
        found = first_nonfinite(recipe.model, recipe.loss, carry[0], x, t, batch.key if recipe.model.random else None)
        carry, _ = step(carry, batch, data)
        if not found and not finite(carry[0]):
            found = "the parameters, after the optimiser's update"
        if found:
            where = f"epoch {int(state.epoch) + i // steps + 1}, step {i % steps + 1}"
            raise FloatingPointError(f"{where}: the first value that is not finite is in {found}")
    raise FloatingPointError("the run is not finite, though its steps, taken again one by one, are")


def _step(recipe: Recipe, data: Lanes) -> Callable:
    """(params, opt_state, gradient_state) and a `Batch` -> the next three, and the batch's loss, weight and metrics."""
    gradient = stateful(recipe.gradient(recipe.model, recipe.loss))
    update = optax.with_extra_args_support(recipe.optimizer).update

    def step(carry, batch):
        params, opt_state, state = carry
        args = data.at(batch.places)
        draws = {} if batch.key is None else {"key": batch.key}
        value, grads, after, metrics = gradient.step(params, state, *args, **draws)

        def value_fn(params, batch=args):  # optax's line search hands it what else the optimiser is given
            return gradient.at(state)(params, *batch, **draws)[0]

        more = {"value": value, "grad": grads, "value_fn": value_fn, "batch": args}  # a few optimisers ask for more
        updates, opt_state = update(grads, opt_state, params, **more)
        return (optax.apply_updates(params, updates), opt_state, after), (value, args[2].sum(), metrics)

    return step


def _batches(recipe: Recipe, state: TrainState, data: Lanes, epochs: int) -> Batch:
    """The steps of the next `epochs`, [epochs, steps, ...]."""
    random = recipe.model.random or stateful(recipe.gradient(recipe.model, recipe.loss)).random

    def epoch(number):
        return drawn(data, jax.random.fold_in(state.key, number), shuffle=recipe.shuffle, random=random)

    return jax.vmap(epoch)(state.epoch + jnp.arange(epochs))

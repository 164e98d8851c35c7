"""A whole training run as one pure program: epochs of reshuffled batches around an optax optimiser.

The gradient comes as an argument; everything random is drawn before the step loop, which keeps its compile short.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxann.data.batches import Batch, Examples, Lanes, draw_batches
from jaxann.gradients.backprop import backprop
from jaxann.gradients.stateful import as_stateful
from jaxann.nn.base import Layer
from jaxann.nn.loss import Loss


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


def init_state(recipe: Recipe, key: PRNGKeyArray) -> TrainState:
    """The state before the first epoch: parameters drawn, the optimiser's and the gradient's state made."""
    params_key, shuffle_key = jax.random.split(key)
    params, gradient = recipe.model.init(params_key), as_stateful(recipe.gradient(recipe.model, recipe.loss))
    gradient_state = gradient.init(jax.random.fold_in(params_key, 1))
    return TrainState(params, recipe.optimizer.init(params), shuffle_key, jnp.zeros((), int), gradient_state)


def run_epochs(recipe: Recipe, state: TrainState, data: Examples | Lanes, epochs: int) -> tuple[TrainState, History]:
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
start = jax.jit(init_state, static_argnames="recipe")
train = jax.jit(run_epochs, static_argnames=("recipe", "epochs"))


def _step(recipe: Recipe, data: Lanes) -> Callable:
    """(params, opt_state, gradient_state) and a `Batch` -> the next three, and the batch's loss, weight and metrics."""
    gradient = as_stateful(recipe.gradient(recipe.model, recipe.loss))
    update = optax.with_extra_args_support(recipe.optimizer).update

    def step(carry, batch):
        params, opt_state, state = carry
        args = data.at(batch.places)
        draws = {} if batch.key is None else {"key": batch.key}
        value, grads, after, metrics = gradient.step(params, state, *args, **draws)

        def value_fn(params, batch=args):  # optax's line search hands it what else the optimiser is given
            return gradient.bind(state)(params, *batch, **draws)[0]

        more = {"value": value, "grad": grads, "value_fn": value_fn, "batch": args}  # a few optimisers ask for more
        updates, opt_state = update(grads, opt_state, params, **more)
        return (optax.apply_updates(params, updates), opt_state, after), (value, args[2].sum(), metrics)

    return step


def _batches(recipe: Recipe, state: TrainState, data: Lanes, epochs: int) -> Batch:
    """The steps of the next `epochs`, [epochs, steps, ...]."""
    random = recipe.model.random or as_stateful(recipe.gradient(recipe.model, recipe.loss)).random

    def epoch(number):
        return draw_batches(data, jax.random.fold_in(state.key, number), shuffle=recipe.shuffle, random=random)

    return jax.vmap(epoch)(state.epoch + jnp.arange(epochs))

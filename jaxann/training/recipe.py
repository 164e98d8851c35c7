"""What a run is made of: its recipe, its state, its history, and the pure function that goes from epoch to epoch.

The gradient function is a setting of the recipe. The batches and keys of all steps are drawn before the loop over the
steps, so that the loop is quick to compile.
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxann.data.batches import Batch, Lanes, draw_batches
from jaxann.gradients.backprop import backprop
from jaxann.gradients.stateful import Stateful, as_stateful
from jaxann.nn.base import Layer
from jaxann.nn.loss import Loss
from jaxann.nn.xla import LARGE_PRODUCTS, LIGHT_OPTIMIZATION, THREADS, Options
from jaxann.training.products import sum_small_products
from jaxann.training.programs import Program


class TrainState(NamedTuple):
    """The state of a run between two epochs: all that its next epoch depends on, besides recipe and examples.

    Attributes:
        params: The parameters of the model.
        opt_state: What the optimizer keeps from step to step.
        key: The key that the epochs' orders and the steps' keys are drawn from.
        epoch: The number of epochs done.
        gradient_state: What a `Stateful` gradient keeps from step to step.
    """

    params: PyTree
    opt_state: PyTree
    key: PRNGKeyArray
    epoch: Int[Array, ""]
    gradient_state: PyTree = ()


class History(NamedTuple):
    """The losses of a run and the metrics of its gradient function.

    Attributes:
        loss: [epochs], the mean loss over the examples of each epoch; that of an example is computed in the step that
            takes it, before the update.
        step_loss: [epochs, steps], the mean loss of each batch before the update of its step.
        metrics: The metrics of a `Stateful` gradient by name, each [epochs]: their means over the steps of each epoch.
        validation_loss: [epochs], the mean loss on the validation part after each epoch. None without such a part.
    """

    loss: Float[Array, " epochs"]
    step_loss: Float[Array, "epochs steps"]
    metrics: dict[str, Float[Array, " epochs"]] = {}  # noqa: RUF012
    validation_loss: Float[Array, " epochs"] | None = None


class Recipe(NamedTuple):
    """What is trained and how: the part of a run that is compiled in.

    Attributes:
        model: The network.
        loss: The loss between its outputs and the targets.
        optimizer: An optax transformation from mean gradients to updates.
        batch_size: The number of examples in a batch; it is smaller in a few batches if it does not divide N.
        gradient: A function (model, loss) that returns a gradient function, such as `backprop` or a learning rule.
        shuffle: Whether every epoch takes the examples in a new order.
        augment: A function (key, x) that changes the features x [B, ...] of a batch at random, such as `Augmentation`.
            None leaves them as they are.
    """

    model: Layer
    loss: Loss
    optimizer: optax.GradientTransformation
    batch_size: int
    gradient: Callable = backprop
    shuffle: bool = True
    augment: Callable[[PRNGKeyArray, Array], Array] | None = None

    def make_gradient(self) -> Stateful:
        """Returns the gradient function of the model and the loss as a `Stateful`, whose state may be empty."""
        return as_stateful(self.gradient(self.model, self.loss))

    @property
    def random(self) -> bool:
        """Whether the gradient of a batch draws random numbers."""
        return self.model.random or self.make_gradient().random

    def take(self, lanes: Lanes, batch: Batch) -> tuple[Array, Array, Array]:
        """Returns the features, the targets and the weights of a batch, with the features augmented."""
        x, t, weights = lanes.take(batch.positions)
        if self.augment is not None:
            assert batch.key is not None
            x = self.augment(jax.random.fold_in(batch.key, 1), x)  # the key of the batch itself is the gradient's
        return x, t, weights


def init_state(recipe: Recipe, key: PRNGKeyArray, params: PyTree = None) -> TrainState:
    """Draws the parameters and makes the other parts of the state before the first epoch.

    Args:
        recipe: What is trained and how.
        key: The key of the run, from which parameters, orders of the examples and dropout are drawn.
        params: The parameters to start from; None draws them.

    Returns:
        The state after 0 epochs.
    """
    params_key, shuffle_key = jax.random.split(key)
    params = recipe.model.init(params_key) if params is None else params
    gradient_state = recipe.make_gradient().init(jax.random.fold_in(params_key, 1))
    return TrainState(params, recipe.optimizer.init(params), shuffle_key, jnp.zeros((), int), gradient_state)


def run_epochs(recipe: Recipe, state: TrainState, lanes: Lanes, epochs: int) -> tuple[TrainState, History]:
    """Runs `epochs` more epochs and returns the new state and their history.

    A run that is split into several calls, of any numbers of epochs, is the same run to the bit.

    Args:
        recipe: What is trained and how.
        state: The state after the epochs so far.
        lanes: The examples, as `make_lanes` lays them out.
        epochs: How many epochs to add.

    Returns:
        The state after the last of these epochs, and the history of these epochs alone.
    """
    # Without the barrier XLA fuses the drawing with a step that is the only one in its epoch, and then rounds that
    # step differently in calls with different numbers of epochs.
    return run_batches(recipe, state, lanes, jax.lax.optimization_barrier(draw_epochs(recipe, state, lanes, epochs)))


def run_batches(recipe: Recipe, state: TrainState, lanes: Lanes, batches: Batch) -> tuple[TrainState, History]:
    """Runs the epochs of which `draw_epochs` drew the batches, as `run_epochs` does.

    Args:
        recipe: What is trained and how.
        state: The state after the epochs so far.
        lanes: The examples.
        batches: The batches, with positions [epochs, S, B].

    Returns:
        As `run_epochs`.
    """
    step = make_step(recipe, lanes)

    def epoch(carry: Any, batches: Batch) -> tuple[Any, History]:
        carry, (step_loss, weight, metrics) = jax.lax.scan(step, carry, batches)
        return carry, History(step_loss @ (weight / weight.sum()), step_loss, jax.tree.map(jnp.mean, metrics))

    carry = state.params, state.opt_state, state.gradient_state
    (params, opt_state, gradient_state), history = jax.lax.scan(epoch, carry, batches)
    return TrainState(params, opt_state, state.key, state.epoch + len(batches.positions), gradient_state), history


def make_step(recipe: Recipe, lanes: Lanes) -> Callable[[Any, Batch], tuple[Any, Any]]:
    """Returns the function of one training step, as `jax.lax.scan` takes it.

    Args:
        recipe: What is trained and how.
        lanes: The examples that the batches are taken from.

    Returns:
        A function of (params, opt_state, gradient_state) and a `Batch`. It returns their next values as a tuple, and a
        tuple of the batch's mean loss, sum of weights and metrics.
    """
    gradient, random = recipe.make_gradient(), recipe.random
    update = optax.with_extra_args_support(recipe.optimizer).update

    def step(carry: Any, batch: Batch) -> tuple[Any, Any]:
        params, opt_state, state = carry
        examples = recipe.take(lanes, batch)
        draws = {"key": batch.key} if random else {}
        value, grads, next_state, metrics = gradient.step(params, state, *examples, **draws)

        def value_fn(params: PyTree, batch: Any = examples) -> Array:  # called by optax, with `batch` from `extra`
            return gradient.bind(state)(params, *batch, **draws)[0]

        extra = {"value": value, "grad": grads, "value_fn": value_fn, "batch": examples}  # a few optimizers need them
        updates, opt_state = update(grads, opt_state, params, **extra)
        return (optax.apply_updates(params, updates), opt_state, next_state), (value, examples[2].sum(), metrics)

    return step


def draw_epochs(recipe: Recipe, state: TrainState, lanes: Lanes, epochs: int) -> Batch:
    """Draws the batches of the next `epochs` epochs.

    Args:
        recipe: What is trained and how.
        state: The state after the epochs so far.
        lanes: The examples, in B lanes of S positions.
        epochs: How many epochs to draw for.

    Returns:
        The batches, with positions [epochs, S, B].
    """
    random = recipe.random or recipe.augment is not None

    def draw(epoch: Int[Array, ""]) -> Batch:
        return draw_batches(lanes, jax.random.fold_in(state.key, epoch), shuffle=recipe.shuffle, random=random)

    return jax.vmap(draw)(state.epoch + jnp.arange(epochs))


def step_work(params: PyTree, examples: int) -> int:
    """Returns the work of a step: the number of parameters times the number of examples.

    A network of dense layers takes about six operations for each. Convolutions and sequences take more.

    Args:
        params: The parameters of a network, or their shapes.
        examples: The number of examples in a batch.
    """
    return examples * sum(prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(params))


# Up to this work of a step the compiler optimizes lightly. Measured: the steps of 4-50-20-10-3 are a tenth faster with
# batches of 2, as fast with batches of 8, and take 1.5 times as long with batches of 32.
SMALL_STEP = 10_000


def choose_options(params: PyTree, examples: int = 1) -> Options:
    """Returns the compiler's options for computing with a network.

    Args:
        params: The parameters of the network, or their shapes.
        examples: The number of examples in a batch. The default suits programs that run only a few times.
    """
    return {**THREADS, **LIGHT_OPTIMIZATION} if step_work(params, examples) <= SMALL_STEP else LARGE_PRODUCTS


def _step_options(state: TrainState, lanes: Lanes, **_: Any) -> Options:
    return choose_options(state.params, lanes.x.shape[1])


# A program that traces numbers inside a recipe, such as a sweep, compiles the plain functions itself.
start = Program(init_state, ("recipe",), LIGHT_OPTIMIZATION)
draw = Program(draw_epochs, ("recipe", "epochs"), LIGHT_OPTIMIZATION)
train = Program(run_epochs, ("recipe", "epochs"), _step_options, sum_small_products)
train_batches = Program(run_batches, ("recipe",), _step_options, sum_small_products)

"""Where a diverged run left the finite numbers: the epoch, the step and the layer."""

from __future__ import annotations

import jax
import numpy as np

from jaxann.data.batches import Lanes
from jaxann.gradients.probe import find_nonfinite, is_finite
from jaxann.nn.xla import for_cpu
from jaxann.training.recipe import History, Recipe, TrainState, choose_options, draw_epochs, make_step, train


def raise_if_nonfinite(recipe: Recipe, before: TrainState, after: TrainState, history: History, lanes: Lanes) -> None:
    """Raises an error if parameters or losses of a run are not finite.

    For a finite run this costs one check of its result. Otherwise the steps around the first value that is not finite
    are repeated one by one, to find the layer.

    Args:
        recipe: What was trained and how.
        before: The state that `train` was given.
        after: The state that `train` returned.
        history: The history that `train` returned.
        lanes: The examples that `train` was given.

    Raises:
        FloatingPointError: If `after.params` or `history` is not finite; the message names the epoch, the step and the
            layer.
    """
    if is_finite((after.params, history)):
        return
    is_good = np.isfinite(np.ravel(history.step_loss))
    first = len(is_good) if is_good.all() else int(np.argmin(is_good))
    steps = history.step_loss.shape[1]
    epochs = max(first - 1, 0) // steps  # the parameters may have left the finite numbers in the step before
    state = train(recipe, before, lanes, epochs)[0] if epochs else before
    carry = state.params, state.opt_state, state.gradient_state
    # The lanes are an argument, not a constant, because no process holds all of them in a run of several processes.
    # It is compiled with the options of the run, so that it rounds as similarly as possible.
    options = for_cpu(choose_options(state.params, lanes.x.shape[1]))
    step = jax.jit(lambda carry, batch, lanes: make_step(recipe, lanes)(carry, batch), compiler_options=options)
    batches = draw_epochs(recipe, state, lanes, 2)
    for i in range(2 * steps):
        batch = jax.tree.map(lambda leaf: leaf[divmod(i, steps)], batches)  # noqa: B023, it is called at once
        x, t, _ = recipe.take(lanes, batch)
        key = batch.key if recipe.model.random else None
        place = find_nonfinite(recipe.model, recipe.loss, carry[0], x, t, key)
        carry, _ = step(carry, batch, lanes)
        if not place and not is_finite(carry[0]):
            place = "the parameters, after the optimizer's update"
        if place:
            epoch = int(state.epoch) + i // steps + 1
            raise FloatingPointError(
                f"epoch {epoch}, step {i % steps + 1}: the first value that is not finite is in {place}"
            )
    raise FloatingPointError("the run is not finite, but its steps are finite when they are repeated one by one")

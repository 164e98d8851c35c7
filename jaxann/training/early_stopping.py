"""Validation during `fit`: the validation part, and a run that keeps the best parameters and can end early."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree
from tqdm import tqdm

from jaxann.data.batches import Examples, Lanes
from jaxann.data.validation import validate, validate_weights
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.loss import Loss
from jaxann.training.loop import Evaluate, Plan, Progress, run_pieces
from jaxann.training.recipe import History, Recipe, TrainState, train


def hold_out(
    model: Layer, loss: Loss, examples: Examples, validation: Any, key: PRNGKeyArray
) -> tuple[Examples, Examples]:
    """Returns the training part and the validation part of a run.

    Args:
        model: The network.
        loss: The loss between its outputs and the targets.
        examples: N examples, as `validate` returns them.
        validation: The validation part as (x, t) or (x, t, weights), or the share of the examples that is drawn for it.
        key: The key of the run, from which the order of the examples before the split is drawn.

    Returns:
        The training part, which is `examples` unless a share was asked for, and the validation part.

    Raises:
        SettingError: If `validation` is neither a pair or a triple nor a number between 0 and 1, or if the share leaves
            no example for training.
        ValueError: If the validation part does not fit the model and the loss.
    """
    if isinstance(validation, tuple | list):
        if len(validation) not in (2, 3):
            raise SettingError("validation", "to be (x, t), (x, t, weights) or a share", f"{len(validation)} values")
        x, t, *rest = validation
        try:
            x, t = validate(model, loss, x, t)
            return examples, Examples(x, t, validate_weights(rest[0] if rest else None, len(x)))
        except ValueError as error:
            raise ValueError(f"in the validation part: {error}") from None
    validate_number("validation", validation, above=0, below=1)
    n = len(examples.x)
    count = max(1, round(float(validation) * n))
    if count >= n:
        raise SettingError("validation", f"to leave an example of {n} for training", validation)
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 2**32 - 1), n))
    rows = np.sort(order[count:]), np.sort(order[:count])
    kept, held_out = (jax.tree.map(lambda array, part=part: array[part], examples) for part in rows)
    return kept, held_out


def fit_in_pieces(
    recipe: Recipe, state: TrainState, lanes: Lanes, plan: Plan, evaluate: Evaluate | None, show: bool
) -> tuple[PyTree, History]:
    """Trains a run piece by piece, and returns the parameters with the highest score.

    Args:
        recipe: What is trained and how.
        state: The state before the first epoch.
        lanes: The examples.
        plan: How long the run is, where it is evaluated, and its patience.
        evaluate: A function from parameters to a score and to the metric "validation_loss". If None, the last
            parameters are returned.
        show: Whether to show a progress bar on stderr.

    Returns:
        The parameters, and the history up to the last epoch that was done.

    Raises:
        FloatingPointError: As `train_in_pieces` does.
    """
    # They are compiled when they are called, and shared with later calls for the same recipe.
    lengths = {plan.piece, plan.epochs % plan.piece} - {0}
    compiled = {length: partial(_train_piece, recipe, length) for length in lengths}
    latest = first = Progress(state, state.params, -inf, 0)
    pieces, losses = [], []
    with tqdm(total=plan.epochs, unit="epoch", disable=not show) as bar:
        for latest, history, metrics in run_pieces(recipe, lanes, plan, first, evaluate, compiled):  # noqa: B007
            pieces.append(history)
            losses += metrics.values()
            shown = {"loss": float(history.loss[-1]), **{name.replace("_", " "): metrics[name] for name in metrics}}
            bar.update(len(history.loss))
            bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()}, refresh=False)
    history = jax.tree.map(lambda *parts: jnp.concatenate(parts), *pieces)
    return latest.best, history if evaluate is None else history._replace(validation_loss=jnp.array(losses))


def _train_piece(recipe: Recipe, length: int, state: TrainState, lanes: Lanes) -> tuple[TrainState, History]:
    return train(recipe, state, lanes, length)

"""Training, prediction and evaluation, each as one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.data.batches import Examples, make_lanes
from jaxann.data.numbers import to_numbers
from jaxann.data.validation import (
    require_logits,
    validate,
    validate_ids,
    validate_params,
    validate_schedule,
    validate_weights,
)
from jaxann.gradients.backprop import backprop
from jaxann.nn.axis import require_uncoupled
from jaxann.nn.base import Layer, path_name
from jaxann.nn.batch import forward_batch
from jaxann.nn.calibration import calibrate
from jaxann.nn.hyperparameters import SettingError, is_traced, resolve_key, validate_number
from jaxann.nn.loss import Loss, mean_weights
from jaxann.nn.names import resolve_layer, resolve_loss
from jaxann.training.divergence import raise_if_nonfinite
from jaxann.training.early_stopping import fit_in_pieces, hold_out
from jaxann.training.loop import Plan, piece_length
from jaxann.training.memory import validate_memory
from jaxann.training.optimizers import resolve_optimizer
from jaxann.training.programs import Program
from jaxann.training.recipe import History, Recipe, choose_options, draw, run_epochs, start, train_batches

AT_ONCE = 512  # examples that are evaluated at a time


def fit(
    model: Layer,
    loss: Loss | type[Loss] | str,
    optimizer: optax.GradientTransformation | str,
    x: Any,
    t: Any,
    *,
    key: PRNGKeyArray | int,
    epochs: int,
    batch_size: int,
    gradient: Callable = backprop,
    shuffle: bool = True,
    augment: Callable | None = None,
    weights: Any = None,
    params: PyTree = None,
    validation: Any = None,
    patience: int | None = None,
    progress: bool = False,
    learning_rate: Any = None,
) -> tuple[PyTree, History]:
    """Trains a network and returns the trained parameters.

    Every step is one update W ← W - l ∂E/∂W, or whatever else the optimizer makes of the batch's mean gradient ∂E/∂W.
    A batch takes one example from each lane (see `jaxann.data.batches`). The orders of the examples, epochs · N 32-bit
    integers, are kept in memory.
    The function is pure: it may be called under `jit` and `vmap`, which may map over keys and over numbers inside the
    optimizer. Calls that compute the same share a program, and the code of a layer may change between calls.
    With a validation part the network is evaluated on it after every epoch, and the best parameters are returned. The
    steps are those of the run on the same training part without one. Every epoch then is a call of its own, and for a
    network with a `BatchNorm` it ends with a pass over the training part.
    A network with a `BatchNorm` predicts after `calibrate(model, params, x)`, which takes the training examples.

    Args:
        model: The network.
        loss: The loss between its outputs and the targets, its class, or its name, such as "softmax_cross_entropy".
        optimizer: An optax transformation from mean gradients to updates, or the name of one, such as "adam".
        x: [N, ...], the features; a pandas DataFrame of numbers counts as an array. Integers are converted to floats
            unless the model's forward rejects floats.
        t: [N, ...], the targets.
        key: The key that parameters, orders of the examples and dropout are drawn from, or the number for
            `jax.random.key`.
        epochs: How many times every example is taken.
        batch_size: The number of examples in a batch, between 1 and N. Where it does not divide N, some batches are
            shorter.
        gradient: A function (model, loss) that returns a gradient function, such as `backprop`, `autodiff` or a
            learning rule.
        shuffle: Whether every epoch takes the examples in a new order.
        augment: A function (key, x) that changes the features x [B, ...] of a batch at random, such as
            `jaxann.data.Augmentation`; by default they stay as they are.
        weights: [N], above 0, how much each example counts in the means; ones by default.
        params: The parameters to start from, as `fit` and `model.init` return them; None draws them.
        validation: The validation part, as (x, t) or (x, t, weights), or the share of the examples that is drawn for
            it, between 0 and 1. With None, the default, there is no validation part.
        patience: The run ends once the validation loss has not fallen below its lowest value for this many epochs. With
            None, the default, it does all epochs.
        progress: Whether to show a progress bar with the losses on stderr.
        learning_rate: The learning rate of an optimizer given by name; by default 0.01 for variants of SGD and 0.001
            for all others.

    Returns:
        The parameters with the lowest validation loss, or the last ones without a validation part; and the history of
        the run up to the last epoch that was done.

    Raises:
        SettingError: If a setting is out of range, or is neither an object of the right kind nor a known name. It is a
            ValueError.
        ValueError: If the network ends in the softmax or the sigmoid that the loss applies itself; if the data, the
            weights or the schedule are not what `validate`, `validate_weights` and `validate_schedule` expect; if
            `params` do not fit the model; if `validation` or `progress` is set inside `jit` or `vmap`; or if the run
            needs more memory than `validate_memory` finds free.
        FloatingPointError: If the loss or the parameters stop being finite; the message names the epoch, the step and
            the layer. Inside `jit` or `vmap` it cannot be raised: check the loss and the parameters yourself there.
    """
    model, loss = resolve_layer("model", model), resolve_loss(loss)
    optimizer, key = resolve_optimizer(optimizer, learning_rate), resolve_key(key)
    require_logits(model, loss)
    if not callable(gradient):
        raise SettingError("gradient", "to be a function such as jaxann.backprop or a learning rule", gradient)
    if augment is not None and not callable(augment):
        raise SettingError(
            "augment", "to be a function of a key and a batch, such as jaxann.data.Augmentation", augment
        )
    x, t = validate(model, loss, x, t)
    examples, evaluate_params = Examples(x, t, validate_weights(weights, len(x))), None
    params = None if params is None else validate_params(model, params)
    in_pieces = validation is not None or progress
    if in_pieces and any(map(is_traced, (key, x, t))):
        raise ValueError("expected fit without validation and progress inside jit or vmap, got one of them")
    if patience is not None:
        validate_number("patience", patience, least=1, integer=True)
    if validation is not None:
        examples, held_out = hold_out(model, loss, examples, validation, key)
        evaluate_params = partial(_score_params, model, loss, examples, held_out)
    elif patience is not None:
        raise SettingError("patience", "only together with validation", patience)
    validate_schedule(len(examples.x), epochs, batch_size)
    recipe = Recipe(model, loss, optimizer, batch_size, gradient, shuffle, augment)
    validate_memory(recipe, key, x.shape[1:], dtype=x.dtype)
    lanes = make_lanes(examples, batch_size)
    before = start(recipe, key) if params is None else start(recipe, key, params)
    if in_pieces:
        steps = -(-len(examples.x) // batch_size)
        length = 1 if validation is not None else piece_length(steps, epochs, None)[0]
        return fit_in_pieces(recipe, before, lanes, Plan(epochs, length, length, patience), evaluate_params, progress)
    if is_traced(lanes.weights):  # inside jit, which compiles everything as one program
        after, history = run_epochs(recipe, before, lanes, epochs)
    else:
        after, history = train_batches(recipe, before, lanes, draw(recipe, before, lanes, epochs))
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
    advice = "jaxann.calibrate(model, params, x_train) returns the model and the parameters to predict with"
    require_uncoupled(model, "predictions and evaluations", advice)
    return map_batches(lambda x: forward_batch(model, params, x)[0], x)


def map_batches(function: Callable[[Any], Any], examples: Any, at_once: int = AT_ONCE) -> Any:
    """Maps a function over examples: over all together if they are few, and otherwise over batches of them.

    Args:
        function: A function of examples [B, ...] that returns a tree of arrays [B, ...].
        examples: [N, ...], a tree of arrays.
        at_once: The largest B, so that what layers return fits into memory.
    """
    count = len(jax.tree.leaves(examples)[0])
    if count <= at_once:
        return function(examples)
    full = count // at_once * at_once
    batches = jax.tree.map(lambda a: a[:full].reshape(-1, at_once, *a.shape[1:]), examples)
    results = jax.tree.map(lambda a: a.reshape(full, *a.shape[2:]), jax.lax.map(function, batches))
    if full == count:
        return results
    rest = function(jax.tree.map(lambda a: a[full:], examples))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), results, rest)


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
        SettingError: If `model` is not a layer. It is a ValueError.
        ValueError: If the features are not numbers, if they are ids and an id has no row in an embedding of the
            network, or if the parameters do not fit the network.
        InputError: If a layer does not take its input. It is a ValueError.
    """
    model, x = resolve_layer("model", model), to_numbers("features", x)
    validate_ids(model, x)
    if _name_shapes(params) != _find_param_shapes(model):
        validate_params(model, params)
    return _apply_compiled(model, params, x)


@lru_cache(maxsize=64)
def _find_param_shapes(model: Layer) -> dict[str, tuple[int, ...]]:
    return _name_shapes(jax.eval_shape(model.init, jax.random.key(0)))


def _name_shapes(params: PyTree) -> dict[str, tuple[int, ...]]:
    return {path_name(path): jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _score_params(
    model: Layer, loss: Loss, train_part: Examples, held_out: Examples, params: PyTree
) -> tuple[float, dict[str, Any]]:
    """Returns the negative validation loss, and that loss by its name."""
    x, weights = jnp.asarray(train_part.x), train_part.weights
    model, params = calibrate(model, params, x, None if weights is None else jnp.asarray(weights))
    value = float(evaluate(model, loss, params, held_out)[1])
    return -value, {"validation_loss": value}


_apply_compiled = Program(apply, ("model",), lambda params, **_: choose_options(params))
evaluate = Program(evaluate_batch, ("model", "loss"), lambda params, **_: choose_options(params))

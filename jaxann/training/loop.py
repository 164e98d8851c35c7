"""A run in pieces of a few epochs, between which a program can evaluate, store, and stop.

One program draws the batches of a piece and another one runs its steps. Both depend on the state and the lanes, so that
a run is the same to the bit however it is cut.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import inf, isfinite
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

from jaxann.data.batches import Batch, Lanes
from jaxann.nn.hyperparameters import validate_number
from jaxann.training.devices import choose_shardings, shard_state
from jaxann.training.divergence import raise_if_nonfinite
from jaxann.training.memory import validate_memory
from jaxann.training.programs import compile_ahead
from jaxann.training.recipe import History, Recipe, TrainState, draw, draw_epochs, start, train_batches

Row = dict[str, Any]
Evaluate = Callable[[Any], tuple[float, Row]]


class Plan(NamedTuple):
    """How long a run is and where it is interrupted, in epochs.

    Attributes:
        epochs: The length of the run.
        piece: The length of a piece.
        every: The distance from one evaluation to the next, a multiple of `piece`.
        patience: The run ends when its best score is this many epochs old. None lets it go on to the end.
    """

    epochs: int
    piece: int = 1
    every: int = 1
    patience: int | None = None


class Progress(NamedTuple):
    """How far a run has come: all that the rest of the run depends on.

    Attributes:
        state: The state after the last epoch.
        best: The parameters with the highest score so far. As long as no score was finite, they are the last ones.
        best_score: The score of `best`, or -inf as long as no score was finite. Without evaluations it is the negative
            training loss of the last epoch.
        best_epoch: The number of epochs after which the run had the parameters `best`.
    """

    state: TrainState
    best: PyTree
    best_score: float
    best_epoch: int


def begin(recipe: Recipe, key: PRNGKeyArray, mesh: Mesh | None = None, lanes: Lanes | None = None) -> Progress:
    """Returns the progress of a run before its first epoch.

    Args:
        recipe: What is trained and how.
        key: The key of the run.
        mesh: The devices of the run; the device of the key if None.
        lanes: The examples, as for `make_abstract_state`.

    Returns:
        The progress, with its state laid out over the mesh.

    Raises:
        ValueError: If the run needs more memory than is free, or if a layer does not fit the mesh, as `shard_state`
            says.
    """
    make_abstract_state(recipe, key, mesh, lanes)  # raises what this function raises, before anything is drawn
    state = start(recipe, key)
    # A new state is not committed to a device, but the state after a piece is. Each would need its own programs.
    if mesh is None:
        state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, state))
    else:
        state = shard_state(state, mesh)
    return Progress(state, state.params, -inf, 0)


def make_abstract_state(
    recipe: Recipe, key: PRNGKeyArray, mesh: Mesh | None = None, lanes: Lanes | None = None
) -> TrainState:
    """Returns the abstract state of a run before its first epoch: shapes, dtypes and shardings, without the numbers.

    Args:
        recipe: What is trained and how.
        key: The key of the run.
        mesh: The devices of the run; the device of the key if None.
        lanes: The examples, from whose shape `validate_memory` counts what a forward pass saves. If they are None, only
            the state is counted.

    Returns:
        A `TrainState` with a `jax.ShapeDtypeStruct` in place of each leaf.

    Raises:
        ValueError: If the run needs more memory than is free, or if a layer does not fit the mesh, as `shard_state`
            says.
    """
    shape, dtype = (None, None) if lanes is None else (lanes.x.shape[2:], lanes.x.dtype)
    validate_memory(recipe, key, shape, mesh, dtype)
    state = start.eval_shape(recipe, key)
    if mesh is None:
        return jax.tree.map(partial(_set_sharding, sharding=key.sharding), state)
    return jax.tree.map(_set_sharding, state, choose_shardings(state, mesh))


def _set_sharding(leaf: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    return leaf.update(sharding=sharding)


def is_finished(plan: Plan, progress: Progress) -> bool:
    """Returns whether a run has done all epochs of its plan or has run out of patience."""
    epoch = int(progress.state.epoch)
    is_evaluated = epoch > 0 and epoch % plan.every == 0
    last_better = progress.best_epoch if isfinite(progress.best_score) else 0  # no score was finite
    is_impatient = plan.patience is not None and is_evaluated and epoch - last_better >= plan.patience
    return epoch >= plan.epochs or is_impatient


def compile_pieces(recipe: Recipe, lanes: Lanes, plan: Plan, state: TrainState, epoch: int) -> dict[int, Callable]:
    """Compiles the programs of a run's remaining pieces, one for each length.

    Args:
        recipe: What is trained and how.
        lanes: The examples.
        plan: How long the run is and where it is cut.
        state: The state of the run, or an abstract one, as `make_abstract_state` returns it.
        epoch: The number of epochs done, which an abstract state does not hold.

    Returns:
        For each length of a piece in epochs, a function from a state and lanes to the next state and the piece's
        history.
    """
    if epoch >= plan.epochs:
        return {}
    first = _next_length(plan, epoch)
    full, last = divmod(plan.epochs - epoch - first, plan.piece)
    lengths = {first, plan.piece if full else 0, last} - {0}
    return {length: compile_piece(recipe, state, lanes, length) for length in lengths}


class Piece(NamedTuple):
    """The compiled programs of a piece, which is called as a function of a state and lanes.

    Attributes:
        draw: From a state and lanes to the batches of the piece.
        run: From a state, lanes and batches to the next state and the piece's history.
    """

    draw: Callable[..., Batch]
    run: Callable[..., tuple[TrainState, History]]

    def __call__(self, state: TrainState, lanes: Lanes) -> tuple[TrainState, History]:
        return self.run(state, lanes, self.draw(state, lanes))


def compile_piece(recipe: Recipe, state: TrainState, lanes: Lanes, length: int) -> Piece:
    """Compiles the programs of a piece of `length` epochs, which leave the state and the lanes on their devices."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    replicated = shardings.epoch  # every device holds a copy of the epoch's number, as of the batches and the history
    batches = jax.eval_shape(partial(draw_epochs, recipe, epochs=length), state, lanes)
    batches = jax.tree.map(partial(_set_sharding, sharding=replicated), batches)
    lowerings = (  # the steps first, because their compilation takes longer
        partial(train_batches.lower, recipe, state, lanes, batches, out_shardings=(shardings, replicated)),
        partial(draw.lower, recipe, state, lanes, length, out_shardings=replicated),
    )
    run, drawing = (program.result() for program in compile_ahead(lowerings, ahead=2))
    return Piece(drawing, run)


def train_in_pieces(
    recipe: Recipe,
    lanes: Lanes,
    plan: Plan,
    progress: Progress,
    evaluate: Evaluate | None = None,
    compiled: dict[int, Callable] | None = None,
) -> Iterator[tuple[Progress, list[Row]]]:
    """Trains the rest of a run, piece by piece.

    Args:
        recipe: What is trained and how.
        lanes: The examples, as `make_lanes` or `shard_examples` lays them out.
        plan: How long the run is and where it is cut.
        progress: How far the run has come.
        evaluate: A function from parameters to a score, the higher the better, and metrics. It is called every
            `plan.every` epochs and after the last one. A score that is not finite is worse than any finite one.
        compiled: What `compile_pieces` returns. If None, `compile_pieces` is called first.

    Yields:
        After each piece the progress, and a row for each epoch of the piece: "epoch", its number from 1, "loss", the
        metrics of the gradient function, and the metrics of the evaluation if one follows that epoch.

    Raises:
        FloatingPointError: If the loss or the parameters stop being finite; the message names the epoch, the step and
            the layer.
    """
    if compiled is None:
        compiled = compile_pieces(recipe, lanes, plan, progress.state, int(progress.state.epoch))
    for latest, history, evaluation in run_pieces(recipe, lanes, plan, progress, evaluate, compiled):
        metrics = {"loss": history.loss, **history.metrics}
        columns = {name: np.asarray(values).tolist() for name, values in metrics.items()}
        first = int(latest.state.epoch) - len(columns["loss"]) + 1
        rows: list[Row] = [
            {"epoch": first + i, **dict(zip(columns, row, strict=True))}
            for i, row in enumerate(zip(*columns.values(), strict=True))
        ]
        rows[-1].update(evaluation)
        yield latest, rows


def run_pieces(
    recipe: Recipe,
    lanes: Lanes,
    plan: Plan,
    progress: Progress,
    evaluate: Evaluate | None,
    compiled: Mapping[int, Callable],
) -> Iterator[tuple[Progress, History, Row]]:
    """Trains the rest of a run, piece by piece, as `train_in_pieces` does, and yields histories in place of rows.

    Args:
        recipe: What is trained and how.
        lanes: The examples.
        plan: How long the run is and where it is cut.
        progress: How far the run has come.
        evaluate: As for `train_in_pieces`.
        compiled: As `compile_pieces` returns them.

    Yields:
        After each piece the progress, the piece's history, and the metrics of the evaluation after it; {} if there is
        no evaluation.

    Raises:
        FloatingPointError: As `train_in_pieces` does.
    """
    while not is_finished(plan, progress):
        before, epoch, metrics = progress.state, int(progress.state.epoch), {}
        length = _next_length(plan, epoch)
        state, history = compiled[length](before, lanes)
        raise_if_nonfinite(recipe, before, state, history, lanes)
        epoch += length
        latest = Progress(state, state.params, -float(np.asarray(history.loss)[-1]), epoch)
        if evaluate is not None:
            score = -inf
            if epoch % plan.every == 0 or epoch >= plan.epochs:
                score, metrics = evaluate(state.params)
            latest = latest._replace(best_score=score if isfinite(score) else -inf)
            if isfinite(progress.best_score) and latest.best_score <= progress.best_score:
                latest = progress._replace(state=state)
        progress = latest
        yield progress, history, metrics


def _next_length(plan: Plan, epoch: int) -> int:
    """Returns the length of the piece that begins after `epoch` epochs."""
    return min(plan.piece - epoch % plan.piece, plan.epochs - epoch)


def piece_length(steps: int, epochs: int, every: int | None) -> tuple[int, int]:
    """Returns how long the pieces of a run should be, and how far apart its evaluations.

    A piece takes at most 600 steps, or one epoch if that has more, and a run of fifty or more epochs has at least fifty
    pieces.

    Args:
        steps: The number of steps in an epoch.
        epochs: The length of the run, in epochs.
        every: The distance from one evaluation to the next, in epochs. None evaluates after each piece.

    Returns:
        `Plan.piece` and `Plan.every`, both in epochs; the first divides the second.

    Raises:
        SettingError: If `every` is not a whole number of at least 1. The message calls it evaluate_every.
    """
    length = max(1, min(600 // steps, epochs // 50))
    if every is None:
        return length, length
    validate_number("evaluate_every", every, least=1, integer=True)
    return max(n for n in range(1, min(length, every) + 1) if every % n == 0), every

"""A run in pieces of some epochs, between which one can look, store, stop, and keep the best parameters.

Each piece is `training.train`'s one program, so that however a run is cut up, it is the same run to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

from jaxann.data.batches import Examples, Lanes
from jaxann.training.devices import shard_state
from jaxann.training.fit import raise_if_nonfinite
from jaxann.training.recipe import Recipe, TrainState, run_epochs, start

Row = dict[str, Any]
Evaluate = Callable[[Any], tuple[float, Row]]


class Plan(NamedTuple):
    """How far a run goes, in epochs: all of them, a piece, from one evaluation to the next, and without a better score.

    `every` is a multiple of `piece`. With `patience` the run ends when so many epochs have brought no better score.
    """

    epochs: int
    piece: int = 1
    every: int = 1
    patience: int | None = None


class Progress(NamedTuple):
    """Where a run stands: all that the rest of it depends on.

    `best` are the parameters with the highest score so far, reached at `best_epoch`; without an evaluation the last.
    """

    state: TrainState
    best: PyTree
    best_score: float
    best_epoch: int


def begin(recipe: Recipe, key: PRNGKeyArray, mesh: Mesh | None = None) -> Progress:
    """Where a run stands before its first epoch, on the devices of `mesh` if there is one. Raises as `placed` does."""
    # It runs once, so optimising it much costs more than it saves; level 0 was seen to compile other programs wrongly.
    state = start.lower(recipe, key).compile({"xla_backend_optimization_level": "1"})(key)
    state = state if mesh is None else shard_state(state, mesh)
    return Progress(state, state.params, -inf, 0)


def is_finished(plan: Plan, standing: Progress) -> bool:
    """Whether all epochs are done, or patience is over."""
    epoch = int(standing.state.epoch)
    impatient = plan.patience is not None and epoch % plan.every == 0 and epoch - standing.best_epoch >= plan.patience
    return epoch >= plan.epochs or (impatient and epoch > 0)


def compile_pieces(recipe: Recipe, data: Examples | Lanes, plan: Plan, standing: Progress) -> dict[int, Callable]:
    """`train`, compiled for every length of a piece that the rest of the run has."""
    epoch = int(standing.state.epoch)
    if epoch >= plan.epochs:
        return {}
    first = _next(plan, epoch)
    between, last = divmod(plan.epochs - epoch - first, plan.piece)
    lengths = {first, plan.piece if between else 0, last} - {0}
    train = compile_in_place(standing.state)
    return {length: train.lower(recipe, standing.state, data, length).compile() for length in lengths}


def compile_in_place(state: TrainState) -> Any:
    """`train`, leaving the state on the devices where it was, for the next piece, and what it tells on all."""
    at = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(run_epochs, static_argnames=("recipe", "epochs"), out_shardings=(at, at.epoch))


def train_in_pieces(
    recipe: Recipe,
    data: Examples | Lanes,
    plan: Plan,
    standing: Progress,
    evaluate: Evaluate | None = None,
    compiled: dict[int, Callable] | None = None,
) -> Iterator[tuple[Progress, list[Row]]]:
    """The rest of a run: where it stands after each piece, and a row of metrics for each of the piece's epochs.

    `evaluate(params)` gives a score, of which more is better, and metrics for the row; it is asked every `plan.every`
    epochs and at the end. `compiled` are `programs`, made here if there are none. Raises FloatingPointError as `fit`
    does.
    """
    compiled = compile_pieces(recipe, data, plan, standing) if compiled is None else compiled
    while not is_finished(plan, standing):
        before, epoch = standing.state, int(standing.state.epoch)
        state, history = compiled[_next(plan, epoch)](before, data)
        raise_if_nonfinite(recipe, before, state, history, data)
        metrics = {"loss": history.loss, **history.metrics}
        columns = {name: np.asarray(values).tolist() for name, values in metrics.items()}
        rows: list[Row] = [
            {"epoch": epoch + 1 + i, **dict(zip(columns, row, strict=True))}
            for i, row in enumerate(zip(*columns.values(), strict=True))
        ]
        epoch = rows[-1]["epoch"]
        if evaluate is None:
            standing = Progress(state, state.params, -rows[-1]["loss"], epoch)
        elif epoch % plan.every and epoch < plan.epochs:
            standing = standing._replace(state=state)
        else:
            score, metrics = evaluate(state.params)
            rows[-1].update(metrics)
            best = Progress(state, state.params, score, epoch)
            standing = best if score > standing.best_score else standing._replace(state=state)
        yield standing, rows


def _next(plan: Plan, epoch: int) -> int:
    """The length of the piece that begins after so many epochs."""
    return min(plan.piece - epoch % plan.piece, plan.epochs - epoch)


def piece_length(steps: int, epochs: int, every: int | None) -> tuple[int, int]:
    """(piece, every) for epochs of so many steps: a piece takes some hundred steps, and `every` is cut into whole ones.

    Without `every` each piece is evaluated, and a run has fifty or more of them if it has so many epochs. Raises
    ValueError for an `every` below 1.
    """
    length = max(1, min(600 // steps, epochs // 50))
    if every is None:
        return length, length
    if every < 1:
        raise ValueError(f"evaluate_every is {every}, but at least 1 epoch is wanted")
    return max(n for n in range(1, min(length, every) + 1) if every % n == 0), every

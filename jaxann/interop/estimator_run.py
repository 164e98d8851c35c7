"""The run of an estimator as one program, which stops by itself, for one network or for many at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Array, PyTree

from jaxann.data.batches import Lanes
from jaxann.gradients.probe import is_finite
from jaxann.interop.estimator_network import Gathered, Structure
from jaxann.nn.loss import mean_weights
from jaxann.nn.xla import FAST_CODE, LARGE_PRODUCTS, LIGHT_OPTIMIZATION, jit_for_cpu
from jaxann.training.divergence import raise_if_nonfinite
from jaxann.training.fit import apply
from jaxann.training.recipe import TrainState, init_state, run_epochs
from jaxann.training.recipe import train as train_epochs

MEMBER_SPEC = PartitionSpec("members")  # the layout of many runs over devices
PIECE_STEPS = 2000  # a piece takes about a second at most, after which Ctrl-C is heard


class Data(NamedTuple):
    """The examples of a run, with those to train on and to validate on as positions in shared arrays.

    Attributes:
        x: [N, n], the features.
        t: [N, ...], the targets.
        rows: [S, B], the positions of the training examples in B lanes of S steps.
        weights: [S, B], how much each of them counts; 0 marks a place without an example.
        validation_rows: [V], the positions of the validation examples; V is 0 without validation.
        validation_weights: [V], how much each of them counts.
    """

    x: Any
    t: Any
    rows: Any
    weights: Any
    validation_rows: Any
    validation_weights: Any


class Run(NamedTuple):
    """How far a run has come.

    Attributes:
        state: The state after the last epoch.
        best: The parameters with the highest validation score under early stopping, otherwise ().
        best_value: The highest validation score under early stopping, otherwise the negative of the lowest loss.
        stale: For how many epochs in succession `best_value` has not risen by `tol`.
        stopped: Whether the run has ended before its last epoch.
    """

    state: TrainState
    best: PyTree
    best_value: Any
    stale: Any
    stopped: Any


SHARED = Data(None, None, 0, 0, 0, 0)  # what the runs of many networks have in common


def wrap_state(structure: Structure, state: TrainState) -> Run:
    """Returns the run of a state before its next epoch, with no earlier score to improve on."""
    best = state.params if structure.early_stopping else ()
    return Run(state, best, jnp.asarray(-jnp.inf, float), jnp.zeros((), jnp.int32), jnp.zeros((), bool))


@jit_for_cpu(LIGHT_OPTIMIZATION, static=1)
def start(structure: Structure, numbers: Mapping[str, Any], seed: Any) -> Run:
    """Returns the run of one network before its first epoch.

    Args:
        structure: What is compiled in.
        numbers: The numbers of the settings.
        seed: The seed of the run, a `np.uint32`.
    """
    return wrap_state(structure, init_state(structure.make_recipe(numbers), jax.random.key(seed)))


def _run_piece(
    structure: Structure, length: int, numbers: Mapping[str, Any], run: Run, data: Data, limit: Any
) -> tuple[Run, dict[str, Array]]:
    """Runs at most `length` and at most `limit` epochs, and returns the curves with NaN for those not run."""
    recipe = structure.make_recipe(numbers)
    gathered = recipe._replace(gradient=Gathered(recipe.gradient, data.x, data.t))
    lanes = Lanes(data.rows, data.rows, data.weights)

    def evaluate(params: PyTree) -> dict[str, Array]:
        if not len(data.validation_rows):
            return {}
        t, weights = data.t[data.validation_rows], data.validation_weights
        y = apply(recipe.model, params, data.x[data.validation_rows])
        loss = mean_weights(weights, len(y)) @ jax.vmap(structure.loss.value)(y, t)
        return {"validation_loss": loss, "validation_score": structure.score(y, t, weights)}

    def epoch(carry: tuple[Run, dict[str, Array], Array]) -> tuple[Run, dict[str, Array], Array]:
        before, curves, i = carry
        state, history = run_epochs(gathered, before.state, lanes, 1)
        values = {"loss": history.loss[0], "step_loss": history.step_loss[0], **evaluate(state.params)}
        value = values["validation_score"] if structure.early_stopping else -values["loss"]
        stale = jnp.where(value < before.best_value + numbers["tol"], before.stale + 1, 0)
        is_better = value > before.best_value
        best = jax.tree.map(partial(jnp.where, is_better), state.params, before.best) if before.best else ()
        stopped = (stale > numbers["n_iter_no_change"]) | ~jnp.isfinite(values["loss"])
        run = Run(state, best, jnp.where(is_better, value, before.best_value), stale, stopped)
        return run, {name: curves[name].at[i].set(value) for name, value in values.items()}, i + 1

    names = {"loss": (), "step_loss": data.rows.shape[:1], **dict.fromkeys(_VALIDATION, ())}
    if not len(data.validation_rows):
        names = {name: shape for name, shape in names.items() if name not in _VALIDATION}
    curves = {name: jnp.full((length, *shape), jnp.nan) for name, shape in names.items()}
    go_on = lambda carry: (carry[2] < jnp.minimum(length, limit)) & ~carry[0].stopped  # noqa: E731
    run, curves, _ = jax.lax.while_loop(go_on, epoch, (run, curves, jnp.zeros((), jnp.int32)))
    return run, curves


_VALIDATION = ("validation_loss", "validation_score")


def _run_each(structure: Structure, length: int, numbers: Any, runs: Run, data: Data, limit: Any) -> Any:
    """Does `_run_piece` for many runs, spread over the devices."""
    run_all = jax.vmap(partial(_run_piece, structure, length), in_axes=(0, 0, SHARED, None))
    shared = PartitionSpec()
    specs = MEMBER_SPEC, MEMBER_SPEC, Data(*(shared if axis is None else MEMBER_SPEC for axis in SHARED)), shared
    mesh = make_member_mesh()
    run_all = jax.shard_map(run_all, mesh=mesh, in_specs=specs, out_specs=MEMBER_SPEC, check_vma=False)
    return run_all(numbers, runs, data, limit)  # devices exchange nothing


def make_member_mesh() -> Mesh:
    """Returns a mesh of all devices of this process. Many runs are spread over its one axis."""
    return jax.make_mesh((jax.local_device_count(),), tuple(MEMBER_SPEC), (AxisType.Auto,), devices=jax.local_devices())


_OPTIONS = {**LARGE_PRODUCTS, **FAST_CODE}
_run_one = jit_for_cpu(_OPTIONS, static=2)(_run_piece)
_run_many = jit_for_cpu(_OPTIONS, static=2)(_run_each)


def _piece_length(data: Data) -> int:
    """Returns the number of epochs in a piece."""
    return max(1, min(50, PIECE_STEPS // data.rows.shape[-2]))


def compile_training(structure: Structure, numbers: Mapping[str, Any], run: Run, data: Data) -> None:
    """Compiles the program with which `train` trains one network, by calling it for 0 epochs.

    Args:
        structure: What is compiled in.
        numbers: The numbers of the settings.
        run: The run, as `start` returns it.
        data: The examples.
    """
    _run_one(structure, _piece_length(data), numbers, run, data, np.int32(0))


def train(
    structure: Structure,
    numbers: Mapping[str, Any],
    run: Run,
    data: Data,
    epochs: int,
    report: Callable[[Run, Run, dict[str, np.ndarray]], None] = lambda before, after, curves: None,
) -> tuple[Run, dict[str, np.ndarray]]:
    """Trains one network, or many in one program, until all have stopped or have done `epochs` more epochs.

    Args:
        structure: What is compiled in.
        numbers: The numbers of the settings, each a scalar, or [M] for many runs.
        run: The run so far, as `start` returns it, or M runs along the leading axis of its arrays, spread over the
            devices of `make_member_mesh`, whose number divides M.
        data: The examples. For many runs, all leaves but x and t have a leading axis [M].
        epochs: How many epochs to add at most.
        report: Called after each piece of epochs with the run before and after it, and the curves of the piece.

    Returns:
        The run after the last epoch, and its curves [epochs] or [M, epochs], with NaN for epochs not run: "loss",
        "step_loss" [epochs, S], and with validation examples "validation_loss" and "validation_score".
    """
    is_many, length = np.ndim(run.stopped) > 0, _piece_length(data)
    pieces, done = [], 0
    while done < epochs and not np.all(run.stopped):
        before = run
        run_piece = _run_many if is_many else _run_one
        run, curves = run_piece(structure, length, numbers, run, data, np.int32(epochs - done))
        pieces.append({name: np.asarray(curve) for name, curve in curves.items()})
        report(before, run, pieces[-1])
        done += length
    joined = {name: np.concatenate([piece[name] for piece in pieces], axis=int(is_many)) for name in pieces[0]}
    return run, {name: curve[:, :epochs] if is_many else curve[:epochs] for name, curve in joined.items()}


def diagnose(
    structure: Structure, numbers: Mapping[str, Any], before: Run, after: Run, data: Data, losses: Any
) -> None:
    """Raises an error if a piece of one network's run has left the finite numbers.

    Args:
        structure: What is compiled in.
        numbers: The numbers of the settings.
        before: The run before the piece.
        after: The run after it.
        data: The examples.
        losses: [epochs, S], the loss of each step of the piece.

    Raises:
        FloatingPointError: If a loss or a parameter is not finite; the message names the epoch, the step and the layer.
    """
    if is_finite((after.state.params, losses)):
        return
    recipe = structure.make_recipe({name: float(number) for name, number in numbers.items()})
    lanes = jax.tree.map(jnp.asarray, Lanes(data.x[data.rows], data.t[data.rows], data.weights))
    state, history = train_epochs(recipe, before.state, lanes, len(losses))  # the same epochs again
    raise_if_nonfinite(recipe, before.state, state, history, lanes)
    raise FloatingPointError("the run is not finite, but its epochs are finite when they are repeated")

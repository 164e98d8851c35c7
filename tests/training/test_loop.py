"""A run in pieces: it is the same to the bit however it is cut, keeps the best parameters, and ends where it should."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.selection import choose

from jaxann import compare
from jaxann.data import Examples
from jaxann.data.batches import make_lanes
from jaxann.nn import SquaredError, mlp, tanh
from jaxann.training import History, Recipe
from jaxann.training.devices import make_mesh
from jaxann.training.loop import (
    Plan,
    Progress,
    begin,
    compile_pieces,
    is_finished,
    make_abstract_state,
    piece_length,
    train_in_pieces,
)
from jaxann.training.recipe import TrainState, start, train

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (7, 2))
LANES = make_lanes(Examples(X, jnp.sin(X @ jnp.array([[1.0], [-2.0]]))), 3)
RECIPE = Recipe(mlp((2, 3, 1), hidden=tanh, dropout=0.2), SquaredError(), optax.adam(0.01), 3)
EPOCHS = 6


@pytest.fixture(scope="module")
def initial():
    return begin(RECIPE, KEY)


@pytest.fixture(scope="module")
def uncut(initial):
    """The run in one call of `train`."""
    return train(RECIPE, initial.state, LANES, EPOCHS)


@pytest.fixture(scope="module")
def compiled(initial):
    """Programs for every length of a piece that the tests below use."""
    return {length: train.lower(RECIPE, initial.state, LANES, length).compile() for length in (1, 2, 3)}


def plain(tree):
    """Returns the leaves as NumPy arrays, random keys included."""
    leaves = jax.tree.leaves(tree)
    return [
        np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        for leaf in leaves
    ]


def same(a, b):
    a, b = plain(a), plain(b)
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True)
    )


def scripted(scores):
    """Returns an evaluation that returns these scores one after the other and records its arguments."""
    asked = []

    def evaluate(params):
        asked.append(params)
        return scores[len(asked) - 1], {"validation_loss": -scores[len(asked) - 1]}

    evaluate.asked = asked
    return evaluate


class Counting(dict):
    """Programs that only count: after n epochs the parameters are n, and the loss of epoch n is n."""

    def __missing__(self, length):
        def program(state, data):
            losses = jnp.asarray(state.epoch + 1.0 + np.arange(length))
            after = TrainState(losses[-1:], state.opt_state, state.key, state.epoch + length)
            return after, History(losses, losses[:, None])

        self[length] = program
        return program


def counted(plan, evaluate=None, epoch=0, best=None, lengths=None):
    """Returns the progress and the rows of a run that only counts and has done `epoch` epochs already."""
    progress = Progress(TrainState(jnp.array([float(epoch)]), (), KEY, jnp.asarray(epoch)), jnp.zeros(1), -np.inf, 0)
    progress = progress if best is None else progress._replace(best_score=best[0], best_epoch=best[1])
    lengths = Counting() if lengths is None else lengths
    return list(train_in_pieces(RECIPE, LANES, plan, progress, evaluate, lengths))


def test_a_run_begins_at_the_state_of_start(initial):
    assert same(initial.state.key, start(RECIPE, KEY).key)
    assert same(initial.best, initial.state.params)
    assert compare(initial.state.params, start(RECIPE, KEY).params).error < 1e-14  # two programs
    assert (int(initial.state.epoch), initial.best_score, initial.best_epoch) == (0, -np.inf, 0)


@pytest.mark.parametrize("piece", choose([2, 1, 3, 5], 2))
def test_a_run_in_any_pieces_is_one_call_of_train_to_the_bit(initial, uncut, compiled, piece):
    plan = Plan(EPOCHS, piece, piece)
    pieces = list(train_in_pieces(RECIPE, LANES, plan, initial, None, None if piece == 5 else compiled))
    rows = [row for _, rows in pieces for row in rows]
    assert [len(rows) for _, rows in pieces] == {1: [1] * 6, 2: [2] * 3, 3: [3] * 2, 5: [5, 1]}[piece]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal([row["loss"] for row in rows], uncut[1].loss)
    assert same(pieces[-1][0].state, uncut[0])
    assert not same(initial.state.params, uncut[0].params)


def test_an_evaluation_does_not_change_the_run(initial, uncut, compiled):
    pieces = list(train_in_pieces(RECIPE, LANES, Plan(EPOCHS, 2, 2), initial, scripted([0.5, 0.7, 0.6]), compiled))
    assert same(pieces[-1][0].state, uncut[0])
    np.testing.assert_array_equal([row["loss"] for _, rows in pieces for row in rows], uncut[1].loss)


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_a_run_goes_on_from_any_epoch_as_if_it_had_not_stopped(initial, uncut, compiled, after):
    """This holds even if the epoch is inside a piece of the plan, as after a change of the piece's length."""
    plan = Plan(EPOCHS, 2, 2)
    *_, (progress, _) = train_in_pieces(RECIPE, LANES, Plan(after, 1), initial, None, compiled)
    pieces = list(train_in_pieces(RECIPE, LANES, plan, progress, None, compiled))
    assert same(pieces[-1][0].state, uncut[0])
    np.testing.assert_array_equal([row["loss"] for _, rows in pieces for row in rows], uncut[1].loss[after:])
    assert [rows[-1]["epoch"] for _, rows in pieces] == [epoch for epoch in (2, 4, 6) if epoch > after]


@pytest.mark.parametrize("after", [2, 3])
def test_a_run_that_goes_on_knows_the_best_so_far(initial, compiled, after):
    scores = [1.0, 3.0, 2.0, 2.5, 3.0, 2.0]
    uncut = list(train_in_pieces(RECIPE, LANES, Plan(EPOCHS), initial, scripted(scores), compiled))
    *_, (progress, last_rows) = train_in_pieces(RECIPE, LANES, Plan(after), initial, scripted(scores), compiled)
    again = list(train_in_pieces(RECIPE, LANES, Plan(EPOCHS), progress, scripted(scores[after:]), compiled))
    assert [rows for _, rows in again] == [rows for _, rows in uncut][after:]
    assert last_rows == uncut[after - 1][1]
    assert same(again[-1][0].best, uncut[-1][0].best)
    assert again[-1][0].best_epoch == 2


def test_the_best_parameters_are_those_of_the_first_highest_score(initial, compiled):
    evaluate = scripted([1.0, 3.0, 2.0, 3.0, -5.0, 3.0])
    pieces = list(train_in_pieces(RECIPE, LANES, Plan(EPOCHS), initial, evaluate, compiled))
    assert [progress.best_epoch for progress, _ in pieces] == [1, 2, 2, 2, 2, 2]
    assert [progress.best_score for progress, _ in pieces] == [1.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    for progress, _ in pieces[1:]:
        assert same(progress.best, pieces[1][0].state.params)
    for params, (progress, _) in zip(evaluate.asked, pieces, strict=True):
        assert same(params, progress.state.params)
    assert not same(evaluate.asked[1], evaluate.asked[3])


def test_without_an_evaluation_the_last_parameters_are_the_best(initial, compiled):
    for progress, rows in train_in_pieces(RECIPE, LANES, Plan(EPOCHS, 2, 2), initial, None, compiled):
        assert same(progress.best, progress.state.params)
        assert progress.best_epoch == progress.state.epoch == rows[-1]["epoch"]
        assert progress.best_score == -rows[-1]["loss"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_the_best_only_while_there_is_no_other(bad):
    pieces = [progress for progress, _ in counted(Plan(5), scripted([bad, bad, 1.0, bad, 0.5]))]
    assert [progress.best_epoch for progress in pieces] == [1, 2, 3, 3, 3]
    assert [progress.best for progress in pieces] == [1, 2, 3, 3, 3]
    assert [progress.best_score for progress in pieces] == [-np.inf, -np.inf, 1.0, 1.0, 1.0]


def test_before_the_first_evaluation_the_last_parameters_are_the_best():
    pieces = [progress for progress, _ in counted(Plan(6, 1, 3), scripted([1.0, 0.5]))]
    assert [progress.best_epoch for progress in pieces] == [1, 2, 3, 3, 3, 3]
    assert [progress.best for progress in pieces] == [1, 2, 3, 3, 3, 3]


@pytest.mark.parametrize(("epochs", "piece", "times"), [*product([1, 5, 12], [1, 2, 5], [1, 2, 3])])
def test_the_evaluation_is_called_at_its_interval_and_at_the_end(epochs, piece, times):
    every = piece * times
    evaluate = scripted([float(i) for i in range(99)])
    rows = [row for _, rows in counted(Plan(epochs, piece, every), evaluate) for row in rows]
    evaluated = [row["epoch"] for row in rows if "validation_loss" in row]
    assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))
    assert evaluated == sorted({*range(every, epochs + 1, every), epochs})
    assert [float(params[0]) for params in evaluate.asked] == evaluated
    assert [row["validation_loss"] for row in rows if "validation_loss" in row] == [-i for i in range(len(evaluated))]


@pytest.mark.parametrize(("piece", "every", "epoch"), [*product([2, 3], [6], range(12))])
def test_the_epochs_of_an_evaluation_do_not_depend_on_where_a_run_goes_on(piece, every, epoch):
    pieces = counted(Plan(13, piece, every), scripted([0.0] * 9), epoch)
    evaluated = [row["epoch"] for _, rows in pieces for row in rows if "validation_loss" in row]
    assert evaluated == [at for at in (6, 12, 13) if at > epoch]
    assert [rows[-1]["epoch"] for _, rows in pieces] == [
        at for at in range(1, 14) if at > epoch and (at % piece == 0 or at == 13)
    ]


@pytest.mark.parametrize(
    ("patience", "scores", "end"),
    [
        (None, [1, 0, 0, 0, 0, 0, 0, 0], 8),
        (1, [1, 0, 2, 2, 2, 2, 2, 2], 2),
        (2, [1, 0, 2, 2, 2, 2, 2, 2], 5),  # an equal score is not a better one
        (3, [1, 0, 0, 2, 1, 1, 3, 0], 8),  # every better score comes just in time
        (3, [1, 0, 0, 0, 9, 9, 9, 9], 4),
        (8, [1, 0, 0, 0, 0, 0, 0, 0], 8),
    ],
)
def test_the_run_ends_when_patience_is_over_and_not_before(patience, scores, end):
    pieces = counted(Plan(8, patience=patience), scripted([float(score) for score in scores]))
    assert pieces[-1][0].state.epoch == end
    assert [is_finished(Plan(8, patience=patience), progress) for progress, _ in pieces] == [False] * (end - 1) + [True]


def test_patience_ends_a_run_without_a_finite_score():
    *_, (progress, _) = counted(Plan(9, 1, 1, patience=3), scripted([np.nan] * 9))
    assert progress.state.epoch == progress.best_epoch == 3


@pytest.mark.parametrize(("patience", "end"), [(1, 8), (3, 8), (4, 8), (5, 12), (8, 12), (9, 16), (99, 20)])
def test_patience_is_over_only_at_an_evaluation(patience, end):
    """The run is evaluated after every second piece of 2 epochs, and its first score, after epoch 4, is the best."""
    pieces = counted(Plan(20, 2, 4, patience), evaluate := scripted([2.0, 1.0, 1.0, 1.0, 1.0]))
    assert pieces[-1][0].state.epoch == end
    assert "validation_loss" in pieces[-1][1][-1]
    assert pieces[-1][0].best_epoch == 4
    assert len(evaluate.asked) == end // 4


def test_patience_counts_on_in_a_run_that_goes_on():
    pieces = counted(Plan(20, patience=4), scripted([0.0] * 9), epoch=5, best=(1.0, 3))
    assert [rows[0]["epoch"] for _, rows in pieces] == [6, 7]
    assert counted(Plan(20, patience=4), scripted([0.0]), epoch=7, best=(1.0, 3)) == []


def test_a_run_that_is_done_has_no_pieces():
    assert counted(Plan(3), epoch=3) == []
    assert counted(Plan(3), epoch=5) == []


@pytest.fixture
def lowered(monkeypatch):
    """Records the lengths that would be compiled, without the time that compiling takes."""
    lengths = []

    def compile_piece(recipe, state, lanes, length):
        assert length > 0
        lengths.append(length)
        return max

    monkeypatch.setattr("jaxann.training.loop.compile_piece", compile_piece)
    return lengths


@pytest.mark.parametrize(
    ("plan", "epoch", "lengths"),
    [
        (Plan(6, 2, 2), 0, {2}),
        (Plan(5, 2, 2), 0, {2, 1}),
        (Plan(2, 3, 3), 0, {2}),
        (Plan(8, 3, 3), 1, {2, 3}),  # 2, 3 and 2
        (Plan(9, 4, 4), 1, {3, 4, 1}),
        (Plan(6, 3, 3), 4, {2}),
        (Plan(6, 3, 3), 5, {1}),
        (Plan(6, 3, 3), 6, set()),
        (Plan(6, 3, 3), 9, set()),  # resumed with fewer epochs than it has done
    ],
    ids=str,
)
def test_a_program_is_compiled_for_every_length_of_a_piece_and_no_other(lowered, initial, plan, epoch, lengths):
    assert set(compile_pieces(RECIPE, LANES, plan, initial.state, epoch)) == lengths
    assert sorted(lowered) == sorted(lengths)


@pytest.mark.parametrize(("epochs", "piece"), [*product([1, 7, 12], [1, 3, 5, 20])])
def test_the_lengths_that_are_compiled_are_the_lengths_that_are_used(lowered, initial, epochs, piece):
    plan = Plan(epochs, piece, piece)
    for epoch in range(13):
        counted(plan, None, epoch, lengths=(used := Counting()))
        assert set(compile_pieces(RECIPE, LANES, plan, initial.state, epoch)) == set(used)
        assert len(used) <= 3


@pytest.mark.parametrize("shape", [None, (2, 2)])
def test_the_abstract_state_has_the_shapes_dtypes_and_shardings_of_the_first_state(shape):
    mesh = None if shape is None else make_mesh(*shape)
    optimizer = optax.inject_hyperparams(optax.adam)(0.1)  # its state has a number of weak type
    recipe = RECIPE._replace(model=mlp((2, 4, 1)), optimizer=optimizer)
    abstract, state = make_abstract_state(recipe, KEY, mesh), begin(recipe, KEY, mesh).state
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    for expected, leaf in zip(jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True):
        assert jax.typeof(expected) == jax.typeof(leaf)
        assert expected.sharding == leaf.sharding


def test_the_compiled_pieces_are_enough_for_the_run(initial, uncut):
    plan = Plan(EPOCHS, 4, 4)
    pieces = compile_pieces(RECIPE, LANES, plan, make_abstract_state(RECIPE, KEY), 0)
    assert set(pieces) == {4, 2}
    *_, (progress, _) = train_in_pieces(RECIPE, LANES, plan, initial, None, pieces)
    assert same(progress.state, uncut[0])


@pytest.mark.parametrize("piece", [1, 3])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_place(piece):
    """An epoch has 3 steps, and the pieces before are finite."""
    optimizer = optax.sgd(lambda step: jnp.where(step == 13, jnp.inf, 0.1))
    recipe = Recipe(mlp((2, 3, 1), hidden=tanh), SquaredError(), optimizer, 3)
    run = train_in_pieces(recipe, LANES, Plan(EPOCHS, piece, piece), begin(recipe, KEY), scripted([0.0] * 9))
    good = [next(run)[0].state.epoch for _ in range(3 // piece + (piece == 1))]
    assert good[-1] == (4 if piece == 1 else 3)
    with pytest.raises(
        FloatingPointError, match=r"epoch 5, step 2: .* in the parameters, after the optimizer's update"
    ):
        next(run)


@pytest.mark.parametrize(
    ("steps", "epochs", "every", "expected"),
    [
        (60, 500, None, (10, 10)),  # about 600 steps
        (7, 500, None, (10, 10)),  # at least fifty pieces
        (7, 50_000, None, (85, 85)),
        (600, 500, None, (1, 1)),
        (601, 500, None, (1, 1)),
        (10**6, 500, None, (1, 1)),
        (60, 4, None, (1, 1)),
        (60, 500, 10, (10, 10)),
        (60, 500, 20, (10, 20)),
        (60, 500, 15, (5, 15)),
        (60, 500, 13, (1, 13)),
        (60, 500, 3, (3, 3)),
        (60, 500, 1, (1, 1)),
        (60, 100, 6, (2, 6)),
        (60, 4, 1000, (1, 1000)),
    ],
)
def test_a_piece_takes_a_few_hundred_steps_and_divides_the_interval_of_evaluations(steps, epochs, every, expected):
    assert piece_length(steps, epochs, every) == expected


@pytest.mark.parametrize("every", [0, -3])
def test_less_than_an_epoch_between_evaluations_is_refused(every):
    with pytest.raises(ValueError, match=f"expected evaluate_every of at least 1, got {every}"):
        piece_length(60, 500, every)

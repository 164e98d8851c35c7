"""A run in pieces: the same to the bit however it is cut, with the best parameters and the end where they should be."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxann import compare
from jaxann.data import Examples
from jaxann.nn import SquaredError, mlp, tanh
from jaxann.training import History, Recipe
from jaxann.training.loop import Plan, Progress, begin, compile_pieces, is_finished, piece_length, train_in_pieces
from jaxann.training.recipe import TrainState, start, train

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (7, 2))
DATA = Examples(X, jnp.sin(X @ jnp.array([[1.0], [-2.0]])))
RECIPE = Recipe(mlp((2, 3, 1), hidden=tanh, dropout=0.2), SquaredError(), optax.adam(0.01), 3)
EPOCHS = 6


@pytest.fixture(scope="module")
def begun():
    return begin(RECIPE, KEY)


@pytest.fixture(scope="module")
def whole(begun):
    """The run in one call."""
    return train(RECIPE, begun.state, DATA, EPOCHS)


@pytest.fixture(scope="module")
def compiled(begun):
    """Programs for every length that tests here use."""
    return {length: train.lower(RECIPE, begun.state, DATA, length).compile() for length in (1, 2, 3)}


def plain(tree):
    """Leaves as numbers, random keys too."""
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
    """An evaluation that gives these scores one after the other, and remembers what it was asked about."""
    asked = []

    def evaluate(params):
        asked.append(params)
        return scores[len(asked) - 1], {"validation_loss": -scores[len(asked) - 1]}

    evaluate.asked = asked
    return evaluate


class Counting(dict):
    """Programs that only count: parameters after n epochs are n, and so is the loss of the n-th."""

    def __missing__(self, length):
        def program(state, data):
            losses = jnp.asarray(state.epoch + 1.0 + np.arange(length))
            after = TrainState(losses[-1:], state.opt_state, state.key, state.epoch + length)
            return after, History(losses, losses[:, None])

        self[length] = program
        return program


def counted(plan, evaluate=None, epoch=0, best=None, lengths=None):
    """The standings and rows of a run that only counts, from after `epoch` on."""
    standing = Progress(TrainState(jnp.array([float(epoch)]), (), KEY, jnp.asarray(epoch)), jnp.zeros(1), -np.inf, 0)
    standing = standing if best is None else standing._replace(best_score=best[0], best_epoch=best[1])
    lengths = Counting() if lengths is None else lengths
    return list(train_in_pieces(RECIPE, DATA, plan, standing, evaluate, lengths))


def test_a_run_begins_where_start_says(begun):
    assert same(begun.state.key, start(RECIPE, KEY).key)
    assert same(begun.best, begun.state.params)
    assert compare(begun.state.params, start(RECIPE, KEY).params).error < 1e-14  # it is compiled for itself
    assert (int(begun.state.epoch), begun.best_score, begun.best_epoch) == (0, -np.inf, 0)


@pytest.mark.parametrize("piece", [1, 2, 3, 5])
def test_a_run_in_any_pieces_is_one_call_of_train_to_the_bit(begun, whole, compiled, piece):
    plan = Plan(EPOCHS, piece, piece)
    made = list(train_in_pieces(RECIPE, DATA, plan, begun, None, None if piece == 5 else compiled))
    rows = [row for _, rows in made for row in rows]
    assert [len(rows) for _, rows in made] == {1: [1] * 6, 2: [2] * 3, 3: [3] * 2, 5: [5, 1]}[piece]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal([row["loss"] for row in rows], whole[1].loss)
    assert same(made[-1][0].state, whole[0])
    assert not same(begun.state.params, whole[0].params)


def test_an_evaluation_changes_nothing_of_the_run(begun, whole, compiled):
    made = list(train_in_pieces(RECIPE, DATA, Plan(EPOCHS, 2, 2), begun, scripted([0.5, 0.7, 0.6]), compiled))
    assert same(made[-1][0].state, whole[0])
    np.testing.assert_array_equal([row["loss"] for _, rows in made for row in rows], whole[1].loss)


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_a_run_goes_on_from_any_epoch_as_if_it_had_not_stopped(begun, whole, compiled, after):
    """Also from one that ends no piece of this plan, as when the batch size of its pieces was another."""
    plan = Plan(EPOCHS, 2, 2)
    *_, (standing, _) = train_in_pieces(RECIPE, DATA, Plan(after, 1), begun, None, compiled)
    made = list(train_in_pieces(RECIPE, DATA, plan, standing, None, compiled))
    assert same(made[-1][0].state, whole[0])
    np.testing.assert_array_equal([row["loss"] for _, rows in made for row in rows], whole[1].loss[after:])
    assert [rows[-1]["epoch"] for _, rows in made] == [epoch for epoch in (2, 4, 6) if epoch > after]


@pytest.mark.parametrize("after", [2, 3])
def test_what_is_the_best_so_far_is_known_to_the_run_that_goes_on(begun, compiled, after):
    scores = [1.0, 3.0, 2.0, 2.5, 3.0, 2.0]
    whole = list(train_in_pieces(RECIPE, DATA, Plan(EPOCHS), begun, scripted(scores), compiled))
    *_, (standing, first) = train_in_pieces(RECIPE, DATA, Plan(after), begun, scripted(scores), compiled)
    again = list(train_in_pieces(RECIPE, DATA, Plan(EPOCHS), standing, scripted(scores[after:]), compiled))
    assert [rows for _, rows in again] == [rows for _, rows in whole][after:]
    assert first == whole[after - 1][1]
    assert same(again[-1][0].best, whole[-1][0].best)
    assert again[-1][0].best_epoch == 2


def test_the_best_parameters_are_those_of_the_first_highest_score(begun, compiled):
    evaluate = scripted([1.0, 3.0, 2.0, 3.0, -5.0, 3.0])
    made = list(train_in_pieces(RECIPE, DATA, Plan(EPOCHS), begun, evaluate, compiled))
    assert [standing.best_epoch for standing, _ in made] == [1, 2, 2, 2, 2, 2]
    assert [standing.best_score for standing, _ in made] == [1.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    for standing, _ in made[1:]:
        assert same(standing.best, made[1][0].state.params)
    for params, (standing, _) in zip(evaluate.asked, made, strict=True):
        assert same(params, standing.state.params)
    assert not same(evaluate.asked[1], evaluate.asked[3])


def test_without_an_evaluation_the_best_are_the_last(begun, compiled):
    for standing, rows in train_in_pieces(RECIPE, DATA, Plan(EPOCHS, 2, 2), begun, None, compiled):
        assert same(standing.best, standing.state.params)
        assert standing.best_epoch == standing.state.epoch == rows[-1]["epoch"]
        assert standing.best_score == -rows[-1]["loss"]


def test_a_score_that_is_no_number_is_never_the_best():
    *_, (standing, _) = counted(Plan(3), scripted([np.nan, 1.0, np.nan]))
    assert (standing.best_score, standing.best_epoch) == (1.0, 2)
    assert standing.best == 2


@pytest.mark.parametrize(("epochs", "piece", "times"), [*product([1, 5, 12], [1, 2, 5], [1, 2, 3])])
def test_the_evaluation_is_asked_every_so_many_epochs_and_at_the_end(epochs, piece, times):
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
    made = counted(Plan(13, piece, every), scripted([0.0] * 9), epoch)
    evaluated = [row["epoch"] for _, rows in made for row in rows if "validation_loss" in row]
    assert evaluated == [at for at in (6, 12, 13) if at > epoch]
    assert [rows[-1]["epoch"] for _, rows in made] == [
        at for at in range(1, 14) if at > epoch and (at % piece == 0 or at == 13)
    ]


@pytest.mark.parametrize(
    ("patience", "scores", "end"),
    [
        (None, [1, 0, 0, 0, 0, 0, 0, 0], 8),
        (1, [1, 0, 2, 2, 2, 2, 2, 2], 2),
        (2, [1, 0, 2, 2, 2, 2, 2, 2], 5),  # equal is not better
        (3, [1, 0, 0, 2, 1, 1, 3, 0], 8),  # each one just in time
        (3, [1, 0, 0, 0, 9, 9, 9, 9], 4),
        (8, [1, 0, 0, 0, 0, 0, 0, 0], 8),
    ],
)
def test_the_run_ends_when_patience_is_over_and_not_before(patience, scores, end):
    made = counted(Plan(8, patience=patience), scripted([float(score) for score in scores]))
    assert made[-1][0].state.epoch == end
    assert [is_finished(Plan(8, patience=patience), standing) for standing, _ in made] == [False] * (end - 1) + [True]


@pytest.mark.parametrize(("patience", "end"), [(1, 8), (3, 8), (4, 8), (5, 12), (8, 12), (9, 16), (99, 20)])
def test_patience_is_over_only_where_there_was_something_to_wait_for(patience, end):
    """Evaluated after 4, 8 and so on in pieces of 2, the best of all after 4; between them there is no score."""
    made = counted(Plan(20, 2, 4, patience), evaluate := scripted([2.0, 1.0, 1.0, 1.0, 1.0]))
    assert made[-1][0].state.epoch == end
    assert "validation_loss" in made[-1][1][-1]
    assert made[-1][0].best_epoch == 4
    assert len(evaluate.asked) == end // 4


def test_patience_goes_on_where_it_was():
    made = counted(Plan(20, patience=4), scripted([0.0] * 9), epoch=5, best=(1.0, 3))
    assert [rows[0]["epoch"] for _, rows in made] == [6, 7]
    assert counted(Plan(20, patience=4), scripted([0.0]), epoch=7, best=(1.0, 3)) == []


def test_a_run_that_is_done_has_no_pieces():
    assert counted(Plan(3), epoch=3) == []
    assert counted(Plan(3), epoch=5) == []


@pytest.fixture
def lowered(monkeypatch):
    """The lengths for which `train` would have been compiled, which takes its time; all of them above 0."""
    lengths = []

    class Train:
        def lower(self, recipe, state, data, length):
            assert length > 0
            lengths.append(length)
            return self

        def compile(self):
            return max

    monkeypatch.setattr("jaxann.training.loop.compile_in_place", lambda state: Train())
    return lengths


def at(begun, epoch):
    return begun._replace(state=begun.state._replace(epoch=jnp.asarray(epoch)))


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
        (Plan(6, 3, 3), 9, set()),  # resumed with fewer epochs than it has
    ],
    ids=str,
)
def test_a_program_is_compiled_for_every_length_that_a_piece_has_and_no_other(lowered, begun, plan, epoch, lengths):
    assert set(compile_pieces(RECIPE, DATA, plan, at(begun, epoch))) == lengths
    assert sorted(lowered) == sorted(lengths)


@pytest.mark.parametrize(("epochs", "piece"), [*product([1, 7, 12], [1, 3, 5, 20])])
def test_the_lengths_that_are_compiled_are_those_that_are_used(lowered, begun, epochs, piece):
    plan = Plan(epochs, piece, piece)
    for epoch in range(13):
        counted(plan, None, epoch, lengths=(used := Counting()))
        assert set(compile_pieces(RECIPE, DATA, plan, at(begun, epoch))) == set(used)
        assert len(used) <= 3


def test_what_programs_makes_is_enough_for_the_run(begun, whole):
    plan = Plan(EPOCHS, 4, 4)
    made = compile_pieces(RECIPE, DATA, plan, begun)
    assert set(made) == {4, 2}
    *_, (standing, _) = train_in_pieces(RECIPE, DATA, plan, begun, None, made)
    assert same(standing.state, whole[0])


@pytest.mark.parametrize("piece", [1, 3])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_place(piece):
    """After the pieces before, which were good; 3 steps an epoch."""
    optimizer = optax.sgd(lambda step: jnp.where(step == 13, jnp.inf, 0.1))
    recipe = Recipe(mlp((2, 3, 1), hidden=tanh), SquaredError(), optimizer, 3)
    run = train_in_pieces(recipe, DATA, Plan(EPOCHS, piece, piece), begin(recipe, KEY), scripted([0.0] * 9))
    good = [next(run)[0].state.epoch for _ in range(3 // piece + (piece == 1))]
    assert good[-1] == (4 if piece == 1 else 3)
    with pytest.raises(
        FloatingPointError, match=r"epoch 5, step 2: .* in the parameters, after the optimiser's update"
    ):
        next(run)


@pytest.mark.parametrize(
    ("steps", "epochs", "every", "expected"),
    [
        (60, 500, None, (10, 10)),  # some 600 steps
        (7, 500, None, (10, 10)),  # but fifty pieces, where there are so many epochs
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
def test_a_piece_is_some_hundred_steps_and_divides_the_epochs_between_evaluations(steps, epochs, every, expected):
    assert piece_length(steps, epochs, every) == expected


@pytest.mark.parametrize("every", [0, -3])
def test_less_than_an_epoch_between_evaluations_is_refused(every):
    with pytest.raises(ValueError, match=f"evaluate_every is {every}, but at least 1 epoch is wanted"):
        piece_length(60, 500, every)

"""A run laid out over eight devices of a CPU, against the same run on one of them."""

import re
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxann import autodiff, backprop, compare
from jaxann.data import Examples
from jaxann.nn import SoftmaxCrossEntropy, SquaredError, mlp, tanh
from jaxann.rules import FeedbackAlignment
from jaxann.training import Recipe, kfac
from jaxann.training.devices import gather, make_mesh, shard_examples, shard_state
from jaxann.training.loop import Plan, begin, compile_pieces, train_in_pieces
from jaxann.training.recipe import start, train

KEY = jax.random.key(0)
MODEL, LOSS = mlp((13, 32, 48, 5), tanh, dropout=0.2), SoftmaxCrossEntropy()


def data(dtype=float, examples=203):
    x = jax.random.normal(jax.random.key(1), (examples, 13)).astype(dtype)
    return Examples(x, jax.random.randint(jax.random.key(2), (examples,), 0, 5))


def both(recipe, shape, examples, epochs=1):
    """The run on one device, and the same on a mesh, by the programs that a run in pieces has."""
    plan = Plan(epochs, piece=epochs)
    for over in (None, make_mesh(*shape)):
        here = examples if over is None else shard_examples(examples, recipe.batch_size, over)
        standing = begin(recipe, KEY, over)
        compiled = compile_pieces(recipe, here, plan, standing)
        state, history = compiled[epochs](standing.state, here)
        yield gather(state), np.ravel(history.step_loss), compiled[epochs].as_text()


def slowly(*some, unless):
    return [pytest.param(*one, marks=() if one in unless else pytest.mark.slow) for one in some]


@pytest.mark.parametrize(
    ("gradient", "shape", "x64"),
    slowly(
        *product((backprop, autodiff), ((8, 1), (1, 8), (4, 2)), (True, False)),
        unless=((backprop, (8, 1), True), (backprop, (4, 2), False), (autodiff, (4, 2), True)),
    ),
)
def test_twenty_steps_are_those_of_one_device(gradient, shape, x64):
    most = 1e-12 if x64 else 1e-6
    with jax.enable_x64(x64):
        recipe = Recipe(MODEL, LOSS, optax.adam(0.01), 30, gradient)  # 30 divides by none of 8 and 4
        (one, losses, _), (other, spread_losses, _) = both(recipe, shape, data(jnp.asarray(0.0).dtype), epochs=3)
    assert len(losses) == 21
    np.testing.assert_allclose(spread_losses, losses, rtol=most)
    assert compare(other.params, one.params).error < 10 * most  # Adam's division adds a digit


def collectives(text):
    """The name and the shapes of everything that a program exchanges between devices."""
    found = re.findall(r"= (.*?) (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", text)
    return [
        (name, [tuple(map(int, re.findall(r"\d+", s))) for s in re.findall(r"f64(\[.*?\])", of)]) for of, name in found
    ]


@pytest.mark.parametrize(
    "gradient", [backprop, autodiff, FeedbackAlignment()], ids=lambda g: getattr(g, "__name__", "rule")
)
def test_data_parallel_steps_exchange_nothing_but_sums_of_gradients(gradient):
    model = mlp((13, 32, 48, 5), tanh)
    _, (state, _, text) = both(Recipe(model, LOSS, optax.sgd(0.1), 64, gradient), (8, 1), data())
    assert {name for name, _ in collectives(text)} == {"all-reduce"}
    summed = sorted(shape for _, shapes in collectives(text) for shape in shapes if shape)
    assert summed == sorted(leaf.shape for leaf in jax.tree.leaves(state.params))  # each of them, once


def test_model_parallel_steps_gather_no_batch():
    _, (_, _, text) = both(Recipe(mlp((13, 32, 48, 5), tanh), LOSS, optax.sgd(0.1), 88, shuffle=True), (4, 2), data())
    found = collectives(text)
    assert {name for name, _ in found} == {"all-reduce", "all-gather"}
    assert all(88 not in shape for _, shapes in found for shape in shapes)
    assert any(22 in shape for name, shapes in found for shape in shapes if name == "all-gather")  # activations
    assert max(np.prod(shape) for _, shapes in found for shape in shapes) <= 48 * 32


def test_parameters_and_what_the_optimiser_keeps_of_them_lie_by_their_outputs():
    recipe = Recipe(MODEL, LOSS, optax.adam(0.01), 8)
    state = shard_state(start(recipe, KEY), make_mesh(2, 4))
    for tree in (state.params, state.opt_state[0].mu, state.opt_state[0].nu):
        hidden, output = tree[0], tree[4]
        assert hidden["W"].addressable_shards[0].data.shape == (8, 13)
        assert hidden["b"].addressable_shards[0].data.shape == (8,)
        assert output["W"].is_fully_replicated
    assert len(state.params[0]["W"].addressable_shards) == 8
    assert jax.random.uniform(state.key) == jax.random.uniform(start(recipe, KEY).key)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(kfac(mlp((13, 8, 6), tanh), LOSS), optax.sgd(0.1, momentum=0.9)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.01)),
        optax.adafactor(0.01),
        optax.lbfgs(0.1),
    ],
    ids=["kfac", "adamw", "adafactor", "lbfgs"],
)
def test_optimisers_whose_state_is_not_shaped_like_the_parameters_too(optimizer):
    recipe = Recipe(mlp((13, 8, 6), tanh), LOSS, optimizer, 50)
    (one, losses, _), (other, spread_losses, _) = both(recipe, (4, 2), data())
    np.testing.assert_allclose(spread_losses, losses, rtol=1e-9)  # some divide by what is nearly 0
    assert compare(other.params, one.params).error < 1e-8


def test_lanes_of_a_device_hold_their_share_of_the_examples():
    lanes = shard_examples(data(), 16, make_mesh(8))
    shards = [shard.data for shard in lanes.x.addressable_shards]
    assert [shard.shape for shard in shards] == [(13, 2, 13)] * 8  # 13 steps, 2 of 16 lanes, 13 features
    plain = data().lanes(16)
    for ours, theirs in zip(lanes, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    padded = shard_examples(data(), 11, make_mesh(8))
    assert padded.x.shape[:2] == (19, 16)
    np.testing.assert_array_equal(padded.weights[:, :11], data().lanes(11).weights)
    assert not padded.weights[:, 11:].any()


def test_weights_and_a_loss_of_numbers_too():
    x = data().x
    weighted = Examples(x, jnp.sin(x[:, :5]), jax.random.uniform(jax.random.key(3), (203,), minval=0.5, maxval=3))
    recipe = Recipe(mlp((13, 8, 5), tanh), SquaredError(), optax.sgd(0.1, momentum=0.9), 50)
    (one, losses, _), (other, spread_losses, _) = both(recipe, (8, 1), weighted, epochs=2)
    np.testing.assert_allclose(spread_losses, losses, rtol=1e-12)
    assert compare(other.params, one.params).error < 1e-12


def test_a_run_in_pieces_stays_where_it_is_laid_out():
    recipe, over = Recipe(MODEL, LOSS, optax.adam(0.01), 30), make_mesh(2, 4)
    begun = begin(recipe, KEY, over)
    for standing, _ in train_in_pieces(recipe, shard_examples(data(), 30, over), Plan(5, piece=2), begun):
        same = jax.tree.map(lambda a, b: a.sharding == b.sharding, begun.state, standing.state)
        assert all(jax.tree.leaves(same))
    state, _ = train(recipe, start(recipe, KEY), data(), 5)
    assert compare(gather(standing.state).params, state.params).error < 1e-11


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            lambda: make_mesh(16),
            "16 devices are asked for, but there are 8; JAX_NUM_CPU_DEVICES=16 makes as many of a CPU",
        ),
        (lambda: make_mesh(4, 3), "12 devices are asked for, but there are 8"),
        (lambda: make_mesh(0), "a mesh of 0 x 1 devices is asked for, but at least 1 x 1 is wanted"),
        (
            lambda: begin(Recipe(mlp((4, 8, 6, 3)), LOSS, optax.sgd(0.1), 4), KEY, make_mesh(2, 4)),
            "2.W has 6 outputs, which do not divide over 4 model devices",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        wrong()

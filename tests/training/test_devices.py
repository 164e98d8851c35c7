"""A run on eight devices of a CPU, compared with the same run on one device."""

import re
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.nn import initializers
from support.selection import choose

from jaxann import autodiff, backprop, compare
from jaxann.data import Examples
from jaxann.data.batches import make_lanes
from jaxann.nn import BatchNorm, Dense, Sequential, SoftmaxCrossEntropy, SquaredError, mlp, tanh
from jaxann.rules import FeedbackAlignment
from jaxann.training import Recipe, kfac
from jaxann.training.devices import gather, make_mesh, shard_examples, shard_state
from jaxann.training.loop import Plan, begin, compile_pieces, make_abstract_state, train_in_pieces
from jaxann.training.recipe import start, train

KEY = jax.random.key(0)
MODEL, LOSS = mlp((13, 32, 48, 5), tanh, dropout=0.2), SoftmaxCrossEntropy()


def make_examples(dtype=float, examples=203):
    x = jax.random.normal(jax.random.key(1), (examples, 13)).astype(dtype)
    return Examples(x, jax.random.randint(jax.random.key(2), (examples,), 0, 5))


def run_both(recipe, shape, examples, epochs=1):
    """Yields a run on one device, then the same run on a mesh, each from the program that a run in pieces uses."""
    plan = Plan(epochs, piece=epochs)
    for mesh in (None, make_mesh(*shape)):
        size = recipe.batch_size
        lanes = make_lanes(examples, size) if mesh is None else shard_examples(examples, size, mesh)
        progress = begin(recipe, KEY, mesh)
        compiled = compile_pieces(recipe, lanes, plan, make_abstract_state(recipe, KEY, mesh), 0)
        state, history = compiled[epochs](progress.state, lanes)
        yield gather(state), np.ravel(history.step_loss), compiled[epochs].run.as_text()


def mark_slow(*cases, unless):
    return [pytest.param(*case, marks=() if case in unless else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("gradient", "shape", "x64"),
    mark_slow(
        *product((backprop, autodiff), ((8, 1), (1, 8), (4, 2)), (True, False)),
        unless=((backprop, (4, 2), False),),
    ),
)
def test_twenty_steps_are_those_of_one_device(gradient, shape, x64):
    tolerance = 1e-12 if x64 else 1e-6
    with jax.enable_x64(x64):
        recipe = Recipe(MODEL, LOSS, optax.adam(0.01), 30, gradient)  # 30 divides by none of 8 and 4
        (one, losses, _), (other, spread_losses, _) = run_both(
            recipe, shape, make_examples(jnp.asarray(0.0).dtype), epochs=3
        )
    assert len(losses) == 21
    np.testing.assert_allclose(spread_losses, losses, rtol=tolerance)
    assert compare(other.params, one.params).error < 10 * tolerance  # Adam's division costs a digit


def collectives(text):
    """Returns the name and the shapes of every exchange between devices in the text of a program."""
    pairs = re.findall(r"= (.*?) (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", text)
    return [
        (name, [tuple(map(int, re.findall(r"\d+", shape))) for shape in re.findall(r"f64(\[.*?\])", types)])
        for types, name in pairs
    ]


@pytest.mark.parametrize(
    "gradient", choose([backprop, autodiff, FeedbackAlignment()], 2), ids=lambda g: getattr(g, "__name__", "rule")
)
def test_data_parallel_steps_exchange_nothing_but_sums_of_gradients(gradient):
    model = mlp((13, 32, 48, 5), tanh)
    _, (state, _, text) = run_both(Recipe(model, LOSS, optax.sgd(0.1), 64, gradient), (8, 1), make_examples())
    assert {name for name, _ in collectives(text)} == {"all-reduce"}
    summed = sorted(shape for _, shapes in collectives(text) for shape in shapes if shape)
    assert summed == sorted(leaf.shape for leaf in jax.tree.leaves(state.params))  # each gradient is summed once


def test_model_parallel_steps_gather_no_batch():
    _, (_, _, text) = run_both(
        Recipe(mlp((13, 32, 48, 5), tanh), LOSS, optax.sgd(0.1), 88, shuffle=True), (4, 2), make_examples()
    )
    exchanges = collectives(text)
    assert {name for name, _ in exchanges} == {"all-reduce", "all-gather"}
    assert all(88 not in shape for _, shapes in exchanges for shape in shapes)
    assert any(22 in shape for name, shapes in exchanges for shape in shapes if name == "all-gather")  # activations
    assert max(np.prod(shape) for _, shapes in exchanges for shape in shapes) <= 48 * 32


def test_parameters_and_the_optimizers_state_are_spread_by_outputs():
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
        pytest.param(
            optax.chain(kfac(mlp((13, 8, 6), tanh), LOSS), optax.sgd(0.1, momentum=0.9)), marks=pytest.mark.slow
        ),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.01)),
        pytest.param(optax.adafactor(0.01), marks=pytest.mark.slow),
        pytest.param(optax.lbfgs(0.1), marks=pytest.mark.slow),
    ],
    ids=["kfac", "adamw", "adafactor", "lbfgs"],
)
def test_optimizers_whose_state_is_not_shaped_like_the_parameters_run_on_a_mesh(optimizer):
    recipe = Recipe(mlp((13, 8, 6), tanh), LOSS, optimizer, 50)
    (one, losses, _), (other, spread_losses, _) = run_both(recipe, (4, 2), make_examples())
    np.testing.assert_allclose(spread_losses, losses, rtol=1e-9)  # some divide by numbers near 0
    assert compare(other.params, one.params).error < 1e-8


def test_a_device_holds_only_the_examples_of_its_lanes():
    lanes = shard_examples(make_examples(), 16, make_mesh(8))
    shards = [shard.data for shard in lanes.x.addressable_shards]
    assert [shard.shape for shard in shards] == [(13, 2, 13)] * 8  # 13 steps, 2 of 16 lanes, 13 features
    plain = make_lanes(make_examples(), 16)
    for ours, theirs in zip(lanes, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    padded = shard_examples(make_examples(), 11, make_mesh(8))
    assert padded.x.shape[:2] == (19, 16)
    np.testing.assert_array_equal(padded.weights[:, :11], make_lanes(make_examples(), 11).weights)
    assert not padded.weights[:, 11:].any()


def test_weighted_examples_with_numbers_for_targets_run_on_a_mesh():
    x = make_examples().x
    weighted = Examples(x, jnp.sin(x[:, :5]), jax.random.uniform(jax.random.key(3), (203,), minval=0.5, maxval=3))
    recipe = Recipe(mlp((13, 8, 5), tanh), SquaredError(), optax.sgd(0.1, momentum=0.9), 50)
    (one, losses, _), (other, spread_losses, _) = run_both(recipe, (8, 1), weighted, epochs=2)
    np.testing.assert_allclose(spread_losses, losses, rtol=1e-12)
    assert compare(other.params, one.params).error < 1e-12


def test_statistics_of_a_batch_are_those_of_one_device_even_if_the_batch_does_not_divide():
    """Lanes without examples, which make the batch divide over the devices, repeat examples with weight 0."""
    layers = (Dense(13, 8, biases=initializers.normal(1.0)), BatchNorm(8), tanh, Dense(8, 5))
    recipe = Recipe(Sequential(layers), LOSS, optax.sgd(0.1), 11)
    (one, losses, _), (other, spread_losses, _) = run_both(recipe, (8, 1), make_examples(), epochs=2)
    np.testing.assert_allclose(spread_losses, losses, rtol=1e-12)
    assert compare(other.params, one.params).error < 1e-12


@pytest.mark.slow
def test_a_run_in_pieces_stays_where_it_is_laid_out():
    recipe, mesh = Recipe(MODEL, LOSS, optax.adam(0.01), 30), make_mesh(2, 4)
    first = begin(recipe, KEY, mesh)
    for progress, _ in train_in_pieces(recipe, shard_examples(make_examples(), 30, mesh), Plan(5, piece=2), first):
        same = jax.tree.map(lambda a, b: a.sharding == b.sharding, first.state, progress.state)
        assert all(jax.tree.leaves(same))
    state, _ = train(recipe, start(recipe, KEY), make_lanes(make_examples(), 30), 5)
    assert compare(gather(progress.state).params, state.params).error < 1e-11


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            lambda: make_mesh(16),
            "expected at least 16 devices for a mesh of 16 x 1, got 8 (JAX_NUM_CPU_DEVICES=16 makes a CPU count as 16)",
        ),
        (lambda: make_mesh(4, 3), "expected at least 12 devices for a mesh of 4 x 3, got 8"),
        (lambda: make_mesh(0), "expected data of at least 1, got 0"),
        (
            lambda: begin(Recipe(mlp((4, 8, 6, 3)), LOSS, optax.sgd(0.1), 4), KEY, make_mesh(2, 4)),
            "expected outputs that divide over 4 model devices, got 6 in 2.W",
        ),
    ],
)
def test_meshes_that_do_not_fit_are_refused_in_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        wrong()

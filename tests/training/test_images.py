"""Training with images in float32 as `jaxann train` runs it: how its programs compute, and that pieces make the run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxann.data import Examples
from jaxann.data.batches import make_lanes
from jaxann.nn import Conv, GlobalAvgPool, Sequential, SoftmaxCrossEntropy, lenet
from jaxann.training import Recipe
from jaxann.training.recipe import start, train


def to_float32(tree):
    return jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, tree)


def prepare(model, shape, examples):
    x = np.random.default_rng(0).normal(size=(examples, *shape))
    recipe = Recipe(model, SoftmaxCrossEntropy(), optax.adam(1e-2), 8)
    lanes = make_lanes(Examples(jnp.asarray(x), jnp.arange(examples) % 3), 8)
    return recipe, to_float32(start(recipe, jax.random.key(0))), to_float32(lanes)


def test_convolutions_are_not_left_to_a_library_that_takes_one_thread():
    """XLA may leave those of more than 16 channels to one."""
    recipe, state, lanes = prepare(Sequential((Conv(17, 18, (3, 3)), GlobalAvgPool())), (5, 5, 17), 8)
    text = train.lower(recipe, state, lanes, 1).compile().as_text()
    assert (" convolution(" in text) == (jax.__version_info__ < (0, 12))


@pytest.mark.slow
def test_a_run_in_pieces_is_the_run_to_the_bit():
    recipe, first, lanes = prepare(lenet((14, 14, 1), 3), (14, 14, 1), 20)
    state, losses = first, []
    for epochs in (1, 2, 1, 3):
        state, history = train(recipe, state, lanes, epochs)
        losses.append(history.step_loss)
    expected, history = train(recipe, first, lanes, 7)
    assert history.step_loss.dtype == jnp.float32
    np.testing.assert_array_equal(np.concatenate(losses), history.step_loss)
    jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.selection import choose

from jaxann.data import Examples
from jaxann.data.batches import draw_batches, make_lanes


def take_epoch(examples, batch_size, key=0, **settings):
    """Returns the batches of an epoch: the numbers and the weights of their examples, [S, B]."""
    x = jnp.arange(float(examples))[:, None]
    lanes = make_lanes(Examples(x, jnp.arange(examples), jnp.arange(examples) + 1.0), batch_size)
    batches = draw_batches(lanes, jax.random.key(key), **{"shuffle": True, "random": False} | settings)
    x, t, weights = jax.vmap(lanes.take)(batches.positions)
    np.testing.assert_array_equal(x[..., 0], t)
    np.testing.assert_array_equal(np.where(weights > 0, weights, t + 1), t + 1)  # each example keeps its own weight
    return np.asarray(t), np.asarray(weights)


@pytest.mark.parametrize(
    ("examples", "batch_size"), choose([(12, 4), (7, 7), (29, 8), (5, 1), (13, 4), (9, 8), (64, 16)], 2)
)
def test_every_example_comes_once_an_epoch_in_a_lane_of_its_own(examples, batch_size):
    orders = []
    for key in range(3):
        t, weights = take_epoch(examples, batch_size, key)
        assert sorted(t[weights > 0]) == list(range(examples))
        assert all(((t % batch_size == np.arange(batch_size)) | (weights == 0)).ravel())
        assert (weights > 0).any(axis=1).all()  # no batch is empty
        orders.append(t[weights > 0].tolist())
    assert examples == batch_size or orders[0] != orders[1] != orders[2]


def test_without_shuffling_they_come_as_they_lie_and_the_last_batch_is_short():
    t, weights = take_epoch(13, 4, shuffle=False)
    assert t[weights > 0].tolist() == list(range(13))
    assert (weights > 0).sum(axis=1).tolist() == [4, 4, 4, 1]


def test_all_examples_have_the_same_share_of_the_steps_in_the_mean():
    """If the last batch were always the short one, the examples in it would have many times the share of the others."""
    share = np.zeros(33)
    for key in range(300):
        t, weights = take_epoch(33, 32, key)
        for numbers, is_example in zip(t, weights > 0, strict=True):
            share[numbers[is_example]] += 1 / is_example.sum() / 300
    assert share[[0, 32]].mean() == pytest.approx(share[1:32].mean(), rel=0.15)


@pytest.mark.parametrize("steps", choose([37, 4096, 4097, 2**17], 2))
def test_the_order_of_a_lane_is_as_good_as_random(steps):
    t, _ = take_epoch(2 * steps, 2)
    ups = np.mean(np.diff(t, axis=0) > 0)
    assert ups == pytest.approx(0.5, abs=4 * 0.29 / np.sqrt(2 * steps) + 0.01)
    assert np.corrcoef(np.arange(steps), t[:, 0])[0, 1] == pytest.approx(0, abs=4 / np.sqrt(steps))
    assert steps == 37 or abs(np.corrcoef(t.T)[0, 1]) < 4 / np.sqrt(steps)  # the two lanes have different orders


def test_lanes_without_examples_do_not_change_the_batches():
    lanes = make_lanes(Examples(jnp.ones((29, 1)), jnp.arange(29)), 8)
    wider = jax.tree.map(lambda a: jnp.concatenate([a, 0 * a[:, :3]], axis=1), lanes)
    one, other = (draw_batches(lanes, jax.random.key(0), shuffle=True, random=True) for lanes in (lanes, wider))
    np.testing.assert_array_equal(one.positions, other.positions[:, :8])
    assert (one.key == other.key).all()


def test_arrays_of_numpy_and_of_jax_make_the_same_lanes():
    x, t, weights = np.linspace(0, 1, 21).reshape(7, 3), np.arange(7), np.linspace(0.5, 2, 7)
    ours = make_lanes(Examples(x, t, weights), 3)
    theirs = jax.jit(lambda examples: make_lanes(examples, 3))(jax.tree.map(jnp.asarray, Examples(x, t, weights)))
    for one, other in zip(ours, theirs, strict=True):
        assert isinstance(one, jax.Array)
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(ours.x[:, 1], x[[1, 4, 0]])  # lane 1 has the examples 1 and 4, then a repeated one
    np.testing.assert_array_equal(ours.weights[:, 1], [weights[1], weights[4], 0])

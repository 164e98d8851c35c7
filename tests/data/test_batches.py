import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxann.data import Examples
from jaxann.data.batches import draw_batches


def taken(examples, batch_size, key=0, **settings):
    """The batches of an epoch: numbers and weights of examples, [S, B]."""
    x = jnp.arange(float(examples))[:, None]
    lanes = Examples(x, jnp.arange(examples), jnp.arange(examples) + 1.0).lanes(batch_size)
    batches = draw_batches(lanes, jax.random.key(key), **{"shuffle": True, "random": False} | settings)
    x, t, weights = jax.vmap(lanes.at)(batches.places)
    np.testing.assert_array_equal(x[..., 0], t)
    np.testing.assert_array_equal(np.where(weights > 0, weights, t + 1), t + 1)  # each goes with its weight
    return np.asarray(t), np.asarray(weights)


@pytest.mark.parametrize(("examples", "batch_size"), [(12, 4), (13, 4), (29, 8), (7, 7), (5, 1), (9, 8), (64, 16)])
def test_every_example_comes_once_an_epoch_in_a_lane_of_its_own(examples, batch_size):
    orders = []
    for key in range(3):
        t, weights = taken(examples, batch_size, key)
        assert sorted(t[weights > 0]) == list(range(examples))
        assert all(((t % batch_size == np.arange(batch_size)) | (weights == 0)).ravel())
        assert (weights > 0).any(axis=1).all()  # no batch is empty
        orders.append(t[weights > 0].tolist())
    assert examples == batch_size or orders[0] != orders[1] != orders[2]


def test_without_shuffling_they_come_as_they_lie_and_the_last_batch_is_short():
    t, weights = taken(13, 4, shuffle=False)
    assert t[weights > 0].tolist() == list(range(13))
    assert (weights > 0).sum(axis=1).tolist() == [4, 4, 4, 1]


def test_all_examples_have_the_same_share_of_the_steps_in_the_mean():
    """With the short batch always the last, the examples of its lanes would have many times the share of the others."""
    share = np.zeros(33)
    for key in range(300):
        t, weights = taken(33, 32, key)
        for numbers, there in zip(t, weights > 0, strict=True):
            share[numbers[there]] += 1 / there.sum() / 300
    assert share[[0, 32]].mean() == pytest.approx(share[1:32].mean(), rel=0.15)


@pytest.mark.parametrize("steps", [37, 4096, 4097, 2**17])
def test_the_order_of_a_lane_is_as_good_as_random(steps):
    t, _ = taken(2 * steps, 2)
    ups = np.mean(np.diff(t, axis=0) > 0)
    assert ups == pytest.approx(0.5, abs=4 * 0.29 / np.sqrt(2 * steps) + 0.01)
    assert np.corrcoef(np.arange(steps), t[:, 0])[0, 1] == pytest.approx(0, abs=4 / np.sqrt(steps))
    assert steps == 37 or abs(np.corrcoef(t.T)[0, 1]) < 4 / np.sqrt(steps)  # the other lane has an order of its own


def test_batches_are_the_same_with_lanes_that_hold_nothing():
    lanes = Examples(jnp.ones((29, 1)), jnp.arange(29)).lanes(8)
    more = jax.tree.map(lambda a: jnp.concatenate([a, 0 * a[:, :3]], axis=1), lanes)
    one, other = (draw_batches(each, jax.random.key(0), shuffle=True, random=True) for each in (lanes, more))
    np.testing.assert_array_equal(one.places, other.places[:, :8])
    assert (one.key == other.key).all()

"""Programs in which products of small matrices are sums."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxann.data.batches import Examples, make_lanes
from jaxann.nn import SoftmaxCrossEntropy, mlp
from jaxann.training.products import sum_small_products
from jaxann.training.recipe import Recipe, draw, run_batches, start, train_batches


def draw_pair(a, b, dtype=np.float64):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=a), dtype), jnp.asarray(rng.normal(size=b), dtype)


def contract(a, b, a_axis, b_axis):
    return jax.lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())))


def count_products(function, *args):
    return jax.jit(function).lower(*args).as_text().count("dot_general")


@pytest.mark.parametrize(
    ("a", "b", "axes"),
    [((3, 4), (4, 5), (1, 0)), ((4, 3), (5, 4), (0, 1)), ((4,), (4,), (0, 0)), ((2, 3, 4), (5, 3, 2), (1, 1))],
)
def test_a_small_product_is_a_sum_with_the_same_result(a, b, axes):
    pair = draw_pair(a, b)
    function = sum_small_products(lambda *pair: contract(*pair, *axes))
    np.testing.assert_allclose(function(*pair), np.tensordot(*pair, axes=axes), rtol=0, atol=1e-14)
    assert count_products(function, *pair) == 0


@pytest.mark.parametrize(
    ("function", "pair"),
    [
        (lambda a, b: a @ b, draw_pair((16, 16), (16, 16))),
        (jax.vmap(jnp.dot), draw_pair((3, 4), (3, 4))),
        (lambda a, b: jnp.dot(a, b, preferred_element_type=jnp.float32), draw_pair((3, 4), (4, 5), jnp.bfloat16)),
        (lambda a, b: jnp.tensordot(a, b, 2), draw_pair((3, 4), (3, 4))),
    ],
    ids=["large", "batch", "two precisions", "two axes"],
)
def test_other_products_stay_as_they_are(function, pair):
    sums = sum_small_products(function)
    np.testing.assert_array_equal(sums(*pair), function(*pair))
    assert count_products(sums, *pair) == 1


def test_loops_branches_and_calls_are_entered_and_keep_their_order():
    def function(w, xs):
        def step(carry, x):
            y = jax.lax.cond(x[0] > 0, lambda: jax.jit(jnp.dot)(w, x + carry), lambda: x)
            return carry + y, y

        return jax.lax.scan(step, jnp.ones(3), xs, reverse=True, unroll=2)

    w, xs = draw_pair((3, 3), (5, 3))
    sums = sum_small_products(function)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), sums(w, xs), function(w, xs))
    assert count_products(sums, w, xs) == 0 < count_products(function, w, xs)


def test_a_checkpoint_and_a_choice_of_platform_keep_what_they_tell_the_compiler():
    def function(w, x):
        y = jax.checkpoint(lambda w, x: jnp.sin(w @ x))(w, x)
        return jax.lax.platform_dependent(w, y, cpu=lambda w, y: w @ y, default=lambda w, y: jnp.linalg.inv(w) @ y)

    def gradient(w, x):
        return jax.grad(lambda w: function(w, x).sum())(w)

    w, x = draw_pair((3, 3), (3,))
    sums, plain = (jax.jit(f).lower(w, x).as_text() for f in (sum_small_products(gradient), gradient))
    assert sums.count("optimization_barrier") == plain.count("optimization_barrier") > 0
    assert "getrf" not in sums  # the program of other platforms, whose operations may be unknown on this one
    np.testing.assert_allclose(sum_small_products(gradient)(w, x), gradient(w, x), rtol=1e-12)


def test_a_run_is_the_same_up_to_rounding_and_no_sum_is_made_of_the_products_of_many_networks():
    recipe = Recipe(mlp((4, 5, 3)), SoftmaxCrossEntropy(), optax.sgd(0.1), 2)
    lanes = make_lanes(Examples(*draw_pair((8, 4), (8, 3))), 2)
    lanes = lanes._replace(t=jnp.zeros(lanes.t.shape[:2], int))
    state = start(recipe, jax.random.key(0))
    batches = draw(recipe, state, lanes, 3)
    (alone, _), (plain, _) = (
        run(recipe, state, lanes, batches) for run in (train_batches, jax.jit(run_batches, static_argnums=0))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), alone.params, plain.params)
    lines = train_batches.lower(recipe, state, lanes, batches).as_text().splitlines()
    assert all("batching_dims" in line for line in lines if "dot_general" in line)  # those of the loss
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    together = jax.vmap(lambda state: train_batches(recipe, state, lanes, batches))
    assert count_products(together, many) == count_products(
        jax.vmap(lambda state: run_batches(recipe, state, lanes, batches)), many
    )

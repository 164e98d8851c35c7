import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cases import LAYERS, LOSSES
from support.draws import draw_array, draw_params
from support.judges import cast, judge, judge_network
from support.selection import choose

from jaxann import autodiff, backprop, compare
from jaxann.nn import ACTIVATIONS, SquaredError, mlp, softmax, tanh

MODEL, LOSS = mlp((4, 6, 5, 3), hidden=tanh, output=softmax), SquaredError()


def batch(model, loss_name, size, seed, dtype=jnp.float64):
    """Returns a loss, and parameters, inputs and targets for a network whose output suits the loss."""
    loss, _, target = LOSSES[loss_name]
    n, m = model.sizes
    t = jax.vmap(target, (0, None))(jax.random.split(jax.random.key(seed), size), m)
    return loss, *cast((draw_params(model, seed), draw_array(seed + 1, size, n), t), dtype)


NETWORKS = {  # up to five layers; widths and batches may be 1
    "sizes": st.lists(st.integers(1, 6), min_size=2, max_size=6),
    "hidden": st.sampled_from(sorted(ACTIVATIONS)),
    "output": st.sampled_from(["identity", "tanh"]),
    "name": st.sampled_from(sorted(LOSSES)),
    "size": st.integers(1, 5),
    "weighted": st.booleans(),
    "seed": st.integers(0, 1000),
}


def judge_case(sizes, hidden, output, name, size, weighted, seed, dtype):
    output = "softmax" if name.startswith("CrossEntropy") else output
    model = mlp(sizes, ACTIVATIONS[hidden], ACTIVATIONS[output])
    loss, params, x, t = batch(model, name, size, seed, dtype)
    weights = jax.random.uniform(jax.random.key(seed), (size,), dtype, 0.1, 2) if weighted else None
    judge_network(model, loss, params, x, t, weights)


@pytest.mark.parametrize("dtype", [jnp.float64, pytest.param(jnp.float32, marks=pytest.mark.slow)])
@settings(max_examples=5, deadline=None, derandomize=True)
@given(**NETWORKS)
def test_by_hand_is_automatic_for_any_network(dtype, **case):
    judge_case(**case, dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@settings(max_examples=300, deadline=None)
@given(**NETWORKS)
def test_by_hand_is_automatic_for_very_many_networks(dtype, **case):
    judge_case(**case, dtype=dtype)


@pytest.mark.parametrize("name", choose(LOSSES, 2))
def test_by_hand_is_automatic_for_every_loss(name):
    model = mlp((4, 5, 3), hidden=tanh, output=softmax if name.startswith("CrossEntropy") else tanh)
    loss, params, x, t = batch(model, name, 7, 0)
    judge_network(model, loss, params, x, t)


@pytest.mark.parametrize("route", [backprop, autodiff])
def test_jit_is_eager(route):
    loss, params, x, t = batch(MODEL, "SquaredError", 6, 0)
    gradient = route(MODEL, loss)
    judge(jax.jit(gradient)(params, x, t), gradient(params, x, t), x.dtype)


@pytest.mark.parametrize("route", [backprop, autodiff])
def test_weights_drop_and_repeat_examples(route):
    loss, params, x, t = batch(MODEL, "SquaredError", 5, 0)
    gradient = route(MODEL, loss)
    chosen = jnp.array([0, 2, 2, 2, 4])
    weighted = gradient(params, x, t, jnp.array([1.0, 0, 3, 0, 1]))
    judge(weighted, gradient(params, x[chosen], t[chosen]), x.dtype)
    judge(gradient(params, x, t, jnp.full(5, 0.3)), gradient(params, x, t), x.dtype)  # only their ratios count


def test_the_batch_is_the_mean_of_its_examples():
    loss, params, x, t = batch(MODEL, "SquaredError", 5, 0)
    gradient = backprop(MODEL, loss)
    gradients = [gradient(params, x[i : i + 1], t[i : i + 1]) for i in range(5)]
    judge(gradient(params, x, t), jax.tree.map(lambda *g: sum(g) / 5, *gradients), x.dtype)


def test_grads_have_the_structure_of_params():
    loss, params, x, t = batch(MODEL, "SquaredError", 5, 0)
    _, grads = backprop(MODEL, loss)(params, x, t)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)


def test_dx_of_a_network_is_right_too():
    params, x = LAYERS["mlp"][0].init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (4,))
    y, saved = LAYERS["mlp"][0].forward(params, x)
    _, dx = LAYERS["mlp"][0].backward(params, saved, y)
    step = 1e-6 * jax.random.normal(jax.random.key(2), (4,))
    values = [(LAYERS["mlp"][0].forward(params, x + s)[0] ** 2).sum() / 2 for s in (step, -step)]
    np.testing.assert_allclose((values[0] - values[1]) / 2, dx @ step, rtol=1e-6)


def test_comparison_reads_like_a_table():
    loss, params, x, t = batch(MODEL, "SquaredError", 5, 0)
    _, reference = autodiff(MODEL, loss)(params, x, t)
    grads = jax.tree.map(jnp.copy, reference)
    grads[2]["W"] *= 2
    grads[4]["b"] *= 0
    comparison = compare(grads, reference)
    leaves = {leaf.path: leaf for leaf in comparison.leaves}
    assert list(leaves) == ["0.W", "0.b", "2.W", "2.b", "4.W", "4.b"]
    assert leaves["0.W"][1:] == ((6, 4), 0.0, 1.0, 1.0)
    np.testing.assert_allclose(leaves["2.W"][2:], (1, 2, 1), rtol=1e-12)
    assert leaves["4.b"].error == 1
    assert leaves["4.b"].ratio == 0
    lines = str(comparison).splitlines()
    assert lines[0].split() == ["leaf", "shape", "max|a-b|/max|b|", "ratio", "cosine"]
    assert lines[3].split() == ["2.W", "5x6", "1.0e+00", "2.000000", "1.000000"]
    assert len({len(line) for line in lines}) == 1


def test_ratio_and_cosine_tell_how_a_gradient_is_wrong():
    b = jnp.array([3.0, 4.0])
    cases = {"flipped": -b, "half": b / 2, "turned": jnp.array([-4.0, 3.0])}
    leaves = {leaf.path: leaf for leaf in compare(cases, dict.fromkeys(cases, b)).leaves}
    np.testing.assert_allclose(leaves["flipped"][2:], (2, -1, -1), rtol=1e-15)
    np.testing.assert_allclose(leaves["half"][2:], (0.5, 0.5, 1), rtol=1e-15)
    np.testing.assert_allclose(leaves["turned"][2:], (7 / 4, 0, 0), atol=1e-15)


def test_comparison_hides_nothing():
    zero, one, nan = jnp.zeros(2), jnp.ones(2), jnp.array([1.0, jnp.nan])
    assert compare(zero, zero).error == 0
    assert compare(one, zero).error == np.inf
    assert np.isnan(compare(nan, one).error)
    assert np.isnan(compare([nan, one], [one, one]).error)
    assert np.isnan(compare(nan, nan).error)
    assert np.isnan(compare(one * jnp.inf, one * jnp.inf).error)
    with pytest.raises(ValueError, match=r"expected grads with the leaves \['a', 'b'\] of the reference, got \['a'\]"):
        compare({"a": one}, {"a": one, "b": one})
    with pytest.raises(ValueError, match=r"expected leaf a of grads to have the reference's shape \(\), got \(2,\)"):
        compare({"a": one}, {"a": jnp.ones(())})

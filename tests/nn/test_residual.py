"""Skip connections and parallel layers; the table of cases compares their backward with autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.layers import Embedding

from jaxann import backprop, check
from jaxann.gradients.probe import observe
from jaxann.nn import Dense, Dropout, Flatten, Parallel, Residual, Sequential, SquaredError, relu, sum_examples, tanh

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (4,))
BRANCHES = (Dense(4, 3), Sequential((Dense(4, 3), tanh)))
NETWORK = Sequential(
    (
        Dense(4, 3),
        Residual(Sequential((Dense(3, 3), tanh))),
        Parallel((Dense(3, 2), tanh), "concatenation"),
        Dense(5, 2),
    )
)


def test_a_skip_connection_adds_the_input():
    layer = Residual(Dense(4, 4))
    params = layer.init(KEY)
    np.testing.assert_array_equal(layer.forward(params, X)[0], X + layer.layer.forward(params, X)[0])
    assert layer.sizes == (4, 4)
    assert Residual(tanh).keeps_shape


def test_parallel_layers_add_or_concatenate_their_outputs():
    added, concatenated = Parallel(BRANCHES), Parallel(BRANCHES, "concatenation")
    params = added.init(KEY)
    ys = [layer.forward(p, X)[0] for layer, p in zip(BRANCHES, params, strict=True)]
    np.testing.assert_array_equal(added.forward(params, X)[0], ys[0] + ys[1])
    np.testing.assert_array_equal(concatenated.forward(params, X)[0], jnp.concatenate(ys))
    assert (added.sizes, concatenated.sizes) == ((4, 3), (4, 6))
    assert Parallel((Dense(4, 3), tanh), "concatenation").sizes == (4, 7)
    assert Parallel((Dense(4, 3), Flatten()), "concatenation").sizes == (4, None)
    assert Parallel((tanh, relu)).keeps_shape
    assert not Parallel((tanh, relu), "concatenation").keeps_shape


def test_each_parallel_layer_has_a_key_of_its_own():
    layer, x = Parallel((Dropout(0.5), Dropout(0.5)), "concatenation"), jnp.ones(100)
    first, second = jnp.split(layer.forward(((), ()), x, KEY)[0], 2)
    assert (first != second).any()
    np.testing.assert_array_equal(layer.forward(((), ()), x)[0], jnp.ones(200))
    assert layer.random


def test_parallel_layers_may_take_integers():
    layer = Parallel((Embedding(5, 3), Embedding(5, 3)))
    params = layer.init(KEY)
    y, saved = layer.forward(params, jnp.array([1, 4]))
    grads, dx = layer.backward(params, saved, y)
    assert dx is None
    np.testing.assert_array_equal(grads[0]["E"][4], y[1])


def test_probes_reach_the_layers_inside():
    params, x, t = NETWORK.init(KEY), jnp.stack([X, 2 * X]), jnp.ones((2, 2))
    forwards, _, _, backwards = observe(NETWORK, SquaredError(), params, x, t)
    # A skip connection has no parameters of its own, so that the layer inside has its path.
    assert [record.probe.path for record in forwards] == ["0", "1.0", "1.1", "2.0", "2.1", "3"]
    assert [record.probe.path for record in backwards] == ["3", "2.1", "2.0", "1.1", "1.0", "0"]
    np.testing.assert_array_equal(forwards[3].x, forwards[1].x + forwards[2].y)
    _, grads = jax.jit(backprop(NETWORK, SquaredError()))(params, x, t)
    np.testing.assert_allclose(sum_examples(backwards[-1].grads)["W"] / 2, grads[0]["W"], rtol=1e-12)


@pytest.mark.slow
def test_check_judges_the_layers_inside():
    params, x, t = NETWORK.init(KEY), jnp.stack([X, 2 * X, X - 1]), jnp.ones((3, 2))
    report = check(NETWORK, SquaredError(), params, x, t)
    assert report.ok, report
    paths = {row.path for row in report.rows}
    assert {"1.layer.0.W", "1.dx", "2.0.W", "2.1.dx", "2.chain.dx"} <= paths


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Residual(Dense(4, 3)), "expected a layer in Residual that returns as many features as it takes, 4, "),
        (
            lambda: Residual(Flatten()).forward((), jnp.ones((2, 3))),
            r"expected f\(x\) of the shape of x, \(2, 3\), in Residual, got \(6,\)",
        ),
        (lambda: Parallel(()), "expected at least one layer in Parallel, got none"),
        (lambda: Parallel(BRANCHES, "mean"), "expected join to be sum or concatenation, got 'mean'"),
        (
            lambda: Parallel((Dense(4, 3), Dense(5, 3))),
            r"expected a layer in Parallel that takes 4 features like Dense\(4, 3\), got Dense\(5, 3\), which takes 5",
        ),
        (
            lambda: Parallel((Dense(4, 3), tanh)),
            r"expected a layer in Parallel that returns 3 features like Dense\(4, 3\), got tanh, which returns 4",
        ),
        (
            lambda: Parallel((Flatten(), tanh)).forward(((), ()), jnp.ones((2, 3))),
            r"expected outputs of the same shape in Parallel, got \(6,\), \(2, 3\)",
        ),
        (
            lambda: Parallel((Flatten(), tanh), "concatenation").forward(((), ()), jnp.ones((2, 3))),
            r"expected outputs of the same shape but for the last axis in Parallel, got \(6,\), \(2, 3\)",
        ),
        (
            lambda: Sequential((Parallel(BRANCHES, "concatenation"), Dense(5, 1))),
            r"takes the 6 features of Parallel\(.*\), got Dense\(5, 1\), which takes 5",
        ),
    ],
)
def test_layers_that_do_not_fit_together_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()

"""What the feed-forward blocks compute; the table of cases compares their backward with autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.draws import draw_array, draw_params
from support.judges import cast, judge_layer
from support.unchecked import unchecked

from jaxann.nn import (
    GLU,
    Dense,
    FeedForward,
    MixedPrecision,
    Sequential,
    SwiGLU,
    gelu,
    materialize,
    relu,
    sigmoid,
    silu,
    softmax,
)

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 3, 4))  # places [2, 3] of 4 features
GATES = {sigmoid: GLU(4, 5), silu: SwiGLU(4, 5), gelu: SwiGLU(4, 5, activation=gelu)}


@pytest.mark.parametrize("activation", GATES)
def test_a_gate_multiplies_what_it_lets_through(activation):
    layer = GATES[activation]
    params = draw_params(layer)
    gate, through, out = params["W_gate"], params["W_in"], params["W_out"]
    for place in np.ndindex(2, 3):
        x = X[place]
        expected = out @ (activation.function(gate @ x) * (through @ x))
        np.testing.assert_allclose(layer.forward(params, X)[0][place], expected, rtol=1e-12)
        np.testing.assert_allclose(layer.forward(params, x)[0], expected, rtol=1e-12)


def test_a_feed_forward_block_is_a_chain_of_dense_layers_at_each_place():
    layer, chain = FeedForward(4, 5, activation=relu), Sequential((Dense(4, 5), relu, Dense(5, 4)))
    params = draw_params(layer)
    same = ({"W": params["W_1"], "b": params["b_1"]}, (), {"W": params["W_2"], "b": params["b_2"]})
    y, saved = layer.forward(params, X)
    grads, dx = layer.backward(params, saved, X)
    totals = jax.tree.map(jnp.zeros_like, same)
    for place in np.ndindex(2, 3):
        expected, part = chain.forward(same, X[place])
        np.testing.assert_allclose(y[place], expected, rtol=1e-12)
        terms, expected = chain.backward(same, part, X[place])
        np.testing.assert_allclose(dx[place], expected, rtol=1e-12, atol=1e-15)
        totals = jax.tree.map(jnp.add, totals, materialize(terms))
    expected = {f"{name}_{i}": leaf for i, dense in ((1, totals[0]), (2, totals[2])) for name, leaf in dense.items()}
    for name, leaf in materialize(grads).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-12, atol=1e-14)


def test_an_activation_may_be_given_by_its_name_and_only_by_keyword():
    for block in (FeedForward, GLU, SwiGLU):
        with unchecked():
            assert block(4, 5, activation="relu") == block(4, 5, activation=relu)
        with pytest.raises(TypeError, match="positional arguments"):
            block(4, 5, relu)


def test_gradients_of_matrices_keep_the_axes_of_places():
    for layer in (FeedForward(4, 5), SwiGLU(4, 5)):
        params = draw_params(layer)
        grads, _ = layer.backward(params, layer.forward(params, X)[1], X)
        for name, leaf in grads.items():
            if name.startswith("W"):
                m, n = params[name].shape
                assert (leaf.left.shape, leaf.right.shape) == ((2, 3, m), (2, 3, n)), name


@pytest.mark.slow
def test_awkward_sizes_and_other_activations_are_right():
    for layer, shape in (
        (FeedForward(1, 1), (1,)),
        (FeedForward(2, 1, activation=silu), (1, 2)),
        (SwiGLU(1, 3, activation=relu), (2, 1)),
        (GLU(3, 1, activation=gelu), (1, 1, 3)),
    ):
        judge_layer(layer, draw_params(layer), draw_array(9, *shape))


def test_bfloat16_stays_bfloat16_and_biases_are_summed_in_float32():
    """256 is the first whole number whose successor bfloat16 does not have, so a sum of ones would stop there."""
    for layer in (FeedForward(2, 3), SwiGLU(2, 3)):
        params, x = cast((draw_params(layer), jnp.ones((1000, 2))), jnp.bfloat16)
        y, saved = layer.forward(params, x)
        grads, dx = layer.backward(params, saved, x)
        assert (y.dtype, dx.dtype) == (jnp.bfloat16, jnp.bfloat16)
        if "b_2" in grads:
            np.testing.assert_array_equal(grads["b_2"], [1000, 1000])
        exact = layer.forward(cast(params, jnp.float64), x.astype(jnp.float64))[0]
        np.testing.assert_allclose(y.astype(float), exact, rtol=0.05, atol=0.02)
        same, _ = MixedPrecision(layer).forward(cast(params, jnp.float32), x.astype(jnp.float32))
        np.testing.assert_array_equal(same, y.astype(jnp.float32))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: FeedForward(0, 3), r"expected n of at least 1 \(the features of FeedForward\), got 0"),
        (lambda: GLU(3, 2, activation=softmax), "expected activation to map each entry on its own, .*, got softmax"),
        (lambda: FeedForward(3, 2, activation=jnp.tanh), "expected activation to be a layer of jaxann.nn or the name"),
        (lambda: FeedForward(3, 0), r"expected hidden of at least 1 \(the hidden features of FeedForward\), got 0"),
        (
            lambda: GLU(3, 2).forward(GLU(3, 2).init(KEY), jnp.ones((3, 4))),
            r"GLU\(3, 2\) expected x of shape \(\.\.\., 3\), got \(3, 4\)",
        ),
        (
            lambda: FeedForward(3, 2).forward(FeedForward(3, 2).init(KEY), jnp.ones(4)),
            r"FeedForward\(3, 2\) expected x of shape \(\.\.\., 3\), got \(4,\)",
        ),
        (lambda: Sequential((SwiGLU(3, 2), Dense(2, 1))), r"takes the 3 features of SwiGLU\(.*\), got Dense\(2, 1\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(build, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        build()

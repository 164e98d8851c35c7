"""Chains of equal blocks in one loop, and layers whose backward computes the forward pass again."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.draws import draw_array, draw_params
from support.judges import judge, judge_layer
from support.layers import WrongLayer

from jaxann import autodiff, backprop, check, check_layer, compare
from jaxann.gradients import curvature, per_example
from jaxann.gradients.probe import observe
from jaxann.nn import (
    Conv,
    Dense,
    Dropout,
    Each,
    Embedding,
    Layer,
    LayerNorm,
    MixedPrecision,
    Recomputed,
    Repeat,
    Residual,
    Sequential,
    SquaredError,
    TiedEmbedding,
    materialize,
    tanh,
)
from jaxann.nn.factors import Blocks
from jaxann.nn.recomputed import remove_recomputation
from jaxann.rules import RULES, ClippedDeltas, KolenPollack, NoisyDeltas, StraightThrough, threshold

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3,))
BLOCK = Residual(Sequential((LayerNorm(3), Dense(3, 4), tanh, Dense(4, 3))))
REPEATED = Repeat(BLOCK, 3)


@dataclass(frozen=True)
class Scale(Layer):
    """y = a x for a number a"""

    def init(self, key):
        return jax.random.normal(key)

    def forward(self, params, x, key=None):
        return params * x, x

    def backward(self, params, saved, dy):
        return dy @ saved, params * dy


def unroll(layer, params):
    """Returns the parameters of each block."""
    one = jax.eval_shape(layer.layer.init, KEY)
    blocks = jax.tree.map(lambda p, leaf: p.reshape(layer.count, *leaf.shape), params, one)
    return [jax.tree.map(lambda p, i=i: p[i], blocks) for i in range(layer.count)]


def test_the_blocks_make_a_chain():
    params, chain = draw_params(REPEATED), Sequential((BLOCK,) * 3)
    blocks = tuple(unroll(REPEATED, params))

    @jax.jit
    def both(params, blocks):
        (y, saved), (z, kept) = REPEATED.forward(params, X), chain.forward(blocks, X)
        return y, z, materialize(REPEATED.backward(params, saved, y)), materialize(chain.backward(blocks, kept, z))

    y, z, (grads, dx), (expected, dz) = both(params, blocks)
    np.testing.assert_allclose(y, z, rtol=1e-14)
    judge((tuple(unroll(REPEATED, grads)), dx), (expected, dz), jnp.float64)
    assert params[1]["W"].shape == (12, 3)  # the matrices of the blocks lie below one another
    assert params[1]["b"].shape == (12,)


def test_init_draws_other_parameters_for_every_block():
    first, second = unroll(Repeat(Dense(3, 3), 2), Repeat(Dense(3, 3), 2).init(KEY))
    assert (first["W"] != second["W"]).all()


@pytest.mark.parametrize(("few", "many", "key"), [(2, 20, None), (20, 40, KEY)])
def test_a_program_is_as_long_for_many_blocks_as_for_few(few, many, key):
    """With a key, programs for very few blocks are shorter, as they share the function that splits keys."""

    def count_lines(count):
        layer = Repeat(Recomputed(Sequential((BLOCK, Dropout(0.5)))), count)
        params, x = jax.eval_shape(layer.init, KEY), jnp.ones((5, 3))
        program = jax.jit(backprop(layer, SquaredError())).lower(params, x, x, None, key)
        return program.as_text().count("\n")

    assert count_lines(few) == count_lines(many)


IMAGES = Repeat(Residual(Conv(3, 3, (2, 1), padding="same")), 2)
NESTED = {  # a layer and the shape of an input for it
    "a chain at each position of a chain": (Repeat(Each(REPEATED), 2), (2, 3)),
    "convolutions": (IMAGES, (4, 2, 3)),
    "chains at positions of positions": (Each(Each(Repeat(Dense(3, 3), 2))), (2, 2, 3)),
    "one block": (Repeat(Dense(3, 3), 1), (3,)),
    "no parameters": (Repeat(tanh, 3), (3,)),
    "blocks that are recomputed": (Repeat(Recomputed(BLOCK), 2), (3,)),
    "a number": (Repeat(Scale(), 3), (3,)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "convolutions" else pytest.mark.slow) for n in NESTED]
)
def test_blocks_may_hold_what_a_layer_may(name):
    layer, shape = NESTED[name]
    judge_layer(layer, draw_params(layer), draw_array(9, *shape))


@pytest.mark.parametrize(
    ("layer", "shape"), [(Repeat(Dense(64, 64), 4), (64,)), (Repeat(Conv(64, 64, (3,), padding=1), 4), (2, 64))]
)
def test_no_matrix_is_made_for_each_example(layer, shape):
    params, x = layer.init(KEY), jnp.ones((64, *shape))
    step = jax.jit(backprop(layer, SquaredError())).lower(params, x, x).compile()
    examples = 64 * sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert step.memory_analysis().temp_size_in_bytes < examples / 4


def test_every_block_has_a_key_of_its_own():
    layer, x = Repeat(Dropout(0.5), 2), jnp.ones(1000)
    y, _ = layer.forward((), x, KEY)
    assert abs((y == 4).mean() - 0.25) < 0.05  # with one key for both, half of the entries would be 4
    np.testing.assert_array_equal(layer.forward((), x)[0], x)
    assert layer.random


def test_a_recomputed_layer_saves_its_input_alone():
    layer, block = Repeat(Recomputed(BLOCK), 5), jax.ShapeDtypeStruct((5, 3), jnp.float64)
    _, saved = jax.eval_shape(layer.forward, jax.eval_shape(layer.init, KEY), X)
    assert jax.tree.leaves(saved) == [block]


def test_the_same_random_numbers_are_drawn_again():
    plain = Sequential((Dense(3, 3), Dropout(0.5)))
    params = plain.init(KEY)

    def differentiate(layer):
        y, saved = layer.forward(params, X, KEY)
        return materialize(layer.backward(params, saved, y))

    jax.tree.map(np.testing.assert_array_equal, differentiate(Recomputed(plain)), differentiate(plain))


def test_probes_reach_the_layers_inside_a_recomputed_one():
    model = Sequential((Recomputed(Sequential((Dense(3, 3), tanh))), Dense(3, 2)))
    forwards, *_ = observe(model, SquaredError(), model.init(KEY), X[None], jnp.ones((1, 2)))
    assert [record.probe.path for record in forwards] == ["0.0", "0.1", "1"]
    chain = Sequential((Each(Recomputed(Repeat(Recomputed(tanh), 2))),))
    assert remove_recomputation(chain) == Sequential((Each(Repeat(tanh, 2)),))


ALL_RULES = RULES | {
    "Kolen-Pollack": KolenPollack(optax.sgd(0.1)),
    "straight through": StraightThrough(),
    "clipped deltas": ClippedDeltas(0.1),
    "noisy deltas": NoisyDeltas(0.3),
}


@pytest.mark.parametrize(
    "name", [n if n == "feedback_alignment" else pytest.param(n, marks=pytest.mark.slow) for n in ALL_RULES]
)
def test_a_rule_has_the_same_gradients_with_recomputation(name):
    """With the parameters of the rule's backward, the forward pass would be computed again wrongly."""
    inner = Sequential((Dense(4, 4), tanh, Dense(4, 3), threshold))

    def make(wrap):
        return Sequential((Dense(3, 4), tanh, wrap(Residual(wrap(Dense(4, 4)))), wrap(inner), Dense(3, 2)))

    x, t = jax.random.normal(KEY, (5, 3)), jnp.ones((5, 2))
    results = []
    for model in (make(Recomputed), make(lambda layer: layer)):
        gradient = ALL_RULES[name](model, SquaredError())
        results.append(jax.jit(gradient.step)(model.init(KEY), gradient.init(KEY), x, t, key=KEY))
    jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.slow
def test_feedback_alignment_of_a_chain_in_a_loop_is_that_of_the_chain():
    rule, loss, chain = RULES["feedback_alignment"], SquaredError(), Sequential((BLOCK,) * 3)
    params, feedback = draw_params(REPEATED), REPEATED.init(jax.random.key(1))
    x, t = jax.random.normal(KEY, (5, 3)), jnp.ones((5, 3))
    _, grads = rule(REPEATED, loss).bind(feedback)(params, x, t)
    blocks, back = (tuple(unroll(REPEATED, tree)) for tree in (params, feedback))
    _, expected = rule(chain, loss).bind(back)(blocks, x, t)
    assert compare(tuple(unroll(REPEATED, grads)), expected).error < 1e-12


def test_kronecker_factors_have_a_block_for_each_block():
    layer = Repeat(Dense(3, 3), 2)
    params, x = draw_params(layer), jax.random.normal(KEY, (5, 3))

    @jax.jit
    def compute(params):
        grads = per_example.gradients(layer, SquaredError())(params, x, jnp.sin(x))[1]["W"]
        return grads, per_example.kronecker_factors(grads)

    grads, (left, right) = compute(params)
    np.testing.assert_array_equal(left[:3, 3:], 0)
    lefts, rights = grads.left.factor, grads.right  # [B, count, 3]
    np.testing.assert_allclose(left[3:, 3:], jnp.einsum("bi,bj->ij", lefts[:, 1], lefts[:, 1]) / 5, rtol=1e-12)
    np.testing.assert_allclose(right, jnp.einsum("bci,bcj->ij", rights, rights) / 10, rtol=1e-12)


@pytest.mark.slow
def test_second_derivatives_pass_the_loop():
    layer, loss = Repeat(Recomputed(Each(BLOCK)), 2), SquaredError()
    params, x = draw_params(layer), jax.random.normal(KEY, (5, 2, 3))
    t, v = jnp.sin(x), jax.tree.map(jnp.cos, params)
    product = jax.jit(curvature.hessian_product(layer, loss))(params, v, x, t)
    gradient = jax.jit(jax.grad(lambda params: autodiff(layer, loss)(params, x, t)[0]))
    judge(product, jax.jvp(gradient, (params,), (v,))[1], jnp.float64)
    vectors = jax.jit(curvature.gauss_newton_vectors(layer, loss))(params, x, t)
    expected = jax.tree.map(lambda g: (g * g).mean(0), per_example.materialize(vectors))
    judge(per_example.second_moment(vectors), expected, jnp.float64)


def test_a_chain_is_judged_once():
    layer = Repeat(Dense(3, 3), 20)
    report = check_layer(layer, draw_params(layer), X)
    assert report.ok
    assert [row.path for row in report.rows] == ["W", "b", "dx"]  # no rows with a key, which the layer does not use
    assert report.notes == ("Repeat: its parts (layer) cannot be observed, so they are checked only as parts of it",)


MISTAKES = {  # what is done to the gradients of a chain of Dense(3, 3), and which of them are wrong then
    "the blocks in reverse": (
        lambda p, saved, dy, grads, dx: (grads | {"b": grads["b"].reshape(-1, 3)[::-1].reshape(-1)}, dx),
        {"b"},
    ),
    "the first block alone": (
        lambda p, saved, dy, grads, dx: (grads | {"W": materialize(grads)["W"].at[3:].set(0)}, dx),
        {"W"},
    ),
    "dx of the last block": (lambda p, saved, dy, grads, dx: (grads, p["W"][6:].T @ dy), {"dx"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_term_is_found_in_the_gradient_that_has_it(name):
    spoil, wrong = MISTAKES[name]
    layer = WrongLayer(Repeat(Dense(3, 3), 3), spoil)
    assert set(check_layer(layer, draw_params(layer), X).wrong) == wrong


@dataclass(frozen=True)
class Forgetful(Recomputed):
    """A layer that computes its forward pass again without the key that it drew random numbers with."""

    def backward(self, params, saved, dy):
        return super().backward(params, (saved[0], None), dy)


@pytest.mark.slow
def test_a_forgotten_key_is_found():
    layer = Forgetful(Sequential((tanh, Dropout(0.5))))
    assert check_layer(layer, layer.init(KEY), X).wrong == ("random.dx",)


@pytest.mark.slow
def test_a_network_of_blocks_is_judged_right():
    ids = jnp.array([[1, 2], [4, 4], [0, 1]])
    model = TiedEmbedding(Embedding(5, 3), Repeat(Recomputed(Each(BLOCK)), 2))
    assert check(model, SquaredError(), model.init(KEY), ids, jnp.ones((3, 2, 5))).ok


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Repeat(tanh, 0), r"expected count of at least 1 \(the blocks of Repeat\), got 0"),
        (
            lambda: Repeat(Dense(3, 4), 2),
            "expected a layer in Repeat that returns as many features as it takes, 3, got 4",
        ),
        (
            lambda: Repeat(Embedding(3, 3), 2).forward(Repeat(Embedding(3, 3), 2).init(KEY), jnp.array([1, 2])),
            r"expected f\(x\) of the shape and dtype of x, \(2,\) and int64, in Repeat, got \(2, 3\) and float64",
        ),
    ],
)
def test_blocks_that_do_not_fit_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


def test_low_precision_stays_inside():
    layer = MixedPrecision(Repeat(Dense(3, 3), 2))
    y, saved = layer.forward(layer.init(KEY), X)
    grads, dx = layer.backward(layer.init(KEY), saved, y)
    assert (y.dtype, dx.dtype) == (jnp.float64, jnp.float64)
    assert isinstance(grads["W"].left, Blocks)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads["W"])} == {jnp.dtype(jnp.bfloat16)}

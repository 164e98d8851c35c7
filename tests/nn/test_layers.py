import re
from dataclasses import dataclass, replace
from inspect import isabstract
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers
from jax.test_util import check_vjp
from support.cases import BRIEFLY, LAYERS
from support.draws import draw_array, draw_params
from support.judges import cast, judge_layer
from support.layers import Tied

import jaxann
from jaxann import autodiff, backprop, compare
from jaxann.nn import (
    ACTIVATIONS,
    LSTM,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Elementwise,
    Embedding,
    FeedForward,
    Flatten,
    GroupNorm,
    Layer,
    LayerNorm,
    MaxPool,
    MixedPrecision,
    Outer,
    Residual,
    Sequential,
    SquaredError,
    TiedEmbedding,
    Wrapper,
    materialize,
    mlp,
    relu,
    sigmoid,
    softmax,
    sum_examples,
    tanh,
)

KEY = jax.random.key(7)
FORWARDS = {  # JAX's own activations, as references
    "identity": lambda x: x,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    **{name: getattr(jax.nn, name) for name in ACTIVATIONS if name not in ("identity", "gelu")},
}


def draw_params_and_input(layer, shape, dtype=jnp.float64):
    """Draws parameters and an input."""
    return cast((draw_params(layer), draw_array(8, *shape)), dtype)


EXPRESSIONS = {
    "Conv(3, 8, (3, 3), stride=(2, 2))": Conv(3, 8, (3, 3), stride=2, weights=initializers.he_normal()),
    "MaxPool((2, 2))": MaxPool((2, 2), stride=2),
    "AvgPool((2, 2), stride=(1, 1))": AvgPool((2, 2), stride=1),
    "GroupNorm(8, 4, epsilon=0.1)": GroupNorm(8, 4, epsilon=0.1),
    "FeedForward(4, 8, activation=relu)": FeedForward(4, 8, activation=relu),
    "LSTM(2, 3, reverse=True, forget_bias=0.0)": LSTM(2, 3, reverse=True, forget_bias=0.0),
    "Sequential((Residual(LayerNorm(4)), Flatten(shape=(2, 4))))": Sequential(Residual(LayerNorm(4)), Flatten([2, 4])),
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_layer_prints_the_settings_that_differ_from_their_defaults(expression):
    layer = EXPRESSIONS[expression]
    assert repr(layer) == expression
    assert repr(eval(expression, vars(jaxann.nn))) == expression


def test_layers_of_your_own_print_alike_unless_they_have_a_repr_of_their_own():
    @dataclass(frozen=True)
    class Scale(Wrapper):
        factor: float
        center: Any = 0.0

    @dataclass(frozen=True)
    class Named(Scale):
        def __repr__(self):
            return "my scale"

    class Derived(Named):
        pass

    assert [repr(scale(tanh, 2.0)) for scale in (Scale, Named, Derived)] == ["Scale(tanh, 2.0)", *["my scale"] * 2]
    assert repr(Scale(tanh, 2.0, jnp.ones(2))) == "Scale(tanh, 2.0, center=Array([1., 1.], dtype=float64))"
    traced = []
    jax.jit(lambda center: traced.append(repr(Scale(tanh, 2.0, center))))(0.0)
    assert traced[0].startswith("Scale(tanh, 2.0, center=")


def test_softmax_refuses_a_sequence_instead_of_mixing_its_positions():
    with pytest.raises(ValueError, match=r"softmax expected x of shape \(n,\), got \(2, 3\); Each\(softmax\) takes"):
        softmax.forward((), jnp.ones((2, 3)))


def test_every_public_layer_and_activation_has_a_case():
    public = [getattr(room, name) for room in (jaxann.nn, jaxann.rules) for name in room.__all__]
    classes = {value for value in public if isinstance(value, type) and issubclass(value, Layer)}
    # MixedPrecision rounds by more than these tests allow, embeddings take integers, and BatchNorm takes batches alone.
    # They have tests of their own.
    others = {BatchNorm, MixedPrecision, Embedding, TiedEmbedding}
    assert classes > others
    concrete = {value for value in classes if not isabstract(value)}
    assert {type(layer) for layer, _ in LAYERS.values()} >= concrete - others
    activations = {value for value in public if isinstance(value, Layer)}
    assert {layer for layer, _ in LAYERS.values()} >= activations
    # ACTIVATIONS leaves out threshold, because nothing below it learns without a rule.
    assert activations == {*ACTIVATIONS.values(), jaxann.rules.threshold}


FEWER = [pytest.param(name, marks=pytest.mark.slow) if name in BRIEFLY else name for name in LAYERS]


# Of a layer in several variants, which have a comma or "of" in their names, one is a fast test.
VARIANT = re.compile(r"(?!Parallel, added).*(, | of )")
PLAIN = [pytest.param(name, marks=pytest.mark.slow) if VARIANT.match(name) else name for name in LAYERS]


@pytest.mark.parametrize("name", PLAIN)
def test_backward_is_the_transposed_derivative_of_forward(name):
    layer, shape = LAYERS[name]
    judge_layer(layer, *draw_params_and_input(layer, shape))


@pytest.mark.parametrize("name", FEWER)
def test_backward_is_the_transposed_derivative_of_forward_in_float32(name):
    layer, shape = LAYERS[name]
    judge_layer(layer, *draw_params_and_input(layer, shape, jnp.float32))


@pytest.mark.parametrize("name", FEWER)
def test_backward_agrees_with_finite_differences(name):
    layer, shape = LAYERS[name]

    def pair(params, x):
        y, saved = layer.forward(params, x)
        return y, lambda dy: materialize(layer.backward(params, saved, jnp.asarray(dy)))

    def forward(*args):  # check_vjp passes NumPy arrays
        return layer.forward(*jax.tree.map(jnp.asarray, args))[0]

    check_vjp(forward, pair, draw_params_and_input(layer, shape), atol=1e-6, rtol=1e-6, eps=1e-5)


@pytest.mark.parametrize("name", FEWER)
def test_jit_is_eager_and_vmap_is_a_loop(name):
    layer, shape = LAYERS[name]
    params, _ = draw_params_and_input(layer, shape)
    xs = draw_array(9, 4, *shape)

    def forward_and_backward(x):
        y, saved = layer.forward(params, x)
        return y, materialize(layer.backward(params, saved, jnp.cos(y)))

    loop = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[forward_and_backward(x) for x in xs])
    for batched in (jax.vmap(forward_and_backward), jax.jit(jax.vmap(forward_and_backward))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14), batched(xs), loop)


@pytest.mark.parametrize("name", FEWER)
def test_layers_are_hashable_values_and_save_no_parameters(name):
    layer, shape = LAYERS[name]
    assert hash(layer) == hash(replace(layer))
    assert layer == replace(layer)
    params, x = draw_params_and_input(layer, shape)
    _, saved = layer.forward(params, x)
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    dx = layer.backward(other, saved, layer.forward(params, x)[0])[1]  # feedback alignment calls it so
    assert dx.shape == x.shape
    shapes = {leaf.shape for leaf in jax.tree.leaves(params)} - {x.shape}
    assert not shapes & {leaf.shape for leaf in jax.tree.leaves(saved) if leaf.ndim > 1}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_jax_values_far_out_too(name):
    x = jnp.concatenate([jnp.linspace(-4, 4, 33), jnp.array([-1e3, -90.0, 90.0, 1e3])])
    y, _ = ACTIVATIONS[name].forward((), x)
    np.testing.assert_allclose(y, FORWARDS[name](x), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_finite_both_ways_far_out(name, dtype):
    x = jnp.array([-1e4, -100.0, 100.0, 1e4], dtype)
    y, saved = ACTIVATIONS[name].forward((), x)
    _, dx = ACTIVATIONS[name].backward((), saved, jnp.array([1.5, -0.5, 2.0, -1.0], dtype))
    assert jnp.isfinite(y).all()
    assert jnp.isfinite(dx).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_do_not_swallow_a_nan(name):
    assert jnp.isnan(ACTIVATIONS[name].forward((), jnp.array([jnp.nan, 1.0]))[0][0])


# the slope that jax.nn takes at each kink
KINKS = {"relu": {0.0: 0.0}, "leaky_relu": {0.0: 1.0}, "elu": {0.0: 1.0}, "hard_tanh": {1.0: 1.0, -1.0: 1.0}}
KINKS["selu"] = {0.0: 1.0507009873554805 * 1.6732632423543772}


@pytest.mark.parametrize("name", KINKS)
def test_kinks_take_the_slope_of_jax(name):
    for x, slope in KINKS[name].items():
        for zero in (x, -x) if x == 0 else (x,):  # -0.0 is a kink like 0.0
            _, saved = ACTIVATIONS[name].forward((), jnp.array([zero]))
            _, dx = ACTIVATIONS[name].backward((), saved, jnp.array([3.0]))
            np.testing.assert_allclose(dx[0], 3 * slope, rtol=1e-15)
            np.testing.assert_allclose(jax.grad(FORWARDS[name])(zero), slope, rtol=1e-15)
            np.testing.assert_allclose(jax.grad(lambda x: ACTIVATIONS[name].forward((), x)[0])(zero), slope, rtol=1e-15)


def test_a_matrix_gradient_stays_in_its_factors():
    dense = Dense(4, 3)
    params, x = draw_params_and_input(dense, (4,))
    grads, _ = dense.backward(params, x, jnp.arange(3.0))
    assert isinstance(grads["W"], Outer)
    np.testing.assert_array_equal(grads["W"].sum(), np.outer(np.arange(3), x))


def test_outer_sums_over_every_leading_axis():
    left, right = jax.random.normal(KEY, (5, 2, 3)), jax.random.normal(KEY, (5, 2, 4))
    np.testing.assert_allclose(Outer(left, right).sum(), np.einsum("btm,btn->mn", left, right), rtol=1e-13)
    np.testing.assert_allclose(sum_examples({"W": Outer(left, right)})["W"], Outer(left, right).sum())
    both = Outer(left, right) + Outer(left[0, 0], right[0, 0])
    expected = np.einsum("btm,btn->mn", left, right) + np.outer(left[0, 0], right[0, 0])
    np.testing.assert_allclose(both.sum(), expected, rtol=1e-13)


def test_a_batch_of_shared_factors_keeps_its_examples_apart():
    tied = Tied(4, 3)
    params, x = draw_params_and_input(tied, (6, 4))
    _, saved = jax.vmap(tied.forward, (None, 0))(params, x)
    grads, _ = jax.vmap(tied.backward, (None, 0, 0))(params, saved, x)
    assert [factor.shape for factor in jax.vmap(Outer.rows)(grads["W"])] == [(6, 2, 3), (6, 2, 4)]
    np.testing.assert_allclose(sum_examples(grads)["W"], jax.vmap(Outer.sum)(grads["W"]).sum(0), rtol=1e-12)


def test_zero_hidden_weights_never_learn():
    model = Sequential((Dense(3, 5, weights=initializers.zeros), sigmoid, Dense(5, 2, weights=initializers.zeros)))
    params, x, t = model.init(KEY), jax.random.normal(KEY, (8, 3)), jax.random.normal(KEY, (8, 2))
    gradient = jax.jit(jaxann.backprop(model, jaxann.nn.SquaredError()))
    first = gradient(params, x, t)[1]
    assert not first[0]["W"].any()  # dx = Wᵀ dy = 0, because W is zero in the layer above
    assert not first[0]["b"].any()
    for _ in range(50):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params, x, t)[1])
    hidden = params[0]["W"]
    np.testing.assert_allclose(hidden, jnp.tile(hidden[:1], (5, 1)), atol=1e-15)  # the five neurons have stayed equal
    random = mlp((3, 5, 2)).init(KEY)
    assert jnp.ptp(random[0]["W"], axis=0).min() > 0.1


def test_weights_are_drawn_for_their_fan_in():
    params = Dense(1000, 10, weights=initializers.lecun_normal(), biases=initializers.constant(3.0)).init(KEY)
    assert params["W"].shape == (10, 1000)
    np.testing.assert_allclose(params["W"].var(), 1 / 1000, rtol=0.05)
    np.testing.assert_array_equal(params["b"], np.full(10, 3.0))


def test_keys_reach_the_layers_that_use_them():
    class Noise(Layer):
        def forward(self, params, x, key=None):
            return (x if key is None else x + jax.random.normal(key, x.shape)), ()

        def backward(self, params, saved, dy):
            return (), dy

    model, x = Sequential((Noise(), Noise())), jnp.zeros(3)
    np.testing.assert_array_equal(model.forward(((), ()), x)[0], x)
    first, second = (model.forward(((), ()), x, jax.random.key(k))[0] for k in (0, 1))
    assert (first != second).all()


def test_mlp_is_the_chain_that_its_docstring_states():
    assert mlp((4, 5, 3), hidden=relu, output=sigmoid) == Sequential((Dense(4, 5), relu, Dense(5, 3), sigmoid))
    assert mlp((4, 5, 3)).sizes == (4, 3)
    assert Sequential((relu,)).sizes == (None, None)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (
            lambda: Sequential((Dense(4, 5), relu, Dense(6, 3))),
            r"takes the 5 features of Dense\(4, 5\), got Dense\(6, 3\), which takes 6",
        ),
        (
            lambda: Sequential((mlp((4, 5)), mlp((4, 5)))),
            r"takes the 5 features of Sequential\(.*\), got Sequential\(.*\), which takes 4",
        ),
        (lambda: Sequential(()), "expected at least one layer in Sequential, got none"),
        (lambda: Dense(0, 3), r"expected n of at least 1 \(the input features of Dense\), got 0"),
        (lambda: Dense(3, -1), r"expected m of at least 1 \(the output features of Dense\), got -1"),
        (lambda: mlp((4,)), r"expected sizes to have at least an input and an output size, got \(4,\)"),
        (lambda: mlp((4, 0, 3)), r"expected sizes\[1\] of at least 1, got 0"),
        (lambda: mlp((4, 3), dropout=1.5), "expected dropout between 0 and 1, excluding 1, got 1.5"),
        (lambda: Dense(4, 3).forward(Dense(4, 3).init(KEY), jnp.ones(5)), r"expected x of shape \(4,\), got \(5,\)"),
    ],
)
def test_layers_and_sizes_that_do_not_fit_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


def test_a_new_activation_is_a_line():
    cube = Elementwise("cube", lambda x: x**3, lambda x, y: 3 * x**2)
    judge_layer(cube, (), draw_array(9, 5))


def test_dropout_keeps_the_mean_and_zeroes_its_share():
    x = jax.random.normal(KEY, (100_000,)) + 3
    y, _ = Dropout(0.3).forward((), x, jax.random.key(1))
    np.testing.assert_allclose((y == 0).mean(), 0.3, atol=0.01)  # seven standard deviations
    kept = y != 0
    np.testing.assert_allclose(y[kept], x[kept] / 0.7, rtol=1e-14)
    other, _ = Dropout(0.3).forward((), x, jax.random.key(2))
    assert ((other == 0) != (y == 0)).any()
    np.testing.assert_array_equal(Dropout(0.3).forward((), x)[0], x)  # without a key it evaluates


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_dropout_refuses_a_rate_out_of_range(rate):
    with pytest.raises(ValueError, match=r"expected rate (between 0 and 1, excluding 1|to be a finite number), got "):
        Dropout(rate)


def test_layers_know_whether_they_draw_random_numbers_at_any_depth():
    assert mlp((3, 4, 2), dropout=0.5).random
    assert MixedPrecision(Sequential((mlp((3, 4, 2), dropout=0.5), relu))).random
    assert not mlp((3, 4, 2)).random
    dropped = Sequential((relu, Dropout(0.5)))
    assert mlp((3, 4, 5, 2), relu, tanh, dropout=0.5).layers == (
        *(Dense(3, 4), dropped, Dense(4, 5), dropped, Dense(5, 2), tanh),
    )


def test_dropout_leaves_a_network_the_parameters_that_its_key_draws():
    dropped, plain = (jax.tree.leaves(mlp((3, 4, 5, 2), dropout=rate).init(KEY)) for rate in (0.5, 0.0))
    assert all(jnp.array_equal(a, b) for a, b in zip(dropped, plain, strict=True))


def test_each_example_has_its_own_mask_and_both_routes_use_the_same_masks():
    model, loss = mlp((4, 50, 2), hidden=tanh, dropout=0.5), SquaredError()
    params, x, t = model.init(KEY), jnp.ones((6, 4)), jnp.ones((6, 2))
    key = jax.random.key(3)
    (value, handwritten), (same, automatic) = (
        route(model, loss)(params, x, t, None, key) for route in (backprop, autodiff)
    )
    assert compare(handwritten, automatic).error < 1e-14
    np.testing.assert_allclose(value, same, rtol=1e-14)
    keys = jax.random.split(key, 6)
    losses = [loss.value(model.forward(params, x[i], keys[i])[0], t[i]) for i in range(6)]
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-14)
    assert len(set(map(float, losses))) == 6
    assert value != backprop(model, loss)(params, x, t)[0]


@pytest.mark.slow
def test_mixed_precision_rounds_inside_and_sums_in_float32():
    inner, loss = mlp((40, 50, 2), hidden=tanh), SquaredError()
    model = MixedPrecision(inner)
    params = cast(inner.init(KEY), jnp.float32)
    x, t = (jax.random.normal(jax.random.key(i), (600, n), jnp.float32) for i, n in enumerate((40, 2)))
    assert model.init(KEY)[0]["W"].dtype == jnp.float64  # parameters keep the default precision
    y, saved = model.forward(params, x[0])
    assert y.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(saved)} == {jnp.dtype(jnp.bfloat16)}
    (value, handwritten), (same, automatic) = (route(model, loss)(params, x, t) for route in (backprop, autodiff))
    exact, true = autodiff(inner, loss)(params, x, t)
    assert {leaf.dtype for leaf in jax.tree.leaves((handwritten, value))} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(value, same, rtol=1e-5)
    np.testing.assert_allclose(value, exact, rtol=2e-2)  # bfloat16 has 8 significant bits
    assert 1e-4 < compare(handwritten, true).error < 2e-2
    assert compare(handwritten, automatic).error < 2e-2
    assert compare(handwritten, true).error < 1.5 * compare(automatic, true).error  # sums over examples are not rounded

"""Batch normalization: examples that depend on one another, their weights, evaluation, and what refuses them."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.nn import initializers
from support.judges import cast
from support.selection import choose
from support.unchecked import unchecked

from jaxann import (
    autodiff,
    backprop,
    calibrate,
    check,
    check_layer,
    differentiable,
    fit,
    grade,
    predict,
    rules,
    sweep,
)
from jaxann.data import Examples
from jaxann.gradients import curvature, per_example
from jaxann.nn import (
    Affine,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MixedPrecision,
    Parallel,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    SquaredError,
    Wrapper,
    sum_examples,
    tanh,
)
from jaxann.nn.axis import BATCH
from jaxann.nn.batch import backward_batch, forward_batch
from jaxann.nn.places import expand_places, mean_places
from jaxann.training import Recipe, combinations, kfac
from jaxann.training.fit import evaluate

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(2, 3, size=(5, 4, 3, 6))  # [B, height, width, features]
DRAWN = partial(Dense, biases=initializers.normal(1.0))
NORM = BatchNorm(4)
MODEL = Sequential(
    (DRAWN(3, 4), NORM, tanh, Residual(Sequential((Dense(4, 4), BatchNorm(4, scale=False)))), Dense(4, 2))
)
LOSS = SoftmaxCrossEntropy()
X, T = jax.random.normal(jax.random.key(1), (7, 3)), jnp.arange(7) % 2
WEIGHTS = jnp.array([1.0, 2, 0, 3, 1, 0, 0.5])
PARAMS = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(KEY, p.shape), MODEL.init(KEY))


def assert_close(a, b, tolerance=1e-12):
    """Asserts that two trees agree relative to the largest entry of all: the bias before a BatchNorm has gradient 0."""
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def draw_params(layer, key=KEY):
    return jax.tree.map(lambda p: p + 0.5 * jax.random.normal(key, p.shape), layer.init(key))


@pytest.mark.parametrize(("scale", "shift"), choose([(True, True), (False, True), (False, False)], 3))
def test_a_feature_of_the_batch_has_mean_0_and_variance_1(scale, shift):
    layer = BatchNorm(6, scale=scale, shift=shift)
    params = layer.init(KEY)
    assert set(params) == {name for name, given in (("scale", scale), ("shift", shift)) if given}
    y, saved = forward_batch(layer, params, jnp.asarray(IMAGES))
    rows, variance = np.asarray(y).reshape(-1, 6), IMAGES.reshape(-1, 6).var(axis=0)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(rows.var(axis=0), variance / (variance + 1e-5), rtol=1e-12)
    grads, _ = backward_batch(layer, params, saved, y)
    assert jax.tree.structure(grads) == jax.tree.structure(params)


def test_pytorch_agrees():
    torch = pytest.importorskip("torch")
    arrays = [np.random.default_rng(seed).normal(size=6) for seed in (1, 2)]
    x, scale, shift = (torch.tensor(array, requires_grad=True) for array in (IMAGES, *arrays))
    dy = np.random.default_rng(3).normal(size=IMAGES.shape)
    y = torch.nn.functional.batch_norm(x.movedim(-1, 1), None, None, scale, shift, training=True, eps=0.1).movedim(
        1, -1
    )
    y.backward(torch.tensor(dy))
    layer, params = BatchNorm(6, epsilon=0.1), dict(zip(("scale", "shift"), map(jnp.asarray, arrays), strict=True))
    ours, saved = forward_batch(layer, params, jnp.asarray(IMAGES))
    grads, dx = backward_batch(layer, params, saved, jnp.asarray(dy))
    grads = sum_examples(grads)
    np.testing.assert_allclose(ours, y.detach(), rtol=1e-12, atol=1e-12)
    for a, b in ((dx, x), (grads["scale"], scale), (grads["shift"], shift)):
        np.testing.assert_allclose(a, b.grad, rtol=1e-11, atol=1e-12)


@pytest.fixture(scope="module")
def gradients():
    return jax.jit(backprop(MODEL, LOSS)), jax.jit(autodiff(MODEL, LOSS))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_backprop_is_autodiff(gradients, weights):
    hand, auto = gradients
    assert_close(hand(PARAMS, X, T, weights), auto(PARAMS, X, T, weights))


def test_backprop_is_autodiff_in_float32(gradients):
    params, x = cast((PARAMS, X), jnp.float32)
    with jax.enable_x64(False):
        assert_close(
            *(gradient(params, x, T.astype(jnp.int32), WEIGHTS.astype(jnp.float32)) for gradient in gradients),
            tolerance=1e-5,
        )


def test_dx_of_the_batch_is_that_of_autodiff():
    layer, params, x = BatchNorm(6), draw_params(BatchNorm(6)), jnp.asarray(IMAGES)
    weights, dy = jnp.array([2.0, 0, 1, 0.5, 0]), jax.random.normal(KEY, IMAGES.shape)

    @jax.jit
    def both(params, x):
        _, saved = forward_batch(layer, params, x, None, weights)
        grads, dx = backward_batch(layer, params, saved, dy, weights)
        _, pull = jax.vjp(lambda params, x: forward_batch(layer, params, x, None, weights)[0], params, x)
        return (sum_examples(grads), dx), pull(dy)

    assert_close(*both(params, x))


def test_a_weight_of_two_is_two_examples_and_a_weight_of_zero_is_none(gradients):
    hand, _ = gradients
    copies = np.repeat(np.arange(7), [1, 2, 0, 3, 1, 0, 0])
    weights = jnp.array([1.0, 2, 0, 3, 1, 0, 0])
    assert_close(hand(PARAMS, X, T, weights), hand(PARAMS, X[copies], T[copies]))
    moved = X.at[2].set(1e3)  # an example of weight 0
    assert_close(hand(PARAMS, moved, T, weights), hand(PARAMS, X, T, weights))


def test_weights_reach_a_layer_that_is_compiled_by_itself():
    """If a compiled function were not traced again, it would use the share of an earlier batch."""

    class Compiled(Wrapper):
        @partial(jax.jit, static_argnums=0)
        def forward(self, params, x, key=None):
            return self.layer.forward(params, x, key)

    layer, params = Compiled(NORM), NORM.init(KEY)
    x = jax.random.normal(KEY, (7, 4))
    for weights in (WEIGHTS, WEIGHTS[::-1], None):
        expected, _ = forward_batch(NORM, params, x, None, weights)
        assert_close(forward_batch(layer, params, x, None, weights)[0], expected)


def test_statistics_of_bfloat16_are_summed_in_float32():
    x = jnp.tile(jnp.array([[1.0], [3.0]], jnp.bfloat16), (500, 1))
    params = cast(BatchNorm(1).init(KEY), jnp.float32)
    for layer in (BatchNorm(1), MixedPrecision(BatchNorm(1))):
        y, saved = forward_batch(layer, params, x)
        np.testing.assert_allclose(y.astype(float), x.astype(float) - 2, atol=1e-2)
        assert (y.dtype, saved[1].dtype) == (jnp.bfloat16, jnp.float32)
        grads, dx = backward_batch(layer, params, saved, y)
        np.testing.assert_allclose(sum_examples(grads)["scale"], [1000], rtol=1e-2)
        np.testing.assert_allclose(dx.astype(float), 0, atol=1e-2)


NETWORKS = {
    "MODEL": (MODEL, X),
    "a norm alone": (NORM, jax.random.normal(KEY, (7, 4))),
    "places, dropout, low precision, parallel paths": (
        Sequential(
            (
                Conv(6, 2, (2, 2)),
                MixedPrecision(BatchNorm(2, shift=False), "float32"),
                Dropout(0.3),
                Parallel((BatchNorm(2), tanh)),
                Flatten(),
                Dense(12, 3),
            )
        ),
        jnp.asarray(IMAGES),
    ),
}


@pytest.mark.parametrize("name", choose(NETWORKS, 3))
def test_a_calibrated_model_evaluates_each_example_alone_with_the_statistics_of_the_batch(name):
    model, x = NETWORKS[name]
    params, weights = draw_params(model), jnp.arange(len(x)) + 1.0
    evaluated, fixed = calibrate(model, params, x, weights)
    assert not evaluated.coupled
    expected, _ = forward_batch(model, params, x, None, weights)
    outputs = predict(evaluated, fixed, x)
    tolerance = 1e-5 if "precision" in name else 1e-12
    assert_close(outputs, expected, tolerance)
    assert_close(evaluated.forward(fixed, x[2])[0], outputs[2], tolerance)
    same, grads = jax.jit(lambda p: calibrate(model, p, x, weights)[1])(params), jax.tree.structure(fixed)
    assert jax.tree.structure(same) == grads


def test_a_model_without_batch_norm_is_calibrated_already():
    model = Sequential((Dense(3, 2), Affine(2)))
    params = model.init(KEY)
    assert calibrate(model, params, X) == (model, params)


def test_statistics_of_integers_are_those_of_the_same_floats():
    model, x = Sequential((BatchNorm(3), DRAWN(3, 4), BatchNorm(4))), np.arange(12).reshape(4, 3) ** 2 % 7
    params = model.init(KEY)
    with unchecked():
        assert_close(calibrate(model, params, x)[1], calibrate(model, params, x.astype(float))[1])


def test_a_network_with_batch_norm_learns_and_predicts():
    x = jax.random.normal(KEY, (103, 3))
    t = (x.sum(axis=1) > 0).astype(int)
    params, history = fit(MODEL, LOSS, optax.adam(0.02), x, t, key=KEY, epochs=12, batch_size=10)
    assert history.loss[-1] < 0.3 < history.loss[0]
    calibrated = calibrate(MODEL, params, x)
    assert jnp.mean(predict(*calibrated, x).argmax(axis=1) == t) > 0.9
    alone = predict(*calibrated, x[:1])
    assert_close(alone, predict(*calibrated, x)[:1])
    y, _ = evaluate(calibrated[0], LOSS, calibrated[1], Examples(x[:1], t[:1]))
    assert_close(y, alone)


@pytest.mark.slow
def test_a_sweep_measures_the_calibrated_model():
    def measure(recipe, params, x):
        return predict(*calibrate(recipe.model, params, x), x)

    def make(rate):
        return Recipe(MODEL, LOSS, optax.sgd(rate), 3)

    settings = {"epochs": 2, "traced": ["rate"], "measure": measure, "measure_data": X}
    first, second = sorted(sweep(make, combinations(seed=[1], rate=[0.1, 0.2]), Examples(X, T), **settings))
    params, _ = fit(MODEL, LOSS, optax.sgd(0.2), X, T, key=jax.random.key(1), epochs=2, batch_size=3)
    assert_close(second.measured, measure(make(0.2), params, X), 1e-10)
    assert (first.measured != second.measured).any()


def test_learning_rules_take_coupled_examples(gradients):
    assert_close(jax.jit(rules.Rule()(MODEL, LOSS))(PARAMS, X, T, WEIGHTS), gradients[0](PARAMS, X, T, WEIGHTS))


@pytest.mark.slow
def test_plain_functions_take_coupled_examples(gradients):
    function = differentiable(MODEL, batched=True)
    plain = jax.grad(lambda params: jax.vmap(LOSS.value)(function(params, X), T).mean())(PARAMS)
    assert_close(plain, gradients[0](PARAMS, X, T)[1])
    alone = jax.vmap(differentiable(MODEL), in_axes=(None, 0), axis_name=BATCH)
    assert_close(jax.grad(lambda p: jax.vmap(LOSS.value)(alone(p, X), T).mean())(PARAMS), plain)


@pytest.mark.slow
def test_hessian_products_are_those_of_autodiff():
    v = draw_params(MODEL, jax.random.key(5))
    ours = curvature.hessian_product(MODEL, LOSS)(PARAMS, v, X, T, WEIGHTS)
    gradient = autodiff(MODEL, LOSS)
    expected = jax.jvp(lambda params: gradient(params, X, T, WEIGHTS)[1], (PARAMS,), (v,))[1]
    assert_close(ours, expected, 1e-10)


@dataclass(frozen=True)
class Twice(Layer):
    """A layer that calls its part twice with the same parameters."""

    part: Layer

    def init(self, key):
        return {"part": self.part.init(key)}

    def forward(self, params, x, key=None):
        y, first = self.part.forward(params["part"], x)
        y, second = self.part.forward(params["part"], y)
        return y, (first, second)

    def backward(self, params, saved, dy):
        second, dy = self.part.backward(params["part"], saved[1], dy)
        first, dx = self.part.backward(params["part"], saved[0], dy)
        return {"part": jax.tree.map(jnp.add, first, second)}, dx


@dataclass(frozen=True)
class Centered(Layer):
    """y = x - mean x over the batch"""

    coupled = True

    def forward(self, params, x, key=None):
        return x - lax.pmean(x, BATCH), ()

    def backward(self, params, saved, dy):
        return (), dy - lax.pmean(dy, BATCH)


REFUSED = "a model that computes each example on its own for {}, got one with BatchNorm.*, which couples the examples"


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: BatchNorm(0), r"expected n of at least 1 \(the features of BatchNorm\), got 0"),
        (lambda: BatchNorm(2, epsilon=0.0), "expected epsilon above 0, got 0.0"),
        (lambda: Affine(0), r"expected n of at least 1 \(the features of Affine\), got 0"),
        (
            lambda: Affine(2).forward(Affine(2).init(KEY), jnp.ones(3)),
            r"Affine\(2\) expected x of shape \(\.\.\., 2\)",
        ),
        (lambda: MODEL.forward(PARAMS, X[0]), "BatchNorm.* to be called in a batch.*, got one example without a batch"),
        (
            lambda: forward_batch(NORM, NORM.init(KEY), jnp.ones((2, 3))),
            r"expected x of shape \(\.\.\., 4\), got \(3,\)",
        ),
        (
            lambda: fit(MODEL, LOSS, optax.sgd(0.1), X, T, key=KEY, epochs=1, batch_size=1),
            r"BatchNorm.* expected x with at least two numbers to normalize together, got \(4,\)",
        ),
        (
            lambda: predict(MODEL, PARAMS, X),
            REFUSED.format("predictions and evaluations")
            + r" of a batch\. jaxann\.calibrate\(model, params, x_train\) returns the model and the parameters",
        ),
        (lambda: evaluate(MODEL, LOSS, PARAMS, Examples(X, T)), REFUSED.format("predictions and evaluations")),
        (lambda: per_example.gradients(MODEL, LOSS), REFUSED.format("per-example gradients")),
        (lambda: per_example.clipped_gradient(MODEL, LOSS, 1.0), REFUSED.format("per-example gradients")),
        (lambda: curvature.gauss_newton_product(MODEL, LOSS), REFUSED.format("the Gauss-Newton matrix")),
        (lambda: curvature.gauss_newton_factors(MODEL, LOSS), REFUSED.format("the Gauss-Newton matrix")),
        (lambda: kfac(MODEL, LOSS), REFUSED.format("the Gauss-Newton matrix")),
        (lambda: rules.ClippedDeltas(1.0)(MODEL, LOSS)(PARAMS, X, T), REFUSED.format("ClippedDeltas.*")),
        (
            lambda: calibrate(Sequential((NORM, Centered())), (NORM.init(KEY), ()), jnp.ones((3, 4))),
            r"a model in which only BatchNorm couples the examples of a batch, got Centered\(\)",
        ),
        (
            lambda: calibrate(MODEL, PARAMS, X, jnp.ones(3)),
            r"expected weights of shape \(7,\), one for each example, got shape \(3,\)",
        ),
        (lambda: calibrate(MODEL, PARAMS, X, -WEIGHTS), "expected finite numbers of at least 0 in weights, got -1.0"),
        (
            lambda: calibrate(MODEL, (PARAMS[0], {}, *PARAMS[2:]), X),
            r"expected parameters with the names \['scale', 'shift'\] for layer 1, got \[\]",
        ),
        (lambda: calibrate(PARAMS, MODEL, X), "expected model to be a layer of jaxann.nn or the name of an activation"),
        (
            lambda: calibrate(Twice(NORM), Twice(NORM).init(KEY), jnp.ones((3, 4))),
            "a BatchNorm that is used once, by layers that keep what it saves, got layer part",
        ),
    ],
)
def test_what_coupled_examples_do_not_have_is_refused(build, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        build()


class WrongNorm(BatchNorm):
    """A BatchNorm whose dx is that of another function: spoil(layer's dx, x̂, r, share, γ dy, dy)."""

    def backward(self, params, saved, dy):
        normalized, r, share = saved
        grads, dx = super().backward(params, saved, dy)
        return grads, self.spoil(dx, normalized, r, share, expand_places(params["scale"], dy) * dy, dy)


def total(a):
    return lax.psum(mean_places(a), BATCH)


MUTANTS = {  # a wrong dx, and the cause that is named
    "statistics taken for constants": (lambda dx, n, r, s, g, dy: r * g, "constant"),
    "the example's own means": (
        lambda dx, n, r, s, g, dy: r * (g - mean_places(g) - n * mean_places(g * n)),
        "none",
    ),
    "mean left out": (lambda dx, n, r, s, g, dy: r * (g - s * n * total(g * n)), "constant"),
    "x̂ mean(g x̂) left out": (lambda dx, n, r, s, g, dy: r * (g - s * total(g)), "constant"),
    "γ forgotten": (lambda dx, n, r, s, g, dy: r * (dy - s * (total(dy) + n * total(dy * n))), "argument missing"),
    "sums where means belong": (lambda dx, n, r, s, g, dy: r * (g - total(g) - n * total(g * n)), "factor missing"),
}
SLOW = [name for name in MUTANTS if name not in ("x̂ mean(g x̂) left out", "γ forgotten")]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in MUTANTS])
def test_a_wrong_backward_is_found_and_explained(name):
    spoil, cause = MUTANTS[name]
    layer = type("WrongNorm", (WrongNorm,), {"spoil": staticmethod(spoil)})(3)
    report = check_layer(layer, draw_params(layer), np.random.default_rng(0).normal(size=(2, 3)))
    assert report.wrong == ("dx",), f"\n{report}"
    assert report["dx"].cause == cause, f"\n{report}"


def test_a_right_layer_is_right_and_has_the_shapes_of_its_batch():
    report = check_layer(NORM, draw_params(NORM), np.random.default_rng(0).normal(size=(2, 4)))
    assert report.ok, f"\n{report}"
    assert (report["scale"].shape, report["dx"].shape) == ((4,), (8, 2, 4))


@pytest.mark.slow
def test_check_judges_a_network_with_batch_norm():
    report = check(MODEL, LOSS, PARAMS, X, T)
    assert report.ok, f"\n{report}"
    assert {"1.scale", "1.dx", "chain.1.scale", "gradient.weighted.1.shift"} <= {row.path for row in report.rows}


@pytest.mark.slow
def test_check_finds_the_only_wrong_layer_of_a_network():
    wrong = type("WrongNorm", (WrongNorm,), {"spoil": staticmethod(MUTANTS["the example's own means"][0])})(4)
    model = Sequential((DRAWN(3, 4), wrong, tanh, Dense(4, 2)))
    report = check(model, SquaredError(), draw_params(model), X, jnp.ones((7, 2)))
    assert report.wrong == ("1.dx",), f"\n{report}"


@pytest.mark.slow
def test_an_answer_is_graded_by_a_batch_norm():
    assert grade(BatchNorm(3), BatchNorm(3), draw_params(BatchNorm(3)), jnp.arange(3.0)).score == 1

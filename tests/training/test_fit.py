import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from support.selection import choose

from jaxann import autodiff, backprop, compare, fit, predict
from jaxann.data import Examples
from jaxann.data.batches import make_lanes
from jaxann.gradients.probe import is_finite
from jaxann.nn import CrossEntropy, Elementwise, SoftmaxCrossEntropy, SquaredError, mlp, sigmoid, softmax, tanh
from jaxann.training import Recipe
from jaxann.training.divergence import raise_if_nonfinite
from jaxann.training.recipe import run_epochs, start, train

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (23, 4))
T = jnp.sin(X @ jax.random.normal(jax.random.key(2), (4, 2)))
MODEL = mlp((4, 6, 2), hidden=tanh)
SGD = optax.sgd(0.1)
LANES = make_lanes(Examples(X, T), 5)


def run_fit(optimizer=SGD, x=X, t=T, **settings):
    return fit(MODEL, SquaredError(), optimizer, x, t, **{"key": KEY, "epochs": 3, "batch_size": 5, **settings})


def loop(order, batch_size, epochs):
    """Does in a plain loop what `fit` should do."""
    params, gradient, losses = start(Recipe(MODEL, SquaredError(), SGD, batch_size), KEY).params, backprop, []
    for epoch in range(epochs):
        total = 0
        for first in range(0, len(X), batch_size):
            chosen = order(epoch)[first : first + batch_size]
            value, grads = gradient(MODEL, SquaredError())(params, X[chosen], T[chosen])
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
            total += value * len(chosen)
        losses.append(total / len(X))
    return params, np.array(losses)


def test_fit_does_what_a_plain_loop_does():
    params, history = run_fit(shuffle=False)
    looped, losses = loop(lambda epoch: jnp.arange(23), 5, 3)  # 23 = 4 x 5 + 3: the last batch is short
    np.testing.assert_allclose(history.loss, losses, rtol=1e-12)
    assert compare(params, looped).error < 1e-12
    assert history.step_loss.shape == (3, 5)


def test_every_epoch_takes_every_example_once_in_an_order_of_its_own():
    batches = []

    def record_batches(model, loss):
        def gradient(params, x, t, weights):
            jax.debug.callback(lambda *batch: batches.append(np.array(batch)), x[:, 0], weights, ordered=True)
            return backprop(model, loss)(params, x, t, weights)

        return gradient

    run_fit(x=np.tile(np.arange(23.0)[:, None], (1, 4)), optimizer=optax.sgd(0.0), gradient=record_batches)
    jax.effects_barrier()
    epochs = [np.concatenate([x[w > 0] for x, w in batches[first : first + 5]]) for first in (0, 5, 10)]
    for order in epochs:
        np.testing.assert_array_equal(np.sort(order), np.arange(23))
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[1] != epochs[2]).any()


def test_a_run_in_pieces_is_the_run():
    recipe = Recipe(MODEL, SquaredError(), optax.adam(0.01), 5)
    uncut, history = train(recipe, start(recipe, KEY), LANES, 5)
    state = start(recipe, KEY)
    losses = []
    for epochs in (2, 1, 2):
        state, piece = train(recipe, state, LANES, epochs)
        losses.append(piece.loss)
    np.testing.assert_array_equal(np.concatenate(losses), history.loss)
    assert compare((state.params, state.opt_state), (uncut.params, uncut.opt_state)).error == 0
    assert state.epoch == 5


@pytest.mark.parametrize(
    "optimizer", [SGD, optax.sgd(0.1, momentum=0.9), optax.adam(0.01)], ids=["sgd", "momentum", "adam"]
)
def test_ten_steps_by_either_route_are_the_same(optimizer):
    settings = {"optimizer": optimizer, "epochs": 2, "batch_size": 5}
    ours, theirs = (run_fit(**settings, gradient=route) for route in (backprop, autodiff))
    np.testing.assert_allclose(ours[1].step_loss, theirs[1].step_loss, rtol=1e-10)
    assert compare(ours[0], theirs[0]).error < 1e-10  # after ten steps, and Adam divides by small numbers


def test_weights_are_those_of_the_mean_in_every_batch_and_over_the_epoch():
    weights = np.random.default_rng(3).uniform(0.5, 3, len(X))
    params, history = run_fit(shuffle=False, weights=weights, epochs=1)
    looped, losses = start(Recipe(MODEL, SquaredError(), SGD, 5), KEY).params, []
    for first in range(0, len(X), 5):
        part = slice(first, first + 5)
        value, grads = backprop(MODEL, SquaredError())(looped, X[part], T[part], jnp.asarray(weights[part]))
        looped = jax.tree.map(lambda p, g: p - 0.1 * g, looped, grads)
        losses.append(value * weights[part].sum())
    np.testing.assert_allclose(history.loss, [sum(losses) / weights.sum()], rtol=1e-12)
    assert compare(params, looped).error < 1e-12
    same, _ = run_fit(weights=np.full(len(X), 7.0))
    assert compare(same, run_fit()[0]).error < 1e-12
    assert compare(run_fit(weights=weights)[0], same).error > 1e-3  # each weight stays with its example in any order


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (np.ones(22), r"expected weights of shape \(23,\), one for each example, got shape \(22,\)"),
        ([1.0] * 4 + [0.0] + [1.0] * 18, r"expected finite numbers above 0 in weights, got 0.0 at \[4\]"),
        ([1.0] * 22 + [np.nan], r"expected finite numbers above 0 in weights, got nan at \[22\]"),
        (["a"] * 23, "expected real numbers for weights, got dtype <U1"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_fit(weights=weights)


def test_dropout_draws_anew_at_every_step_and_a_run_in_pieces_draws_the_same():
    model = mlp((4, 6, 2), hidden=tanh, dropout=0.5)
    recipe = Recipe(model, SquaredError(), optax.sgd(0.0), 23, shuffle=False)
    lanes = make_lanes(Examples(X, T), 23)
    state, history = train(recipe, start(recipe, KEY), lanes, 6)
    assert len(set(map(float, history.loss))) == 6
    _, again = train(recipe, train(recipe, start(recipe, KEY), lanes, 4)[0], lanes, 2)
    np.testing.assert_array_equal(again.loss, history.loss[4:])
    plain = mlp((4, 6, 2), hidden=tanh)
    expected = predict(plain, (state.params[0], (), state.params[2], ()), X)
    np.testing.assert_allclose(predict(model, state.params, X), expected, rtol=1e-14)  # a prediction drops nothing
    for route in (backprop, autodiff):
        _, learned = fit(model, SquaredError(), SGD, X, T, key=KEY, epochs=200, batch_size=5, gradient=route)
        assert learned.loss[-1] < 0.8 * learned.loss[0]


@pytest.mark.parametrize("optimizer", [optax.polyak_sgd(), optax.lbfgs(), optax.adamw(0.01), optax.lion(0.01)])
def test_optimizers_that_need_more_than_the_gradient_get_it(optimizer):
    _, history = run_fit(optimizer, epochs=30, batch_size=23)
    assert history.loss[-1] < 0.7 * history.loss[0]


def test_the_loss_curve_is_that_of_scikit_learn():
    x, t = load_iris(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    model = mlp((4, 8, 5, 3), hidden=sigmoid)
    params = start(Recipe(model, SoftmaxCrossEntropy(), SGD, 7), KEY).params

    class SameStart(MLPClassifier):
        def _init_coef(self, n, m, dtype):
            layer = next(p for p in params if p and p["W"].shape == (m, n))
            return np.array(layer["W"]).T, np.array(layer["b"])

    settings = {"momentum": 0, "shuffle": False, "alpha": 0, "batch_size": 7, "learning_rate_init": 0.1, "tol": 0}
    theirs = SameStart((8, 5), "logistic", solver="sgd", max_iter=20, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # twenty epochs are too few to converge
        theirs.fit(x, t)
    _, ours = fit(model, SoftmaxCrossEntropy(), SGD, x, t, key=KEY, epochs=20, batch_size=7, shuffle=False)
    np.testing.assert_allclose(ours.loss, theirs.loss_curve_, rtol=1e-10)


def test_fit_is_pure_and_goes_under_jit_and_vmap():
    params, history = run_fit()
    again, _ = run_fit()
    assert compare(again, params).error == 0
    keys = jax.random.split(KEY, 3)
    many = jax.jit(jax.vmap(lambda key: run_fit(key=key)[1].loss))(keys)
    np.testing.assert_allclose(many, [run_fit(key=key)[1].loss for key in keys], rtol=1e-12)
    rates = jax.vmap(lambda rate: run_fit(optax.sgd(rate))[1].loss)(jnp.array([0.01, 0.1]))
    np.testing.assert_allclose(rates[1], history.loss, rtol=1e-12)
    assert rates[0, -1] != rates[1, -1]


def test_nothing_random_is_left_in_the_step_loop():
    recipe = Recipe(MODEL, SquaredError(), SGD, 5)
    program = jax.make_jaxpr(lambda state: run_epochs(recipe, state, LANES, 3))(start(recipe, KEY))
    (loop,) = (eqn for eqn in program.eqns if eqn.primitive.name == "scan")
    assert "sort[" in str(program)  # the epochs' orders
    assert not {word for word in ("sort[", "random_", "threefry") if word in str(loop)}


def test_iris_is_learned():
    x, labels = load_iris(return_X_y=True)
    x, t = (x - x.mean(0)) / x.std(0), np.where(np.eye(3)[labels] > 0, 0.98, 0.01)
    model = mlp((4, 50, 20, 10, 3), output=softmax)
    params, history = fit(model, CrossEntropy(), optax.sgd(0.5), x, t, key=KEY, epochs=300, batch_size=2)
    assert (predict(model, params, jnp.asarray(x)).argmax(axis=1) == labels).mean() >= 0.97
    assert history.loss[-1] < 0.2  # from ln 3; the smoothed targets allow 0.112


# y = 10²⁰⁰ x² overflows in float64 for large x; the derivative of the second function is never finite.
SQUARE = Elementwise("square", lambda x: 1e200 * x * x, lambda x, y: 2e200 * x)
BROKEN = Elementwise("broken", lambda x: x, lambda x, y: 1 / (x - x))


@pytest.mark.parametrize(
    ("model", "rate", "sentence"),
    [
        (mlp((4, 6, 2), hidden=SQUARE), 0.0, "epoch 1, step 1: .* in the value of SquaredError"),
        (mlp((4, 6, 6, 2), hidden=SQUARE), 0.0, "epoch 1, step 1: .* in the output of layer 3, square"),
        (mlp((4, 6, 2), hidden=BROKEN), 0.1, "epoch 1, step 1: .* in the gradient of layer 1, broken"),
        (mlp((4, 6, 2)), 1e200, "epoch 1, step [23]: .* in the (output of layer|value of SquaredError)"),
        (mlp((4, 6, 2)), np.inf, "epoch 1, step 1: .* in the parameters, after the optimizer's update"),
    ],
)
def test_a_loss_that_is_not_finite_stops_with_its_place(model, rate, sentence):
    with pytest.raises(FloatingPointError, match=sentence):
        fit(model, SquaredError(), optax.sgd(rate), X, T, key=KEY, epochs=2, batch_size=5)


@pytest.mark.parametrize(("count", "place"), [(0, "epoch 1, step 1"), (7, "epoch 2, step 3"), (14, "epoch 3, step 5")])
@pytest.mark.parametrize("piece", choose([1, 3], 2))
def test_the_place_is_found_in_any_epoch_of_any_piece(count, place, piece):
    recipe = Recipe(MODEL, SquaredError(), optax.sgd(lambda step: jnp.where(step == count, jnp.inf, 0.1)), 5)
    state = start(recipe, KEY)
    for _ in range(0, 3, piece):
        before, (state, history) = state, train(recipe, state, LANES, piece)
        if not is_finite(state.params):
            break
    with pytest.raises(FloatingPointError, match=f"{place}: .* in the parameters, after the optimizer's update"):
        raise_if_nonfinite(recipe, before, state, history, LANES)

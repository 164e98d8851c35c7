"""Wrong and right backwards after public reports: each wrong one is named and told, and a right one raises no alarm."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases_public import RIGHT, SQUARE, TIED, VECTOR, WRONG, WRONG_MORE, Case, NoBias
from support.convolution import StridedConv
from support.kinked import KINKED, Pair
from support.layers import Average, Embedding, WrongLayer
from support.pooling import MaxPool
from support.selection import choose

from jaxann import backprop, check, check_layer
from jaxann.nn import Dense, Flatten, Sequential, SoftmaxCrossEntropy, SquaredError, mlp, relu


def run(case, **settings):
    return check_layer(case.layer, case.layer.init(jax.random.key(0)), case.x, **settings)


def assert_told(case):
    report = run(case)
    assert set(report.wrong) == set(case.wrong.split()), f"\n{report}"
    for path in report.wrong:
        assert re.search(case.told, report[path].diagnosis), report[path].diagnosis


@pytest.mark.parametrize("name", choose(WRONG, 8))
def test_a_wrong_backward_is_found_and_told(name):
    assert_told(WRONG[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG_MORE)
def test_more_wrong_backwards_are_found_and_told(name):
    assert_told(WRONG_MORE[name])


@pytest.mark.parametrize("name", choose(RIGHT, 8))
def test_a_right_backward_is_right(name):
    run(RIGHT[name]).raise_if_wrong()


# Kinks and ties.

SIX = jax.random.normal(jax.random.key(1), (6,))


@pytest.mark.parametrize("name", choose(TIED, 6))
def test_a_right_max_pooling_is_right_with_ties(name):
    for seed in range(3):  # other values are planted
        report = run(TIED[name], seed=seed)
        report.raise_if_wrong()
    if not name.endswith("shared"):
        assert report["dx"].cause == "kink"
        assert re.search(
            r"such as \[\d, \d\](, | and )\[\d, \d\].* of the input, which are all", report["dx"].diagnosis
        )


@pytest.mark.parametrize("name", KINKED)
def test_any_choice_of_slope_at_a_kink_is_right(name):
    reports = [check_layer(KINKED[name], (), SIX, seed=seed) for seed in range(3)]
    for report in reports:
        report.raise_if_wrong()
    assert "kink" in [report["dx"].cause for report in reports]


@pytest.mark.parametrize("name", KINKED)
def test_a_mistake_beside_kinks_is_found(name):
    layer = KINKED[name]
    report = check_layer(Pair(layer.f, lambda x, dy: -layer.df(x, dy)), (), SIX)
    assert report.wrong == ("dx",)
    assert re.search("a flipped sign|the wrong sign on the path through", report["dx"].diagnosis)


def test_declaring_a_kink_hides_no_mistake():
    right, wrong = (Case(MaxPool(2, 1, wrong=wrong), SQUARE[:3, :3]) for wrong in ("", "assigned"))
    assert run(right, on_purpose={"dx": "kink"}).ok
    assert run(wrong, on_purpose={"dx": "kink"}).wrong == ("dx",)
    row = run(wrong, on_purpose={"dx": "assigned"})["dx"]
    assert row.verdict == "on purpose"
    assert "assigned where it should be added" in row.diagnosis


# Networks.


def check_network(layers, x, t, loss=None, **settings):
    model = Sequential(layers)
    return check(model, loss or SoftmaxCrossEntropy(), model.init(jax.random.key(0)), x, t, **settings)


X = jax.random.normal(jax.random.key(1), (10, 3))
T = X.sum(axis=1, keepdims=True)
IMAGES = jax.random.normal(jax.random.key(2), (6, 4, 4, 2))
WORDS = jax.random.randint(jax.random.key(2), (8, 4), 0, 5)
LABELS = np.arange(6) % 3


@pytest.mark.slow
def test_a_network_with_right_pooling_is_right():
    report = check_network((MaxPool(2, 2), Flatten(), Dense(4, 3)), IMAGES[..., 0], LABELS)
    report.raise_if_wrong()
    assert report["0.dx"].cause == "kink"


@pytest.mark.slow
def test_a_network_of_convolution_is_right():
    layers = StridedConv(2, 3, stride=1), relu, Flatten(), Dense(48, 3)
    check_network(layers, IMAGES, LABELS).raise_if_wrong()


@pytest.mark.slow
def test_an_embedding_is_judged_inside_a_network():
    report = check_network((Embedding(5, 3, "assigned"), Average(), Dense(3, 2)), WORDS, WORDS[:, 0] % 2)
    assert report.wrong == ("0.E",)


def test_parameters_need_no_dictionary():
    check_network((NoBias(3, 2),), X, X[:, :2], SquaredError()).raise_if_wrong()


@pytest.mark.parametrize(
    ("layer", "path", "told"),
    [
        (
            WrongLayer(Dense(3, 2), lambda p, saved, dy, grads, dx: (grads | {"b": dy.sum(axis=0)}, dx)),
            "b",
            r"expected shape \(2,\), got \(\); a layer gets one example at a time, not a batch, here of shape \(3,\)",
        ),
        (Pair(lambda x: jax.lax.pmean(x, "rows"), lambda x, dy: dy), "forward", "A layer gets one example at a time"),
    ],
)
def test_a_layer_over_the_batch_is_told_that_it_gets_one_example(layer, path, told):
    report = check_layer(layer, layer.init(jax.random.key(0)), VECTOR)
    assert re.search(told, report[path].diagnosis), report


def summed(model, loss):
    """The sum of the gradients of the examples, where their mean is meant."""

    def gradient(params, x, t, weights=None, key=None):
        value, grads = backprop(model, loss)(params, x, t, weights, key)
        return value, jax.tree.map(lambda g: g * len(x), grads)

    return gradient


def without_slope(model, loss):
    """The gradient of a network of two layers at once, without the slope of relu and without the weights."""

    def gradient(params, x, t, weights=None, key=None):
        first, _, second = params
        h = jnp.maximum(x @ first["W"].T + first["b"][None], 0)
        y = h @ second["W"].T + second["b"][None]
        d = (y - t) / len(x)
        dh = d @ second["W"]
        grads = {"W": dh.T @ x, "b": dh.sum(axis=0)}, (), {"W": d.T @ h, "b": d.sum(axis=0)}
        return jnp.mean(jax.vmap(loss.value)(y, t)), grads

    return gradient


@pytest.mark.parametrize(
    ("gradient", "layers", "told"),
    [
        (summed, "02", "a factor of 5, which is the number of examples in its batch"),
        (without_slope, "0", r"forgets the mask of the maximum in `h = jnp.maximum\(.*\(test_cases.py:\d+\)"),
    ],
)
def test_a_wrong_gradient_function_is_told(gradient, layers, told):
    model = mlp((3, 4, 1), relu)
    model = replace(model, layers=model.layers[:3])
    report = check(model, SquaredError(), model.init(jax.random.key(0)), X, T, gradient=gradient)
    paths = {f"gradient.{kind}{i}.{name}" for kind in ("", "weighted.") for i in layers for name in "Wb"}
    assert {path for path in report.wrong if "value" not in path} == paths
    for path in paths:
        assert re.search(told, report[path].diagnosis), report[path].diagnosis
    if gradient is without_slope:
        assert "ignores the weights of the examples" in report["gradient.weighted.value"].diagnosis

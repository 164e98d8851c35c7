"""A NumPy network in the style of a notebook, pointed at as it stands: each of its four wrong formulas is named."""

import numpy as np
from support import list_network as network

from jaxann import check_function, check_gradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=4)


def test_the_sign_of_the_sigmoid_is_named():
    report = check_function(network.sigmoid, lambda dy, x: dy * network.sigmoid_slope(x), X)
    assert report["x"].cause == "sign"


def test_the_argument_of_the_softmax_is_named():
    report = check_function(network.softmax, lambda dy, x: network.softmax_jacobian(x) @ dy, X)
    assert "at the input x instead of at the output y" in report["x"].diagnosis


def test_the_binary_derivative_of_the_cross_entropy_is_named():
    y, t = network.softmax(X), np.array([0.97, 0.01, 0.01, 0.01])
    report = check_function(
        network.cross_entropy, lambda dy, y, t: (dy * network.cross_entropy_gradient(y, t), None), y, t
    )
    assert "binary cross-entropy" in report["y"].diagnosis


def test_the_sign_of_the_bias_is_named_by_what_a_step_changes():
    examples, targets, rate = RNG.normal(size=(2, 4)), RNG.normal(size=(2, 3)), 0.5

    def make(params):
        layer = network.ListLayer(4, 3, rate, np.tanh, lambda x: 1 - np.tanh(x) ** 2, batch=2, seed=0)
        layer.W, layer.b = params["W"].copy(), params["b"].copy()
        return layer, [layer.propagate(x) for x in examples]

    def loss(params):
        _, outputs = make(params)
        return sum(np.sum((y - t) ** 2) / 2 for y, t in zip(outputs, targets, strict=True)) / 2

    def gradient(params):
        layer, outputs = make(params)
        layer.propagate_back([y - t for y, t in zip(outputs, targets, strict=True)])
        return {"W": (params["W"] - layer.W) / rate, "b": (params["b"] - layer.b) / rate}

    report = check_gradient(loss, gradient, {"W": RNG.normal(size=(3, 4)), "b": RNG.normal(size=3)})
    assert report.wrong == ("b",)
    assert report["b"].cause == "sign"


def test_the_whole_network_is_wrong_in_every_layer_but_not_refused():
    first = network.ListLayer(4, 2, 0.5, network.sigmoid, network.sigmoid_slope, batch=1, seed=0)
    last = network.ListLayer(2, 3, 0.5, network.softmax, network.softmax_jacobian, batch=1, seed=1)
    first.next, last.previous = last, first
    t = np.array([0.98, 0.01, 0.01])

    def place(params):
        for layer, values in zip((first, last), params, strict=True):
            layer.W, layer.b, layer.inputs, layer.outputs = values["W"].copy(), values["b"].copy(), [], []
        return first.propagate(X)

    def gradient(params):
        last.propagate_back([network.cross_entropy_gradient(place(params), t)])
        pairs = zip((first, last), params, strict=True)
        return [{name: (values[name] - getattr(layer, name)) / 0.5 for name in values} for layer, values in pairs]

    params = [{"W": layer.W.copy(), "b": layer.b.copy()} for layer in (first, last)]
    report = check_gradient(lambda params: network.cross_entropy(place(params), t), gradient, params)
    assert report.wrong == ("0.W", "0.b", "1.W", "1.b")

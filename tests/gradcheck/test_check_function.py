"""The check of pairs of functions that people wrote elsewhere: forms, kinks, sizes, precision and bad input."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxann import backprop, check, check_function, check_gradient, check_layer
from jaxann.gradcheck import function_subject
from jaxann.nn import Dense, SquaredError, mlp

RNG = np.random.default_rng(0)
X, W, B = RNG.normal(size=(5, 4)), RNG.normal(size=(4, 3)), RNG.normal(size=3)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def assert_right(report, *paths):
    assert report.ok, f"\n{report}"
    assert [row.path for row in report.rows] == list(paths)


def assert_wrong(report, **causes):
    assert {row.path: row.cause for row in report.rows if row.verdict == "wrong"} == causes, f"\n{report}"


# The forms of a pair.


@pytest.mark.parametrize(
    "backward",
    [
        lambda dy, x, w, b: (dy @ w.T, x.T @ dy, dy.sum(axis=0)),
        lambda dy, x, w, b: {"x": dy @ w.T, "w": x.T @ dy, "b": dy.sum(axis=0)},
        lambda dy, x, w, b: {"dx": dy @ w.T, "dw": x.T @ dy, "db": dy.sum(axis=0)},
    ],
)
def test_gradients_are_a_tuple_in_order_or_a_dictionary(backward):
    assert_right(check_function(lambda x, w, b: x @ w + b, backward, X, W, B), "x", "w", "b")


@pytest.mark.parametrize("module", [np, jnp])
def test_a_pair_of_numpy_or_jax_is_traced(module):
    def forward(x, w):
        return module.tanh(x @ w)

    def backward(dy, x, w):
        d = dy * (1 - module.tanh(x @ w) ** 2)
        return d @ w.T, -(x.T @ d)

    report = check_function(forward, backward, X, W)
    assert_wrong(report, w="sign")
    assert report["x"].float64 < 1e-12  # against autodiff
    assert report["x"].compared > 5
    assert report.notes == ()


def test_code_that_cannot_be_traced_is_compared_with_differences():
    def forward(x):
        y = np.zeros(len(x))
        for i, number in enumerate(x):
            y[i] = number**2 if number > 0 else 0.0
        return y

    report = check_function(forward, lambda dy, x: dy * 2 * np.maximum(x, 0), RNG.normal(size=6))
    assert_right(report, "x")
    assert np.isnan(report["x"].float64)
    assert report["x"].differences < 1e-6
    assert "cannot trace" in report.notes[0]
    assert_wrong(check_function(forward, lambda dy, x: dy * np.maximum(x, 0), RNG.normal(size=6)), x="factor")


def test_the_arguments_of_backward_tell_that_there_is_a_cache():
    def forward(x, w):
        return x @ w, (x, w)

    def backward(dout, cache):
        x, w = cache
        return dout @ w.T, x.T @ dout

    assert_right(check_function(forward, backward, X, W), "x", "w")


def test_a_cache_may_be_declared():
    report = check_function(lambda x: (x**2, x), lambda dy, x: 2 * x * dy, B, cache=True)
    assert_right(report, "x")


def test_several_outputs_have_a_cotangent_each():
    def forward(x, w):
        return x @ w, x.sum(axis=0)

    def backward(dy, x, w):
        return dy[0] @ w.T + dy[1], x.T @ dy[0]

    assert_right(check_function(forward, backward, X, W, cache=False), "x", "w")


def test_arguments_may_be_pytrees_and_indices_stay_whole_numbers():
    def forward(params, indices):
        return params["table"][indices] + params["shift"]

    def backward(dy, params, indices):
        table = np.zeros_like(params["table"])
        np.add.at(table, indices, dy)
        return {"table": table, "shift": dy.sum(axis=0)}, None

    params, indices = {"table": RNG.normal(size=(6, 3)), "shift": B}, np.array([1, 4, 1])
    assert_right(check_function(forward, backward, params, indices), "params.shift", "params.table")


def test_a_list_of_numbers_stands_for_an_array():
    report = check_function(lambda x: np.tanh(x), lambda dy, x: dy * (1 - np.tanh(x) ** 2), [0.1, 0.2])
    assert_right(report, "x")


def test_a_gradient_of_none_is_not_judged():
    report = check_function(lambda x, w: x @ w, lambda dy, x, w: (dy @ w.T, None), X, W)
    assert_right(report, "x")
    assert report.notes == ("w is not judged, because backward returns None for it.",)
    assert not check_function(lambda x: x * 1.0, lambda dy, x: None, B).ok  # then nothing would be judged


class Affine:
    """A layer of a course: it keeps what it saw, and adds to its gradients."""

    def __init__(self):
        self.W, self.b, self.seen = W.copy(), B.copy(), []
        self.dW, self.db = np.zeros_like(W), np.zeros_like(B)

    def forward(self, x):
        self.seen.append(x)
        return x @ self.W + self.b

    def backward(self, dy):
        self.dW += self.seen[-1].T @ dy
        self.db += dy.mean(axis=0)
        return dy @ self.W.T


def test_an_object_keeps_its_parameters_and_what_it_saw():
    layer = Affine()
    report = check_function(layer.forward, layer.backward, X, parameters={"W": "dW", "b": "db"})
    assert_wrong(report, b="factor")
    assert [row.path for row in report.rows] == ["x", "W", "b"]
    assert not layer.seen
    np.testing.assert_array_equal(layer.W, W)
    assert not layer.dW.any()


def test_the_code_cannot_change_its_arguments():
    def forward(x):
        x *= 2
        return x

    assert_right(check_function(forward, lambda dy, x: 2 * dy, B), "x")


def test_tensors_of_pytorch_are_given_as_tensors():
    torch = pytest.importorskip("torch")

    def backward(dy, x):
        return dy * (1 - torch.tanh(x) ** 2)

    x = torch.randn(4, dtype=torch.float32)
    assert_right(check_function(lambda x: torch.tanh(x), backward, x), "x")
    assert_wrong(check_function(lambda x: torch.tanh(x), lambda dy, x: dy, x), x="derivative missing")


# A number and its gradient.


def test_a_row_for_each_leaf_of_the_parameters():
    t = RNG.normal(size=(5, 3))

    def loss(params):
        return ((X @ params[0]["W"] + params[0]["b"] - t) ** 2).sum() / 2

    def gradient(params):
        d = X @ params[0]["W"] + params[0]["b"] - t
        return [{"W": X.T @ d, "b": d[0]}]

    report = check_gradient(loss, gradient, [{"W": W, "b": B}])
    assert [row.path for row in report.rows] == ["0.W", "0.b"]
    assert report.wrong == ("0.b",)


@pytest.mark.parametrize("gradient", [lambda w: 2 * w, lambda w: (np.sum(w**2), 2 * w)])
def test_the_parameters_may_be_one_array_and_the_gradient_may_come_with_the_value(gradient):
    assert_right(check_gradient(lambda w: np.sum(w**2), gradient, W), "params")


def test_a_network_of_jaxann_is_such_a_pair():
    model, t = mlp((4, 5, 3)), RNG.normal(size=(5, 3))
    gradient = jax.jit(partial(backprop(model, SquaredError()), x=jnp.asarray(X), t=jnp.asarray(t)))
    report = check_gradient(lambda p: gradient(p)[0], gradient, model.init(jax.random.key(0)))
    assert_right(report, "0.W", "0.b", "2.W", "2.b")


# Size and precision.


def test_of_a_large_array_some_entries_and_directions_are_compared(monkeypatch):
    def forward(x):
        return float(np.sum(np.sort(x) ** 2))  # the conversion keeps JAX from tracing it

    monkeypatch.setattr(function_subject, "BUDGET", 0)  # as for a slow function
    x = RNG.normal(size=500)
    report = check_function(forward, lambda dy, x: 2 * dy * x, x)
    assert_right(report, "x")
    assert "Of the 500 entries of x, 32 are compared, and the slopes along 3 random directions." in report.notes
    assert_wrong(check_function(forward, lambda dy, x: 3 * dy * x, x), x="factor")
    few = np.arange(len(x)) < 10  # few of them are among the entries, but each direction has all
    assert not check_function(forward, lambda dy, x: np.where(few, 9, 2) * dy * x, x).ok


def test_where_nothing_can_be_compared_nothing_is_called_right():
    def forward(x):
        return np.array([abs(float(number)) for number in x])  # JAX cannot trace it

    report = check_function(forward, lambda dy, x: dy * np.sign(x), np.array([0.0, 1.0, -2.0]))
    assert report.ok
    assert (report["x"].compared, report["x"].nonsmooth) == (2, 1)
    report = check_function(forward, lambda dy, x: dy * np.sign(x), np.zeros(3))
    assert_wrong(report, x="not smooth")


def test_code_in_float32_has_honest_tolerances():
    def forward(x):
        return np.tanh(x.astype(np.float32)).copy()

    report = check_function(forward, lambda dy, x: dy * (1 - np.tanh(x.astype(np.float32)) ** 2), B)
    assert_right(report, "x")
    assert any("less than float64" in note for note in report.notes)
    assert not check_function(forward, lambda dy, x: dy * (1 - np.tanh(x)), B).ok


# Bad input, each with its sentence.


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda: check_function(Dense(4, 3), None, X),
            TypeError,
            "expected two functions.*jaxann.check_layer checks a",
        ),
        (lambda: check_function(np.tanh, X), TypeError, "expected two functions.*got ndarray; jaxann.check_function"),
        (lambda: check_gradient(3.0, np.tanh, X), TypeError, "the value and its gradient, got float"),
        (lambda: check_layer(np.tanh, (), X), TypeError, "expected a Layer.*check_function checks a forward with its"),
        (lambda: check(np.tanh, SquaredError(), (), X, X), TypeError, "expected a Layer to check, got ufunc"),
        (lambda: check_function(np.tanh, lambda dy, x: dy, 3), ValueError, "at least one argument of tanh that holds"),
        (
            lambda: check_function(np.tanh, lambda dy, x: dy, np.array([1.0, np.nan])),
            ValueError,
            r"finite numbers in .*, got nan at \[1\]",
        ),
        (
            lambda: check_function(lambda x: np.log(x - x), lambda dy, x: dy, B),
            ValueError,
            "at which the output of .* is finite, got -inf at",
        ),
        (
            lambda: check_function(lambda x: x + np.random.normal(), lambda dy, x: dy, B),
            ValueError,
            "expected a deterministic forward, but two calls",
        ),
        (
            lambda: check_function(lambda x, w, b: x @ w + b, lambda dy, x: dy, X, W, B),
            ValueError,
            r"expected backward\(dy, x, w, b\), or a forward that returns \(y, cache\)",
        ),
        (
            lambda: check_function(Affine().forward, Affine().backward, X, parameters={"W": "dW"}),
            ValueError,
            "methods of one object",
        ),
        (lambda: check_function(lambda: 1.0, lambda dy: dy), ValueError, "at least one argument of forward that holds"),
        (
            lambda: check_function(np.tanh, lambda dy, x: dy, np.zeros(0)),
            ValueError,
            "at least one number in x, got",
        ),
        (lambda: check_function(lambda x: x > 0, lambda dy, x: dy, B), ValueError, "real floats from .*, got bool"),
        (lambda: check_function(lambda x: x * 1j, lambda dy, x: dy, B), ValueError, "real floats from .*, got complex"),
        (lambda: check_function(np.tanh, lambda dy, x: dy, B, on_purpose="z"), ValueError, "on_purpose"),
        (lambda: check_function(np.tanh, lambda dy, x: dy, B, seconds=-1), ValueError, "seconds"),
        (lambda: check_gradient(lambda w: w**2, lambda w: 2 * w, W), ValueError, "expected one number from the value"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_input_is_refused(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


def test_an_exception_of_the_code_is_its_own_with_the_shapes():
    with pytest.raises(ValueError, match="matmul") as caught:
        check_function(lambda x, w: x @ w, lambda dy, x, w: (dy, dy), X, X)
    assert "x (5, 4)" in caught.value.__notes__[0]
    with pytest.raises(ZeroDivisionError) as caught:
        check_function(np.tanh, lambda dy, x: 1 / 0, B)
    assert "(3,)" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("backward", "sentence"),
    [
        (lambda dy, x, w: dy @ w.T, "expected 2 gradients, for x, w, got 1"),
        (lambda dy, x, w: (dy @ w.T, x.T @ dy, dy), "expected 2 gradients, for x, w, got 3"),
        (lambda dy, x, w: (dy @ w.T, dy.T @ x), r"expected shape (4, 3), got (3, 4), consistent with the transpose"),
        (lambda dy, x, w: (dy @ w.T, x[:, :, None] * dy[:, None]), "consistent with a missing sum over axis 0"),
        (lambda dy, x, w: (dy @ w.T, (x.T @ dy).astype(np.float32)), "expected float64"),
    ],
)
def test_gradients_of_another_structure_are_rows(backward, sentence):
    report = check_function(lambda x, w: x @ w, backward, X, W)
    assert not report.ok
    assert sentence in str(report)


# Kinks and declarations.


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_a_choice_of_slope_is_right(slope):
    def backward(dy, x):
        return dy * np.where(x == 0, slope, x > 0)

    report = check_function(relu, backward, np.array([1.0, 0.0, -2.0, 0.0]))
    assert report.ok
    row = report["x"]
    assert (row.verdict, row.cause) == ("right", "kink")
    assert "where the input is 0" in row.diagnosis
    assert f"the handwritten slope is {slope:g}, autodiff's 0.5" in row.diagnosis


def test_a_declared_cause_leaves_every_other_mistake_judged():
    clipped = partial(np.clip, a_min=-0.5, a_max=0.5)
    declared = {"on_purpose": {"x": "clipping"}}
    assert check_function(lambda x: x * 1.0, lambda dy, x: clipped(dy), B, **declared).ok
    report = check_function(lambda x: x * 1.0, lambda dy, x: 2 * dy, B, **declared)
    assert_wrong(report, x="factor")

"""The gradient check on right networks, on malformed gradients, at kinks, and on gradients that differ on purpose."""

import re
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import cases
from support.dropped import Dropped
from support.layers import Neurons, Tied, Twice, WrongLayer
from support.selection import choose

from jaxann import autodiff, backprop, check, check_layer, compare, fit
from jaxann.gradcheck.arguments import Args
from jaxann.gradcheck.cases import collect_loss_cases
from jaxann.gradcheck.verdict import judge
from jaxann.nn import (
    ACTIVATIONS,
    CrossEntropy,
    Dense,
    Dropout,
    Elementwise,
    Layer,
    LayerNorm,
    Parallel,
    Residual,
    RMSNorm,
    Sequential,
    SoftmaxCrossEntropy,
    SquaredError,
    mlp,
    relu,
    sigmoid,
    softmax,
    tanh,
)

X = np.random.default_rng(0).normal(size=(6, 4))
T = np.random.default_rng(1).uniform(size=(6, 3))


def draw_network(seed):
    """A right network of random layers, with a loss and data that fit it."""
    rng = np.random.default_rng(seed)
    n = first = int(rng.choice([1, 3, 5]))
    layers = []
    for kind in rng.integers(8, size=rng.integers(1, 4)):
        m = int(rng.choice([1, 3, 5]))
        activation = ACTIVATIONS[rng.choice(sorted(ACTIVATIONS))]
        composites = Residual(Sequential((Dense(n, n), tanh))), Residual(relu), Parallel((Dense(n, n), activation))
        composite = composites[rng.integers(3)]
        norm = activation if n == 1 else (LayerNorm(n), RMSNorm(n))[rng.integers(2)]
        other = {3: activation, 4: norm, 5: Dropout(0.3), 6: composite, 7: Tied(n, 3)}
        layers.append(other.get(int(kind), Neurons(n, m) if kind == 2 else Dense(n, m)))
        n = m if kind < 3 else n
    name = rng.choice(sorted(cases.LOSSES))
    loss, _, target = cases.LOSSES[name]
    layers += [softmax] if name.startswith("CrossEntropy") else []
    model = Sequential([Sequential(layers)] if rng.random() < 0.3 else layers)
    keys, examples = jax.random.split(jax.random.key(seed), 3), int(rng.choice([1, 6]))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(keys[0], leaf.shape), model.init(keys[0]))
    t = jax.vmap(target, (0, None))(jax.random.split(keys[2], examples), n)
    return model, loss, params, jax.random.normal(keys[1], (examples, first)), t


def assert_right(seeds):
    for seed in seeds:
        report = check(*draw_network(seed), seed=seed)
        assert report.ok, f"seed {seed}: {draw_network(seed)[:2]}\n{report}"


@pytest.mark.slow
def test_random_right_networks_are_right():
    assert_right(range(2))


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.LAYERS)
def test_every_layer_of_the_library_is_right(name):
    layer, shape = cases.LAYERS[name]
    key = jax.random.key(0)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), layer.init(key))
    report = check_layer(layer, params, jax.random.normal(jax.random.key(1), shape))
    assert report.ok, report


@pytest.mark.slow
@pytest.mark.parametrize("hundred", range(10))
def test_a_thousand_random_right_networks_are_right(hundred):
    assert_right(range(100 * hundred, 100 * hundred + 100))


@pytest.mark.parametrize("x64", choose([True, False], 2))
def test_a_right_network_is_right_at_a_minimum(x64):
    """There the gradients of the examples cancel, and the two routes agree in few digits of float32."""
    with jax.enable_x64(x64):
        model, loss = mlp((4, 8, 3), hidden=tanh, output=softmax), CrossEntropy()
        t = jax.nn.softmax(10 * T)
        params, _ = fit(model, loss, optax.adam(0.03), X, t, key=jax.random.key(0), epochs=1000, batch_size=6)
        assert np.abs(autodiff(model, loss)(params, jnp.asarray(X, t.dtype), t)[1][0]["W"]).max() < 1e-3
        assert check(model, loss, params, X, t).ok


def network(layer, n=5):
    """A network with `layer` in the middle, a loss, parameters and data."""
    model = Sequential((Dense(4, n), layer, Dense(n, 3)))
    return model, SquaredError(), model.init(jax.random.key(0)), X, T


# The report on a right network.


def test_every_gradient_has_a_row():
    model, loss, params, x, t = network(Residual(Sequential((Dense(5, 5), tanh))))
    report = check(model, loss, params, x, t)
    inside = ["1.layer.0.W", "1.layer.0.b", "1.layer.0.dx", "1.layer.1.dx"]
    leaves = [row.path for row in report.rows if not row.composite]
    assert leaves == ["0.W", "0.b", "0.dx", *inside, "2.W", "2.b", "2.dx", "loss"]
    of_composites = [row.path for row in report.rows if row.composite]
    params_of_residual = ["0.W", "0.b"]
    assert of_composites[:6] == [
        "chain.0.W",
        "chain.0.b",
        *(f"chain.1.{p}" for p in params_of_residual),
        "chain.2.W",
        "chain.2.b",
    ]
    assert {"1.0.W", "1.dx", "1.layer.chain.0.W", "gradient.2.b", "gradient.weighted.value"} <= set(of_composites)
    assert (report.examples, report.total) == (6, 6)


def test_errors_are_those_of_compare():
    """A doubled gradient has an error of 1 by autodiff and by differences, a ratio of 2 and an angle of 0."""

    def doubled(p, s, dy, g, dx):
        return {"W": g["W"], "b": 2 * g["b"]}, dx

    row = check(*network(WrongLayer(Dense(5, 5), doubled)))["1.b"]
    np.testing.assert_allclose([row.float32, row.float64, row.differences, row.ratio], [1, 1, 1, 2], rtol=1e-6)
    assert row.degrees == pytest.approx(0, abs=1e-5)
    assert row.compared == 8
    assert compare(row.handwritten, row.autodiff).error == pytest.approx(1)


def test_at_most_so_many_examples_are_used():
    model, loss, params, _, _ = network(tanh)
    report = check(model, loss, params, np.zeros((1000, 4)), np.zeros((1000, 3)), examples=7)
    assert (report.examples, report.total) == (7, 1000)
    assert report["1.dx"].shape == (7, 5)


def test_the_cotangent_is_the_true_one_although_a_layer_above_is_wrong():
    """The layers below a wrong one get their true cotangents, and only the wrong one is reported."""
    wrong = Elementwise("tanh", jnp.tanh, lambda x, y: 0 * y + jnp.nan)
    model = Sequential((Dense(4, 5), tanh, Dense(5, 5), wrong, Dense(5, 3)))
    params = model.init(jax.random.key(0))
    report = check(model, SquaredError(), params, X, T)
    assert report.wrong == ("3.dx",)
    right = replace(model, layers=(*model.layers[:3], tanh, model.layers[4]))
    _, grads = autodiff(right, SquaredError())(params, jnp.asarray(X), jnp.asarray(T))
    b = report["0.b"].handwritten
    np.testing.assert_allclose(b / np.abs(b).max(), grads[0]["b"] / np.abs(grads[0]["b"]).max(), rtol=1e-10)


# Malformed gradients and exceptions become rows, not tracebacks.


@dataclass(frozen=True)
class Odd(Layer):
    """y = scale x + other, with a backward that `backward_of` makes of the right one."""

    backward_of: object

    def init(self, key):
        return {"scale": jnp.ones(5), "other": jnp.zeros(())}

    def forward(self, params, x, key=None):
        return params["scale"] * x + params["other"], x

    def backward(self, params, saved, dy):
        right = {"scale": dy * saved, "other": dy.sum()}, params["scale"] * dy
        return self.backward_of(params, saved, dy, *right)


def raising(*args):
    raise KeyError("beta")


@pytest.mark.parametrize(
    ("backward", "path", "sentence"),
    choose(
        [
            (
                lambda p, x, dy, g, dx: (g | {"scale": g["scale"][:2]}, dx),
                "1.scale",
                r"expected shape \(5,\), got \(2,\)$",
            ),
            (
                lambda p, x, dy, g, dx: (g | {"other": dy}, dx),
                "1.other",
                r"expected shape \(\), got \(5,\), consistent with a missing sum over axis 0$",
            ),
            (lambda p, x, dy, g, dx: (g, dx[:3]), "1.dx", r"expected shape \(5,\), got \(3,\)$"),
            (lambda p, x, dy, g, dx: ({"scale": g["scale"]}, dx), "1.other", "backward does not return it$"),
            (lambda p, x, dy, g, dx: (g, None), "1.dx", "backward does not return it$"),
            (
                lambda p, x, dy, g, dx: (g | {"bias": dy}, dx),
                "1.bias",
                "backward returns it, but the layer has no such parameter$",
            ),
            (
                lambda p, x, dy, g, dx: (g, dx.astype("float32")),
                "1.dx",
                "expected float64, the type of the parameter, got float32$",
            ),
            (
                lambda p, x, dy, g, dx: g,
                "1",
                r"it raises TypeError: expected backward to return the pair \(grads, dx\), got dict$",
            ),
            (raising, "1", "it raises KeyError: 'beta'$"),
            (lambda p, x, dy, g, dx: (g, dx if dy[0] > 0 else 0 * dx), "1", "it raises TracerBoolConversionError"),
            (lambda p, x, dy, g, dx: (g, np.asarray(dx)), "1", "it raises TracerArrayConversionError"),
            (lambda p, x, dy, g, dx: (g, "dx"), "1", "it raises TypeError"),
        ],
        2,
    ),
)
def test_a_malformed_gradient_is_a_row(backward, path, sentence):
    report = check(*network(Odd(backward)))
    assert report.wrong == (path,)
    np.testing.assert_equal(report[path].verdict, "wrong")
    assert re.match(sentence, report[path].diagnosis)
    layer_report = check_layer(Odd(backward), Odd(backward).init(None), X[0, :1] * np.ones(5))
    assert layer_report.wrong == (path[2:] or "backward",)


def test_a_forward_that_raises_is_a_row():
    broken = Elementwise("broken", lambda x: x.nothing, lambda x, y: y)
    report = check(*network(broken))
    assert report.wrong == ("forward",)
    assert "AttributeError" in report["forward"].diagnosis
    assert check_layer(broken, (), X[0]).wrong == ("forward",)


def test_a_gradient_function_without_weights_is_a_row():
    report = check(
        *network(tanh), gradient=lambda model, loss: lambda params, x, t: backprop(model, loss)(params, x, t)
    )
    assert report.wrong == ("gradient.weighted",)
    assert "takes 3 positional arguments but 4 were given" in report["gradient.weighted"].diagnosis


# Kinks, and values that are not finite.


def test_entries_at_a_kink_are_counted_and_left_out():
    x = np.where(np.arange(24).reshape(6, 4) % 2, 0.0, 1.0)
    row = check_layer(relu, (), x[0])["dx"]
    assert row.verdict == "right"
    assert row.nonsmooth > 0
    assert row.compared > 0
    smooth = check_layer(tanh, (), x[0])["dx"]
    assert smooth.nonsmooth == 0


POLE = Elementwise("pole", lambda x: 1 / (x - x), lambda x, y: y)
STEEP = Elementwise("steep", lambda x: x, lambda x, y: 1 / (x - x))
ROOT = Elementwise(
    "root", lambda x: jnp.where(x > 0, jnp.sqrt(x), 0), lambda x, y: jnp.where(x > 0, 0.5 / jnp.where(x > 0, y, 1), 0)
)


def test_a_value_that_is_not_finite_is_reported_where_it_first_occurs():
    report = check(*network(POLE))
    assert not report.ok
    assert report["values"].diagnosis == "the first value that is not finite is in the output of layer 1, pole"
    assert report["1.dx"].verdict == "not finite"
    report = check(*network(STEEP))
    assert report.wrong == ("1.dx",)
    assert report["1.dx"].diagnosis.startswith("it is inf at [0, 0] in float")


def test_a_gradient_that_only_autodiff_gets_wrong_is_right():
    """Autodiff's derivative of a square root in a `where` is NaN at negative inputs, but not the differences."""
    row = check_layer(ROOT, (), np.array([1.0, -2.0, 3.0, -4.0]))["dx"]
    assert row.verdict == "right"
    assert row.diagnosis == "autodiff gives nan at [0, 1]; differences agree with the handwritten gradient"
    stopped = Elementwise("stopped", lambda x: jax.lax.stop_gradient(x) * x, lambda x, y: 2 * x)
    row = check_layer(stopped, (), X[0])["dx"]
    assert (row.verdict, row.cause) == ("right", "autodiff")


def test_a_forward_that_changes_its_own_derivative_is_reported():
    """With a straight-through estimator, backward and autodiff agree with each other, but not with the function."""

    def step(x):
        return x + jax.lax.stop_gradient(jnp.tanh(x) - x)

    report = check_layer(Elementwise("through", step, lambda x, y: jnp.ones_like(y)), (), X[0])
    assert report["dx"].cause == "custom derivative"


# Backward passes that differ on purpose.


@dataclass(frozen=True)
class Feedback(Dense):
    """Dense whose backward has a fixed random matrix in place of Wᵀ (Lillicrap et al. 2016)"""

    def backward(self, params, saved, dy):
        feedback = jax.random.normal(jax.random.key(7), (self.m, self.n))
        return super().backward({"W": feedback}, saved, dy)


def test_a_gradient_that_differs_on_purpose_is_reported_with_its_angle():
    args = network(Feedback(5, 5))
    assert check(*args).wrong == ("1.dx",)
    for declared in ("1", "1.dx"):
        report = check(*args, on_purpose=[declared])
        assert report.ok
        row = report["1.dx"]
        assert row.verdict == "on purpose"
        cosine = np.sum(row.handwritten * row.autodiff) / np.linalg.norm(row.handwritten) / np.linalg.norm(row.autodiff)
        assert row.degrees == pytest.approx(np.degrees(np.arccos(cosine)))
        assert row.diagnosis == f"{row.degrees:.1f} degrees from the true gradient"
        assert report["1.W"].verdict == "right"


# Bad input.


def test_bad_input_is_refused():
    model, loss, params, x, t = network(tanh)
    with pytest.raises(
        ValueError,
        match=r"expected on_purpose to name gradients of the report \(0\.W, 0\.b, 0\.dx, 1\.dx, .*\), got '7'",
    ):
        check(model, loss, params, x, t, on_purpose=["7"])
    with pytest.raises(ValueError, match="expected features with 4 columns, which the network takes, got 3"):
        check(model, loss, params, x[:, :3], t)
    with pytest.raises(ValueError, match=r"expected finite float64 numbers in features, got nan at \[0, 1\]"):
        check(model, loss, params, x * np.where(np.arange(4) == 1, np.nan, 1), t)

    @dataclass
    class Thawed(Layer):
        def forward(self, params, x, key=None):
            return x, ()

        def backward(self, params, saved, dy):
            return (), dy

    with pytest.raises(
        ValueError, match=r"expected a hashable object, such as a frozen dataclass, got Thawed: unhashable"
    ):
        check_layer(Thawed(), (), x[0])
    with pytest.raises(ValueError, match="expected examples of at least 1, got 0"):
        check(model, loss, params, x, t, examples=0)


SQUARE = Elementwise("square", lambda x: x * x, lambda x, y: slope(x))


def slope(x):
    return x


def test_edited_code_is_checked_again(monkeypatch):
    assert check_layer(SQUARE, (), X[0]).wrong == ("dx",)
    monkeypatch.setitem(globals(), "slope", lambda x: 2 * x)
    assert check_layer(SQUARE, (), X[0]).ok


def test_integers_are_converted_to_floats_for_a_layer_that_takes_floats():
    assert check_layer(SQUARE, (), np.arange(4)).wrong == ("dx",)
    with pytest.raises(
        ValueError, match=r"expected x to be at least one real number, got shape \(0,\) and dtype float64"
    ):
        check_layer(tanh, (), np.zeros(0))
    with pytest.raises(ValueError, match=r"real number, got shape \(2,\) and dtype complex128"):
        check_layer(tanh, (), np.ones(2) * 1j)


def test_a_gradient_smaller_than_rounding_is_judged_by_differences():
    faint = Elementwise("faint", lambda x: 1e-20 * x, lambda x, y: 2e-20 + 0 * x)
    assert check_layer(faint, (), X[0]).wrong == ("dx",)


def test_a_gradient_may_differ_on_purpose_where_the_true_one_is_zero():
    hard = Elementwise("hard", jnp.sign, lambda x, y: jnp.ones_like(y))
    report = check(*network(hard), on_purpose="1.dx")
    assert report["1.dx"].verdict == "on purpose"
    assert report["1.dx"].diagnosis == "it or the true gradient is zero, so the angle between them is not defined"


@dataclass(frozen=True)
class FirstLabelOnly(SoftmaxCrossEntropy):
    """A loss whose gradient is right only for label 0"""

    def gradient(self, y, t):
        return super().gradient(y, t) * jnp.where(t == 0, 1, 2)


def test_an_example_of_every_label_is_used():
    model, _, params, _, _ = network(tanh)
    x = np.random.default_rng(0).normal(size=(190, 4))
    assert check(model, FirstLabelOnly(), params, x, np.arange(190) % 3).wrong == ("loss",)
    assert check(model, FirstLabelOnly(), params, x, 1 * (np.arange(190) == 7)).wrong == ("loss",)


def test_inputs_of_many_magnitudes_are_tried():
    far = Elementwise("far", lambda x: jnp.where(x < -3, 3 * x, x), lambda x, y: jnp.ones_like(y))
    assert check(*network(far)).wrong == ("1.dx",)


@dataclass(frozen=True)
class EachRow(Layer):
    """A layer that applies another one to every row of x"""

    inner: Layer

    def init(self, key):
        return self.inner.init(key)

    def forward(self, params, x, key=None):
        return jax.vmap(lambda x: self.inner.forward(params, x))(x)

    def backward(self, params, saved, dy):
        grads, dx = jax.vmap(lambda saved, dy: self.inner.backward(params, saved, dy))(saved, dy)
        return jax.tree.map(lambda g: g.sum(axis=0), grads), dx


def test_a_part_used_twice_has_rows_for_each_use():
    report = check(*network(Twice(Dense(5, 5))))
    assert report.ok
    assert [row.path for row in report.rows if "inner" in row.path] == [
        *("1.inner.W", "1.inner.b", "1.inner.dx"),
        *("1.inner#2.W", "1.inner#2.b", "1.inner#2.dx"),
    ]


def test_parts_that_cannot_be_observed_are_noted():
    report = check_layer(EachRow(sigmoid), (), X)
    assert report.ok
    assert report.notes == ("EachRow: its parts (inner) cannot be observed, so they are checked only as parts of it",)
    assert report.notes[0] in str(report)
    wrong = replace(sigmoid, derivative=lambda x, y: y)
    assert check_layer(EachRow(wrong), (), X).wrong == ("dx",)


def test_the_gradient_of_an_integer_input_may_be_anything():
    for dx in (None, np.zeros((), jax.dtypes.float0), jnp.zeros(())):

        @dataclass(frozen=True)
        class Row(Embedding):
            def backward(self, params, saved, dy, dx=dx):
                return super().backward(params, saved, dy)[0], dx

        assert check_layer(Row(), Row().init(jax.random.key(0)), 2).ok


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, params, x: (x, x),
        lambda self, params, x, key=None: ((x, x), x),
        lambda self, params, x, key=None: (x > 0, x),
        lambda self, params, x, key=None: x,
    ],
)
def test_a_forward_of_another_form_gives_no_traceback(forward):
    methods = {"forward": forward, "backward": lambda self, params, saved, dy: ((), dy)}
    strange = dataclass(frozen=True)(type("Strange", (Layer,), methods))
    assert not check_layer(strange(), (), X[0]).ok


# One layer.


@dataclass(frozen=True)
class Embedding(Layer):
    """y = table[x] for an integer x"""

    wrong: bool = False

    def init(self, key):
        return {"table": jax.random.normal(key, (5, 3))}

    def forward(self, params, x, key=None):
        return params["table"][x], x

    def backward(self, params, saved, dy):
        row = jax.nn.one_hot(saved + self.wrong, 5)
        return {"table": row[:, None] * dy[None, :]}, jnp.zeros(())


def test_a_layer_with_an_integer_input_has_no_dx():
    params = Embedding().init(jax.random.key(0))
    report = check_layer(Embedding(), params, 2)
    assert [row.path for row in report.rows] == ["table"]
    assert report.ok
    assert check_layer(Embedding(wrong=True), params, 2).wrong == ("table",)


def test_the_layers_inside_a_layer_are_checked():
    wrong = replace(sigmoid, derivative=lambda x, y: y)
    model = Sequential((Dense(4, 4), Residual(Sequential((Dense(4, 4), wrong)))))
    assert check_layer(model, model.init(jax.random.key(0)), X[0]).wrong == ("1.layer.1.dx",)


def test_a_loss_with_integer_labels_is_checked():
    model, _, params, x, _ = network(tanh)
    assert check(model, SoftmaxCrossEntropy(), params, x, np.arange(6) % 3).ok


# With a key.


@pytest.mark.parametrize(
    ("wrong", "paths"),
    [
        ("", ()),
        ("mask and scale", ("random.W", "random.b", "random.dx")),
        ("scale", ("W", "b", "dx", "random.W", "random.b", "random.dx")),
    ],
)
def test_a_layer_around_a_layer_is_judged_with_a_key_too(wrong, paths):
    layer = Dropped(Dense(3, 2), 0.5, wrong)
    report = check_layer(layer, layer.init(jax.random.key(0)), X[0, :3])
    assert report.wrong == paths
    assert [row.path for row in report.rows if "random" in row.path] == ["random.W", "random.b", "random.dx"]
    assert {row.owner for row in report.rows if "random" in row.path} == {"Dropped, with a key"}


def test_a_mask_that_is_forgotten_inside_a_network_is_named_once():
    model, loss, params, x, t = network(Dropped(Dense(5, 5), 0.5, "mask and scale"))
    report = check(model, loss, params, x, t)
    assert report.wrong == ("1.random.W", "1.random.b", "1.random.dx"), "the chain and the gradient are right"
    with_key = [row.path for row in report.rows if "random" in row.path and row.path.startswith(("chain", "gradient"))]
    params_of_network = ["0.W", "0.b", "1.W", "1.b", "2.W", "2.b"]
    assert with_key == [f"chain.random.{p}" for p in [*params_of_network, "dx"]] + [
        f"gradient.random.{p}" for p in params_of_network
    ]


def test_what_draws_nothing_is_not_judged_with_a_key():
    model, loss, params, x, t = network(tanh)
    assert not [row.path for row in check(model, loss, params, x, t).rows if "random" in row.path]


def judge_gradient_with_key(gradient):
    """Judges a gradient function of a network with dropout; returns the verdicts with a key, and the notes."""
    model, loss = Sequential((Dense(4, 3), Dropout(0.5))), SquaredError()
    data = Args(model.init(jax.random.key(0)), X, T, ()).cast("float64")
    cases, notes = collect_loss_cases(model, loss, gradient, data, T, np.random.default_rng(0))
    judged = [case for case in cases if case.subject.path == "gradient.random"]
    rng = np.random.default_rng(0)
    rows = [row for case in judged for row in judge(case.subject, case.points, 1, rng, case.dtypes)]
    return {row.path: row.verdict for row in rows}, notes


def share_key(model, loss):
    """Gives every example the same key, so that the value is not the mean loss with that key."""

    def gradient(params, x, t, weights=None, key=None):
        def value(params):
            y = jax.vmap(lambda x: model.forward(params, x, key)[0])(x)
            return jnp.sum(weights * jax.vmap(loss.value)(y, t)) / weights.sum()

        return jax.value_and_grad(value)(params)

    return gradient


def forget_key(model, loss):
    """Draws with the key for the value, but not for the gradient."""

    def gradient(params, x, t, weights=None, key=None):
        return backprop(model, loss)(params, x, t, weights, key)[0], backprop(model, loss)(params, x, t, weights)[1]

    return gradient


@pytest.mark.parametrize(
    ("gradient", "verdict"), [(backprop, "right"), (autodiff, "right"), (share_key, "right"), (forget_key, "wrong")]
)
def test_a_gradient_function_is_judged_at_one_key(gradient, verdict):
    verdicts, notes = judge_gradient_with_key(gradient)
    assert verdicts == {"gradient.random.0.W": verdict, "gradient.random.0.b": verdict}
    assert notes == ()


def test_a_gradient_function_that_cannot_use_a_key_is_noted():
    def without_key(model, loss):
        return lambda params, x, t, weights=None: backprop(model, loss)(params, x, t, weights)

    def ignoring_key(model, loss):
        return lambda params, x, t, weights=None, key=None: backprop(model, loss)(params, x, t, weights)

    beginning = "gradient: the network draws random numbers, but the gradient function "
    assert judge_gradient_with_key(without_key) == ({}, (f"{beginning}takes no key to draw them with",))
    assert judge_gradient_with_key(ignoring_key) == ({}, (f"{beginning}ignores its key",))


def test_a_gradient_function_that_raises_with_a_key_is_a_row():
    def raising_with_key(model, loss):
        return lambda params, x, t, weights=None, key=None: {}[key] if key is not None else None

    assert judge_gradient_with_key(raising_with_key) == ({"gradient.random": "wrong"}, ())

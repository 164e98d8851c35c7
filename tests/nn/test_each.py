"""A layer at every position of a sequence, and the mean of a loss over the positions."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.judges import cast, judge_layer, judge_loss
from support.layers import WrongLayer
from support.selection import choose

from jaxann import check, check_layer, fit
from jaxann.data.validation import validate
from jaxann.gradients.probe import observe
from jaxann.nn import (
    CrossEntropy,
    Dense,
    Dropout,
    Each,
    EachLoss,
    Embedding,
    Hinge,
    MixedPrecision,
    Outer,
    Sequential,
    SoftmaxCrossEntropy,
    SquaredError,
    tanh,
)

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (4, 3))
HIDDEN = Sequential((Dense(3, 2), tanh))
IDS = jnp.array([3, 1, 3])


def test_every_position_is_an_input_of_the_layer():
    layer = Each(HIDDEN)
    params = layer.init(KEY)
    y, saved = layer.forward(params, X)
    np.testing.assert_allclose(y, [HIDDEN.forward(params, x)[0] for x in X], rtol=1e-14)
    grads, _ = layer.backward(params, saved, y)
    assert grads[0]["W"].left.shape == (4, 2)  # the factors keep the axis of positions
    assert grads[0]["b"].shape == (2,)
    assert (layer.sizes, Each(tanh).keeps_shape) == ((3, 2), True)


def test_each_position_has_a_key_of_its_own():
    layer, x = Each(Dropout(0.5)), jnp.ones((2, 100))
    y, _ = layer.forward((), x, KEY)
    assert (y[0] != y[1]).any()
    np.testing.assert_array_equal(layer.forward((), x)[0], x)
    assert layer.random
    assert not Each(HIDDEN).random


@dataclass(frozen=True)
class Float0(Embedding):
    """An embedding whose dx has JAX's dtype float0, as the derivative with respect to integers."""

    def backward(self, params, saved, dy):
        return super().backward(params, saved, dy)[0], np.zeros(saved.shape, jax.dtypes.float0)


@pytest.mark.parametrize("inner", [Embedding(5, 2), Float0(5, 2)])
def test_positions_may_hold_ids(inner):
    layer = Each(inner)
    params = layer.init(KEY)
    y, saved = layer.forward(params, IDS)
    grads, dx = layer.backward(params, saved, y)
    assert dx is None
    np.testing.assert_allclose(grads["W"].sum()[3], 2 * y[0], rtol=1e-14)
    assert list(layer.vocabularies.values()) == [5]


@pytest.mark.slow
def test_positions_may_have_positions():
    layer = Each(Each(HIDDEN))
    judge_layer(layer, layer.init(KEY), jnp.stack([X, 2 * X]))


def test_sums_over_positions_of_bfloat16_are_taken_in_float32():
    layer = MixedPrecision(Each(Dense(1, 1)))
    y, saved = layer.forward(layer.init(KEY), jnp.ones((1000, 1)))
    grads, _ = layer.backward(layer.init(KEY), saved, jnp.ones_like(y))
    assert grads["W"].left.dtype == jnp.bfloat16
    np.testing.assert_array_equal(grads["W"].sum(), [[1000]])  # bfloat16 has no 257, so a sum would stop at 256
    np.testing.assert_array_equal(grads["b"], [1000])


def test_a_probe_sees_all_positions_at_once():
    model = Sequential((Each(Dense(3, 2)), tanh))
    forwards, *_ = observe(model, SquaredError(), model.init(KEY), X[None], jnp.ones((1, 4, 2)))
    assert [(record.probe.path, record.x.shape) for record in forwards] == [("0", (1, 4, 3)), ("1", (1, 4, 2))]


def test_an_input_without_positions_is_refused():
    with pytest.raises(ValueError, match=r"expected x with an axis of positions in Each, got shape \(\)"):
        Each(tanh).forward((), jnp.array(1.0))


@pytest.mark.parametrize("promotion", ["raise", "allow"])
def test_the_layer_at_each_position_is_judged_as_part_of_it(promotion):
    """A part inside a `vmap` sees one position, while its records have all: it would be judged at a wrong shape."""
    layer = Each(Dense(3, 2))
    with jax.numpy_rank_promotion(promotion):
        report = check_layer(layer, layer.init(KEY), X)
    assert report.ok
    assert [row.path for row in report.rows] == ["W", "b", "dx"]  # no rows with a key, which the layer does not use
    assert report.notes == ("Each: its parts (layer) cannot be observed, so they are checked only as parts of it",)


@pytest.mark.slow
def test_what_is_wrong_at_each_position_is_found():
    wrong = Each(WrongLayer(Dense(3, 2), lambda p, x, dy, grads, dx: (grads | {"b": 2 * dy}, dx)))
    assert check_layer(wrong, wrong.init(KEY), X).wrong == ("b",)
    model = Sequential((Each(Dense(3, 3)), Each(tanh), wrong))
    report = check(model, SquaredError(), model.init(KEY), jnp.stack([X, X + 1, X * 2]), jnp.ones((3, 4, 2)))
    assert report.wrong == ("2.b",)


def _find_x(saved):
    return saved[0] if isinstance(saved, tuple) else saved  # the check puts a layer that saves (x, key) inside


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (lambda p, saved, dy, grads, dx: (grads | {"b": dy.mean(0)}, dx), {"b"}),
        (lambda p, saved, dy, grads, dx: (grads | {"W": Outer(dy[0], _find_x(saved)[0])}, dx), {"W"}),
        (lambda p, saved, dy, grads, dx: (grads, dx.at[1:].set(0)), {"dx"}),
    ],
    ids=["b: the mean over positions", "W: the first position alone", "dx: of the first position alone"],
)
def test_a_wrong_sum_over_positions_is_found(spoil, wrong):
    layer = WrongLayer(Each(Dense(3, 2)), spoil)
    assert set(check_layer(layer, layer.init(KEY), X).wrong) == wrong


# The loss

LABELS = EachLoss(SoftmaxCrossEntropy())
LOSSES = {  # a loss, and outputs and targets for it
    "labels": (LABELS, X, jnp.array([2, 0, 1, 1])),
    "labels and padding": (LABELS, X, jnp.array([2, -1, 0, -7])),
    "distributions": (LABELS, X, jax.nn.softmax(2 * X)),
    "numbers": (EachLoss(SquaredError()), X, -X * X),
    "integers that are no labels": (EachLoss(Hinge()), X, jnp.where(X > 0, 1, -1)),
    "images": (EachLoss(SquaredError()), X.reshape(2, 2, 3), -(X.reshape(2, 2, 3) ** 2)),
}


@pytest.mark.parametrize("name", choose(LOSSES, 3))
def test_the_loss_is_the_mean_over_positions(name):
    loss, y, t = LOSSES[name]
    counts = [i for i in range(len(y)) if t.ndim > 1 or t[i] >= 0]
    one = jax.jit(loss.loss.value)
    np.testing.assert_allclose(loss.value(y, t), np.mean([one(y[i], t[i]) for i in counts]), rtol=1e-14)
    judge_loss(loss, y, t)
    judge_loss(loss, y.astype(jnp.float32), cast(t, jnp.float32))


def test_padding_alone_has_no_loss():
    t = jnp.array([-1, -1, -1, -1])
    assert LABELS.value(X, t) == 0
    np.testing.assert_array_equal(LABELS.gradient(X, t), 0 * X)
    np.testing.assert_array_equal(LABELS.hessian_factor(X, t), 0)


@pytest.mark.parametrize("name", [pytest.param("images", marks=pytest.mark.slow), "labels and padding"])
def test_the_hessian_factor_is_that_of_each_position(name):
    loss, y, t = LOSSES[name]
    S = jax.jit(loss.hessian_factor)(y, t).reshape(-1, y.size)
    expected = jax.jit(jax.hessian(lambda y: loss.value(y, t)))(y).reshape(y.size, y.size)
    np.testing.assert_allclose(S.T @ S, expected, atol=1e-14)


def test_outputs_at_padding_do_not_matter():
    y, t = X.at[1].set(jnp.nan), jnp.array([2, -1, 0, 1])
    np.testing.assert_array_equal(LABELS.value(y, t), LABELS.value(X, t))
    np.testing.assert_array_equal(LABELS.gradient(y, t), LABELS.gradient(X, t))


def test_a_mean_of_bfloat16_is_taken_in_float32():
    y, t = jnp.zeros((1001, 2), jnp.bfloat16), jnp.zeros(1001, int)
    value, gradient = LABELS.value(y, t), LABELS.gradient(y, t)
    assert (value.dtype, gradient.dtype) == (jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_array_equal(value, jnp.log(2.0).astype(jnp.bfloat16))
    np.testing.assert_array_equal(gradient[0, 1], jnp.array(0.5 / 1001, jnp.bfloat16))


def test_a_network_learns_from_padded_labels():
    model = Sequential((Embedding(5, 4), Each(Dense(4, 5))))
    x = jax.random.randint(KEY, (16, 6), 0, 5)
    t = jnp.where(jnp.arange(6) < 4, (x + 1) % 5, -1)
    _, history = fit(model, LABELS, optax.adam(0.1), x, t, key=KEY, epochs=20, batch_size=4)
    assert history.loss[-1] < 0.05 * history.loss[0]


@pytest.mark.parametrize(
    ("loss", "t", "sentence"),
    [
        (
            LABELS,
            jnp.array([[2, 0, 3, -1]]),
            r"expected integer labels from 0 .*, or negative integer labels at padding, in targets of EachLoss\(.*\) "
            r"with 3 outputs, got 3 at \[0, 2\]",
        ),
        (LABELS, jnp.array([[2.0, 0, 1, 1]]), r"targets of shape \(1, 4\) do not fit: .* got a single float64"),
        (LABELS, jnp.array([[2, 0, 1]]), r"a target for each of T positions, got shapes \(4, 3\) and \(3,\)"),
        (EachLoss(CrossEntropy()), -jnp.ones((1, 4, 3), int), r"expected 0 or more, or .*, got -1 at \[0, 0, 0\]"),
    ],
)
def test_targets_that_do_not_fit_are_refused(loss, t, sentence):
    with pytest.raises(ValueError, match=sentence):
        validate(tanh, loss, X[None], t)


def test_outputs_without_positions_are_refused():
    with pytest.raises(ValueError, match=r"expected outputs of shape \(T, ...\) and .*, got shapes \(3,\) and \(3,\)"):
        EachLoss(SquaredError()).value(X[0], X[0])


class SumOverPositions(EachLoss):
    """A loss whose gradient is not divided by the number of positions."""

    def gradient(self, y, t):
        return jnp.maximum((t >= 0).sum(), 1) * super().gradient(y, t)


class MeanOverPadding(EachLoss):
    """A loss whose gradient is divided by the number of all positions."""

    def gradient(self, y, t):
        return jnp.maximum((t >= 0).sum(), 1) / len(t) * super().gradient(y, t)


class PaddingCounts(EachLoss):
    """A loss whose gradient takes padding for the label 0."""

    def gradient(self, y, t):
        return super().gradient(y, jnp.maximum(t, 0)) * len(t) / jnp.maximum((t >= 0).sum(), 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [EachLoss, SumOverPositions, MeanOverPadding, PaddingCounts])
def test_check_judges_the_loss(kind):
    model, loss = Sequential((Embedding(5, 4), Each(Dense(4, 5)))), kind(SoftmaxCrossEntropy())
    x, t = jnp.array([[0, 1, 4], [3, 3, 2]]), jnp.array([[1, 2, -1], [4, -1, -1]])
    report = check(model, loss, model.init(KEY), x, t)
    assert report.wrong == (() if kind is EachLoss else ("loss",)), report

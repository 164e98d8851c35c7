import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_vjp
from support.cases import LOSSES
from support.judges import cast, judge_loss
from support.selection import choose

import jaxann
from jaxann import backprop
from jaxann.nn import (
    AbsoluteError,
    CrossEntropy,
    EachLoss,
    Hinge,
    Huber,
    Loss,
    Poisson,
    Sequential,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
    identity,
    mlp,
    softmax,
)
from jaxann.nn.hyperparameters import SettingError
from jaxann.nn.loss import mean_weights

REFERENCES = {  # optax's losses, brought to the conventions of this library
    "SquaredError": lambda y, t: optax.l2_loss(y, t).sum(),
    "AbsoluteError": lambda y, t: jnp.abs(y - t).sum(),
    "Huber": lambda y, t: optax.huber_loss(y, t).sum(),
    "Huber, narrow": lambda y, t: optax.huber_loss(y, t, delta=0.3).sum(),
    "Hinge": lambda y, t: optax.hinge_loss(y, t).sum(),
    "CrossEntropy": lambda y, t: -(t * jnp.log(y)).sum(),
    "CrossEntropy, targets of any sum": lambda y, t: -(t * jnp.log(y)).sum(),
    "Poisson": lambda y, t: (jnp.exp(y) - t * y).sum(),
    "SoftmaxCrossEntropy": optax.softmax_cross_entropy,
    "SoftmaxCrossEntropy, targets of any sum": optax.softmax_cross_entropy,
    "SoftmaxCrossEntropy, labels": optax.softmax_cross_entropy_with_integer_labels,
    "SoftmaxCrossEntropy, smoothed": lambda y, t: optax.softmax_cross_entropy(y, optax.smooth_labels(t, 0.1)),
    "SoftmaxCrossEntropy, smoothed labels": lambda y, t: optax.softmax_cross_entropy(
        y, optax.smooth_labels(jax.nn.one_hot(t, y.size), 0.1)
    ),
    "SigmoidCrossEntropy": lambda y, t: optax.sigmoid_binary_cross_entropy(y, t).sum(),
}


def draw_output_and_target(name, m=5, dtype=jnp.float64):
    loss, output, target = LOSSES[name]
    return loss, *cast((output(jax.random.key(1), m), target(jax.random.key(2), m)), dtype)


def test_every_public_loss_has_a_case():
    public = [getattr(room, name) for room in (jaxann.nn, jaxann.rules) for name in room.__all__]
    classes = {value for value in public if isinstance(value, type) and issubclass(value, Loss)}
    # EachLoss is made of another loss, and tests/nn/test_each.py tries it.
    assert (
        {type(loss) for loss, _, _ in LOSSES.values()} == classes - {Loss, EachLoss} == set(jaxann.nn.LOSSES.values())
    )


@pytest.mark.parametrize("dtype", choose([jnp.float64, jnp.float32], 2))
@pytest.mark.parametrize("m", choose([5, 1], 2))
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_the_derivative_of_value(name, m, dtype):
    judge_loss(*draw_output_and_target(name, m, dtype))


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_agrees_with_finite_differences(name):
    loss, y, t = draw_output_and_target(name)

    def pair(y):
        return loss.value(y, t), lambda de: (de * loss.gradient(y, t),)

    check_vjp(lambda y: loss.value(jnp.asarray(y), t), pair, (y,), atol=1e-6, rtol=1e-6, eps=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_values_are_those_of_optax(name):
    loss, y, t = draw_output_and_target(name)
    np.testing.assert_allclose(loss.value(y, t), REFERENCES[name](y, t), rtol=1e-13)


def judge_factor(loss, y, t):
    """Compares Σ_c s_c s_cᵀ with the second derivative of `loss.value`; both have the shape of y twice."""
    S, H = loss.hessian_factor(y, t), jax.hessian(loss.value)(y, t)
    assert S.shape[1:] == y.shape
    assert S.dtype == y.dtype
    np.testing.assert_allclose(jnp.tensordot(S, S, (0, 0)), H, atol=1e-12 * max(1, abs(H).max()))


@pytest.mark.parametrize("m", choose([5, 1], 2))
@pytest.mark.parametrize("name", LOSSES)
def test_hessian_factor_times_its_transpose_is_the_second_derivative_of_value(name, m):
    judge_factor(*draw_output_and_target(name, m))


@pytest.mark.parametrize("name", choose(sorted(n for n in LOSSES if not n.startswith("SoftmaxCrossEntropy")), 2))
def test_hessian_factor_of_an_elementwise_loss_takes_any_shape(name):
    loss, y, t = draw_output_and_target(name, 6)
    judge_factor(loss, y.reshape(2, 3), t.reshape(2, 3))


def test_hessian_factor_of_an_almost_certain_output_is_finite():
    for loss in (SoftmaxCrossEntropy(), SigmoidCrossEntropy()):
        for dtype in (jnp.float32, jnp.float64):
            S = loss.hessian_factor(jnp.array([-1e4, 1e4], dtype), jnp.array([1.0, 0.0], dtype))
            np.testing.assert_array_equal(S, jnp.zeros((2, 2)))
    np.testing.assert_array_equal(
        CrossEntropy().hessian_factor(jnp.array([0.0, 0.5]), jnp.array([0, 1])), [[0, 0], [0, 2]]
    )


def test_a_loss_without_hessian_factor_says_so():
    class Unfactored(Huber):
        hessian_factor = Loss.hessian_factor

    with pytest.raises(NotImplementedError, match=r"has no hessian_factor, which Gauss-Newton curvature needs"):
        Unfactored().hessian_factor(jnp.zeros(2), jnp.zeros(2))


@pytest.mark.parametrize("t", [jnp.array([0.98, 0.01, 0.01]), jnp.array([0.2, 0.5, 0.3])])
def test_softmax_then_cross_entropy_is_the_fused_loss(t):
    layers = mlp((4, 5, 3)).layers[:-1]
    apart, fused = Sequential((*layers, softmax)), Sequential((*layers, identity))
    params, x, ts = fused.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (6, 4)), jnp.tile(t, (6, 1))
    value, grads = backprop(apart, CrossEntropy())(params, x, ts)
    fused_value, fused_grads = backprop(fused, SoftmaxCrossEntropy())(params, x, ts)
    np.testing.assert_allclose(value, fused_value, rtol=1e-13)
    assert jaxann.compare(grads, fused_grads).error < 1e-12


def test_kinks_take_the_slope_of_jax():
    zero, one = jnp.zeros(1), jnp.ones(1)
    assert AbsoluteError().gradient(one, one) == jax.grad(lambda x: jnp.abs(x).sum())(zero) == 1
    assert Hinge().gradient(one, one) == 0
    assert Huber(1.0).gradient(one, zero) == 1
    for loss, y, t in [(AbsoluteError(), one, one), (Hinge(), one, one), (Huber(1.0), one, zero)]:
        judge_loss(loss, y, t)


def test_zero_times_the_logarithm_of_zero_is_zero():
    y, t = jnp.array([0.0, 1.0]), jnp.array([0.0, 1.0])
    assert CrossEntropy().value(y, t) == 0
    np.testing.assert_array_equal(CrossEntropy().gradient(y, t), [0, -1])
    judge_loss(CrossEntropy(), y, t)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), SigmoidCrossEntropy()])
def test_losses_on_logits_do_not_overflow(loss):
    for dtype in (jnp.float32, jnp.float64):
        y, t = jnp.array([-1e4, 1e4], dtype), jnp.array([1.0, 0.0], dtype)
        assert jnp.isfinite(loss.value(y, t))
        np.testing.assert_allclose(loss.gradient(y, t), [-1, 1])


@pytest.mark.parametrize("name", LOSSES)
def test_losses_do_not_swallow_a_nan(name):
    loss, y, t = draw_output_and_target(name)
    assert jnp.isnan(loss.value(y.at[1].set(jnp.nan), t))


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.bool])
@pytest.mark.parametrize("loss", [loss() for loss in jaxann.nn.LOSSES.values()], ids=str)
def test_targets_may_be_of_any_type_of_number(loss, dtype):
    y, t = jnp.array([0.3, 0.7]), jnp.array([1, 0], dtype)
    np.testing.assert_array_equal(loss.value(y, t), loss.value(y, t.astype(float)))
    np.testing.assert_array_equal(loss.gradient(y, t), loss.gradient(y, t.astype(float)))
    judge_loss(loss, y, t)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(1,), (4,), (5, 1), (1, 5)])
def test_shapes_never_broadcast(name, shape):
    loss, y, _ = draw_output_and_target(name)
    for function in (loss.value, loss.gradient):
        with pytest.raises(ValueError, match=r"expected a target of the output's shape \(5,\), got .* of shape"):
            function(y, jnp.ones(shape))


@pytest.mark.parametrize(
    "name", sorted(set(LOSSES) - {"SoftmaxCrossEntropy, labels", "SoftmaxCrossEntropy, smoothed labels"})
)
def test_a_single_number_is_no_target_of_several_outputs(name):
    loss, y, _ = draw_output_and_target(name)
    with pytest.raises(
        ValueError, match=r"expected (a target of the output's shape|an integer label or a distribution)"
    ):
        loss.value(y, jnp.array(1.0))


@pytest.mark.parametrize(
    ("loss", "t", "valid"),
    [
        (SquaredError(), [-1.0, np.nan, np.inf], [True, False, False]),
        (Hinge(), [-1.0, 0.0, 1.0], [True, False, True]),
        (Poisson(), [-1.0, 0.0, np.inf], [False, True, False]),
        (CrossEntropy(), [-0.1, 0.0, np.nan], [False, True, False]),
        (SoftmaxCrossEntropy(), [-1, 2, 3], [False, True, False]),
        (SigmoidCrossEntropy(), [-0.1, 1.0, 1.1], [False, True, False]),
    ],
)
def test_losses_know_which_targets_have_a_meaning(loss, t, valid):
    np.testing.assert_array_equal(loss.is_valid(jnp.array(t), 3), valid)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Huber(0.0), "expected delta above 0, got 0.0"),
        (lambda: SoftmaxCrossEntropy(1.0), "expected label_smoothing between 0 and 1, excluding 1, got 1.0"),
        (lambda: SoftmaxCrossEntropy(-0.1), "expected label_smoothing between 0 and 1, excluding 1, got -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(build, sentence):
    with pytest.raises(SettingError, match=sentence):
        build()


@pytest.mark.parametrize("x64", [False, True])
def test_shares_of_weights_of_any_size_sum_to_1(x64):
    """The shares of ordinary weights are w / Σ w to the bit. Other sums overflow, or XLA treats them as 0."""
    with jax.enable_x64(x64):
        shares = jax.jit(lambda w: mean_weights(w, 3))
        for w in ([1, 1, 0], [1, 0, 0], [0.1, 0.7, 3e9]):
            w = jnp.array(w, float)
            np.testing.assert_array_equal(shares(w), jax.jit(lambda w: w / w.sum())(w), strict=True)
        limits = jnp.finfo(jnp.result_type(float))
        for w in ([limits.max] * 3, [limits.tiny] * 3, [3e37] * 3):
            np.testing.assert_allclose(shares(jnp.array(w)), 1 / 3, rtol=1e-6)
        np.testing.assert_array_equal(shares(jnp.array([limits.max, limits.tiny, 0])), [1, 0, 0])
        np.testing.assert_array_equal(shares(jnp.zeros(3)), [np.nan] * 3)

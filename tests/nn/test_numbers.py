"""Derivatives at NaN, and derivatives where a difference of nearly equal numbers would lose their digits."""

from math import erfc, pi, sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import LOSSES
from support.judges import judge_loss

from jaxann.nn import (
    ACTIVATIONS,
    CrossEntropy,
    Elementwise,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    elu,
    selu,
    softmax,
)
from jaxann.rules import threshold

LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772
STEP = Elementwise("step", lambda x: jnp.where(x > 0, 2 * x, x), lambda x, y: jnp.where(x > 0, 2, 1))
Exact = np.longdouble
RELATIVE = {"float32": 1e-5, "float64": 1e-12}


def slope(layer, x):
    """Returns the derivative of an activation that maps each entry on its own."""
    _, saved = layer.forward((), x)
    return layer.backward((), saved, jnp.ones_like(x))[1]


@pytest.mark.parametrize("layer", [*ACTIVATIONS.values(), threshold, STEP], ids=str)
def test_the_derivative_of_an_activation_at_nan_is_nan(layer):
    dx = slope(layer, jnp.array([jnp.nan, 0.5, -0.5]))
    assert jnp.isnan(dx[0])
    if layer != softmax:  # each of its outputs depends on every input
        assert jnp.isfinite(dx[1:]).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_derivatives_of_a_loss_at_nan_are_nan(name):
    loss, output, target = LOSSES[name]
    t = target(jax.random.key(2), 3)
    y = output(jax.random.key(1), 3).at[1].set(jnp.nan)
    gradient, factor = loss.gradient(y, t), loss.hessian_factor(y, t)
    assert jnp.isnan(gradient[1])
    assert jnp.isnan((factor.T @ factor)[1, 1])
    if not name.startswith("SoftmaxCrossEntropy"):
        assert jnp.isfinite(gradient[jnp.array([0, 2])]).all()


def test_a_nan_probability_is_not_ignored_where_its_target_is_zero():
    y, t = jnp.array([0.5, jnp.nan]), jnp.array([1.0, 0.0])
    assert jnp.isnan(CrossEntropy().value(y, t))
    np.testing.assert_array_equal(CrossEntropy().gradient(y, t), [-2, jnp.nan])


def logistic(x):
    return 1 / (1 + np.exp(-x))


SLOPES = {  # formulas that lose no digits to cancellation, for x in [-40, 40]
    "identity": np.ones_like,
    "relu": lambda x: np.where(x > 0, 1, 0),
    "leaky_relu": lambda x: np.where(x > 0, 1, Exact(0.01)),
    "hard_tanh": lambda x: np.where(abs(x) <= 1, 1, 0),
    "elu": lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0))),
    "selu": lambda x: LAMBDA * np.where(x > 0, 1, ALPHA * np.exp(np.minimum(x, 0))),
    "softplus": logistic,
    "silu": lambda x: logistic(x) * (1 + x * logistic(-x)),
    "gelu": lambda x: np.vectorize(erfc)(-x.astype(float) / sqrt(2)) / 2 + x * np.exp(-x * x / 2) / sqrt(2 * pi),
    # The derivatives of these two are computed from y. Near |y| = 1 they have the absolute error of y, a few roundings.
    # Exact formulas need another exponential, which costs 5 % of a training step of a small network.
    "sigmoid": lambda x: logistic(x) * logistic(-x),
    "tanh": lambda x: 1 / np.cosh(x) ** 2,
}


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("name", SLOPES.keys())
def test_derivatives_of_activations_keep_their_digits_far_out(name, dtype):
    far = 40 if name != "gelu" or dtype == "float64" else 12  # φ(x) is not a normal float32 further out
    x = jnp.linspace(-far, far, 88).astype(dtype)
    if name == "gelu":
        x = x[x > -37]  # φ(x) is not a normal float64 further out
    expected = SLOPES[name](np.asarray(x, Exact))
    from_y = name in ("sigmoid", "tanh")
    rtol, atol = (0, 8 * jnp.finfo(dtype).eps) if from_y else (RELATIVE[dtype], 0)
    np.testing.assert_allclose(np.asarray(slope(ACTIVATIONS[name], x), Exact), expected, rtol=rtol, atol=atol)


def test_every_activation_is_compared_with_exact_derivatives():
    assert SLOPES.keys() | {"softmax"} == ACTIVATIONS.keys()


@pytest.mark.parametrize("layer", [elu, selu], ids=str)
def test_exponential_derivatives_vanish_in_bfloat16_too(layer):
    assert 0 <= slope(layer, jnp.array([-30.0], jnp.bfloat16))[0] < 1e-12


def softmax_exactly(y):
    e = np.exp(y - y.max())
    return e / e.sum()


def differentiate_softmax(x, dy):
    """dx_i = y_i Σ_j y_j (dy_i - dy_j), which is y ∘ (dy - y·dy) without the difference of 1 and y_i."""
    y = softmax_exactly(x)
    return y * ((dy[:, None] - dy) @ y)


def differentiate_softmax_cross_entropy(y, p):
    """∂E/∂y_i = Σ_j (q_i p_j - q_j p_i), which is q Σp - p, with q = softmax(y)."""
    q = softmax_exactly(y)
    products = np.outer(q, p)
    return (products - products.T).sum(1)


def differentiate_sigmoid_cross_entropy(y, t):
    return (1 - t) * logistic(y) - t * logistic(-y)


LOGITS = {  # probabilities up to 1 - e⁻⁴⁰, and ties
    "undecided": [0.3, -0.2, 0.1, 0.4],
    "likely": [1.0, 6.0, -2.0, 0.0],
    "certain in float32": [20.0, 0.0, -3.0, -1.0],
    "certain": [-3.0, 0.0, 2.0, 40.0],
    "a tie": [0.0, 21.0, 21.0, 1.0],
    "all equal": [3.0, 3.0, 3.0, 3.0],
}


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
def test_the_gradient_of_softmax_keeps_its_digits_at_saturated_logits(logits, dtype):
    x, dy = jnp.array(logits, dtype), jnp.array([0.7, -1.1, 0.4, 3.0], dtype)
    _, dx = softmax.backward((), softmax.forward((), x)[1], dy)
    expected = differentiate_softmax(np.asarray(x, Exact), np.asarray(dy, Exact))
    np.testing.assert_allclose(np.asarray(dx, Exact), expected, rtol=RELATIVE[dtype])


SOFT = [0.05, 0.35, 0.4, 0.2]
LOGIT_LOSSES = {  # a loss, a target, and its exact gradient
    **{f"label {i}": (SoftmaxCrossEntropy(), i, np.eye(4)[i], differentiate_softmax_cross_entropy) for i in range(4)},
    "distribution": (SoftmaxCrossEntropy(), SOFT, SOFT, differentiate_softmax_cross_entropy),
    "smoothed": (
        SoftmaxCrossEntropy(0.25),
        2,
        0.75 * np.eye(4)[2] + 0.0625,
        differentiate_softmax_cross_entropy,
    ),
    "sigmoid, yes": (SigmoidCrossEntropy(), [1, 1, 1, 1], np.ones(4), differentiate_sigmoid_cross_entropy),
    "sigmoid, no": (SigmoidCrossEntropy(), [0, 0, 0, 0], np.zeros(4), differentiate_sigmoid_cross_entropy),
    "sigmoid, soft": (SigmoidCrossEntropy(), SOFT, SOFT, differentiate_sigmoid_cross_entropy),
}


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_the_gradient_of_a_loss_keeps_its_digits_at_saturated_logits(name, logits, dtype):
    loss, t, p, differentiate = LOGIT_LOSSES[name]
    y, t = jnp.array(logits, dtype), jnp.array(t) if isinstance(t, int) else jnp.array(t, dtype)
    expected = differentiate(np.asarray(y, Exact), np.asarray(np.asarray(p, dtype), Exact))
    gradient = jax.jit(loss.gradient)(y, t)
    np.testing.assert_allclose(np.asarray(gradient, Exact), expected, rtol=RELATIVE[dtype])


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
def test_the_hessian_factor_of_softmax_cross_entropy_keeps_its_digits_at_saturated_logits(logits, dtype):
    y = jnp.array(logits, dtype)
    q = softmax_exactly(np.asarray(y, Exact))
    others = np.array([np.delete(q, i).sum() for i in range(4)])  # 1 - q
    expected = np.sqrt(q)[:, None] * np.where(np.eye(4), np.diag(others), -q)
    factor = SoftmaxCrossEntropy().hessian_factor(y, jnp.array(1))
    np.testing.assert_allclose(np.asarray(factor, Exact), expected, rtol=RELATIVE[dtype])


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
def test_the_values_of_losses_on_logits_are_not_rounded_to_zero(logits, dtype):
    """E = log Σ_j exp(y_j - y_i) for the label i, and Σ_j log(1 + exp(y_j)) for the targets 0."""
    y = jnp.array(logits, dtype)
    exact = np.asarray(y, Exact)
    for i in range(4):
        expected = np.log1p(np.exp(np.delete(exact, i) - exact[i]).sum())
        np.testing.assert_allclose(Exact(SoftmaxCrossEntropy().value(y, jnp.array(i))), expected, rtol=RELATIVE[dtype])
    expected = np.log1p(np.exp(exact)).sum()
    for sign, t in ((1, jnp.zeros(4)), (-1, jnp.ones(4))):
        np.testing.assert_allclose(Exact(SigmoidCrossEntropy().value(sign * y, t)), expected, rtol=RELATIVE[dtype])
    for t in (jnp.array(2), jnp.array(SOFT)):
        judge_loss(SoftmaxCrossEntropy(), y, t)

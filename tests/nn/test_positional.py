"""What positions add to a sequence, and how rotary positions turn it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.judges import cast

from jaxann.nn import LearnedPositions, SinusoidalPositions
from jaxann.nn.positional import rotate

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3, 4))


def test_a_learned_position_is_added_and_gets_the_gradient_at_its_place():
    layer = LearnedPositions(5, 4)
    params = layer.init(KEY)
    y, saved = layer.forward(params, X)
    np.testing.assert_array_equal(y, X + params["P"][:3])
    grads, dx = layer.backward(params, saved, 2 * X)
    np.testing.assert_array_equal(dx, 2 * X)
    np.testing.assert_array_equal(grads["P"][:3], 2 * X)
    np.testing.assert_array_equal(grads["P"][3:], np.zeros((2, 4)))  # the positions after the sequence
    assert 0 < jnp.abs(params["P"]).max() < 0.1


def test_sinusoids_are_those_of_their_formula():
    for n in (1, 4, 5):
        P = SinusoidalPositions(n).forward((), jnp.zeros((50, n)))[0]
        for t, j in np.ndindex(50, n):
            angle = t / 10000 ** (2 * (j // 2) / n)
            np.testing.assert_allclose(P[t, j], np.cos(angle) if j % 2 else np.sin(angle), rtol=1e-12, atol=1e-12)


def test_far_positions_of_low_precision_are_computed_in_float64_and_then_rounded():
    far = 100_000
    P = SinusoidalPositions(4).forward((), jnp.zeros((far + 1, 4), jnp.float32))[0]
    assert P.dtype == jnp.float32
    np.testing.assert_allclose(P[far], [np.sin(1e5), np.cos(1e5), np.sin(1e3), np.cos(1e3)], rtol=1e-6)


def test_rotary_positions_turn_each_pair_of_features():
    x = np.asarray(jax.random.normal(KEY, (2, 5, 4)))  # two heads
    y = rotate(jnp.asarray(x))
    for head, t, i in np.ndindex(2, 5, 2):
        angle = t * 10000 ** (-2 * i / 4)
        turned = (x[head, t, 2 * i] + 1j * x[head, t, 2 * i + 1]) * np.exp(1j * angle)
        np.testing.assert_allclose(y[head, t, 2 * i : 2 * i + 2], [turned.real, turned.imag], rtol=1e-12)


def test_rotary_positions_are_turned_back_by_the_inverse_which_is_the_transposed():
    x, dy = jax.random.normal(KEY, (2, 2, 6, 4))
    np.testing.assert_allclose(rotate(rotate(x), inverse=True), x, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(jnp.vdot(rotate(x), dy), jnp.vdot(x, rotate(dy, inverse=True)), rtol=1e-12)


def test_inner_products_of_rotary_positions_depend_on_the_distance_alone():
    q, k = (jnp.tile(row, (6, 1)) for row in jax.random.normal(KEY, (2, 1, 4)))
    products = np.asarray(rotate(q) @ rotate(k).T)
    for distance in range(-5, 6):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, np.full(len(diagonal), diagonal[0]), rtol=1e-10)
    assert abs(products[0, 0] - products[0, 1]) > 1e-3


def test_bfloat16_stays_bfloat16():
    params, x = cast((LearnedPositions(5, 4).init(KEY), X), jnp.bfloat16)
    assert LearnedPositions(5, 4).forward(params, x)[0].dtype == jnp.bfloat16
    assert SinusoidalPositions(4).forward((), x)[0].dtype == jnp.bfloat16
    turned = rotate(x)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_allclose(turned.astype(float), rotate(x.astype(jnp.float64)), rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: LearnedPositions(0, 3), r"expected length of at least 1 \(the positions of LearnedPositions\), got 0"),
        (lambda: LearnedPositions(3, 0), r"expected n of at least 1 \(the features of LearnedPositions\), got 0"),
        (lambda: SinusoidalPositions(0), r"expected n of at least 1 \(the features of SinusoidalPositions\), got 0"),
        (
            lambda: LearnedPositions(2, 4).forward(LearnedPositions(2, 4).init(KEY), X),
            r"LearnedPositions\(2, 4\) expected x of at most 2 positions, got \(3, 4\)",
        ),
        (
            lambda: LearnedPositions(3, 3).forward(LearnedPositions(3, 3).init(KEY), X),
            r"LearnedPositions\(.*\) expected x of shape \(T, 3\), got \(3, 4\)",
        ),
        (
            lambda: SinusoidalPositions(4).forward((), X[0]),
            r"SinusoidalPositions\(4\) expected x of shape \(T, 4\), got \(4,\)",
        ),
    ],
)
def test_sequences_that_do_not_fit_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()

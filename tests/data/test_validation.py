import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxann import fit
from jaxann.data.validation import validate, validate_schedule
from jaxann.nn import CrossEntropy, Hinge, SoftmaxCrossEntropy, SquaredError, mlp

X = np.random.default_rng(0).normal(size=(6, 4))
T = np.full((6, 3), 1 / 3)
LABELS = np.array([0, 1, 2, 0, 1, 2])
MODEL = mlp((4, 5, 3))


def put(array, place, value):
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("loss", "x", "t", "sentence"),
    [
        (SquaredError(), X[:, :3], T, "features have 3 columns, but the network takes 4"),
        (SquaredError(), X[:5], T, r"features have 5 rows, but targets have shape \(6, 3\)"),
        (SquaredError(), X[0], T, r"features have shape \(4,\), but at least one example, a row each, is wanted"),
        (SquaredError(), X[:0], T[:0], r"features have shape \(0, 4\), but at least one example"),
        (SquaredError(), X.astype(str), T, "features have dtype <U32, but real numbers are wanted"),
        (SquaredError(), X.astype(object), T, "features have dtype object, but real numbers are wanted"),
        (SquaredError(), X * 1j, T, "features have dtype complex128, but real numbers are wanted"),
        (SquaredError(), X, T.astype(str), "targets have dtype <U32, but real numbers are wanted"),
        (SquaredError(), [[1.0], [1.0, 2.0]], T, "features are ragged, but rows of one length are wanted"),
        (SquaredError(), put(X, (2, 1), np.nan), T, r"features\[2, 1\] is nan, but finite float64 numbers are wanted"),
        (SquaredError(), put(X, (5, 0), -np.inf), T, r"features\[5, 0\] is -inf, but finite float64 numbers"),
        (
            SquaredError(),
            X,
            put(T, (3, 2), np.nan),
            r"targets\[3, 2\] is nan, but SquaredError\(\) .* wants finite numbers",
        ),
        (SquaredError(), X, T[:, :2], r"output's shape \(3,\), got float64 of shape \(2,\)"),
        (SquaredError(), X, LABELS, r"targets of shape \(6,\) do not fit: .* shape \(3,\), got int64 of shape \(\)"),
        (SquaredError(), X, 1.0, r"features have 6 rows, but targets have shape \(\)"),
        (SoftmaxCrossEntropy(), X, put(LABELS, 4, 3), r"targets\[4\] is 3, but .* with 3 outputs wants integer labels"),
        (
            SoftmaxCrossEntropy(),
            X,
            put(LABELS, 4, -1),
            r"targets\[4\] is -1, but .* with 3 outputs wants integer labels",
        ),
        (
            SoftmaxCrossEntropy(),
            X,
            LABELS / 2,
            r"an integer label or a distribution of shape \(3,\), got a single float64",
        ),
        (SoftmaxCrossEntropy(), X, np.full(6, 2**63, np.uint64) + 5, r"targets\[0\] is 9223372036854775813, but"),
        (CrossEntropy(), X, put(T, (0, 0), -0.5), r"targets\[0, 0\] is -0.5, but CrossEntropy\(\) .* wants 0 or more"),
        (Hinge(), X, T, r"targets\[0, 0\] is 0.333.*, but Hinge\(\) with 3 outputs wants -1 or \+1"),
    ],
)
def test_bad_data_gets_one_sentence(loss, x, t, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        fit(MODEL, loss, optax.sgd(0.1), x, t, key=jax.random.key(0), epochs=1, batch_size=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("epochs", "batch_size", "sentence"),
    [
        (1, 0, "batch_size is 0, but 1 to 6, the number of examples, is wanted"),
        (1, 7, "batch_size is 7, but 1 to 6, the number of examples, is wanted"),
        (0, 2, "epochs is 0, but at least 1 is wanted"),
        (2.0, 2, "epochs is 2.0, but a whole number is wanted"),
        (1, "2", "batch_size is '2', but a whole number is wanted"),
    ],
)
def test_a_schedule_that_cannot_be_gets_one_sentence(epochs, batch_size, sentence):
    with pytest.raises(ValueError, match=sentence):
        validate_schedule(6, epochs, batch_size)


def test_fit_looks_at_its_schedule():
    with pytest.raises(ValueError, match="batch_size is 7"):
        fit(MODEL, SquaredError(), optax.sgd(1), X, T, key=jax.random.key(0), epochs=1, batch_size=7)


def test_numbers_too_large_for_the_precision_are_refused():
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"features\[1, 1\] is inf, but finite float32 numbers"):
        validate(MODEL, SquaredError(), put(X, (1, 1), 1e300), T)


def test_good_data_comes_back_as_arrays_of_the_default_precision():
    x, t = validate(MODEL, SoftmaxCrossEntropy(), X.astype(np.float32).tolist(), LABELS.astype(np.uint8))
    assert x.dtype == jnp.float64
    assert jnp.issubdtype(t.dtype, jnp.integer)
    x, _ = validate(MODEL, SquaredError(), jnp.asarray(X, jnp.bfloat16), T > 0)
    assert x.dtype == jnp.float64


def test_large_integers_are_features_like_any_number():
    with jax.enable_x64(False):
        x, _ = validate(MODEL, SquaredError(), np.full((6, 4), 1_700_000_000_000), T)
    np.testing.assert_allclose(x, 1.7e12, rtol=1e-7)


def test_integers_that_the_precision_would_wrap_are_refused():
    with jax.enable_x64(False), pytest.raises(ValueError, match="targets hold integers that do not fit into int32"):
        validate(MODEL, SoftmaxCrossEntropy(), X, put(LABELS, 4, 2**32 + 1))


def test_shapes_are_judged_inside_a_program_too():
    with pytest.raises(ValueError, match="features have 3 columns, but the network takes 4"):
        jax.jit(lambda x: validate(MODEL, SquaredError(), x, T))(X[:, :3])
    x, _ = jax.jit(lambda x: validate(MODEL, SquaredError(), x, T))(put(X, (0, 0), np.nan))
    assert jnp.isnan(x[0, 0])

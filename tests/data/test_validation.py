import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxann import fit
from jaxann.data.validation import validate, validate_schedule, validate_weights
from jaxann.nn import CrossEntropy, Hinge, SoftmaxCrossEntropy, SquaredError, mlp
from jaxann.nn.hyperparameters import SettingError

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
        (SquaredError(), X[:, :3], T, "expected features with 4 columns, which the network takes, got 3"),
        (SquaredError(), X[:5], T, r"expected targets for 5 rows of features, got shape \(6, 3\)"),
        (SquaredError(), X[0], T, r"features with a row for each of at least one example, got shape \(4,\)"),
        (SquaredError(), X[:0], T[:0], r"features with a row for each of at least one example, got shape \(0, 4\)"),
        (SquaredError(), X.astype(str), T, "expected real numbers for features, got dtype <U32"),
        (SquaredError(), X.astype(object), T, "expected real numbers for features, got dtype object"),
        (SquaredError(), X * 1j, T, "expected real numbers for features, got dtype complex128"),
        (
            SquaredError(),
            X,
            T.astype(str),
            r"expected real numbers for targets, got '[^']*' \(names, t = numpy.unique\(labels, return_inverse=True\)",
        ),
        (SquaredError(), [[1.0], [1.0, 2.0]], T, "features in rows of equal length, got rows of different lengths"),
        (
            SquaredError(),
            put(X, (2, 1), np.nan),
            T,
            r"expected finite float64 numbers in features, got nan at \[2, 1\]",
        ),
        (SquaredError(), put(X, (5, 0), -np.inf), T, r"finite float64 numbers in features, got -inf at \[5, 0\]"),
        (
            SquaredError(),
            X,
            put(T, (3, 2), np.nan),
            r"expected finite numbers in targets of SquaredError\(\) with 3 outputs, got nan at \[3, 2\]",
        ),
        (SquaredError(), X, T[:, :2], r"targets of shape \(6, 2\) do not fit: .* float64 of shape \(2,\)"),
        (SquaredError(), X, LABELS, r"targets of shape \(6,\) do not fit: .* int64 of shape \(\)"),
        (SquaredError(), X, 1.0, r"expected targets for 6 rows of features, got shape \(\)"),
        (SoftmaxCrossEntropy(), X, put(LABELS, 4, 3), r"expected integer labels .* with 3 outputs, got 3 at \[4\]"),
        (SoftmaxCrossEntropy(), X, put(LABELS, 4, -1), r"expected integer labels .* with 3 outputs, got -1 at \[4\]"),
        (SoftmaxCrossEntropy(), X, LABELS / 2, r"targets of shape \(6,\) do not fit: .*integer label.* float64"),
        (SoftmaxCrossEntropy(), X, np.full(6, 2**63, np.uint64) + 5, r"got 9223372036854775813 at \[0\]"),
        (CrossEntropy(), X, put(T, (0, 0), -0.5), r"expected 0 or more in targets of Cross.*, got -0.5 at \[0, 0\]"),
        (Hinge(), X, T, r"expected -1 or \+1 in targets of Hinge\(\) with 3 outputs, got 0.333.* at \[0, 0\]"),
    ],
)
def test_bad_data_gets_one_sentence(loss, x, t, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        fit(MODEL, loss, optax.sgd(0.1), x, t, key=jax.random.key(0), epochs=1, batch_size=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("epochs", "batch_size", "sentence"),
    [
        (1, 0, r"expected batch_size between 1 and 6 \(the number of examples\), got 0"),
        (1, 7, r"expected batch_size between 1 and 6 \(the number of examples\), got 7"),
        (0, 2, "expected epochs of at least 1, got 0"),
        (2.0, 2, "expected epochs to be a whole number, got 2.0"),
        (1, "2", "expected batch_size to be a whole number, got '2'"),
    ],
)
def test_a_schedule_out_of_range_gets_one_sentence(epochs, batch_size, sentence):
    with pytest.raises(SettingError, match=sentence):
        validate_schedule(6, epochs, batch_size)


def test_fit_checks_its_schedule():
    with pytest.raises(ValueError, match="expected batch_size between 1 and 6"):
        fit(MODEL, SquaredError(), optax.sgd(1), X, T, key=jax.random.key(0), epochs=1, batch_size=7)


def test_numbers_too_large_for_the_precision_are_refused():
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match=r"expected finite float32 numbers in features, got inf"),
    ):
        validate(MODEL, SquaredError(), put(X, (1, 1), 1e300), T)


@pytest.mark.parametrize("x64", [False, True])
def test_weights_are_divided_by_their_maximum(x64):
    with jax.enable_x64(x64):
        precision = jnp.asarray(0.0).dtype
        for largest in (3, 3e37, 1e300, 1e-300):
            weights = validate_weights([largest, largest / 4], 2)
            np.testing.assert_array_equal(weights, np.array([1, 0.25], precision), strict=True)
        np.testing.assert_array_equal(jax.jit(lambda w: validate_weights(w, 2))(jnp.array([4, 1])), [1, 0.25])
        np.testing.assert_array_equal(validate_weights(jnp.array([4, 1], jnp.bfloat16), 2), [1, 0.25])


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([1, 0], r"^expected finite numbers above 0 in weights, got 0.0 at \[1\]$"),
        ([1, np.inf], r"^expected finite numbers above 0 in weights, got inf at \[1\]$"),
        ([1, 10**400], "^expected real numbers for weights, got dtype object$"),
        ([1], r"^expected weights of shape \(2,\), one for each example, got shape \(1,\)$"),
        (
            [2e8, 1e-31],
            r"^expected weights of at least 1.2e-38 times the largest, 2e\+08, in float32, got 1e-31 at \[1\]$",
        ),
    ],
)
def test_bad_weights_get_one_sentence(weights, sentence):
    with jax.enable_x64(False), pytest.raises(ValueError, match=sentence):
        validate_weights(weights, 2)


@pytest.mark.parametrize("size", [3e37, 1e38])
def test_equal_weights_of_any_size_train_as_weights_of_1_do(size):
    with jax.enable_x64(False):
        settings = {"key": jax.random.key(0), "epochs": 2, "batch_size": 4}
        (params, history), (expected, ones) = (
            fit(MODEL, SquaredError(), optax.sgd(0.1), X, T, weights=np.full(6, weight), **settings)
            for weight in (size, 1.0)
        )
    assert history.loss[-1] < history.loss[0]
    jax.tree.map(np.testing.assert_array_equal, (params, history.loss), (expected, ones.loss))


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
    with jax.enable_x64(False), pytest.raises(ValueError, match="expected targets that fit into int32"):
        validate(MODEL, SoftmaxCrossEntropy(), X, put(LABELS, 4, 2**32 + 1))


def test_shapes_are_checked_inside_a_program_too():
    with pytest.raises(ValueError, match="expected features with 4 columns, which the network takes, got 3"):
        jax.jit(lambda x: validate(MODEL, SquaredError(), x, T))(X[:, :3])
    x, _ = jax.jit(lambda x: validate(MODEL, SquaredError(), x, T))(put(X, (0, 0), np.nan))
    assert jnp.isnan(x[0, 0])

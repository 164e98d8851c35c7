"""What `fit` does with parameters to start from, a validation part, patience and a progress bar."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxann import calibrate, compare, fit
from jaxann.data import Examples
from jaxann.nn import BatchNorm, Dense, Sequential, SquaredError, mlp, tanh
from jaxann.training.fit import evaluate

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (23, 4))
T = jnp.sin(X @ jax.random.normal(jax.random.key(2), (4, 2)))
HELD_OUT = (X[:6] + 0.1, T[:6])
MODEL, LOSS, SGD = mlp((4, 6, 2), hidden=tanh), SquaredError(), optax.sgd(0.1)


def run_fit(optimizer=SGD, x=X, t=T, model=MODEL, **settings):
    return fit(model, LOSS, optimizer, x, t, **{"key": KEY, "epochs": 5, "batch_size": 5, **settings})


@pytest.fixture(scope="module")
def plain():
    return run_fit()


def identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def test_the_drawn_parameters_and_given_ones_of_the_same_values_train_alike(plain):
    drawn = MODEL.init(jax.random.split(KEY)[0])
    assert identical(run_fit(params=drawn), plain)
    as_numpy = jax.tree.map(np.asarray, list(drawn))
    assert identical(run_fit(params=as_numpy), plain)


def test_training_goes_on_from_trained_parameters(plain):
    params, history = plain
    _, later = run_fit(params=params, key=jax.random.key(5))
    assert later.step_loss[0, 0] < history.step_loss[0, 0]
    assert later.loss[-1] < history.loss[-1]
    many = jax.vmap(lambda key: run_fit(params=params, key=key)[1].loss)(jax.random.split(KEY, 2))
    assert many.shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: mlp((4, 7, 2)).init(KEY), r"expected params with 0.W of shape \(6, 4\), got shape \(7, 4\)"),
        (lambda p: p[:2], r"expected params with 2.W of shape \(2, 6\), got none"),
        (lambda p: (*p, p[0]), r"expected params without 4.W, got one of shape \(6, 4\)"),
        (
            lambda p: ({"W": p[0]["W"], "b": np.array(["a"] * 6)}, *p[1:]),
            "expected real numbers for 0.b in params",
        ),
        (lambda p: p[0]["W"], r"expected params with 0.W of shape \(6, 4\), got none"),
    ],
)
def test_parameters_of_another_model_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_fit(params=change(MODEL.init(KEY)))


def test_with_a_validation_part_the_steps_are_the_same_and_the_best_parameters_are_returned(plain):
    far = (X[:6], -T[:6])  # the better the network fits T, the worse it fits these targets
    params, history = run_fit(validation=far)
    assert identical(history._replace(validation_loss=None), plain[1])
    assert history.validation_loss.shape == (5,)
    best = int(history.validation_loss.argmin()) + 1
    assert best < 5
    assert identical(params, run_fit(epochs=best)[0])
    assert float(evaluate(MODEL, LOSS, params, Examples(*far))[1]) == history.validation_loss.min()


def test_patience_ends_the_run_that_many_epochs_after_the_best():
    far = (X[:6], -T[:6])
    whole = run_fit(validation=far, epochs=30)[1].validation_loss
    params, history = run_fit(validation=far, epochs=30, patience=3)
    best = int(history.validation_loss.argmin())
    assert len(history.loss) == len(history.validation_loss) == len(history.step_loss) == best + 1 + 3
    np.testing.assert_array_equal(history.validation_loss, whole[: best + 4])
    assert identical(params, run_fit(validation=far, epochs=best + 1)[0])


def test_a_share_of_the_examples_is_held_out_by_the_key_alone():
    weights = np.linspace(1, 2, 23)
    params, history = run_fit(validation=0.25, weights=weights)
    assert identical((params, history), run_fit(validation=0.25, weights=weights))
    assert history.step_loss.shape == (5, 4)  # 6 of 23 examples are held out, which leaves 17
    order = np.asarray(jax.random.permutation(jax.random.fold_in(KEY, 2**32 - 1), 23))
    held, kept = np.sort(order[:6]), np.sort(order[6:])
    pair = run_fit(x=X[kept], t=T[kept], weights=weights[kept], validation=(X[held], T[held], weights[held]))
    assert compare(params, pair[0]).error < 1e-12  # weights are divided by the largest one of other examples
    np.testing.assert_allclose(history.validation_loss, pair[1].validation_loss, rtol=1e-12)


def test_a_progress_bar_changes_nothing_but_stderr(plain, capsys):
    assert identical(run_fit(progress=True), plain)
    assert "5/5" in capsys.readouterr().err
    run_fit(progress=True, validation=HELD_OUT)
    assert "validation loss=" in capsys.readouterr().err
    run_fit(validation=HELD_OUT)
    assert not capsys.readouterr().err


def test_batch_normalization_is_calibrated_for_the_validation_part():
    model = Sequential((Dense(4, 6), BatchNorm(6), tanh, Dense(6, 2)))
    params, history = run_fit(model=model, validation=HELD_OUT, epochs=2)
    evaluated, folded = calibrate(model, params, X)
    loss = evaluate(evaluated, LOSS, folded, Examples(*HELD_OUT))[1]
    assert float(loss) == history.validation_loss.min()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"patience": 3}, "expected patience only together with validation, got 3"),
        ({"patience": 0, "validation": 0.2}, "expected patience of at least 1, got 0"),
        ({"validation": 1.0}, "expected validation between 0 and 1, excluding 0 and 1, got 1.0"),
        ({"validation": "all"}, "expected validation to be a finite number, got 'all'"),
        ({"validation": 0.99}, "expected validation to leave an example of 23 for training, got 0.99"),
        ({"validation": (X,)}, r"expected validation to be \(x, t\), \(x, t, weights\) or a share, got '1 values'"),
        ({"validation": (X, T[:5])}, r"in the validation part: expected targets for 23 rows of features, got shape"),
        ({"validation": (X[:, :3], T)}, "in the validation part: expected features with 4 columns"),
        ({"validation": 0.5, "batch_size": 20}, r"expected batch_size between 1 and 11 \(the number of examples\)"),
    ],
)
def test_validation_that_cannot_be_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_fit(**settings)


def test_validation_is_refused_where_arrays_have_no_values():
    sentence = "expected fit without validation and progress inside jit or vmap, got one of them"
    with pytest.raises(ValueError, match=sentence):
        jax.vmap(lambda key: run_fit(key=key, validation=0.2)[1].loss)(jax.random.split(KEY, 2))
    with pytest.raises(ValueError, match=sentence):
        jax.jit(lambda x: run_fit(x=x, progress=True)[1].loss)(X)

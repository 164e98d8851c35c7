"""Names, classes, numbers and tables of pandas in place of objects and arrays, and the sentences for anything else."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.unchecked import unchecked

from jaxann import fit, predict, save
from jaxann.data.numbers import to_numbers
from jaxann.data.validation import require_logits
from jaxann.nn import (
    RNN,
    Attention,
    Conv,
    CrossEntropy,
    Dense,
    Each,
    EachLoss,
    Embedding,
    FeedForward,
    Flatten,
    LearnedPositions,
    MixedPrecision,
    Parallel,
    Recomputed,
    Repeat,
    Residual,
    Sequential,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
    SwiGLU,
    lenet,
    mlp,
    recurrent_network,
    relu,
    sigmoid,
    softmax,
    tanh,
)
from jaxann.nn.hyperparameters import SettingError, resolve_key
from jaxann.nn.names import resolve_layer, resolve_loss
from jaxann.training.optimizers import OPTIMIZERS, resolve_optimizer

X = np.random.default_rng(0).normal(size=(12, 4))
LABELS = np.arange(12) % 3
MODEL = mlp((4, 5, 3), hidden=tanh)
ADAM = optax.adam(0.02)
INITIALIZED = (
    lambda weights: Dense(4, 3, weights),
    lambda weights: Conv(4, 3, (2,), weights=weights),
    lambda weights: Embedding(4, 3, weights),
    lambda weights: FeedForward(4, 3, weights=weights),
    lambda weights: SwiGLU(4, 3, weights=weights),
    lambda weights: Attention(4, 2, weights=weights),
    lambda weights: LearnedPositions(4, 3, weights=weights),
    lambda weights: RNN(4, 3, hidden_weights=weights),
)


def run_fit(model=MODEL, loss="softmax_cross_entropy", optimizer=ADAM, x=X, t=LABELS, **settings):
    return fit(model, loss, optimizer, x, t, **{"key": 0, "epochs": 2, "batch_size": 4, **settings})


@pytest.fixture(scope="module")
def losses():
    return run_fit(loss=SoftmaxCrossEntropy(), key=jax.random.key(0))[1].loss


def test_names_classes_and_numbers_stand_for_the_objects(losses):
    for settings in ({}, {"loss": SoftmaxCrossEntropy}, {"optimizer": "adam", "learning_rate": 0.02}):
        np.testing.assert_array_equal(run_fit(**settings)[1].loss, losses)
    assert mlp((4, 5, 3), "tanh", "softmax") == mlp((4, 5, 3), tanh, softmax)
    chain = Sequential((Dense(4, 5), relu, Flatten(), Dense(5, 3)))
    assert Sequential(Dense(4, 5), "relu", Flatten, Dense(5, 3)) == chain == Sequential(list(chain.layers))
    assert Sequential(layers=(relu,)) == Sequential(relu) == Sequential("relu") == Sequential(layer for layer in [relu])
    with unchecked():
        for wrap in (Residual, Each, Recomputed, MixedPrecision, partial(Repeat, count=2)):
            assert wrap("tanh") == wrap(tanh)
        assert Parallel(("tanh", "relu")) == Parallel((tanh, relu))
        assert EachLoss("softmax_cross_entropy") == EachLoss(SoftmaxCrossEntropy) == EachLoss(SoftmaxCrossEntropy())
    assert lenet((12, 12, 1), 3, "tanh") == lenet((12, 12, 1), 3, tanh)
    assert recurrent_network((2, 3, 1), output="tanh") == recurrent_network((2, 3, 1), output=tanh)


def test_a_named_optimizer_is_the_same_object_again_and_has_a_default_rate():
    assert resolve_optimizer("adam", 0.02) is resolve_optimizer("adam", 0.02)
    assert resolve_optimizer("adam") is resolve_optimizer("adam", 0.001)
    assert resolve_optimizer("nesterov") is resolve_optimizer("nesterov", 0.01)
    many = jax.vmap(lambda rate: run_fit(optimizer="sgd", learning_rate=rate)[1].loss)(jnp.array([0.01, 0.1]))
    np.testing.assert_allclose(many[0], run_fit(optimizer="sgd")[1].loss, rtol=1e-12)
    with pytest.raises(SettingError, match="expected learning_rate above 0, got 0"):
        resolve_optimizer("adam", 0)
    with pytest.raises(SettingError, match="expected learning_rate only together with the name of an optimizer, got 1"):
        resolve_optimizer(ADAM, 1)


@pytest.mark.parametrize(
    ("resolve", "sentence"),
    [
        (
            lambda: run_fit(loss="mse"),
            r"expected loss to be a loss of jaxann.nn or the name of one \(squared_error",
        ),
        (lambda: resolve_loss(optax.l2_loss), "expected loss to be a loss of jaxann.nn or the name of one"),
        (
            lambda: resolve_loss(EachLoss),
            r"to be a loss, such as SquaredError\(\), not a class that needs settings",
        ),
        (lambda: run_fit(optimizer="adm"), f"expected optimizer to be {', '.join(OPTIMIZERS[:-1])} or lion, got"),
        (
            lambda: resolve_optimizer(optax.adam),
            r"expected optimizer to be a transformation of optax, such as",
        ),
        (
            lambda: mlp((4, 3), "rellu"),
            r"hidden to be a layer of jaxann.nn or the name of an activation \(identity, sig",
        ),
        (lambda: mlp((4, 3), output="max"), "expected output to be a layer of jaxann.nn or the name of an activation"),
        (
            lambda: Sequential(Dense, relu),
            r"expected layers\[0\] to be a layer, such as Dense\(4, 3\), not a class",
        ),
        (
            lambda: Sequential(relu, jax.nn.relu),
            r"expected layers\[1\] to be a layer of jaxann.nn or the name of an",
        ),
        *(
            (partial(wrap, 5), "expected layer to be a layer of jaxann.nn or the name of an activation .*, got 5")
            for wrap in (Residual, Each, Recomputed, MixedPrecision, partial(Repeat, count=2))
        ),
        *(
            (
                lambda make=make, weights=weights: make(weights).init(jax.random.key(0)),
                r"expected weights to be an initializer, such as jax.nn.initializers.he_normal\(\), got",
            )
            for make in INITIALIZED
            for weights in ("he_normal", jax.nn.initializers.he_normal)
        ),
        (
            lambda: run_fit(gradient="backprop"),
            "expected gradient to be a function such as jaxann.backprop or a learning",
        ),
        (lambda: MixedPrecision(tanh, "float16"), "expected dtype to be bfloat16 or float32, got 'float16'"),
        (lambda: Parallel(tanh), "expected layers to be a sequence of layers, got tanh"),
        (lambda: Parallel((tanh, 5)), r"expected layers\[1\] to be a layer of jaxann.nn or the name of"),
        (lambda: EachLoss("mse"), "expected loss to be a loss of jaxann.nn or the name of one"),
        (lambda: predict("tanh?", (), X), "expected model to be a layer of jaxann.nn or the name of an activation"),
        (lambda: save("network.npz", (), MODEL), "expected model to be a layer of jaxann.nn or the name"),
        (lambda: resolve_layer("model", (4, 3)), r"expected model to be a layer of jaxann.nn or .*, got \(4, 3\)"),
        (lambda: run_fit(key=-1), "expected key between 0 and 4294967295, got -1"),
        (
            lambda: resolve_key(None),
            r"expected key to be a whole number or a key such as .*, got None",
        ),
        (lambda: resolve_key(0.5), r"expected key to be a whole number or a key such as .*, got 0.5"),
    ],
)
def test_what_has_no_meaning_is_refused_with_the_known_names(resolve, sentence):
    with unchecked(), pytest.raises(SettingError, match=sentence):
        resolve()


@pytest.mark.parametrize(
    ("model", "loss", "advice"),
    [
        (mlp((4, 3), output=softmax), SoftmaxCrossEntropy(0.1), "or use the loss CrossEntropy"),
        (MixedPrecision(Sequential(Dense(4, 3), Sequential(softmax))), SoftmaxCrossEntropy(), "as the last layer"),
        (Each(mlp((4, 3), output=softmax)), EachLoss(SoftmaxCrossEntropy()), "applies softmax to its outputs itself"),
        (mlp((4, 3), output=sigmoid), SigmoidCrossEntropy(), "because SigmoidCrossEntropy applies sigmoid"),
    ],
)
def test_a_network_that_ends_in_what_the_loss_applies_itself_is_refused(model, loss, advice):
    with pytest.raises(ValueError, match=f"expected a network that does not end in .*{advice}"):
        run_fit(model, loss)


def test_a_loss_of_a_vector_refuses_a_sequence_and_names_the_loss_that_takes_one():
    with (
        unchecked(),
        pytest.raises(ValueError, match=r"outputs of shape \(m,\), got \(5, 3\); EachLoss takes those of a"),
    ):
        SoftmaxCrossEntropy().value(jnp.zeros((5, 3)), jnp.zeros(5, int))


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        (mlp((4, 5, 2)).init(jax.random.key(0)), r"expected params with 2.W of shape \(3, 5\), got shape \(2, 5\)"),
        (MODEL.init(jax.random.key(0))[:2], r"expected params with 2.W of shape \(3, 5\), got none"),
        (None, r"expected params with 0.W of shape \(5, 4\), got none"),
    ],
)
def test_predictions_with_the_parameters_of_another_network_are_refused(params, sentence):
    with pytest.raises(ValueError, match=sentence):
        predict(MODEL, params, X)


def test_a_softmax_elsewhere_is_taken():
    require_logits(Residual(softmax), SoftmaxCrossEntropy())
    run_fit(mlp((4, 5, 3), output="softmax"), CrossEntropy, t=np.eye(3)[LABELS], epochs=1)


def test_labels_that_are_text_are_refused_with_the_line_that_makes_numbers_of_them():
    names = np.array(["a", "b", "c"])[LABELS]
    for labels in (names, names.tolist(), names.astype(object)):
        with pytest.raises(ValueError, match=r"expected real numbers for targets, got 'a' \(names, t = numpy.unique"):
            run_fit(t=labels)
    with pytest.raises(ValueError, match="expected real numbers for features, got dtype <U1"):
        predict(MODEL, MODEL.init(jax.random.key(0)), [["a"] * 4])


def test_tables_of_pandas_are_taken_as_arrays(losses):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    params, history = run_fit(x=frame, t=pandas.Series(LABELS, index=range(5, 17)))
    np.testing.assert_array_equal(history.loss, losses)
    np.testing.assert_array_equal(predict(MODEL, params, frame), predict(MODEL, params, X))
    mixed = frame.assign(a=frame.a > 0, b=pandas.array(LABELS, dtype="Int64"))
    expected = np.column_stack([X[:, 0] > 0, LABELS, X[:, 2:]])
    np.testing.assert_array_equal(to_numbers("features", mixed), expected)
    mixed.loc[3, "b"] = pandas.NA
    with pytest.raises(ValueError, match=r"expected finite float64 numbers in features, got nan at \[3, 1\]"):
        run_fit(x=mixed)
    with pytest.raises(ValueError, match=r"expected real numbers for features, got dtype .* in column 'city' \(leave"):
        run_fit(x=frame.assign(city="Bern"))
    with pytest.raises(ValueError, match="expected real numbers for targets, got 'a'"):
        run_fit(t=pandas.Series(["a", "b"] * 6))


def test_a_loss_of_numbers_takes_a_column(losses):
    run_fit(mlp((4, 1)), SquaredError, t=X[:, :1], epochs=1)

"""Targets in the form that losses take, and predictions from outputs, against numbers computed by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxann.data import Targets
from jaxann.data.targets import FOR_ANY, FOR_CLASSES
from jaxann.data.validation import validate
from jaxann.nn import LOSSES, SoftmaxCrossEntropy, mlp
from jaxann.nn.hyperparameters import SettingError

LABELS = np.array([2, 0, 1, 2])
NUMBERS = np.array([1.0, 3.0, 5.0, 7.0])  # their mean is 4 and their variance 5
ONE_HOT = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
SIGNS = [[-1, -1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
SMOOTHED = [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]  # 0.3 shared among three


def test_every_loss_is_for_classes_or_for_any_targets():
    assert sorted(FOR_CLASSES + FOR_ANY) == sorted(LOSSES)


@pytest.mark.parametrize(
    ("loss", "plain", "smoothed"),
    [
        ("cross_entropy", ONE_HOT, SMOOTHED),
        ("sigmoid_cross_entropy", ONE_HOT, SMOOTHED),
        ("squared_error", ONE_HOT, SMOOTHED),
        ("absolute_error", ONE_HOT, SMOOTHED),
        ("huber", ONE_HOT, SMOOTHED),
        ("poisson", ONE_HOT, SMOOTHED),
        ("softmax_cross_entropy", LABELS, LABELS),  # this loss smooths by itself
        ("hinge", SIGNS, None),
    ],
)
def test_classes_are_encoded_as_each_loss_takes_them(loss, plain, smoothed):
    np.testing.assert_array_equal(Targets(loss, 3).encode(LABELS), plain)
    if smoothed is not None:
        np.testing.assert_allclose(Targets(loss, 3, 0.3).encode(LABELS), smoothed, rtol=1e-15)


@pytest.mark.parametrize("loss", ["squared_error", "softmax_cross_entropy"])
def test_only_labels_of_a_class_are_encoded(loss):
    """As an index, -1 would select the last class, and booleans would be a mask."""
    for label in (-1, 3, 0.5, np.nan):
        with pytest.raises(ValueError, match=f"^expected labels from 0 to 2, got {label} for example 2 of 2$"):
            Targets(loss, 3).encode(np.array([0, label]))
    targets = Targets(loss, 2)
    np.testing.assert_array_equal(targets.encode(np.array([True, False])), targets.encode(np.array([1, 0])))


@pytest.mark.parametrize(
    ("loss", "classes"), [*((loss, 3) for loss in LOSSES), *((loss, 0) for loss in FOR_ANY)], ids=str
)
def test_encoded_targets_are_valid_for_the_loss_and_a_network_of_so_many_outputs(loss, classes):
    t = LABELS if classes else NUMBERS
    targets = Targets.fit(loss, classes, 0.3 if classes and loss != "hinge" else 0.0, t)
    assert targets.outputs == (classes or 1)
    _, encoded = validate(mlp((2, targets.outputs)), targets.make_loss(), np.zeros((4, 2)), targets.encode(t))
    np.testing.assert_array_equal(encoded, targets.encode(t))


@pytest.mark.parametrize("loss", LOSSES)
def test_make_loss_returns_the_loss_of_that_name(loss):
    targets = Targets(loss, 3)
    assert targets.make_loss() == LOSSES[loss]()


def test_smoothing_reaches_the_loss_that_smooths_by_itself():
    """-Σ p log softmax(y) of logits log(.7, .2, .1), with p = .7 of the label and .1 of each."""
    targets, y = Targets("softmax_cross_entropy", 3, 0.3), np.log([0.7, 0.2, 0.1])
    assert targets.make_loss() == SoftmaxCrossEntropy(0.3)
    value = targets.make_loss().value(jnp.asarray(y), jnp.asarray(targets.encode(LABELS)[0]))
    np.testing.assert_allclose(value, -np.array([0.1, 0.1, 0.8]) @ y, rtol=1e-14)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber"])
def test_numbers_are_standardized_and_come_back_in_their_own_unit(loss):
    targets = Targets.fit(loss, 0, 0.0, NUMBERS)
    assert (targets.mean, targets.sd) == (4.0, np.sqrt(5.0))
    encoded = targets.encode(NUMBERS)
    np.testing.assert_allclose(encoded, np.array([[-3], [-1], [1], [3]]) / np.sqrt(5), rtol=1e-15)
    np.testing.assert_allclose(targets.decode(encoded), NUMBERS, rtol=1e-15)
    np.testing.assert_allclose(targets.decode(np.array([[0.0], [-2.0]])), [4, 4 - 2 * np.sqrt(5)], rtol=1e-15)


def test_unseen_numbers_are_standardized_by_the_training_ones():
    targets = Targets.fit("squared_error", 0, 0.0, NUMBERS)
    np.testing.assert_allclose(targets.encode(np.array([14.0])), [[10 / np.sqrt(5)]], rtol=1e-15)


def test_counts_are_taken_as_they_are_and_their_rate_comes_back():
    counts = np.array([0, 3, 8])
    targets = Targets.fit("poisson", 0, 0.0, counts)
    assert (targets.mean, targets.sd) == (0.0, 1.0)
    np.testing.assert_array_equal(targets.encode(counts), [[0], [3], [8]])
    np.testing.assert_allclose(targets.decode(np.log([[2.0], [0.5]])), [2, 0.5], rtol=1e-15)


@pytest.mark.parametrize("value", [5.0, 0.0, 0.1, 1e6 + 0.1])
@pytest.mark.parametrize("count", [1, 3, 10])
def test_numbers_that_are_all_the_same_are_zero(value, count):
    """Their standard deviation is 0, or in floats a rounding error, and nothing may be divided by either."""
    t = np.full(count, value)
    targets = Targets.fit("squared_error", 0, 0.0, t)
    assert targets.sd == 1
    np.testing.assert_allclose(targets.encode(t), np.zeros((count, 1)), atol=1e-9)  # the rounding errors of 10⁶
    np.testing.assert_allclose(targets.decode(targets.encode(t)), t, rtol=1e-15)


def test_numbers_that_hardly_differ_are_standardized_all_the_same():
    t = 1e-9 * NUMBERS
    np.testing.assert_allclose(Targets.fit("huber", 0, 0.0, t).encode(t)[:, 0], (NUMBERS - 4) / np.sqrt(5), rtol=1e-12)


@pytest.mark.parametrize("exponent", [-1000, -500, 20, 500, 1015])
def test_numbers_of_any_size_are_standardized_alike(exponent):
    ordinary, targets = (Targets.fit("huber", 0, 0.0, np.ldexp(NUMBERS, e)) for e in (0, exponent))
    assert (targets.mean, targets.sd) == (np.ldexp(ordinary.mean, exponent), np.ldexp(ordinary.sd, exponent))
    encoded = targets.encode(np.ldexp(NUMBERS, exponent))
    np.testing.assert_array_equal(encoded, ordinary.encode(NUMBERS), strict=True)
    decoded = targets.decode(encoded.astype(np.float32))  # outputs are float32, but predictions are float64
    np.testing.assert_allclose(np.ldexp(decoded, -exponent), NUMBERS, rtol=1e-6)


def test_numbers_next_to_0_that_hardly_differ_get_a_sentence():
    sentence = "^expected targets that are constant or have a standard deviation of at least 2.22507e-308, got 0$"
    with pytest.raises(ValueError, match=sentence):
        Targets.fit("huber", 0, 0.0, np.array([0, 5e-324]))


@pytest.mark.parametrize("method", ["decode", "probabilities"])
@pytest.mark.parametrize(("loss", "classes"), [("softmax_cross_entropy", 3), ("hinge", 3), ("huber", 0)])
def test_outputs_that_are_not_finite_are_no_predictions(loss, classes, method):
    y = np.zeros((30, classes or 1), np.float32)
    for value in (np.nan, np.inf, -np.inf):
        y[2, -1] = y[7, 0] = value
        sentence = f"^expected finite outputs for every example, got {value} for example 3 of 30$"
        with pytest.raises(FloatingPointError, match=sentence):
            getattr(Targets(loss, classes), method)(y)


def test_predictions_that_overflow_are_refused():
    y = np.array([[0.0], [800.0]], np.float32)
    for targets in (Targets("poisson"), Targets("huber", mean=0.0, sd=1e307)):
        sentence = "^expected finite predictions for every example, got inf for example 2 of 2$"
        with pytest.raises(FloatingPointError, match=sentence):
            targets.decode(y)
    np.testing.assert_allclose(Targets("poisson").decode(y / 2), [1, np.exp(400)])  # float32 ends at exp(88)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_predicted_label_is_that_of_the_largest_output(loss):
    y = np.array([[0.1, 0.7, 0.2], [-3.0, -5.0, -1.0], [2.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
    np.testing.assert_array_equal(Targets(loss, 3).decode(y), [1, 2, 0, 0])  # the first of equal ones


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("cross_entropy", [[0.0, np.log(3.0), 0.0]]),  # its outputs are probabilities already
        ("softmax_cross_entropy", [[0.2, 0.6, 0.2]]),
        ("sigmoid_cross_entropy", [[0.5, 0.75, 0.5]]),
        ("hinge", None),
        ("squared_error", None),
        ("absolute_error", None),
        ("huber", None),
        ("poisson", None),
    ],
)
def test_outputs_become_probabilities_where_the_loss_gives_them_that_meaning(loss, expected):
    probabilities = Targets(loss, 3).probabilities(np.array([[0.0, np.log(3.0), 0.0]]))
    if expected is None:
        assert probabilities is None
    else:
        np.testing.assert_allclose(probabilities, expected, rtol=1e-14)


def test_large_logits_do_not_overflow_into_probabilities():
    y = np.array([[1000.0, 0.0, -1000.0]])
    np.testing.assert_array_equal(Targets("softmax_cross_entropy", 3).probabilities(y), [[1, 0, 0]])
    np.testing.assert_array_equal(Targets("sigmoid_cross_entropy", 3).probabilities(y), [[1, 0.5, 0]])


@pytest.mark.parametrize("loss", FOR_ANY)
def test_numbers_have_no_probabilities(loss):
    assert Targets(loss).probabilities(np.zeros((2, 1))) is None


@pytest.mark.parametrize("loss", FOR_CLASSES)
def test_a_loss_for_classes_is_refused_for_numbers(loss):
    losses = "squared_error, absolute_error, huber or poisson"
    sentence = f"^expected loss to be {losses} for targets that are numbers, got '{loss}'$"
    with pytest.raises(SettingError, match=sentence):
        Targets.fit(loss, 0, 0.0, NUMBERS)


def test_an_unknown_loss_is_refused_with_the_known_ones():
    losses = "cross_entropy, softmax_cross_entropy, sigmoid_cross_entropy, hinge, squared_error, .*, huber or poisson"
    with pytest.raises(SettingError, match=f"^expected loss to be {losses}, got 'l2'$"):
        Targets("l2", 3)


@pytest.mark.parametrize(
    ("loss", "classes", "smoothing", "sentence"),
    [
        ("cross_entropy", 3, 1.0, "between 0 and 1, excluding 1, got 1.0"),
        ("cross_entropy", 3, -0.1, "between 0 and 1, excluding 1, got -0.1"),
        ("cross_entropy", 3, np.nan, "to be a finite number, got nan"),
        ("hinge", 3, 0.1, "to be 0 for the loss hinge, which takes signs, got 0.1"),
        ("squared_error", 0, 0.1, "to be 0 for targets that are numbers, got 0.1"),
        ("poisson", 0, 0.1, "to be 0 for targets that are numbers, got 0.1"),
    ],
)
def test_smoothing_where_there_is_nothing_to_smooth_is_refused(loss, classes, smoothing, sentence):
    with pytest.raises(SettingError, match=f"^expected smoothing {sentence}$"):
        Targets.fit(loss, classes, smoothing, LABELS if classes else NUMBERS)

"""Scores of predictions of classes, numbers and text, and which of two values is better."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from math import isfinite, nan
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Array
from sklearn.dummy import DummyRegressor
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    precision_score,
    r2_score,
    recall_score,
    roc_auc_score,
)

from jaxann.cli.text_scores import TokenPredictions, compute_accuracy, compute_bits, compute_perplexity
from jaxann.data.batches import Examples
from jaxann.data.targets import Targets, TokenTargets
from jaxann.nn.hyperparameters import SettingError


class Predictions(NamedTuple):
    """The predictions for N examples, beside the truth.

    Attributes:
        t: [N], the true labels, or the true numbers, standardized.
        values: [N], the predicted labels, or the predicted numbers, standardized.
        probabilities: [N, m], the predicted probabilities of the m classes, which sum to 1 for each example; None if
            there are none.
        weights: [N], how much each example counts; None if all count alike.
        classes: m, or 0 for numbers.
        sd: The difference, in the unit of the data, between two numbers whose standardized difference is 1.
    """

    t: np.ndarray
    values: np.ndarray
    probabilities: np.ndarray | None
    weights: np.ndarray | None
    classes: int
    sd: float

    @classmethod
    def from_outputs(cls, targets: Targets, t: Array | np.ndarray, y: Any, weights: Any = None) -> Predictions:
        """Makes the predictions from a network's outputs.

        Args:
            targets: The encoding of the targets.
            t: [N], the true targets, as labels or in the unit of the data.
            y: [N, m], the outputs.
            weights: [N], how much each example counts; None if all count alike.

        Raises:
            FloatingPointError: If an output or a prediction is not finite.
        """
        y = np.asarray(y)
        values, probabilities = targets.decode(y), targets.probabilities(y)
        return cls.from_values(targets, t, values, probabilities, weights)

    @classmethod
    def from_values(
        cls, targets: Targets, t: Array | np.ndarray, values: np.ndarray, probabilities: np.ndarray | None, weights: Any
    ) -> Predictions:
        """Makes the predictions from labels or numbers in the unit of the data, and probabilities.

        Args:
            targets: The encoding of the targets.
            t: [N], the true targets, as labels or in the unit of the data.
            values: [N], the predicted targets, likewise.
            probabilities: [N, m], not necessarily with a sum of 1 for each example; None if there are none.
            weights: [N], how much each example counts; None if all count alike.
        """
        t = np.asarray(t)
        if not targets.classes:  # squares of standardized numbers do not overflow
            t, values = (targets.encode(numbers)[:, 0] for numbers in (t, values))
        if probabilities is not None:
            probabilities = probabilities.astype(float)
            sums = probabilities.sum(axis=1, keepdims=True)
            shares = np.full_like(probabilities, 1 / probabilities.shape[1])
            probabilities = np.divide(probabilities, sums, out=shares, where=sums > 0)
        weights = None if weights is None else np.asarray(weights)  # scikit-learn takes arrays of one kind
        return cls(t, values, probabilities, weights, targets.classes, targets.sd)


class Score(NamedTuple):
    """A score of predictions.

    Attributes:
        key: Its name in files and as a value of --score.
        name: Its name in text.
        kind: The kind of targets that it is for.
        compute: The function of `Predictions`, or for text of `TokenPredictions`, that computes it, which is NaN where
            the score is not defined; None for the loss, which a network's loss computes.
        lower_is_better: Whether a lower score is better.
        needs_probabilities: Whether it is computed from probabilities.
    """

    key: str
    name: str
    kind: Literal["classes", "numbers", "text", "any"]
    compute: Callable[[Any], float] | None
    lower_is_better: bool = False
    needs_probabilities: bool = False

    def format(self, value: Any) -> str:
        """Returns a value of the score as text."""
        return f"{value:.4g}" if self.key in ("mae", "rmse") else f"{value:.4f}" if self is LOSS else f"{value:.3f}"

    def orient(self, value: float) -> float:
        """Returns a number that is higher for a better score."""
        return -value if self.lower_is_better else value

    def measure(self, predictions: Predictions | TokenPredictions) -> float:
        """Returns the score of predictions.

        Raises:
            FloatingPointError: If it is not finite.
        """
        assert self.compute is not None
        with np.errstate(all="ignore"), warnings.catch_warnings():  # the check below reports what is not finite
            warnings.simplefilter("ignore")
            value = float(self.compute(predictions))
        if not isfinite(value):
            raise FloatingPointError(f"expected a finite {self.name}, got {value}")
        return value

    def measure_or_nan(self, predictions: Predictions | TokenPredictions) -> float:
        """Returns the score of predictions, or NaN if it is not finite."""
        try:
            return self.measure(predictions)
        except FloatingPointError:
            return nan


def _compute_log_loss(predictions: Predictions) -> float:
    t, _, probabilities, weights, classes, _ = predictions
    return log_loss(t, probabilities, sample_weight=weights, labels=range(classes)) if classes > 1 else nan


def _compute_roc_auc(predictions: Predictions) -> float:
    """Averages the area of each class against the rest over the classes that have examples among these; see `SCORES`.

    For two classes both areas are the same. A single class has no area.
    """
    t, _, probabilities, weights, _, _ = predictions
    assert probabilities is not None
    labels = np.unique(t)
    if len(labels) < 2:
        return nan
    areas = [roc_auc_score(t == label, probabilities[:, label], sample_weight=weights) for label in labels]
    return float(np.mean(areas))


def _average_classes(function: Any) -> Callable[[Predictions], float]:
    """Returns the function that averages a score of single classes, or gives that of the second one of two classes."""

    def compute(predictions: Predictions) -> float:
        t, values, _, weights, classes, _ = predictions
        labels = [1] if classes == 2 else None
        return function(t, values, labels=labels, average="macro", sample_weight=weights, zero_division=0)

    return compute


def _apply(function: Any) -> Callable[[Predictions], float]:
    return lambda predictions: function(predictions.t, predictions.values, sample_weight=predictions.weights)


LOSS = Score("loss", "loss", "any", None, lower_is_better=True)
# Precision, recall and F1 are those of the second class where there are two classes, and otherwise the means over all
# classes that are true or predicted for some example. ROC AUC is the mean over the classes, each against the rest.
# The log loss is of probabilities that are divided by their sum. MAE and RMSE are in the unit of the data.
SCORES: dict[str, Score] = {
    score.key: score
    for score in (
        Score("accuracy", "accuracy", "classes", _apply(accuracy_score)),
        Score("balanced_accuracy", "balanced accuracy", "classes", _apply(balanced_accuracy_score)),
        Score("log_loss", "log loss", "classes", _compute_log_loss, lower_is_better=True, needs_probabilities=True),
        Score("roc_auc", "ROC AUC", "classes", _compute_roc_auc, needs_probabilities=True),
        Score("precision", "precision", "classes", _average_classes(precision_score)),
        Score("recall", "recall", "classes", _average_classes(recall_score)),
        Score("f1", "F1", "classes", _average_classes(f1_score)),
        Score("r2", "R²", "numbers", _apply(r2_score)),
        Score("mae", "MAE", "numbers", lambda p: p.sd * _apply(mean_absolute_error)(p), lower_is_better=True),
        Score("rmse", "RMSE", "numbers", lambda p: p.sd * np.sqrt(_apply(mean_squared_error)(p)), lower_is_better=True),
        Score("bits_per_character", "bits per character", "text", compute_bits, lower_is_better=True),
        Score("perplexity", "perplexity", "text", compute_perplexity, lower_is_better=True),
        Score("token_accuracy", "accuracy of tokens", "text", compute_accuracy),
    )
}


def list_scores(targets: Targets) -> list[Score]:
    """Returns the scores that fit the kind of the targets, and whose probabilities a network with their loss gives."""
    has_probabilities = targets.probabilities(np.zeros((1, targets.outputs))) is not None
    usable = (score for score in SCORES.values() if has_probabilities or not score.needs_probabilities)
    return [score for score in usable if score.kind == targets.kind]


def find_score(key: str, targets: Targets) -> Score:
    """Returns the score that a value of --score stands for.

    Args:
        key: The name of a score, or "loss". "accuracy" stands for the first score of the kind of the targets: for
            numbers R², as in the config.json of runs of earlier versions, and for text bits per character.
        targets: The encoding of the targets.

    Raises:
        SettingError: If the score does not fit the kind of the targets or their loss. It is a ValueError.
    """
    if key == LOSS.key:
        return LOSS
    fitting = list_scores(targets)
    score = fitting[0] if key == "accuracy" else SCORES[key]
    if score not in fitting:
        if score.needs_probabilities and targets.classes:
            place = f"for the loss {targets.loss}, which gives no probabilities"
        else:
            places = {"classes": "for classes", "numbers": "for targets that are numbers", "text": "for text"}
            place = places[targets.kind]
        *others, last = (LOSS.key, *(fit.key for fit in fitting))
        raise SettingError("score", f"to be {', '.join(others)} or {last} {place}", key)
    return score


def make_predictions(targets: Targets, t: Any, y: Any, weights: Any = None) -> Predictions | TokenPredictions:
    """Makes `TokenPredictions` for text, and `Predictions` for other targets, from a network's outputs."""
    if isinstance(targets, TokenTargets):
        return TokenPredictions.from_outputs(targets, t, y)
    return Predictions.from_outputs(targets, t, y, weights)


def predict_constants(targets: Targets, train: Examples, t: np.ndarray, weights: Any) -> dict[str, Any]:
    """Makes the predictions of the baseline, which is the same for all examples and needs no features.

    Args:
        targets: The encoding of the targets.
        train: The training part, whose weights count.
        t: [N], the true targets of the examples to predict.
        weights: [N], how much each example counts; None if all count alike.

    Returns:
        For classes the predictions by which each score is computed: the most frequent class of the training part, with
        the shares of all classes as probabilities. For numbers the mean of the training targets, which is the best
        constant for R² and RMSE, and their median for MAE, for which the median is the best. For text the frequencies
        of the tokens.
    """
    scores = list_scores(targets)
    if isinstance(targets, TokenTargets):
        return dict.fromkeys((score.key for score in scores), TokenPredictions.from_frequencies(targets, train.t, t))
    if targets.classes:
        shares = find_shares(targets, train)
        probabilities = np.tile(shares, (len(t), 1)) if any(score.needs_probabilities for score in scores) else None
        values = np.full(len(t), shares.argmax())
        constant = Predictions.from_values(targets, t, values, probabilities, weights)
        return {score.key: constant for score in scores}
    constants = {}
    for score in scores:
        number = find_constant(train, "median" if score.key == "mae" else "mean")
        constants[score.key] = Predictions.from_values(targets, t, np.full(len(t), number), None, weights)
    return constants


def find_shares(targets: Targets, train: Examples) -> np.ndarray:
    """Returns the share of each class among the weights of the training part."""
    counts = np.bincount(np.asarray(train.t), train.weights, minlength=targets.classes)
    return counts / counts.sum()


def find_constant(train: Examples, statistic: Literal["mean", "median"]) -> float:
    """Returns the weighted mean or median of the training targets."""
    t = np.asarray(train.t, float)
    unit = np.abs(t).max() or 1.0  # so that sums of huge numbers are finite
    baseline = DummyRegressor(strategy=statistic).fit(np.zeros((len(t), 1)), t / unit, sample_weight=train.weights)
    return float(np.ravel(baseline.constant_)[0]) * unit


def name_score(score: Score, classes: Sequence[str]) -> str:
    """Returns the name of a score in a table, which says of which classes it is.

    Args:
        score: The score.
        classes: The names of the classes; empty for numbers.
    """
    if score.key in ("precision", "recall", "f1"):
        return f"{score.name} of {classes[1]}" if len(classes) == 2 else f"{score.name}, mean over classes"
    return f"{score.name}, mean over classes" if score.key == "roc_auc" and len(classes) > 2 else score.name

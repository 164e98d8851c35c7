"""Targets in the form that a loss takes, and predictions from a network's outputs, as labels or in the data's unit.

A loss takes distributions over the classes, labels, signs, or numbers. Numbers are standardized unless they are counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Array

from jaxann.data.scaling import Scaling, mean_and_sd
from jaxann.nn.each_loss import EachLoss
from jaxann.nn.hyperparameters import Number, SettingError, is_traced, validate_number
from jaxann.nn.loss import Loss
from jaxann.nn.losses import LOSSES, SoftmaxCrossEntropy

FOR_CLASSES = ("cross_entropy", "softmax_cross_entropy", "sigmoid_cross_entropy", "hinge")
FOR_ANY = ("squared_error", "absolute_error", "huber", "poisson")


@dataclass(frozen=True)
class Targets:
    """How the targets of a table become those of a loss, and how a network's outputs become predictions.

    Attributes:
        loss: The name of one of `LOSSES`.
        classes: How many classes there are; 0 for targets that are numbers.
        smoothing: s in [0, 1), the label smoothing: the target of a class becomes (1 - s) one-hot + s / classes. It
            must be 0 for the loss "hinge", which takes signs, and for targets that are numbers.
        mean: The target, in the unit of the data, whose standardized value is 0.
        sd: The difference between two targets, in the unit of the data, whose standardized value is 1.

    Raises:
        SettingError: If the loss is unknown, or is for classes although the targets are numbers, or if `smoothing` is
            out of range.
    """

    loss: str
    classes: int = 0
    smoothing: Number = 0.0
    mean: float = 0.0
    sd: float = 1.0

    def __post_init__(self) -> None:
        known, place = (FOR_CLASSES + FOR_ANY, "") if self.classes else (FOR_ANY, " for targets that are numbers")
        if self.loss not in known:
            raise SettingError("loss", f"to be {', '.join(known[:-1])} or {known[-1]}{place}", self.loss)
        validate_number("smoothing", self.smoothing, least=0, below=1)
        if is_traced(self.smoothing) or not self.smoothing:
            return
        if not self.classes or self.loss == "hinge":
            place = f"for the loss {self.loss}, which takes signs" if self.classes else "for targets that are numbers"
            raise SettingError("smoothing", f"to be 0 {place}", self.smoothing)

    @classmethod
    def fit(cls, loss: str, classes: int, smoothing: float, t: np.ndarray | Array) -> Targets:
        """Returns the `Targets` for a training part, with its mean and standard deviation if the targets are numbers.

        Args:
            loss: The name of one of `LOSSES`.
            classes: How many classes there are; 0 for targets that are numbers.
            smoothing: The label smoothing, in [0, 1).
            t: The targets [N] of the training part. For the loss "poisson" they are counts and are not standardized.

        Raises:
            SettingError: As `Targets` does.
            ValueError: If targets that are numbers vary by too little to be standardized.
        """
        if classes or loss == "poisson":
            return cls(loss, classes, smoothing)
        mean, sd = mean_and_sd(np.asarray(t))
        return cls(loss, classes, smoothing, mean, sd)

    @property
    def kind(self) -> Literal["classes", "numbers", "text"]:
        """What the targets are; a network for text has tokens as targets."""
        return "classes" if self.classes else "numbers"

    @property
    def outputs(self) -> int:
        """How many outputs the network needs: one for each class, or one for a number."""
        return self.classes or 1

    def encode(self, t: np.ndarray | Array) -> np.ndarray:
        """Converts targets to those of the loss.

        Args:
            t: Labels or numbers [N].

        Returns:
            The targets [N, m] that the loss takes, or [N] for the loss "softmax_cross_entropy", which takes labels.

        Raises:
            ValueError: If a label is not an integer from 0 to `classes` - 1.
        """
        t = np.asarray(t)
        if not self.classes:
            return Scaling(np.array([self.mean]), np.array([self.sd]))(t.astype(float)[:, None])
        for i in np.flatnonzero(~((t >= 0) & (t < self.classes) & (t % 1 == 0)))[:1]:
            raise ValueError(
                f"expected labels from 0 to {self.classes - 1}, got {t[i]} for example {i + 1} of {len(t)}"
            )
        t = t if t.dtype.kind in "iu" else t.astype(int)
        if self.loss == "softmax_cross_entropy":
            return t  # it smooths labels itself
        one_hot, smoothing = np.eye(self.classes)[t], float(self.smoothing)
        return 2 * one_hot - 1 if self.loss == "hinge" else (1 - smoothing) * one_hot + smoothing / self.classes

    def make_loss(self) -> Loss:
        """Returns the loss. "softmax_cross_entropy" smooths the labels itself, so it is given the smoothing."""
        return SoftmaxCrossEntropy(self.smoothing) if self.loss == "softmax_cross_entropy" else LOSSES[self.loss]()

    def decode(self, y: np.ndarray) -> np.ndarray:
        """Converts a network's outputs [N, m] to predictions [N]: labels, or float64 numbers in the unit of the data.

        Raises:
            FloatingPointError: If an output or a prediction is not finite; the message names the first such example,
                counted from 1.
        """
        _require_finite("outputs", y)
        if self.classes:
            return y.argmax(axis=1)
        numbers = y[:, 0].astype(float)  # the unit of the data may need numbers that float32 does not have
        with np.errstate(over="ignore"):
            numbers = np.exp(numbers) if self.loss == "poisson" else numbers * self.sd + self.mean
        _require_finite("predictions", numbers)
        return numbers

    def probabilities(self, y: np.ndarray) -> np.ndarray | None:
        """Converts a network's outputs to the probabilities of the classes.

        Args:
            y: Outputs [N, m].

        Returns:
            Probabilities [N, m], or None if the outputs of a network trained with this loss have no such meaning.
            With the loss "sigmoid_cross_entropy" the probabilities of an example need not sum to 1.

        Raises:
            FloatingPointError: If an output is not finite; the message names the first such example, counted from 1.
        """
        from scipy.special import expit, softmax

        _require_finite("outputs", y)
        meaning = {"cross_entropy": lambda y: y, "softmax_cross_entropy": lambda y: softmax(y, axis=1)}
        meaning["sigmoid_cross_entropy"] = expit
        with np.errstate(over="ignore"):  # a difference of logits may be -inf, and its exponential is 0 all the same
            return meaning[self.loss](y) if self.classes and self.loss in meaning else None


@dataclass(frozen=True)
class TokenTargets(Targets):
    """How the next tokens of text become targets of a loss at every position.

    Attributes:
        loss: "softmax_cross_entropy".
        classes: How many different tokens there are.
        smoothing: s in [0, 1), the label smoothing.
        characters_per_token: The mean number of characters of a token.

    Raises:
        SettingError: If the loss is another one, or if `smoothing` is out of range.
    """

    characters_per_token: float = 1.0

    def __post_init__(self) -> None:
        if self.loss != "softmax_cross_entropy":
            raise SettingError("loss", "to be softmax_cross_entropy for text", self.loss)
        super().__post_init__()

    @property
    def kind(self) -> Literal["classes", "numbers", "text"]:
        return "text"

    def encode(self, t: np.ndarray | Array) -> np.ndarray:
        """Returns the next tokens [N, T] as they are, because the loss takes labels."""
        return np.asarray(t)

    def make_loss(self) -> Loss:
        return EachLoss(super().make_loss())

    def decode(self, y: np.ndarray) -> np.ndarray:
        """Returns the most likely tokens [N, T].

        Args:
            y: What `evaluate_tokens` returns, [N, T, 2].

        Raises:
            FloatingPointError: If the logarithm of a probability is not finite; the message names the first window,
                counted from 1.
        """
        _require_finite("outputs", y)
        return y[..., 1].astype(int)

    def probabilities(self, y: np.ndarray) -> None:
        return None


def _require_finite(noun: str, values: np.ndarray) -> None:
    for place in np.argwhere(~np.isfinite(values))[:1]:
        raise FloatingPointError(
            f"expected finite {noun} for every example, "
            f"got {values[tuple(place)]} for example {place[0] + 1} of {len(values)}"
        )

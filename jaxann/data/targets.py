"""Targets as a loss wants them, and what the network's outputs say, in labels or in the data's own unit.

The losses differ in this: smoothed distributions, labels, signs, or numbers, standardised but for counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxann.nn.hyperparameters import Number, is_traced
from jaxann.nn.loss import Loss
from jaxann.nn.losses import LOSSES, SoftmaxCrossEntropy

FOR_CLASSES = ("cross_entropy", "softmax_cross_entropy", "sigmoid_cross_entropy", "hinge")
FOR_ANY = ("squared_error", "absolute_error", "huber", "poisson")


@dataclass(frozen=True)
class Targets:
    """What one of `LOSSES` by name is given for targets: of so many classes, or numbers of that mean and sd.

    `smoothing` s makes the target of a class (1 - s) and shares s among all, where the loss takes a distribution.
    Raises ValueError for a loss that is for classes where there are none, for an s outside [0, 1), and for smoothing
    where there is nothing to smooth.
    """

    loss: str
    classes: int = 0
    smoothing: Number = 0.0
    mean: float = 0.0
    sd: float = 1.0

    def __post_init__(self) -> None:
        if not self.classes and self.loss in FOR_CLASSES:
            raise ValueError(f"the loss {self.loss} is for classes; for numbers there are {', '.join(FOR_ANY)}")
        if is_traced(self.smoothing):
            return
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"label_smoothing is {self.smoothing}, but a share from 0 to below 1 is wanted")
        if self.smoothing and (not self.classes or self.loss == "hinge"):
            what = f"the loss {self.loss} has" if self.classes else "numbers have"
            raise ValueError(f"label_smoothing is {self.smoothing}, but {what} no distribution to smooth")

    @classmethod
    def of(cls, loss: str, classes: int, smoothing: float, t: np.ndarray) -> Targets:
        """For training targets t, whose mean and sd are taken where they are numbers to be standardised."""
        if classes or loss == "poisson":
            return cls(loss, classes, smoothing)
        constant = t.min() == t.max()  # whose sd is some rounding of 0
        mean, sd = (t[0], 1.0) if constant else (t.mean(), t.std())
        return cls(loss, classes, smoothing, float(mean), float(sd))

    @property
    def outputs(self) -> int:
        """How many the network has."""
        return self.classes or 1

    def encode(self, t: np.ndarray) -> np.ndarray:
        """Targets [N] as the loss wants them, [N, m], or [N] for labels."""
        if not self.classes:
            return (t[:, None] - self.mean) / self.sd
        if self.loss == "softmax_cross_entropy":
            return t  # which it smooths itself
        one_hot, smoothing = np.eye(self.classes)[t], float(self.smoothing)
        return 2 * one_hot - 1 if self.loss == "hinge" else (1 - smoothing) * one_hot + smoothing / self.classes

    def function(self) -> Loss:
        """The loss itself."""
        return SoftmaxCrossEntropy(self.smoothing) if self.loss == "softmax_cross_entropy" else LOSSES[self.loss]()

    def decode(self, y: np.ndarray) -> np.ndarray:
        """From outputs [N, m] to labels [N], or to numbers [N] in their own unit."""
        if self.classes:
            return y.argmax(axis=1)
        return np.exp(y)[:, 0] if self.loss == "poisson" else y[:, 0] * self.sd + self.mean

    def probabilities(self, y: np.ndarray) -> np.ndarray | None:
        """From outputs [N, m] to those of the classes, [N, m]; None where the loss gives outputs no such meaning.

        Those of sigmoid_cross_entropy are each class's own, and need not sum to 1.
        """
        from scipy.special import expit, softmax

        meaning = {"cross_entropy": lambda y: y, "softmax_cross_entropy": lambda y: softmax(y, axis=1)}
        meaning["sigmoid_cross_entropy"] = expit
        return meaning[self.loss](y) if self.classes and self.loss in meaning else None

"""Predictions of the next tokens of text, and their scores."""

from __future__ import annotations

from math import exp, log
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from jaxann.data.targets import TokenTargets


class TokenPredictions(NamedTuple):
    """The predictions at N positions of text, beside the truth.

    Attributes:
        t: [N], the next tokens.
        values: [N], the tokens that were the most likely ones.
        log_likelihoods: [N], the logarithm of the probability of each next token.
        characters_per_token: The mean number of characters of a token.
    """

    t: np.ndarray
    values: np.ndarray
    log_likelihoods: np.ndarray
    characters_per_token: float

    @classmethod
    def from_outputs(cls, targets: TokenTargets, t: Array | np.ndarray, y: Any) -> TokenPredictions:
        """Makes the predictions from what `evaluate_tokens` returns.

        Args:
            targets: The encoding of the targets.
            t: [W, T], the next tokens in W windows.
            y: [W, T, 2], for each position the logarithm of the next token's probability, and the most likely token.

        Raises:
            FloatingPointError: If a logarithm is not finite.
        """
        values, log_likelihoods = targets.decode(np.asarray(y)), np.asarray(y)[..., 0].astype(float)
        return cls(np.ravel(t), np.ravel(values), np.ravel(log_likelihoods), targets.characters_per_token)

    @classmethod
    def from_frequencies(cls, targets: TokenTargets, train: Any, t: Array | np.ndarray) -> TokenPredictions:
        """Makes the predictions of the baseline, which gives every token its frequency in the training part.

        Args:
            targets: The encoding of the targets.
            train: The next tokens in the training part. One is added to the count of every token.
            t: [W, T], the next tokens in the windows to predict.
        """
        counts = np.bincount(np.ravel(train), minlength=targets.classes) + 1
        t = np.ravel(t)
        log_likelihoods = np.log(counts / counts.sum())[t]
        return cls(t, np.full(len(t), counts.argmax()), log_likelihoods, targets.characters_per_token)

    @property
    def loss(self) -> float:
        """The mean of -log p(next token)."""
        return -float(self.log_likelihoods.mean())


def compute_perplexity(predictions: TokenPredictions) -> float:
    """Returns exp(mean -log p), the number of equally likely tokens among which it would be as hard to choose."""
    return exp(predictions.loss) if predictions.loss < 700 else float("inf")


def compute_bits(predictions: TokenPredictions) -> float:
    """Returns the mean of -log₂ p for a character, which can be compared between tokenizers.

    Every token counts as the mean number of characters of a token in the whole text.
    """
    return predictions.loss / log(2) / predictions.characters_per_token


def compute_accuracy(predictions: TokenPredictions) -> float:
    """Returns the share of positions where the most likely token is the next one."""
    return float(np.mean(predictions.values == predictions.t))

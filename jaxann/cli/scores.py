"""Scores of a run's network, on its validation part during training and on its test part at the end."""

from __future__ import annotations

import sys
from math import isfinite, nan
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from sklearn.metrics import accuracy_score, r2_score
from tqdm import tqdm

from jaxann.cli.task import Task
from jaxann.data.batches import Examples
from jaxann.training.devices import gather
from jaxann.training.fit import evaluate
from jaxann.training.loop import Row
from jaxann.training.processes import broadcast_from_first, is_first


class Scorer:
    """The score of a task's network, as a function of parameters, examples and their true targets.

    Args:
        task: The task.

    Attributes:
        name: The name of the score in text: accuracy, or R² if the targets are numbers.
        key: The name of the score in files: accuracy or r2.
    """

    def __init__(self, task: Task) -> None:
        classes = ("accuracy", "accuracy", accuracy_score)
        self.name, self.key, self._score = classes if task.data.classes else ("R²", "r2", r2_score)
        self._task = task

    def __call__(self, params: Any, examples: Examples, t: Array | np.ndarray) -> tuple[float, float]:
        """Returns the score and the loss on examples with true targets t [N]; the loss may be infinite.

        Raises:
            FloatingPointError: If an output, a prediction or the score is not finite.
        """
        y, loss = evaluate(self._task.recipe.model, self._task.recipe.loss, params, examples)
        return self.score(t, y, examples.weights), float(loss)

    def show(self, params: Any) -> float:
        """Returns the score on the examples that the progress bar shows, or NaN if it is not finite."""
        try:
            return self(gather(params), *self._task.shown)[0]
        except FloatingPointError:
            return nan

    def score(self, t: Array | np.ndarray, y: Any, weights: Any = None) -> float:
        """Returns the score of outputs y [N, m] for true targets t [N].

        Raises:
            FloatingPointError: If an output, a prediction or the score is not finite.
        """
        targets = self._task.targets
        pair = np.asarray(t), targets.decode(np.asarray(y))
        weights = None if weights is None else np.asarray(weights)  # scikit-learn takes arrays of one kind
        if not targets.classes:  # R² is the same for standardized numbers, whose squares do not overflow
            pair = tuple(targets.encode(numbers)[:, 0] for numbers in pair)
        with np.errstate(all="ignore"):  # the check below reports an overflow
            score = float(self._score(*pair, sample_weight=weights))
        if not isfinite(score):
            raise FloatingPointError(f"expected a finite {self.name}, got {score}")
        return score


class Validator:
    """The evaluation of a run on its validation part, as `train_in_pieces` calls it.

    An evaluation that is not finite cannot be the best one. The first process explains the first such evaluation on
    stderr.

    Args:
        task: The task of the run, which has a validation part.
        scorer: The score of the task.
        criterion: The metric that decides which parameters are best: "loss", or "accuracy" for the score.
    """

    def __init__(self, task: Task, scorer: Scorer, criterion: str) -> None:
        self._task, self._scorer, self._criterion, self._explained = task, scorer, criterion, not is_first()

    def __call__(self, params: Any) -> tuple[float, Row]:
        """Returns the value by which parameters are compared, the higher the better, and the metrics to log."""
        recipe, (examples, t) = self._task.recipe, self._task.shown
        y, loss = evaluate(recipe.model, recipe.loss, gather(params), examples)
        score, problem = nan, ""
        try:
            score = self._scorer.score(t, y, examples.weights)
        except FloatingPointError as error:
            problem = str(error)
        score, loss = broadcast_from_first((score, float(loss)))
        better = score if self._criterion == "accuracy" else -loss
        if not isfinite(better) and not self._explained:
            self._explained = True
            self._explain(problem or self._find_problem(y, loss))
        return better, {"validation_loss": loss, f"validation_{self._scorer.key}": score}

    def _find_problem(self, y: Any, loss: float) -> str:
        """Returns a phrase about the first example whose loss is not finite."""
        examples, t = self._task.shown
        losses = np.asarray(jax.vmap(self._task.recipe.loss.value)(y, jnp.asarray(examples.t)))
        if np.isfinite(losses).all():
            return f"expected a finite mean loss, got {loss}"
        first = int(np.argmin(np.isfinite(losses)))
        return f"expected a finite loss for every example, got {losses[first]} for example {first + 1} of {len(t)}"

    def _explain(self, problem: str) -> None:
        if self._task.targets.loss == "cross_entropy":
            advice = "--loss softmax_cross_entropy computes the same loss without overflow"
        else:
            advice = "a lower --learning-rate, --clip 1 or --precision float64 may help"
        sentence = f"on the validation part, {problem}; such an evaluation does not count as the best ({advice})"
        tqdm.write(sentence, file=sys.stderr)

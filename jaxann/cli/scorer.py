"""Scorers of a run's network: on its validation part during training, and on its test part at the end."""

from __future__ import annotations

import sys
from math import isfinite, nan
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from jaxann.cli.evaluation import evaluate
from jaxann.cli.scores import LOSS, Score, find_score, make_predictions
from jaxann.cli.task import Task
from jaxann.data.batches import Examples
from jaxann.nn.hyperparameters import SettingError
from jaxann.training.devices import gather
from jaxann.training.loop import Row
from jaxann.training.processes import broadcast_from_first, is_first


class Scorer:
    """The score of a task's network, as a function of parameters, examples and their true targets.

    Args:
        task: The task.
        key: The name of the score, as `find_score` takes it: by default the accuracy, or R² if the targets are numbers.

    Attributes:
        metric: The score.
        name: The name of the score in text.
        key: The name of the score in files.

    Raises:
        SettingError: If the score does not fit the targets or the loss, or is not defined on the validation part.
    """

    def __init__(self, task: Task, key: str = "accuracy") -> None:
        self.metric: Score = find_score(key, task.targets)
        self.name, self.key = self.metric.name, self.metric.key
        self._task = task
        if self.key == "roc_auc" and len(np.unique(task.shown[1])) < 2:
            raise SettingError("score", "to be defined (the examples to score are all of one class)", key)

    def __call__(self, params: Any, examples: Examples, t: Array | np.ndarray) -> tuple[float, float]:
        """Returns the score and the loss on examples with true targets t [N]; the loss may be infinite.

        Raises:
            FloatingPointError: If an output, a prediction or the score is not finite.
        """
        y, loss = evaluate(self._task.recipe.model, self._task.recipe.loss, params, examples)
        return self.score(t, y, examples.weights, loss), float(loss)

    def show(self, params: Any) -> float:
        """Returns the score on the examples that the progress bar shows, or NaN if it is not finite."""
        try:
            return self(gather(params), *self._task.shown)[0]
        except FloatingPointError:
            return nan

    def score(self, t: Array | np.ndarray, y: Any, weights: Any = None, loss: Any = nan) -> float:
        """Returns the score of outputs y [N, m] for true targets t [N].

        Args:
            t: The true targets, as labels or in the unit of the data.
            y: The outputs, as `evaluate` returns them.
            weights: [N], how much each example counts; None if all count alike.
            loss: The mean loss, which is returned if it is the score.

        Raises:
            FloatingPointError: If an output, a prediction or the score is not finite.
        """
        predictions = make_predictions(self._task.targets, t, y, weights)
        if self.metric is not LOSS:
            return self.metric.measure(predictions)
        if not isfinite(loss):
            raise FloatingPointError(f"expected a finite mean loss, got {float(loss)}")
        return float(loss)


class Validator:
    """The evaluation of a run on its validation part, as `train_in_pieces` calls it.

    An evaluation that is not finite cannot be the best one. The first process explains the first such evaluation on
    stderr.

    Args:
        task: The task of the run, which has a validation part.
        scorer: The scorer of the task whose score is logged.
        criterion: The name of the score that decides which parameters are best; it is logged, too.

    Attributes:
        shown: The name of the score that the progress bar shows: that of the criterion, unless it is the loss.

    Raises:
        SettingError: If the score does not fit the targets or the loss, or is not defined on the validation part.
    """

    def __init__(self, task: Task, scorer: Scorer, criterion: str) -> None:
        self._task, self._scorer, self._explained = task, scorer, not is_first()
        self._criterion = Scorer(task, criterion)
        self.shown = scorer.key if self._criterion.metric is LOSS else self._criterion.key

    def __call__(self, params: Any) -> tuple[float, Row]:
        """Returns the value by which parameters are compared, the higher the better, and the metrics to log."""
        recipe, (examples, t) = self._task.recipe, self._task.shown
        y, loss = evaluate(recipe.model, recipe.loss, gather(params), examples)
        scores, problem = {LOSS.key: float(loss)}, ""
        for scorer in (self._scorer, self._criterion):
            if scorer.metric is LOSS:
                continue
            try:
                scores[scorer.key] = scorer.score(t, y, examples.weights)
            except FloatingPointError as error:
                scores[scorer.key], problem = nan, str(error)
        scores = dict(zip(scores, broadcast_from_first(tuple(scores.values())), strict=True))
        better = self._criterion.metric.orient(scores[self._criterion.key])
        if not isfinite(better) and not self._explained:
            self._explained = True
            self._explain(problem or self._find_problem(y, scores[LOSS.key]))
        return better, {f"validation_{key}": score for key, score in scores.items()}

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

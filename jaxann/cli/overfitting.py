"""Overfitting: whether a network fits its training part better than new examples, and what may help."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxann.cli.evaluation import compute_outputs
from jaxann.cli.networks import NETWORKS
from jaxann.cli.scorer import Scorer
from jaxann.cli.settings import Settings
from jaxann.cli.task import Task
from jaxann.data.batches import Examples
from jaxann.data.targets import Targets

GAP = 0.05  # least difference of the scores that counts
DEVIATIONS = 3.0  # standard errors by which the mean errors must differ, so that few test examples give no false alarm
EXAMPLES = 10_000  # training examples that are scored at most


def describe_overfitting(task: Task, params: Any, y: Any, scorer: Scorer, settings: Settings) -> list[str]:
    """Compares the training part with the test part, and says what to try where their scores part.

    They part where the training score is higher by at least 0.05, and this is no accident of which examples were drawn:
    the mean errors differ by at least three standard errors. The error of an example is 0 or 1 for a class, and the
    squared difference for a number.

    Args:
        task: The task of the run.
        params: The parameters that are scored.
        y: [N, m], the outputs for the test part.
        scorer: The scorer of the task, of accuracy or R².
        settings: The settings of the run; what they have already is not suggested.

    Returns:
        One line, or none.
    """
    train, test = task.data.train, task.data.test
    weights = None if train.weights is None else train.weights[:EXAMPLES]
    part = Examples(train.x[:EXAMPLES], train.t[:EXAMPLES], weights)
    try:
        fitted = compute_outputs(task, params, part)
        scores = scorer.score(part.t, fitted, weights), scorer.score(test.t, y, test.weights)
        errors = find_errors(task.targets, part.t, fitted), find_errors(task.targets, test.t, y)
    except FloatingPointError:
        return []
    (low, low_variance), (high, high_variance) = map(average, errors, (weights, test.weights))
    if scores[0] - scores[1] < GAP or high - low < DEVIATIONS * np.sqrt(low_variance + high_variance):
        return []
    gap = f"{scorer.name} is {scores[0]:.3f} on the training part, but {scores[1]:.3f} on held-out examples"
    return [f"The network overfits: {gap}. Try {suggest_remedies(settings)}."]


def find_errors(targets: Targets, t: Any, y: Any) -> np.ndarray:
    """Returns the error of each example [N]: whether its class is wrong, or the squared difference of its number.

    Raises:
        FloatingPointError: If an output or a prediction is not finite.
    """
    values = targets.decode(np.asarray(y))
    if targets.classes:
        return (values != np.asarray(t)).astype(float)
    with np.errstate(over="ignore"):
        return (targets.encode(values) - targets.encode(np.asarray(t)))[:, 0] ** 2


def average(errors: np.ndarray, weights: Any) -> tuple[float, float]:
    """Returns the weighted mean of errors [N], and the variance of that mean."""
    shares = np.ones(len(errors)) if weights is None else np.asarray(weights, float)
    shares = shares / shares.sum()
    mean = float(shares @ errors)
    return mean, float(shares**2 @ (errors - mean) ** 2)


def suggest_remedies(settings: Settings) -> str:
    """Returns a phrase with the flags that may help and are not set yet."""
    own, remedies = NETWORKS[settings.network].settings, []
    if "dropout" in own and settings.hidden and not settings.dropout:
        remedies.append("--dropout 0.2")
    if not settings.weight_decay:
        remedies.append("--weight-decay 0.01")
    if "hidden" in own and settings.hidden:
        remedies.append("fewer --hidden units")
    if NETWORKS[settings.network].preset == "images" and not settings.crop:
        remedies.append("--crop 1")
    if settings.patience is None:
        remedies.append("--validation 0.2 with --patience 20")
    *others, last = remedies or ["more examples"]
    return f"{', '.join(others)} or {last}" if others else last

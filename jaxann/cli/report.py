"""The report of a run: the scores of the best parameters on the test part, beside those of a baseline."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from jaxann.cli.evaluation import compute_outputs
from jaxann.cli.overfitting import describe_overfitting
from jaxann.cli.scorer import Scorer
from jaxann.cli.scores import (
    Score,
    find_constant,
    find_shares,
    list_scores,
    make_predictions,
    name_score,
    predict_constants,
)
from jaxann.cli.settings import Settings
from jaxann.cli.task import Task
from jaxann.data.splits import Dataset
from jaxann.data.targets import Targets
from jaxann.nn.table import format_table
from jaxann.nn.text import make_printable, shorten
from jaxann.runs.files import finite_or_none
from jaxann.runs.record import Record
from jaxann.training.devices import gather
from jaxann.training.loop import Progress


def score_test(
    task: Task, progress: Progress, scorer: Scorer, record: Record | None, settings: Settings
) -> tuple[float, list[str]]:
    """Scores the best parameters on the test part, and ends the record.

    Returns:
        The score, and the lines of its report: all scores beside those of a baseline, for classes the confusion matrix,
        and a line where the network fits the training part better.

    Raises:
        FloatingPointError: If the score is not finite; then the record is complete except for the scores.
    """
    data, targets, score, problem = task.data, task.targets, nan, None
    counts = predictions = None
    scores: dict[str, dict[str, float]] = {}
    advice: list[str] = []
    if record is not None:
        record.save(progress)  # before anything that may fail
    params = gather(progress.best)
    try:
        y = compute_outputs(task, params, data.test)
        score = scorer.score(data.test.t, y, data.test.weights)
        scores = measure_scores(targets, data, y)
        decoded = targets.decode(np.asarray(y))
        if targets.kind == "classes":
            counts = confusion_matrix(data.test.t, decoded, labels=range(len(data.classes)))
        elif targets.kind == "numbers":
            predictions = np.asarray(data.test.t), decoded, data.test.weights
        # The positions of a text depend on one another, so that the standard errors of a comparison are unknown.
        if targets.kind != "text":
            advice = describe_overfitting(task, params, y, scorer, settings)
    except FloatingPointError as error:
        problem = FloatingPointError(f"on the test part, {error}")
    if record is not None:
        result = describe_result(int(progress.state.epoch), progress.best_epoch, scorer.key, score, scores)
        pictures: Any = {"predictions": predictions, "target": data.target}
        record.end(progress, result, counts, data.classes, plots=settings.plots, **pictures)
    if problem is not None:
        raise problem
    parameters = "" if data.validation is None else f", the parameters of epoch {progress.best_epoch}"
    noun = "windows" if targets.kind == "text" else "examples"
    lines = [f"held-out {scorer.name}: {score:.3f} ({len(data.test.t)} {noun}{parameters})"]
    lines += format_scores(scores, list_scores(targets), data.classes)
    lines += describe_baseline(targets, data)
    if counts is not None:
        lines += format_confusion(counts, data.classes)
    return score, [*lines, *advice]


def describe_result(
    epoch: int, best_epoch: int, key: str, score: float, scores: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """Returns the content of a run's result.json.

    Args:
        epoch: The last epoch of the run.
        best_epoch: The epoch after which it had the parameters that are scored.
        key: The name of the score in files.
        score: The score on the test part.
        scores: All scores on the test part, as `measure_scores` returns them.
    """
    finite = {name: {who: finite_or_none(value) for who, value in pair.items()} for name, pair in scores.items()}
    return {"epoch": epoch, "best_epoch": best_epoch, key: finite_or_none(score), "scores": finite}


def measure_scores(targets: Targets, data: Dataset, y: Any) -> dict[str, dict[str, float]]:
    """Measures all scores that fit the targets on the test part.

    Args:
        targets: The encoding of the targets.
        data: The parts of the dataset.
        y: The outputs of the network for the test part, as `compute_outputs` returns them.

    Returns:
        For each score, by its name in files, that of the "network" and that of the "baseline" of `predict_constants`;
        NaN where a score is not defined.

    Raises:
        FloatingPointError: If an output or a prediction is not finite.
    """
    test = data.test
    network = make_predictions(targets, test.t, y, test.weights)
    baseline = predict_constants(targets, data.train, np.asarray(test.t), test.weights)
    return {
        score.key: {
            "network": score.measure_or_nan(network),
            "baseline": score.measure_or_nan(baseline[score.key]),
        }
        for score in list_scores(targets)
    }


def format_scores(values: dict[str, dict[str, float]], scores: list[Score], classes: tuple[str, ...]) -> list[str]:
    """Returns the lines of a table with a row for each score: that of the network, and that of the baseline."""
    rows: list[tuple[str, ...]] = [("score", "network", "baseline")]
    for score in scores:
        pair = (values[score.key][name] for name in ("network", "baseline"))
        cells = (score.format(value) if np.isfinite(value) else "-" for value in pair)
        rows.append((name_score(score, [make_printable(shorten(name)) for name in classes]), *cells))
    return format_table(rows, right=(1, 2)).splitlines()


def describe_baseline(targets: Targets, data: Dataset) -> list[str]:
    """Returns a line that says what the baseline predicts."""
    if targets.kind == "text":
        return ["The baseline gives each token its frequency in the training part."]
    if targets.classes:
        frequent = make_printable(shorten(data.classes[find_shares(targets, data.train).argmax()]))
        return [f"The baseline always predicts the most frequent class of the training part, {frequent}."]
    mean, median = (find_constant(data.train, statistic) for statistic in ("mean", "median"))
    return [f"The baseline predicts the training part's mean, {mean:.4g}, or for the MAE its median, {median:.4g}."]


def format_confusion(counts: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    """Returns the lines of a confusion matrix.

    Args:
        counts: [m, m], a row for each true class.
        classes: The names of the m classes.
    """
    lines = ["confusion matrix (a row for each true class, a column for each predicted one):"]
    names = list(map(make_printable, classes))
    width = max(map(len, names))
    for name, row in zip(names, counts, strict=True):
        lines.append(" ".join([f"  {name:>{width}}", *(f"{count:4d}" for count in row)]))
    return lines

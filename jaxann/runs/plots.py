"""Pictures of runs: the curves and the predictions of one run, the scores of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxann.gradcheck.style import (
    BLUE,
    GREY,
    INK,
    NOTE_SIZE,
    PALE,
    PALETTE,
    VERMILION,
    describe_band,
    draw_band,
    label_lines,
    make_figure,
    scale_logarithmically,
    spell,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASSES = 30  # of a confusion matrix with numbers and names in it
MAX_TICKS = 10  # values of a setting, up to which every one has its own tick
MAX_MARKERS = 30  # points of a curve, up to which every one is marked
MAX_POINTS = 5000  # of true and predicted numbers
ERRORS = ("mae", "rmse")  # scores of which a lower one is better, in the unit of the data
FULL_COLOR = 0.2  # the share of a class from which a wrong prediction has the full color


def plot_curves(rows: Sequence[Mapping[str, Any]], best_epoch: int | None = None) -> Figure:
    """Draws the metrics of a run over its epochs: losses on the left, then scores such as the accuracy, then errors.

    Args:
        rows: The metrics as a run logs them: for each epoch a mapping with "epoch", "loss" and, where the run was
            evaluated, other names.
        best_epoch: The epoch to mark, whose parameters are kept; by default the one of lowest validation loss.

    Returns:
        The figure; the losses have a logarithmic scale where all of them are above 0.

    Raises:
        ValueError: If there are no rows.
        ImportError: If matplotlib is missing.
    """
    if not rows:
        raise ValueError("expected the metrics of at least one epoch, got none")
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "epoch"]
    curves = {name: {row["epoch"]: row[name] for row in rows if row.get(name) is not None} for name in names}
    curves = {name: curve for name, curve in curves.items() if curve}  # null stands for a number that was not finite
    evaluated = curves.get("validation_loss", {})
    if best_epoch not in evaluated:
        best_epoch = min(evaluated, key=lambda epoch: evaluated[epoch], default=None)
    panels: list[dict[str, Mapping[int, float]]] = [{}, {}, {}]
    for name, curve in curves.items():
        panels[0 if name.endswith("loss") else 2 if name.endswith(ERRORS) else 1][name] = curve
    panels = [panel for panel in panels if panel]
    figure = make_figure(5.5 * len(panels), 3.6)
    for number, panel in enumerate(panels):
        # All panels but the first skip the first color, so that the validation part has the same color in all of them.
        _draw_curves(figure.add_subplot(1, len(panels), number + 1), panel, best_epoch, PALETTE[min(number, 1) :])
    return figure


def _draw_curves(
    axes: Axes, curves: Mapping[str, Mapping[int, float]], best_epoch: int | None, colors: Sequence[str]
) -> None:
    lines = {}
    for i, (name, curve) in enumerate(curves.items()):
        color, marker = colors[i % len(colors)], "." if len(curve) <= MAX_MARKERS else ""
        (line,) = axes.plot(list(curve), list(curve.values()), color=color, marker=marker, linewidth=1.5)
        line.set_label(_spell_metric(name))
        lines[line] = _spell_metric(name)
        if best_epoch is not None and best_epoch in curve and name.startswith("validation"):
            axes.scatter([best_epoch], [curve[best_epoch]], color=color, zorder=3)
    if best_epoch is not None:
        axes.axvline(best_epoch, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    first = next(iter(curves))
    is_loss = first.endswith("loss")
    if is_loss and all(value > 0 for curve in curves.values() for value in curve.values()):
        scale_logarithmically(axes, "y")
    y = "loss" if is_loss else " and ".join(_spell_metric(name.removeprefix("validation_")) for name in curves)
    subject = next((name for name in curves if name.startswith("validation")), first)
    style_axes(axes, _describe_curve(subject, curves[subject], best_epoch), "epoch", y)
    label_lines(axes, lines)


def _describe_curve(name: str, curve: Mapping[int, float], best_epoch: int | None) -> str:
    """Returns what a curve shows, as a title: its value at the best epoch, and whether that is the best of all."""
    subject = _spell_metric(name)
    subject = subject[0].upper() + subject[1:]
    if best_epoch is None or best_epoch not in curve:
        *_, last = curve.values()
        return f"{subject} is {last:.3g} after {max(curve)} epochs"
    extreme, best = ("lowest", min) if name.endswith(("loss", *ERRORS)) else ("highest", max)
    value = curve[best_epoch]
    if value == best(curve.values()):
        return f"{subject} is {extreme} at epoch {best_epoch} ({value:.3g})"
    return f"{subject} is {value:.3g} at epoch {best_epoch}"


def _spell_metric(name: str) -> str:
    if name == "loss":
        return "training loss"
    score = name.removeprefix("validation_")
    names = {"r2": "R²", "roc_auc": "ROC AUC", "f1": "F1", "mae": "MAE", "rmse": "RMSE"}
    return spell(f"{name[: len(name) - len(score)]}{names.get(score, score)}")


def plot_confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draws a confusion matrix: right predictions in blue, wrong ones in orange, darker for a larger share of a class.

    Args:
        counts: [m, m], a row for each true class and a column for each predicted one.
        classes: The names of the m classes.

    Returns:
        The figure, with the counts in it where there are at most 30 classes.

    Raises:
        ImportError: If matplotlib is missing.
    """
    names = [spell(name, limit=20) for name in classes]
    size = 2.8 + 0.36 * min(len(classes), MAX_CLASSES)
    figure = make_figure(size + 0.07 * max(map(len, names)), size)
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm

    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    signed = np.where(np.eye(len(counts), dtype=bool), shares, -shares)  # wrong predictions count below 0
    colors = LinearSegmentedColormap.from_list("wrong to right", [VERMILION, "white", BLUE])
    axes.imshow(signed, norm=TwoSlopeNorm(0, min(-FULL_COLOR, signed.min()), 1), cmap=colors)
    if len(classes) <= MAX_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            wrong, dark = row != column and count, row == column and shares[row, column] > 0.5
            style: dict[str, Any] = {
                "color": "white" if dark else INK if count else GREY,
                "weight": "bold" if wrong else "normal",
            }
            axes.text(column, row, str(count), ha="center", va="center", size=NOTE_SIZE, **style)
    turned = {"rotation": 45, "ha": "right"} if max(map(len, names)) > 3 else {}
    axes.set_xticks(range(len(names)), names, **turned)
    axes.set_yticks(range(len(names)), names)
    title = f"{int(np.trace(counts))} of {int(counts.sum())} predictions are right"
    style_axes(axes, title, "predicted", "true", grid=False)
    return figure


def plot_predictions(t: np.ndarray, predicted: np.ndarray, target: str, weights: np.ndarray | None = None) -> Figure:
    """Draws predicted numbers against the true ones, with a line where both are equal.

    Args:
        t: [N], the true numbers.
        predicted: [N], the predicted numbers.
        target: The name of the target.
        weights: [N], how much each example counts in the title's mean; None if all count alike.

    Returns:
        The figure, with at most 5000 points: the first ones.

    Raises:
        ImportError: If matplotlib is missing.
    """
    t, predicted = np.asarray(t, float), np.asarray(predicted, float)
    unit = max(np.abs(t).max(), np.abs(predicted).max()) or 1.0  # so that no difference or sum overflows
    error = np.average(np.abs(t / unit - predicted / unit), weights=weights) * unit
    figure = make_figure(4.6, 4.2)
    axes = figure.subplots()
    few = len(t) <= 200
    axes.scatter(t[:MAX_POINTS], predicted[:MAX_POINTS], s=18 if few else 8, alpha=0.6, color=BLUE, linewidths=0)
    ends = [min(t.min(), predicted.min()), max(t.max(), predicted.max())]
    axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    name = spell(target, limit=20)
    note = f"the first {MAX_POINTS:,} of {len(t):,} examples" if len(t) > MAX_POINTS else ""
    title = f"Predictions of {name} are off by {error:.3g} on average"
    style_axes(axes, title, f"true {name}", f"predicted {name}", note=note)
    return figure


def plot_scores(
    lines: Mapping[str, Mapping[Any, Sequence[float]]], x: str, y: str, *, lower_is_better: bool = False
) -> Figure:
    """Draws scores over the values of a setting, with a line and a band for each combination of the other settings.

    Args:
        lines: For each combination, by its name, the scores of its seeds at each value of the setting. A value without
            scores is left out.
        x: The name of the setting.
        y: The name of the score.
        lower_is_better: Whether a lower score is better, as of a loss.

    Returns:
        The figure. The axis of the setting is logarithmic if no value is below 0 and the values above 0 span more than
        a factor of 10. Values that are not numbers are evenly spaced. If there are more than six combinations, only the
        six with the best scores have colors and names.

    Raises:
        ImportError: If matplotlib is missing.
    """
    scores = {name: {value: np.asarray(s) for value, s in line.items() if len(s)} for name, line in lines.items()}
    sign = -1 if lower_is_better else 1
    best = {name: max((sign * s.mean() for s in line.values()), default=-np.inf) for name, line in scores.items()}
    colors = dict(zip(sorted(best, key=lambda name: -best[name]), PALETTE, strict=False))
    values = list(dict.fromkeys(value for line in lines.values() for value in line))
    numeric = all(isinstance(value, (int, float)) for value in values)
    values = sorted(values) if numeric else values
    places = dict(zip(values, values if numeric else range(len(values)), strict=True))
    figure = make_figure(7.5, 4.2)
    axes = figure.subplots()
    drawn = {}
    for name, line in scores.items():
        shown = [value for value in values if value in line]
        means = np.array([line[value].mean() for value in shown])
        deviations = np.array([line[value].std(ddof=1) if len(line[value]) > 1 else 0.0 for value in shown])
        style = {"color": colors.get(name, PALE), "marker": ".", "zorder": 2.5 if name in colors else 2}
        deviations = deviations if name in colors else 0 * deviations
        drawn[name] = draw_band(axes, [places[value] for value in shown], means, deviations, **style)
        drawn[name].set_label(spell(name))
    positive = [value for value in values if value > 0] if numeric and min(values) >= 0 else []
    if positive and max(positive) > 10 * min(positive):
        scale_logarithmically(axes, "x", min(positive) if len(positive) < len(values) else None)
    if not numeric or len(values) <= MAX_TICKS:
        axes.set_xticks(list(places.values()), [spell(str(value)) for value in values])
        axes.minorticks_off()
    others = len(scores) - len(colors)
    band = describe_band([len(s) for line in scores.values() for s in line.values()])
    notes = [*([band] if band else []), *([f"{others} others are gray"] if others else [])]
    style_axes(axes, _describe_scores(scores, x, y, sign), spell(x), spell(y), note="; ".join(notes))
    if len(scores) > 1:
        label_lines(axes, {drawn[name]: spell(name) for name in colors if scores[name]})
    return figure


def _describe_scores(scores: Mapping[str, Mapping[Any, np.ndarray]], x: str, y: str, sign: int) -> str:
    """Returns which point of all lines has the best mean, as a title; the lowest is the best if the sign is -1."""
    points = {(name, value): s.mean() for name, line in scores.items() for value, s in line.items()}
    if not points:
        return f"No {spell(y)}: every network diverged"
    name, value = max(points, key=lambda point: sign * points[point])
    settings = ", ".join([f"{spell(x)} {spell(str(value))}", *([spell(name)] if name else [])])
    extreme, shown = "lowest" if sign < 0 else "highest", points[name, value]
    text = f"{shown:.3f}" if abs(shown) < 1000 else f"{shown:.4g}"
    return f"{spell(y[0].upper() + y[1:])} is {extreme} at {settings} ({text})"

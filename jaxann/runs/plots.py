"""Pictures. They need matplotlib, which the extra `plots` installs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxann.gradcheck.style import make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANY = 30  # classes, beyond which a confusion matrix has no room for numbers
TICKS = 10  # values of a setting, up to which each has its own


def plot_curves(rows: list[dict[str, Any]]) -> Figure:
    """The metrics of a run over its epochs: losses to the left, on a logarithmic scale, scores to the right.

    `rows` as a run logs them: a dict an epoch with "epoch", "loss" and, where it was evaluated, others. Raises
    ImportError as `picture` does and ValueError without rows.
    """
    if not rows:
        raise ValueError("the run has no metrics to draw")
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "epoch"]
    sides = [[name for name in names if name.endswith("loss")], [name for name in names if not name.endswith("loss")]]
    figure = make_figure(figsize=(5 * len([side for side in sides if side]), 3.5), layout="constrained")
    for panel, side in enumerate(filter(None, sides)):
        axes = figure.add_subplot(1, sum(map(bool, sides)), panel + 1)
        for name in side:
            seen = [(row["epoch"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*seen, strict=True), ".-" if len(seen) < 30 else "-", label=name, linewidth=1)
        axes.set_xlabel("epoch")
        axes.legend()
        if side is sides[0] and all(row[name] > 0 for row in rows for name in side if name in row):
            axes.set_yscale("log")
    return figure


def plot_confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """The confusion matrix [m, m]: a row for each true class, a column for each predicted one.

    Raises ImportError as `picture` does.
    """
    size = 2.5 + 0.4 * min(len(classes), MANY)
    figure = make_figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), vmin=0, vmax=1, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts) if len(classes) <= MANY else ():
        dark = count > 0.5 * counts[row].sum()
        axes.text(column, row, str(count), ha="center", va="center", size=8, color="white" if dark else "black")
    names = [name.replace("$", r"\$")[:20] for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def plot_scores(lines: Mapping[str, Mapping[Any, Sequence[float]]], x: str, y: str) -> Figure:
    """Scores y over a setting x: a line for each name, with the mean of the scores at each value, and ± one sd.

    The scale is logarithmic where the values are numbers of at least 0 and those above 0 span more than a factor of 10;
    values that are no numbers stand side by side. Those without scores are left out. Raises ImportError as `picture`
    does.
    """
    values = list(dict.fromkeys(value for line in lines.values() for value in line))
    numeric = all(isinstance(value, (int, float)) for value in values)
    values = sorted(values) if numeric else values
    places = dict(zip(values, values if numeric else range(len(values)), strict=True))
    figure = make_figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, line in lines.items():
        points = [(places[value], np.array(line[value])) for value in values if len(line.get(value, ()))]
        at, mean = [place for place, _ in points], np.array([scores.mean() for _, scores in points])
        sd = np.array([scores.std(ddof=1) if len(scores) > 1 else 0 for _, scores in points])
        (drawn,) = axes.plot(at, mean, ".-", label=name.replace("$", r"\$"), linewidth=1)
        axes.fill_between(at, mean - sd, mean + sd, color=drawn.get_color(), alpha=0.15, linewidth=0)
    positive = [value for value in values if value > 0] if numeric and min(values) >= 0 else []
    if positive and max(positive) > 10 * min(positive):
        linear = {"linthresh": min(positive)} if len(positive) < len(values) else {}  # as far as from 0 to the first
        axes.set_xscale("symlog" if linear else "log", **linear)
    if not numeric or len(values) <= TICKS:
        axes.set_xticks(list(places.values()), [str(value).replace("$", r"\$") for value in values])
        axes.minorticks_off()
    axes.set(xlabel=x, ylabel=y)
    if len(lines) > 1:
        axes.legend(fontsize=7)
    return figure

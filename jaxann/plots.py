"""Pictures. They need matplotlib, which the extra `plots` installs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxann.report import RIGHT, Report, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 30  # classes, beyond which a confusion matrix has no room for numbers
TICKS = 10  # values of a setting, up to which each has its own


def picture(report: Report, path: str | None = None) -> Figure:
    """Two panels: log10 of the float64 error of each layer's leaves, and one gradient by hand against autodiff's.

    The one at `path`; without it the most wrong of those that are wrong, or else of all. `savefig` stores it. Raises
    ImportError, with how to install it, without matplotlib, KeyError for a path that the report does not have, and
    ValueError for a report without rows.
    """
    if not report.rows:
        raise ValueError("the report has no rows to draw")
    shown = [row for row in report.rows if not row.whole or row.verdict != RIGHT]
    comparable = [row for row in shown if row.by_hand.size] or shown
    worst = max(comparable, key=lambda row: (row.verdict != RIGHT, np.nan_to_num(row.float64)))
    layers = list(dict.fromkeys(_place(row)[0] for row in shown))
    figure = _figure(figsize=(10, 2 + 0.3 * len(layers)), layout="constrained")
    errors, scatter = figure.subplots(1, 2)
    _errors(errors, shown, layers)
    _scatter(scatter, report[path] if path is not None else worst)
    return figure


def _place(row: Row) -> tuple[str, str]:
    """A layer's path and name, and the leaf's name in it."""
    path, _, leaf = row.path.rpartition(".")
    return f"{path} {row.of}".strip().replace("$", r"\$"), leaf.replace("$", r"\$")


def _errors(axes: Axes, rows: list[Row], layers: list[str]) -> None:
    leaves = list(dict.fromkeys(_place(row)[1] for row in rows))
    errors = np.full((len(layers), len(leaves)), np.nan)
    for row in rows:
        layer, leaf = _place(row)
        place = layers.index(layer), leaves.index(leaf)
        errors[place] = np.log10(np.clip(row.float64, 1e-17, 1e3))
        text = row.verdict if np.isnan(row.float64) else f"{errors[place]:.0f}"
        bold = "normal" if row.verdict == RIGHT else "bold"
        axes.text(place[1], place[0], text, ha="center", va="center", weight=bold, size=8)
    image = axes.imshow(errors, vmin=-17, vmax=1, cmap="RdYlGn_r", aspect="auto")
    axes.set_xticks(range(len(leaves)), leaves)
    axes.set_yticks(range(len(layers)), [layer[:40] for layer in layers], size=8)
    axes.set_title("log₁₀ of max|a - b| / max|b|, float64", size=10)
    axes.figure.colorbar(image, ax=axes)


def _scatter(axes: Axes, row: Row) -> None:
    axes.plot(row.automatic.ravel(), row.by_hand.ravel(), ".", markersize=3)
    ends = [row.automatic.min(initial=0), row.automatic.max(initial=0)]
    axes.plot(ends, ends, color="grey", linewidth=0.8, zorder=0)
    axes.set_xlabel("autodiff")
    axes.set_ylabel("by hand")
    axes.set_title(f"{row.path} of {row.of}"[:50].replace("$", r"\$") + f": {row.verdict}", size=10)


def curves(rows: list[dict[str, Any]]) -> Figure:
    """The metrics of a run over its epochs: losses to the left, on a logarithmic scale, scores to the right.

    `rows` as a run logs them: a dict an epoch with "epoch", "loss" and, where it was evaluated, others. Raises
    ImportError as `picture` does and ValueError without rows.
    """
    if not rows:
        raise ValueError("the run has no metrics to draw")
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "epoch"]
    sides = [[name for name in names if name.endswith("loss")], [name for name in names if not name.endswith("loss")]]
    figure = _figure(figsize=(5 * len([side for side in sides if side]), 3.5), layout="constrained")
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


def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """The confusion matrix [m, m]: a row for each true class, a column for each predicted one.

    Raises ImportError as `picture` does.
    """
    size = 2.5 + 0.4 * min(len(classes), MANY)
    figure = _figure(figsize=(size + 1, size), layout="constrained")
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


def over(lines: Mapping[str, Mapping[Any, Sequence[float]]], x: str, y: str) -> Figure:
    """Scores y over a setting x: a line for each name, with the mean of the scores at each value, and ± one sd.

    The scale is logarithmic where the values are numbers of at least 0 and those above 0 span more than a factor of 10;
    values that are no numbers stand side by side. Those without scores are left out. Raises ImportError as `picture`
    does.
    """
    values = list(dict.fromkeys(value for line in lines.values() for value in line))
    numeric = all(isinstance(value, (int, float)) for value in values)
    values = sorted(values) if numeric else values
    places = dict(zip(values, values if numeric else range(len(values)), strict=True))
    figure = _figure(figsize=(7, 4.5), layout="constrained")
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


def _figure(**settings: Any) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'jaxann[plots]'") from None
    return Figure(**settings)

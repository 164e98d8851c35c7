"""The picture of a gradient check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxann.gradcheck.report import ON_PURPOSE, RIGHT, Report, Row
from jaxann.gradcheck.style import (
    BLUE,
    GREY,
    INK,
    LABEL_SIZE,
    NOTE_SIZE,
    VERMILION,
    label_lines,
    make_figure,
    spell,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST, MOST = 1e-17, 10.0  # errors between which colors differ
DARK = 1e-6  # the error above which text on its color is white


def plot_report(report: Report, path: str | None = None) -> Figure:
    """Draws the float64 error of every layer's gradients, and one handwritten gradient against autodiff's.

    Args:
        report: What a check found.
        path: The path of the gradient on the right. By default it is the gradient of largest error among the wrong
            ones, or else among those that differ on purpose, or else among all.

    Returns:
        A figure of two panels. The errors on the left are max|a - b| / max|b| of a handwritten gradient a and
        autodiff's b; the error of a wrong gradient is framed and bold.

    Raises:
        ValueError: If the report has no rows.
        KeyError: If the report has no gradient at `path`.
        ImportError: If matplotlib is missing.
    """
    if not report.rows:
        raise ValueError("expected a report with at least one row, got none")
    shown = [row for row in report.rows if not row.composite or row.verdict != RIGHT]
    comparable = [row for row in shown if row.handwritten.size] or shown
    worst = max(
        comparable, key=lambda row: (row.path in report.wrong, row.verdict != RIGHT, np.nan_to_num(row.float64))
    )
    chosen = worst if path is None else report[path]
    layers = list(dict.fromkeys(_layer(row) for row in shown))
    figure = make_figure(10, max(3.4, 1.6 + 0.3 * len(layers)))
    errors, comparison = figure.subplots(1, 2)
    _draw_errors(errors, shown, layers)
    purposeful = any(row.verdict == ON_PURPOSE for row in shown)
    note = "; ".join([*(["framed: wrong"] if report.wrong else []), *(["dashed: on purpose"] if purposeful else [])])
    style_axes(errors, _describe_report(report), note=note, grid=False)
    _draw_comparison(comparison, chosen)
    return figure


def _describe_report(report: Report) -> str:
    count, wrong = len(report.rows), len(report.wrong)
    if wrong:
        return f"{wrong} of {count} gradients {'is' if wrong == 1 else 'are'} wrong"
    on_purpose = sum(row.verdict == ON_PURPOSE for row in report.rows)
    if on_purpose:
        differ = "differs" if on_purpose == 1 else "differ"
        return f"{count - on_purpose} of {count} gradients are right, {on_purpose} {differ} on purpose"
    return f"All {count} gradients are right"


def _layer(row: Row) -> str:
    """Returns the path and the name of a gradient's layer."""
    return spell(f"{row.path.rpartition('.')[0]} {row.owner}".strip(), limit=40)


def _leaf(row: Row) -> str:
    """Returns a gradient's own name in its layer."""
    return spell(row.path.rpartition(".")[2])


def _draw_errors(axes: Axes, rows: list[Row], layers: list[str]) -> None:
    """Draws a row for each layer and a column for each gradient in it, darker for a larger error."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.patches import Rectangle

    leaves = list(dict.fromkeys(map(_leaf, rows)))
    errors = np.full((len(layers), len(leaves)), np.nan)
    for row in rows:
        y, x = layers.index(_layer(row)), leaves.index(_leaf(row))
        errors[y, x] = np.clip(row.float64, LEAST, MOST)
        wrong = row.verdict not in (RIGHT, ON_PURPOSE)
        style: dict[str, Any] = {
            "weight": "bold" if wrong else "normal",
            "color": "white" if errors[y, x] > DARK else INK,
        }
        text = row.verdict if np.isnan(row.float64) else f"{row.float64:.1g}"
        axes.text(x, y, text, ha="center", va="center", size=NOTE_SIZE, **style)
        if row.verdict != RIGHT:
            line: dict[str, Any] = (
                {"edgecolor": VERMILION, "linewidth": 2.5} if wrong else {"edgecolor": GREY, "linestyle": "--"}
            )
            axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, fill=False, **line))
    colors = LinearSegmentedColormap.from_list("errors", ["#F4F8FB", BLUE, "#00324F"])
    image = axes.imshow(errors, norm=LogNorm(LEAST, MOST), cmap=colors, aspect="auto")
    axes.set_xticks(range(len(leaves)), leaves)
    axes.set_yticks(range(len(layers)), layers)
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=axes, aspect=30)
    bar.set_label("relative error, float64", size=LABEL_SIZE, color=INK)
    bar.ax.set_yticks([1e-15, 1e-10, 1e-5, 1], ["1e-15", "1e-10", "1e-05", "1"], size=NOTE_SIZE, color=INK)
    bar.ax.tick_params(length=0)
    bar.ax.minorticks_off()
    bar.ax.spines[:].set_visible(False)


def _draw_comparison(axes: Axes, row: Row) -> None:
    """Draws every entry of a handwritten gradient over autodiff's; equal entries lie on the diagonal."""
    autodiff, handwritten = row.autodiff.ravel(), row.handwritten.ravel()
    verdict = "differs on purpose" if row.verdict == ON_PURPOSE else f"is {row.verdict}"
    title = f"{row.path} of {row.owner[:40]} {verdict}"
    style_axes(axes, title, "gradient by autodiff", "handwritten gradient", note=row.diagnosis)
    if not handwritten.size:
        axes.set_axis_off()
        return
    ends = [min(autodiff.min(), handwritten.min()), max(autodiff.max(), handwritten.max())]
    (diagonal,) = axes.plot(ends, ends, color=GREY, linewidth=1)
    axes.plot(autodiff, handwritten, ".", color=BLUE if row.verdict == RIGHT else VERMILION, markersize=5)
    label_lines(axes, {diagonal: "equal"})

"""Pictures. They need matplotlib, which the extra `plots` installs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxann.gradcheck.report import RIGHT, Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from jaxann.gradcheck.style import make_figure


def plot_report(report: Report, path: str | None = None) -> Figure:
    """Two panels: log10 of the float64 error of each layer's leaves, and one gradient by hand against autodiff's.

    The one at `path`; without it the most wrong of those that are wrong, or else of all. `savefig` stores it. Raises
    ImportError, with how to install it, without matplotlib, KeyError for a path that the report does not have, and
    ValueError for a report without rows.
    """
    if not report.rows:
        raise ValueError("the report has no rows to draw")
    shown = [row for row in report.rows if not row.composite or row.verdict != RIGHT]
    comparable = [row for row in shown if row.handwritten.size] or shown
    worst = max(comparable, key=lambda row: (row.verdict != RIGHT, np.nan_to_num(row.float64)))
    layers = list(dict.fromkeys(_place(row)[0] for row in shown))
    figure = make_figure(figsize=(10, 2 + 0.3 * len(layers)), layout="constrained")
    errors, scatter = figure.subplots(1, 2)
    _errors(errors, shown, layers)
    _scatter(scatter, report[path] if path is not None else worst)
    return figure


def _place(row: Row) -> tuple[str, str]:
    """A layer's path and name, and the leaf's name in it."""
    path, _, leaf = row.path.rpartition(".")
    return f"{path} {row.owner}".strip().replace("$", r"\$"), leaf.replace("$", r"\$")


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
    axes.plot(row.autodiff.ravel(), row.handwritten.ravel(), ".", markersize=3)
    ends = [row.autodiff.min(initial=0), row.autodiff.max(initial=0)]
    axes.plot(ends, ends, color="grey", linewidth=0.8, zorder=0)
    axes.set_xlabel("autodiff")
    axes.set_ylabel("by hand")
    axes.set_title(f"{row.path} of {row.owner}"[:50].replace("$", r"\$") + f": {row.verdict}", size=10)

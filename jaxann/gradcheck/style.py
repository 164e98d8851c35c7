"""How every picture of jaxann looks: one palette, one size for each kind of text, titles that say what was found.

Pictures need matplotlib, which the extra `plots` installs; it is imported when the first picture is drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxann.data.extras import require_packages
from jaxann.nn.text import make_printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)  # Okabe and Ito 2008: distinct with any color vision
INK, GREY, PALE, FAINT = "#222222", "#767676", "#C4C4C4", "#E8E8E8"
TITLE_SIZE, LABEL_SIZE, NOTE_SIZE = 11, 9, 8.5  # points
DPI = 110
_TITLE_CHARACTERS, _NOTE_CHARACTERS = 13, 17.5  # how many fit above an inch of axes


def make_figure(width: float | int, height: float | int) -> Figure:
    """Makes an empty figure, to which the functions of this module give the package's style.

    Args:
        width: The width in inches.
        height: The height in inches.

    Returns:
        A figure that lays out its axes so that nothing is cut off; `savefig` stores it. Its text may contain dollar
        signs, as in a class called "$x", which do not begin a formula.

    Raises:
        ImportError: If matplotlib is missing; the message says how to install it.
    """
    require_packages("a picture", "matplotlib.figure")
    return _figure_class()(figsize=(width, height), dpi=DPI, layout="constrained")


@cache
def _figure_class() -> type[Figure]:
    """Returns the class of the figures, which can be defined only where matplotlib is installed."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    class PlainFigure(Figure):
        def draw(self, renderer: Any) -> None:
            for text in self.findobj(Text):  # here, because matplotlib creates some texts only when it draws
                text.set_parse_math(False)
            super().draw(renderer)

        def _repr_png_(self) -> bytes:
            """Returns the picture as Jupyter shows it."""
            stream = BytesIO()
            self.savefig(stream, format="png", dpi="figure")
            return stream.getvalue()

    return PlainFigure


def style_axes(axes: Axes, title: str, x: str = "", y: str = "", *, note: str = "", grid: bool = True) -> None:
    """Gives axes a title, labels, a light grid and spines.

    Args:
        axes: The axes, a subplot of a figure that `make_figure` made.
        title: What the picture shows, as a sentence; it is aligned left and wrapped.
        x: The label of the horizontal axis.
        y: The label of the vertical axis.
        note: A sentence in small print below the title, such as the meaning of a band around a line.
        grid: Whether to draw a grid; an image has a faint frame instead.
    """
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure is not None
    assert place is not None
    width = place.get_position(figure).width * figure.get_figwidth()
    title, note, x, y = (make_printable(text, keep="\n") for text in (title, note, x, y))
    title, note = _wrap(title, width * _TITLE_CHARACTERS), _wrap(note, width * _NOTE_CHARACTERS)
    lines = note.count("\n") + 1 if note else 0
    pad = 8 + 1.2 * NOTE_SIZE * lines + (3 if note else 0)
    axes.set_title(title, loc="left", size=TITLE_SIZE, weight="bold", color=INK, pad=pad)
    if note:
        offset = {"xytext": (0, 6), "textcoords": "offset points", "annotation_clip": False}
        axes.annotate(note, (0, 1), xycoords="axes fraction", size=NOTE_SIZE, color=GREY, **offset)
    axes.set_xlabel(x, size=LABEL_SIZE, color=INK)
    axes.set_ylabel(y, size=LABEL_SIZE, color=INK)
    axes.tick_params(which="both", labelsize=NOTE_SIZE, labelcolor=INK, color=GREY, length=3 if grid else 0)
    axes.spines[:].set_color(GREY if grid else FAINT)
    if grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=FAINT, linewidth=0.7)
        axes.set_axisbelow(True)


def _wrap(text: str, characters: float) -> str:
    """Breaks text into as few lines as have room, of nearly equal length."""
    count = max(len(textwrap.wrap(text, int(characters))), 1)
    shortest = next(n for n in range(len(text) // count, len(text) + 2) if len(textwrap.wrap(text, n + 1)) <= count)
    return "\n".join(textwrap.wrap(text, shortest + 1))


def scale_logarithmically(axes: Axes, axis: Literal["x", "y"], linear_below: float | int | None = None) -> None:
    """Gives an axis a logarithmic scale whose ticks are plain numbers: 0.1, 0.2, 0.5, 1.

    Args:
        axes: The axes, after their data were drawn.
        axis: Which of the two axes.
        linear_below: The value below which the scale is linear, for data with a 0; by default there is none.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    scale = {"value": "log"} if linear_below is None else {"value": "symlog", "linthresh": linear_below}
    ticks = {"x": axes.xaxis, "y": axes.yaxis}[axis]
    {"x": axes.set_xscale, "y": axes.set_yscale}[axis](**scale)
    if linear_below is None:
        low, high = {"x": axes.get_xlim, "y": axes.get_ylim}[axis]()
        multiples = (1, 1.5, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 1000 * low else (1,)
        ticks.set_major_locator(LogLocator(subs=multiples))
    ticks.set_minor_locator(NullLocator())
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def draw_band(axes: Axes, x: Any, mean: np.ndarray, deviation: np.ndarray, **line: Any) -> Line2D:
    """Draws a line and, around it, a band of one standard deviation to each side.

    Args:
        axes: Where to draw.
        x: [n], the positions.
        mean: [n], the line's values.
        deviation: [n], half the height of the band.
        **line: Settings of the line, as `Axes.plot` takes them.

    Returns:
        The line.
    """
    style: dict[str, Any] = {"linewidth": 1.5} | line
    (drawn,) = axes.plot(x, mean, **style)
    axes.fill_between(x, mean - deviation, mean + deviation, color=drawn.get_color(), alpha=0.15, linewidth=0)
    return drawn


def describe_band(counts: Collection[int]) -> str:
    """Returns what a band stands for, given how many seeds each point has; "" if no point has two or more."""
    most = max(counts, default=0)
    if most < 2:
        return ""
    return f"mean ± one standard deviation of {'' if min(counts) == most else 'up to '}{most} seeds"


def label_lines(axes: Axes, names: Mapping[Line2D, str]) -> None:
    """Writes names of lines to the right of the axes, joined to the ends of the lines, so that they cover nothing.

    Args:
        axes: The axes, with their final limits and scales.
        names: The name of each line that is to have one.
    """
    from sklearn.isotonic import isotonic_regression

    figure, texts = axes.get_figure(root=True), []
    if figure is None or not names:
        return
    for line, name in names.items():
        x, y = np.asarray(line.get_xdata())[-1], np.asarray(line.get_ydata())[-1]
        leader = {"arrowstyle": "-", "color": line.get_color(), "linestyle": ":", "shrinkA": 2, "shrinkB": 0}
        leader["relpos"] = (0, 0.5)
        text = axes.annotate(make_printable(name), (x, y), (1.04, 0.5), textcoords="axes fraction", arrowprops=leader)
        text.set(size=NOTE_SIZE, color=INK, va="center", annotation_clip=False)
        assert text.arrow_patch is not None
        text.arrow_patch.set_zorder(0)
        texts.append(text)
    figure.draw_without_rendering()  # so that the axes get their final position
    frame, gap = axes.get_window_extent(), 1.4 * NOTE_SIZE / 72 * figure.dpi
    ends = np.array([axes.transData.transform(text.xy)[1] for text in texts])
    order, gaps = np.argsort(ends, kind="stable"), gap * np.arange(len(texts))
    top = max(frame.y0, frame.y1 - gaps[-1])
    heights = isotonic_regression(ends[order] - gaps, y_min=frame.y0, y_max=top) + gaps  # least moved, none overlapping
    for i, height in zip(order, heights, strict=True):
        texts[i].set_position((1.04, (height - frame.y0) / frame.height))


def spell(name: str, limit: int | None = None) -> str:
    """Returns a name as a picture shows it: without underscores, and with control characters as escapes.

    Args:
        name: The name, such as "learning_rate".
        limit: How many characters to show at most; all by default.
    """
    return make_printable(name.replace("_", " "))[:limit]

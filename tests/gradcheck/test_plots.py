"""The picture of a gradient check, and what all pictures have in common."""

import sys
import warnings
from io import BytesIO
from itertools import cycle
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text

from jaxann.gradcheck import Report, Row
from jaxann.gradcheck.plots import plot_report
from jaxann.gradcheck.style import (
    VERMILION,
    describe_band,
    draw_band,
    label_lines,
    make_figure,
    scale_logarithmically,
    spell,
    style_axes,
)
from jaxann.nn.text import make_printable

B = np.array([1.0, -2.0, 3.0])


def row(path, owner, verdict="right", a=B, **fields):
    error = np.abs(a - B).max() / 3
    return Row(path, owner, (3,), verdict, float64=error, handwritten=a, autodiff=B, **fields)


RIGHT = row("0.W", "Dense(4, 5)"), row("1.dx", "tanh", a=B * (1 + 1e-12))
WRONG = row("2.b", "Dense(5, 3)", "wrong", -B, diagnosis="consistent with a flipped sign")
CHAIN = row("chain.0.W", "Sequential", composite=True)
ON_PURPOSE = row("2.dx", "Dense(5, 3)", "on purpose", 2 * B)


def draw(figure):
    """Returns the figure's axes, once it has been drawn without a warning."""
    figure.canvas.draw()
    return figure.axes


def titles(report, path=None):
    return [axes.get_title(loc="left").replace("\n", " ") for axes in draw(plot_report(report, path))[:2]]


def test_the_picture_shows_errors_and_the_wrong_gradient():
    errors, comparison = draw(plot_report(Report((*RIGHT, WRONG, CHAIN), 6, 9)))[:2]
    diagonal, points = comparison.lines
    np.testing.assert_array_equal(points.get_xdata(), -points.get_ydata())
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    assert [label.get_text() for label in errors.get_yticklabels()] == ["0 Dense(4, 5)", "1 tanh", "2 Dense(5, 3)"]
    assert [label.get_text() for label in errors.get_xticklabels()] == ["W", "dx", "b"]
    image = errors.images[0].get_array()
    assert image[2, 2] == pytest.approx(2)
    assert image[1, 1] == pytest.approx(1e-12)
    assert np.isnan(np.ma.filled(image, np.nan)[0, 1]), "this layer has no such gradient"


def test_the_titles_say_what_was_found():
    assert titles(Report((*RIGHT, WRONG, CHAIN), 6, 9)) == [
        "1 of 4 gradients is wrong",
        "2.b of Dense(5, 3) is wrong",
    ]
    assert titles(Report((*RIGHT, WRONG), 6, 9), "0.W")[1] == "0.W of Dense(4, 5) is right"
    assert titles(Report((WRONG, row("3.dx", "tanh", "not finite", np.full(3, np.nan))), 6, 9))[0] == (
        "2 of 2 gradients are wrong"
    )
    assert titles(Report(RIGHT, 6, 9))[0] == "All 2 gradients are right"
    assert titles(Report((*RIGHT, ON_PURPOSE), 6, 9)) == [
        "2 of 3 gradients are right, 1 differs on purpose",
        "2.dx of Dense(5, 3) differs on purpose",
    ]


def test_the_diagnosis_is_below_the_title():
    _, comparison, _ = draw(plot_report(Report((*RIGHT, WRONG), 6, 9)))
    assert comparison.texts[0].get_text() == "consistent with a flipped sign"


def test_a_wrong_gradient_is_seen_without_colors():
    errors = draw(plot_report(Report((*RIGHT, WRONG, ON_PURPOSE), 6, 9)))[0]
    texts = {text.get_position(): text for text in errors.texts}
    assert {text.get_text() for text in texts.values() if text.get_weight() == "bold"} == {"2"}
    wrong, on_purpose = errors.patches
    assert (wrong.get_edgecolor()[0], wrong.get_linestyle()) == (int(VERMILION[1:3], 16) / 255, "solid")
    assert on_purpose.get_linestyle() == "--"
    assert (wrong.get_center() == [2, 2]).all()
    assert "framed: wrong; dashed: on purpose" in [text.get_text() for text in texts.values()]


def test_a_path_that_the_report_does_not_have_is_refused():
    with pytest.raises(KeyError, match=r"expected the path of a gradient .*, got 'W'"):
        plot_report(Report(RIGHT, 6, 9), "W")
    with pytest.raises(ValueError, match="expected a report with at least one row, got none"):
        plot_report(Report((), 0, 0))


def test_a_gradient_that_could_not_be_computed_has_a_title_only():
    report = Report((Row("1", "Odd", (), "wrong", "raises", "it raises"),), 1, 1)
    assert titles(report) == ["1 of 1 gradients is wrong", "1 of Odd is wrong"]


def test_without_matplotlib_a_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"a picture needs matplotlib: pip install 'jaxann\[plots\]'"):
        plot_report(Report(RIGHT, 6, 9))


# The style


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.21, 1.4, ["0.3", "0.5", "0.7", "1"]),
        (0.03, 3, ["0.05", "0.1", "0.2", "0.5", "1", "2"]),
        (2e-3, 20, ["0.01", "0.1", "1", "10"]),
    ],
)
def test_a_logarithmic_axis_has_plain_numbers(low, high, ticks):
    axes = make_figure(4, 3).subplots()
    axes.plot([1, 2], [low, high])
    scale_logarithmically(axes, "y")
    draw(axes.figure)
    bottom, top = axes.get_ylim()
    assert [f"{tick:g}" for tick in axes.get_yticks() if max(bottom, low) <= tick <= min(top, high)] == ticks
    assert set(ticks) <= {label.get_text() for label in axes.get_yticklabels()}


def test_labels_of_lines_that_end_together_do_not_overlap():
    axes = make_figure(6, 3).subplots()
    names = {axes.plot([1, 2], [1, y])[0]: f"line {y}" for y in (3, 3.001, 3.002, 1)}
    style_axes(axes, "Four lines")
    label_lines(axes, names)
    draw(axes.figure)
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text().startswith("line")]
    heights = sorted((text.get_position()[1], text.get_text()) for text in axes.texts)
    assert [name for _, name in heights] == ["line 1", "line 3", "line 3.001", "line 3.002"]
    pixels = np.diff([height for height, _ in heights]) * axes.get_window_extent().height
    assert pixels.min() > 8.5 / 72 * axes.figure.dpi
    assert min(box.x1 for box in boxes) > axes.get_window_extent().x1
    assert max(box.x1 for box in boxes) <= axes.figure.bbox.x1, "nothing is cut off"


def test_a_long_title_is_broken_into_lines_of_nearly_equal_length():
    axes = make_figure(4, 3).subplots()
    style_axes(axes, "Validation accuracy is highest at learning rate 0.003", note="mean of 5 seeds")
    first, second = axes.get_title(loc="left").split("\n")
    assert abs(len(first) - len(second)) < 15
    draw(axes.figure)
    assert [text.get_text() for text in axes.texts] == ["mean of 5 seeds"]


def test_a_band_is_one_standard_deviation_to_each_side():
    axes = make_figure(4, 3).subplots()
    line = draw_band(axes, [1, 2], np.array([1.0, 2.0]), np.array([0.5, 0.25]), color="black")
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.5, 2.25)
    assert line.get_color() == "black"


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([], ""),
        ([1, 1], ""),
        ([5, 5], "mean ± one standard deviation of 5 seeds"),
        ([5, 3], "mean ± one standard deviation of up to 5 seeds"),
    ],
)
def test_a_band_is_described_by_the_number_of_seeds(counts, words):
    assert describe_band(counts) == words


def test_names_are_spelled_for_readers():
    assert spell("feedback_alignment") == "feedback alignment"
    assert spell("a$b", limit=2) == "a$"
    assert spell("a\x1b[31m\u202eb\n") == r"a\x1b[31m\u202eb\n"


HOSTILE = ["$x", "a$b$c", r"\$\frac{$^", "a\x1b]0;b\x07", "\u202ecba", "-->", "{}%s", ""]


@pytest.mark.parametrize(("hostile", "ending"), [*zip(HOSTILE, cycle(["svg", "pdf", "png"]), strict=False)])
def test_names_from_data_are_shown_as_they_are_in_every_format(hostile, ending):
    report = Report((row(f"0.{hostile}", hostile * 30, "wrong", -B, diagnosis=f"{hostile} raised"), *RIGHT), 6, 9)
    figure, content = plot_report(report), BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(content, format=ending)
    shown = [text.get_text() for text in figure.findobj(Text)]
    assert make_printable(hostile) in [text.removeprefix("0 ") for text in shown]
    assert not {"\x1b", "\x07", "\u202e"} & set("".join(shown))
    if ending == "svg":
        ElementTree.fromstring(content.getvalue())


def test_a_notebook_shows_a_figure_without_a_magic(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would raise
    figure = make_figure(4, 3)
    picture = figure._repr_png_()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (4 * figure.dpi, 3 * figure.dpi)

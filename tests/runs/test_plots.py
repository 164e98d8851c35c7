"""The pictures of a run."""

import sys

import numpy as np
import pytest

from jaxann.runs.plots import plot_confusion, plot_curves


def drawn(figure):
    """The figure's axes, once it has been drawn without a warning."""
    figure.canvas.draw()
    return figure.axes


def test_curves_have_losses_on_the_left_and_scores_on_the_right():
    rows = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 3, 4)]
    for row in rows[1::2]:
        row |= {"validation_loss": 2 / row["epoch"], "validation_accuracy": 0.1 * row["epoch"]}
    losses, scores = drawn(plot_curves(rows))
    lines = {line.get_label(): line.get_xydata().tolist() for axes in (losses, scores) for line in axes.lines}
    assert [line.get_label() for line in losses.lines] == ["loss", "validation_loss"]
    assert [line.get_label() for line in scores.lines] == ["validation_accuracy"]
    assert lines["loss"] == [[epoch, 1 / epoch] for epoch in (1, 2, 3, 4)]
    assert lines["validation_loss"] == [[2, 1.0], [4, 0.5]]
    assert lines["validation_accuracy"] == [[2, 0.1 * 2], [4, 0.1 * 4]]
    assert (losses.get_yscale(), scores.get_yscale()) == ("log", "linear")
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["loss", "validation_loss"]
    assert losses.get_xlabel() == scores.get_xlabel() == "epoch"


@pytest.mark.parametrize("loss", [0.0, -0.5])
def test_losses_that_have_no_logarithm_are_drawn_on_a_plain_scale(loss):
    (axes,) = drawn(plot_curves([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": loss}]))
    assert axes.get_yscale() == "linear"


def test_curves_without_rows_are_refused():
    with pytest.raises(ValueError, match="the run has no metrics to draw"):
        plot_curves([])


def test_the_confusion_matrix_has_true_classes_down_and_predicted_ones_across():
    counts = np.array([[8, 1, 1], [0, 2, 2], [0, 0, 0]])  # of a class without examples too
    (axes,) = drawn(plot_confusion(counts, ["a", "b$c$", "c" * 40]))
    texts = {text.get_position(): text for text in axes.texts}
    assert {place: text.get_text() for place, text in texts.items()} == {
        (column, row): str(counts[row, column]) for row in range(3) for column in range(3)
    }
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0.1, 0.1], [0, 0.5, 0.5], [0, 0, 0]])
    assert texts[0, 0].get_color() == "white"
    assert texts[1, 0].get_color() == texts[1, 1].get_color() == "black"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", r"b\$c\$", "c" * 20]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")


@pytest.mark.parametrize(
    "picture", [lambda: plot_curves([{"epoch": 1, "loss": 1.0}]), lambda: plot_confusion(np.eye(2), ["a", "b"])]
)
def test_without_matplotlib_a_sentence_says_how_to_install_it(monkeypatch, picture):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pictures need matplotlib: pip install 'jaxann\[plots\]'"):
        picture()

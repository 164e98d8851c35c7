"""Pictures of runs: what they show, in words that a reader knows, with nothing covered."""

import sys

import numpy as np
import pytest

from jaxann.gradcheck.style import GREY, PALE, PALETTE, VERMILION
from jaxann.runs.plots import MAX_POINTS, plot_confusion, plot_curves, plot_predictions, plot_scores


def draw(figure):
    """Returns the figure's axes, once it has been drawn without a warning."""
    figure.canvas.draw()
    return figure.axes


def labels(axes):
    """Returns the names that are written beside the lines, from top to bottom."""
    written = [text for text in axes.texts if getattr(text, "arrow_patch", None)]
    return [text.get_text() for text in sorted(written, key=lambda text: -text.get_position()[1])]


def curves():
    rows = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 3, 4)]
    for row, loss in zip(rows[1::2], (0.5, 1.0), strict=True):
        row |= {"validation_loss": loss, "validation_accuracy": 0.1 * row["epoch"]}
    return rows


def test_curves_have_losses_on_the_left_and_scores_on_the_right():
    losses, scores = draw(plot_curves(curves()))
    lines = {line.get_label(): line.get_xydata().tolist() for axes in (losses, scores) for line in axes.lines}
    assert lines["training loss"] == [[epoch, 1 / epoch] for epoch in (1, 2, 3, 4)]
    assert lines["validation loss"] == [[2, 0.5], [4, 1.0]]
    assert lines["validation accuracy"] == [[2, 0.1 * 2], [4, 0.1 * 4]]
    assert (losses.get_yscale(), scores.get_yscale()) == ("log", "linear")
    assert labels(losses) == ["validation loss", "training loss"]
    assert labels(scores) == ["validation accuracy"]
    assert losses.get_xlabel() == scores.get_xlabel() == "epoch"
    assert (losses.get_ylabel(), scores.get_ylabel()) == ("loss", "accuracy")
    assert "0.5" in [label.get_text() for label in losses.get_yticklabels()]


def test_curves_mark_the_epoch_of_lowest_validation_loss():
    for axes in draw(plot_curves(curves())):
        (marker,) = axes.collections
        assert marker.get_offsets()[0][0] == 2
        assert any(list(line.get_xdata()) == [2, 2] for line in axes.lines)
    losses, scores = plot_curves(curves()).axes
    assert losses.get_title(loc="left") == "Validation loss is lowest at epoch 2 (0.5)"
    assert scores.get_title(loc="left") == "Validation accuracy is 0.2 at epoch 2"


def test_curves_mark_the_epoch_whose_parameters_are_kept():
    losses, scores = draw(plot_curves(curves(), best_epoch=4))
    assert losses.get_title(loc="left") == "Validation loss is 1 at epoch 4"
    assert scores.get_title(loc="left") == "Validation accuracy is highest at epoch 4 (0.4)"
    assert scores.collections[0].get_offsets()[0].tolist() == [4, pytest.approx(0.4)]


def test_a_run_without_validation_has_no_epoch_marked():
    (axes,) = draw(plot_curves([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}], best_epoch=2))
    assert axes.get_title(loc="left") == "Training loss is 0.25 after 2 epochs"
    assert not axes.collections
    assert len(axes.lines) == 1


@pytest.mark.parametrize("loss", [0.0, -0.5])
def test_losses_that_have_no_logarithm_are_drawn_on_a_linear_scale(loss):
    (axes,) = draw(plot_curves([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": loss}]))
    assert axes.get_yscale() == "linear"


def test_errors_in_the_unit_of_the_data_have_a_panel_of_their_own_in_which_lower_is_better():
    rows = curves()
    for row, error in zip(rows[1::2], (40.0, 50.0), strict=True):
        row |= {"validation_mae": error, "validation_log_loss": 2.0}
    losses, scores, errors = draw(plot_curves(rows))
    assert [axes.get_ylabel() for axes in (losses, scores, errors)] == ["loss", "accuracy", "MAE"]
    assert "validation log loss" in labels(losses)
    assert errors.get_title(loc="left").replace("\n", " ") == "Validation MAE is lowest at epoch 2 (40)"


def test_curves_without_rows_are_refused():
    with pytest.raises(ValueError, match="expected the metrics of at least one epoch, got none"):
        plot_curves([])


def test_the_confusion_matrix_has_true_classes_down_and_predicted_ones_across():
    counts = np.array([[8, 1, 1], [0, 2, 2], [0, 0, 0]])  # the last class has no examples
    (axes,) = draw(plot_confusion(counts, ["a", "b$c$", "c" * 40]))
    texts = {text.get_position(): text for text in axes.texts}
    assert {place: text.get_text() for place, text in texts.items()} == {
        (column, row): str(counts[row, column]) for row in range(3) for column in range(3)
    }
    shares = [[0.8, -0.1, -0.1], [0, 0.5, -0.5], [0, 0, 0]]
    np.testing.assert_allclose(axes.images[0].get_array(), shares)
    assert texts[0, 0].get_color() == "white"
    assert (texts[0, 1].get_color(), texts[0, 1].get_weight()) == (GREY, "normal")
    assert texts[1, 0].get_color() == texts[1, 1].get_color() != "white"
    assert [text.get_text() for text in texts.values() if text.get_weight() == "bold"] == ["1", "1", "2"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b$c$", "c" * 20]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    assert axes.get_title(loc="left") == "10 of 14 predictions are right"


def test_right_predictions_are_blue_and_wrong_ones_orange():
    (axes,) = draw(plot_confusion(np.array([[3, 1], [0, 4]]), ["no", "yes"]))
    image = axes.images[0]
    right, wrong = (np.asarray(image.cmap(image.norm(share)))[:3] for share in (0.75, -0.25))
    assert right[2] > right[0]
    np.testing.assert_allclose(wrong, [int(VERMILION[i : i + 2], 16) / 255 for i in (1, 3, 5)], atol=0.01)


def test_a_confusion_matrix_of_many_classes_has_no_numbers():
    (axes,) = draw(plot_confusion(np.eye(31, dtype=int), [str(i) for i in range(31)]))
    assert not axes.texts


@pytest.mark.parametrize("unit", [1.0, 1e300])
def test_predictions_are_drawn_against_the_truth_beside_the_line_where_both_are_equal(unit):
    t, predicted, weights = (
        np.array([1.0, 2.0, 4.0]) * unit,
        np.array([1.5, 2.0, 3.0]) * unit,
        np.array([1.0, 1.0, 2.0]),
    )
    (axes,) = draw(plot_predictions(t, predicted, "a_$b$", weights))
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), np.column_stack([t, predicted]))
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [[unit, unit], [4 * unit, 4 * unit]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("true a $b$", "predicted a $b$")
    title = axes.get_title(loc="left").replace("\n", " ")
    assert title == f"Predictions of a $b$ are off by {0.625 * unit:.3g} on average"


def test_at_most_5000_predictions_are_drawn():
    t = np.arange(MAX_POINTS + 1.0)
    (axes,) = draw(plot_predictions(t, t, "price"))
    assert len(axes.collections[0].get_offsets()) == MAX_POINTS
    assert "the first 5,000 of 5,001 examples" in [text.get_text().replace("\n", " ") for text in axes.texts]


def test_the_best_of_scores_is_the_lowest_where_lower_is_better():
    lines = {"a": {1: [3.0], 2: [5.0]}, "b": {1: [4.0], 2: [9000.0]}}
    for lower, title in {True: "lowest at width 1, a (3.000)", False: "highest at width 2, b (9000)"}.items():
        (axes,) = draw(plot_scores(lines, "width", "validation MAE", lower_is_better=lower))
        assert axes.get_title(loc="left").replace("\n", " ") == f"Validation MAE is {title}"
    many = {str(i): {1: [float(i)]} for i in range(7)}
    (axes,) = draw(plot_scores(many, "width", "validation MAE", lower_is_better=True))
    assert [line.get_label() for line in axes.lines if line.get_color() == PALE] == ["6"]


def test_scores_have_means_bands_and_gaps():
    lines = {"dropout 0.1": {0.1: [0.5, 0.7], 0.001: [0.25], 0.01: []}, "dropout 0": {0.01: [1.0, 1.0, 0.4]}}
    (axes,) = draw(plot_scores(lines, "learning_rate", "validation R²"))
    first, second = axes.lines
    np.testing.assert_allclose(first.get_xydata(), [[0.001, 0.25], [0.1, 0.6]])
    np.testing.assert_allclose(second.get_xydata(), [[0.01, 0.8]])
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(0.6 + 0.2 / np.sqrt(2))
    assert band[:, 1].min() == pytest.approx(0.25)
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "learning rate", "validation R²")
    assert labels(axes) == ["dropout 0", "dropout 0.1"]
    assert axes.get_title(loc="left") == "Validation R² is highest at learning rate 0.01, dropout 0 (0.800)"
    assert "mean ± one standard deviation of up to 3 seeds" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1, 10], "linear"),
        ([1, 11], "log"),
        ([0, 0.1, 0.5], "linear"),
        ([0, 0.1, 2], "symlog"),
        ([-1, 0.1, 2], "linear"),
    ],
)
def test_scores_have_a_logarithmic_scale_where_the_values_do(values, scale):
    (axes,) = draw(plot_scores({"": {value: [0.5] for value in values}}, "x", "y"))
    assert axes.get_xscale() == scale
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(value) for value in values]
    assert not axes.texts, "a single line has no name, and a single seed no band"


def test_scores_over_texts_stand_side_by_side():
    (axes,) = draw(plot_scores({"": {"relu": [0.5], "$tanh": [0.6], "none": []}}, "activation", "y"))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["relu", "$tanh", "none"]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0, 0.5], [1, 0.6]])


def test_of_many_combinations_the_best_have_colors_and_names():
    lines = {f"hidden {i}": {1: [0.1 * i], 2: [0.1 * i]} for i in range(9)}
    (axes,) = draw(plot_scores(lines, "epochs", "accuracy"))
    assert labels(axes) == [f"hidden {i}" for i in (8, 7, 6, 5, 4, 3)]
    assert [line.get_color() for line in axes.lines] == [PALE] * 3 + list(PALETTE[::-1])
    assert "3 others are gray" in [text.get_text() for text in axes.texts]


def test_where_all_networks_diverged_the_title_says_so():
    (axes,) = draw(plot_scores({"a": {1: []}, "b": {1: []}}, "learning_rate", "accuracy"))
    assert axes.get_title(loc="left") == "No accuracy: every network diverged"


@pytest.mark.parametrize(
    "plot",
    [
        lambda: plot_curves([{"epoch": 1, "loss": 1.0}]),
        lambda: plot_confusion(np.eye(2), ["a", "b"]),
        lambda: plot_scores({"": {1: [0.5]}}, "x", "y"),
        lambda: plot_predictions(np.ones(2), np.ones(2), "y"),
    ],
)
def test_without_matplotlib_a_sentence_says_how_to_install_it(monkeypatch, plot):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"a picture needs matplotlib: pip install 'jaxann\[plots\]'"):
        plot()

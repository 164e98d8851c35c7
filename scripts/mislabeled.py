"""Finds the mislabeled images of a dataset by the per-example gradients of a convolutional network.

A LeNet is trained on the training part, and a table shows the training images whose labels are the most suspicious. One
backward pass gives all scores of a batch. How well each score finds wrong labels is measured by a second network, for
which some labels are replaced by wrong ones. The precision at k is the share of replaced labels among the first k
images; an image that the dataset itself labels wrongly counts as right there.

    python scripts/mislabeled.py /usr/share/datasets/fashion-mnist --classes Fashion-MNIST --figure worst.png
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import python_version  # noqa: F401 - before jaxann, which an older Python cannot import
from jaxtyping import PyTree

from jaxann import fit, predict
from jaxann.cli.program import run_program
from jaxann.data import Dataset, load_dataset
from jaxann.data.extras import require_packages
from jaxann.data.validation import validate_schedule
from jaxann.gradcheck import style
from jaxann.gradients import per_example
from jaxann.nn import Layer, Loss, SoftmaxCrossEntropy
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.networks import lenet
from jaxann.nn.table import format_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, COLUMNS = 5, 8  # of the picture, whose images are those of the table
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SCORES = {"gradient": "gradient norm", "bias": "gradient norm of the last bias", "loss": "loss"}
AT_ONCE = 500  # images in a backward pass after the training, so that what the layers save fits into memory


@dataclass(frozen=True)
class RankingSettings:
    """Which images to rank, and how the network is trained on them."""

    dataset: str = "Fashion-MNIST"
    """Images to rank: a folder with MNIST's IDX files, or another dataset of images that `jaxann train` takes, such as
    Fashion-MNIST (downloaded once). It may also be the first argument, without the flag."""
    classes: tuple[str, ...] = ()
    """Names to show in place of the labels, in their order. Fashion-MNIST stands for the names of its ten classes."""
    by: Literal["gradient", "bias", "loss"] = "bias"
    """What to rank by: the norm of the image's gradient; the norm for the last bias alone, which is the distance of the
    predicted probabilities from the label; or the loss."""
    flipped: float = 0.02
    """Share of the labels that are replaced by wrong ones to measure the precision. With 0 it is not measured."""
    learning_rate: float = 0.001
    epochs: int = 2
    """Number of epochs, which is small because a network that is trained for long also learns the wrong labels."""
    batch_size: int = 64
    seed: int = 0
    figure: Path | None = None
    """Where to save a picture of the most suspicious images."""

    def check(self) -> None:
        """Refuses numbers out of range, and a picture without matplotlib."""
        validate_number("flipped", self.flipped, least=0, below=1)
        validate_number("learning_rate", self.learning_rate, above=0)
        validate_number("seed", self.seed, least=0, most=2**32 - 1, integer=True)
        if self.figure is not None:
            require_packages("a picture", "matplotlib.figure")


class Ranking(NamedTuple):
    """What a trained network says about the N images that it was trained on.

    Attributes:
        labels: [N], the labels that it was trained on.
        predictions: [N], the labels that it predicts.
        scores: [N] for each name in `SCORES`, larger where a label is more suspicious.
        accuracy: The share of the test part that it predicts as labeled.
    """

    labels: np.ndarray
    predictions: np.ndarray
    scores: dict[str, np.ndarray]
    accuracy: float

    def largest(self, score: str, count: int = ROWS * COLUMNS) -> np.ndarray:
        """Returns the indices of the images with the largest scores, from the largest on."""
        return np.argsort(-self.scores[score], kind="stable")[:count]


def read_images(settings: RankingSettings) -> tuple[Dataset, tuple[str, ...]]:
    """Returns the dataset, with standardized pixels, and the names of its classes. Refuses one without images."""
    data = load_dataset(settings.dataset, scaling="all")
    if len(data.shape) != 3 or len(data.classes) < 2:
        raise SettingError("dataset", "to hold images of two or more classes", settings.dataset)
    validate_schedule(len(data.train.t), settings.epochs, settings.batch_size)
    names = FASHION if settings.classes == ("Fashion-MNIST",) else settings.classes or data.classes
    if len(names) != len(data.classes):
        raise SettingError("classes", f"to name each of {len(data.classes)} classes", " ".join(names))
    return data, names


def flip(labels: np.ndarray, classes: int, settings: RankingSettings) -> np.ndarray:
    """Returns the labels with a share of them, drawn at random, replaced by other ones."""
    generator, count = np.random.default_rng(settings.seed), max(1, round(settings.flipped * len(labels)))
    rows, given = generator.choice(len(labels), count, replace=False), labels.copy()
    given[rows] = (labels[rows] + generator.integers(1, classes, count)) % classes
    return given


@partial(jax.jit, static_argnames=("model", "loss"))
def score(model: Layer, loss: Loss, params: PyTree, x: jax.Array, t: jax.Array) -> dict[str, jax.Array]:
    """Returns the scores of each image of a batch, from one backward pass."""
    losses, grads = per_example.gradients(model, loss)(params, x, t)
    return {"gradient": per_example.norms(grads), "bias": per_example.leaf_norms(grads)[-1]["b"], "loss": losses}


def rank(settings: RankingSettings, data: Dataset, labels: np.ndarray) -> Ranking:
    """Trains a network on the training images with the given labels, and scores each of these images.

    Raises:
        SettingError: If an image is too small for the network. A diverging training raises a FloatingPointError.
    """
    model, loss = lenet(data.shape, len(data.classes)), SoftmaxCrossEntropy()
    x, x_test = (part.x.reshape(-1, *data.shape) for part in (data.train, data.test))
    numbers: Any = {name: getattr(settings, name) for name in ("epochs", "batch_size", "learning_rate")}
    params, _ = fit(model, loss, "adam", x, labels, key=settings.seed, **numbers, progress=True)
    parts = [slice(start, start + AT_ONCE) for start in range(0, len(x), AT_ONCE)]
    batches = [score(model, loss, params, jnp.asarray(x[part], float), jnp.asarray(labels[part])) for part in parts]
    scores = {name: np.concatenate([batch[name] for batch in batches]) for name in SCORES}
    predictions, tested = (
        np.asarray(predict(model, params, jnp.asarray(part, float)).argmax(1)) for part in (x, x_test)
    )
    return Ranking(labels, predictions, scores, accuracy=float((tested == data.test.t).mean()))


def format_largest(ranking: Ranking, by: str, names: tuple[str, ...]) -> str:
    """Returns a table of the images with the largest scores. Images are counted from 0 in the training part."""
    rows = [["image", "label", "prediction", *SCORES]]
    for i in ranking.largest(by):
        numbers = [f"{ranking.scores[score][i]:#.4g}" for score in SCORES]
        rows.append([str(i), names[ranking.labels[i]], names[ranking.predictions[i]], *numbers])
    return format_table(rows, right=(0, 3, 4, 5))


def format_precision(ranking: Ranking, wrong: np.ndarray) -> str:
    """Returns a table of each score's precision, given which labels [N] are wrong."""
    count = int(wrong.sum())
    cutoffs = sorted({max(1, count // 4), max(1, count // 2), count})
    rows = [["ranked by", *(f"precision at {k}" for k in cutoffs)]]
    for score, name in SCORES.items():
        rows.append([name, *(f"{wrong[ranking.largest(score, k)].mean():.3f}" for k in cutoffs)])
    return format_table([*rows, ["random order", *[f"{wrong.mean():.3f}"] * len(cutoffs)]])


def plot_largest(ranking: Ranking, by: str, data: Dataset, names: tuple[str, ...]) -> Figure:
    """Draws the images with the largest scores, each below its label and, on the next line, the prediction."""
    figure, largest = style.make_figure(9, 8), ranking.largest(by)
    title = f"The {len(largest)} of {len(ranking.labels):,} images with the largest {SCORES[by]}: label / prediction\n"
    figure.suptitle(title, x=0.02, ha="left", size=style.TITLE_SIZE, weight="bold", color=style.INK)
    pixels = data.train.x[largest].reshape(-1, *data.shape)
    images = (pixels - pixels.min()) / np.ptp(pixels)
    for i, axes in enumerate(figure.subplots(ROWS, COLUMNS).flat):
        axes.set_axis_off()
        if i < len(largest):
            axes.imshow(images[i], cmap="gray_r")
            label, prediction = names[ranking.labels[largest[i]]], names[ranking.predictions[largest[i]]]
            axes.set_title(f"{label} /\n{prediction}", size=style.NOTE_SIZE, color=style.INK)
    return figure


def main() -> int:
    """Runs the program and returns its exit code: 0, or 2 after a sentence on what was wrong with the input."""

    def work(settings: RankingSettings, spelling: dict[str, str]) -> int:
        settings.check()
        data, names = read_images(settings)
        labels = np.asarray(data.train.t)
        ranking = rank(settings, data, labels)
        print(f"{len(ranking.labels)} images, test accuracy {ranking.accuracy:.3f}, largest {SCORES[settings.by]}")
        print(format_largest(ranking, settings.by, names), flush=True)
        if settings.figure is not None:
            plot_largest(ranking, settings.by, data, names).savefig(settings.figure)
        if settings.flipped:
            wrong = (given := flip(labels, len(names), settings)) != labels
            print(f"\n{wrong.sum()} of {len(wrong)} labels replaced by wrong ones, and the network trained on them:")
            print(format_precision(rank(settings, data, given), wrong))
        return 0

    return run_program(RankingSettings, __doc__, work, positional="dataset")


if __name__ == "__main__":
    sys.exit(main())

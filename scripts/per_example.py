"""Finds mislabeled digits: those whose own gradient is large.

Some labels of scikit-learn's digits are replaced by wrong ones, and a network is trained on all of them. Then each
example is ranked by the norm of its gradient; one backward pass gives the norms of all examples. Precision at k is the
share of wrong labels among the first k examples; by chance it is their share among all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import python_version  # noqa: F401 - before jaxann, which an older Python cannot import
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from jaxann import fit
from jaxann.cli.program import run_program
from jaxann.data.extras import require_packages
from jaxann.gradcheck import style
from jaxann.gradients import per_example
from jaxann.nn import SoftmaxCrossEntropy, mlp, relu
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.table import format_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 25  # digits in the picture


@dataclass(frozen=True)
class SearchSettings:
    """How many labels are wrong, and how the network is trained on them."""

    flipped: float = 0.05
    """Share of the labels that are replaced by wrong ones."""
    seeds: int = 5
    """Number of seeds. Each one draws its own wrong labels, parameters and order of the examples."""
    hidden: tuple[int, ...] = (64,)
    """Sizes of the hidden layers."""
    learning_rate: float = 0.1
    epochs: int = 10
    """Few, because a network that is trained for long also learns the wrong labels."""
    batch_size: int = 32
    figure: Path | None = None
    """Where to save a picture of the 25 digits with the largest gradients, by the first seed."""

    def check(self) -> None:
        """Refuses numbers out of range, and a picture without matplotlib."""
        validate_number("flipped", self.flipped, above=0, below=1)
        validate_number("seeds", self.seeds, least=1, integer=True)
        validate_number("learning_rate", self.learning_rate, above=0)
        if self.figure is not None:
            require_packages("a picture", "matplotlib.figure")


class Search(NamedTuple):
    """The digits with the labels that a network was trained on, and how suspicious each label is.

    Attributes:
        images: [N, 64], the pixels.
        given: [N], the labels that the network was trained on.
        true: [N], the right labels.
        scores: [N] for each way to rank the examples, larger where a label is more suspicious.
    """

    images: np.ndarray
    given: np.ndarray
    true: np.ndarray
    scores: dict[str, np.ndarray]

    @property
    def wrong(self) -> np.ndarray:
        """[N], whether each label is wrong."""
        return self.given != self.true


def search(settings: SearchSettings, seed: int) -> Search:
    """Trains a network on labels of which some are wrong, and scores each example.

    Args:
        settings: How many labels are wrong, and how the network is trained.
        seed: What the wrong labels, the parameters and the order of the examples are drawn from.

    Returns:
        The labels, and the gradient norm and the loss of each example as scores.

    Raises:
        ValueError: If a setting is out of range.
        FloatingPointError: If the training diverges.
    """
    digits: Any = load_digits(return_X_y=True)
    images, true = digits
    x = (images - images.mean()) / images.std()
    generator, count = np.random.default_rng(seed), max(1, round(settings.flipped * len(true)))
    rows = generator.choice(len(true), count, replace=False)
    given = true.copy()
    given[rows] = (true[rows] + generator.integers(1, 10, count)) % 10
    model, loss = mlp((x.shape[1], *settings.hidden, 10), relu), SoftmaxCrossEntropy()
    params, _ = fit(
        model,
        loss,
        optax.sgd(settings.learning_rate),
        x,
        given,
        key=jax.random.key(seed),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
    )
    gradients = jax.jit(per_example.gradients(model, loss))
    losses, grads = gradients(params, jnp.asarray(x, float), jnp.asarray(given))
    scores = {"gradient norm": np.asarray(per_example.norms(grads)), "loss": np.asarray(losses)}
    return Search(images, given, true, scores)


def format_precision(searches: Sequence[Search]) -> str:
    """Returns a table of each score's precision, as mean ± one standard deviation over the seeds."""
    examples, count = len(searches[0].true), int(searches[0].wrong.sum())
    cutoffs = sorted({max(1, count // 4), max(1, count // 2), count, min(2 * count, examples)})
    rows = [["ranked by", *(f"precision at {k}" for k in cutoffs), "average precision"]]
    for score in searches[0].scores:
        precisions = [_measure_precision(search, score, cutoffs) for search in searches]
        means, deviations = np.mean(precisions, axis=0), np.std(precisions, axis=0, ddof=min(1, len(searches) - 1))
        rows.append([score, *(f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(means, deviations, strict=True))])
    rows.append(["chance", *[f"{count / examples:.3f}"] * (len(cutoffs) + 1)])
    return format_table(rows)


def _measure_precision(search: Search, score: str, cutoffs: Sequence[int]) -> list[float]:
    """The precision at each cutoff, and the average precision."""
    order = np.argsort(-search.scores[score])
    precisions = [search.wrong[order[:k]].mean() for k in cutoffs]
    return [*precisions, average_precision_score(search.wrong, search.scores[score])]


def plot_largest(search: Search) -> Figure:
    """Draws the digits with the largest gradients, each with its label and, where that is wrong, the true one."""
    figure = style.make_figure(6, 6.8)
    largest = np.argsort(-search.scores["gradient norm"])[:SHOWN]
    wrong = int(search.wrong[largest].sum())
    count = "All" if wrong == SHOWN else f"{wrong} of the"
    title = f"{count} {SHOWN} digits with the largest gradients are mislabeled\n"
    figure.suptitle(title, x=0.02, ha="left", size=style.TITLE_SIZE, weight="bold", color=style.INK)
    for axes, i in zip(figure.subplots(5, 5).flat, largest, strict=True):
        axes.imshow(search.images[i].reshape(8, 8), cmap="gray_r")
        label = f"labeled {search.given[i]}" + (f", is {search.true[i]}" if search.wrong[i] else "")
        axes.set_title(label, size=style.NOTE_SIZE, color=style.VERMILION if search.wrong[i] else style.INK)
        axes.set_axis_off()
    return figure


def main() -> int:
    """Runs the program and returns its exit code: 0, or 2 after a sentence on what was wrong with the input."""

    def work(settings: SearchSettings, spelling: dict[str, str]) -> int:
        settings.check()
        searches = [search(settings, seed) for seed in range(settings.seeds)]
        print(f"{searches[0].wrong.sum()} of {len(searches[0].true)} labels are wrong; {settings.seeds} seeds")
        print(format_precision(searches))
        if settings.figure is not None:
            plot_largest(searches[0]).savefig(settings.figure)
        return 0

    return run_program(SearchSettings, __doc__, work)


if __name__ == "__main__":
    sys.exit(main())

"""Finds mislabelled digits: those whose own gradient is large.

Some labels of scikit-learn's digits are exchanged for wrong ones, a network is trained on all of them, and each example
is ranked by the norm of its gradient, all of them from one backward pass. Precision at k is the share of wrong labels
among the first k; chance is their share in all.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tyro

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST = 25


@dataclass(frozen=True)
class Config:
    """How many labels are wrong, and how the network is trained on them."""

    flipped: float = 0.05
    """Share of the labels that are exchanged for another one."""
    seeds: int = 5
    """Each draws its own wrong labels, parameters and order of the examples."""
    hidden: tuple[int, ...] = (64,)
    learning_rate: float = 0.1
    epochs: int = 10
    """Few: a network that is trained for long learns the wrong labels too."""
    batch_size: int = 32
    figure: Path | None = None
    """Where to save the worst 25 digits of the first seed as a picture."""

    def check(self) -> None:
        """Raises ValueError for settings out of range."""
        if not 0 < self.flipped < 1:
            raise ValueError(f"flipped is {self.flipped}, but a share between 0 and 1 is wanted")
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}, but at least 1 is wanted")


class Search(NamedTuple):
    """The digits as one seed saw them, which labels are wrong, and how suspicious each is: a score by name."""

    images: np.ndarray
    given: np.ndarray
    true: np.ndarray
    scores: dict[str, np.ndarray]

    @property
    def wrong(self) -> np.ndarray:
        """Whether each label is wrong."""
        return self.given != self.true


def search(config: Config, seed: int) -> Search:
    """Trains on labels of which some are wrong, and scores each example. Raises ValueError for what does not fit."""
    import jax
    import optax
    from sklearn.datasets import load_digits

    from jaxann import fit
    from jaxann.gradients import per_example
    from jaxann.gradients.per_example import norms
    from jaxann.nn import SoftmaxCrossEntropy, mlp, relu
    from jaxann.nn.hyperparameters import validate_number

    validate_number("learning_rate", config.learning_rate, above=0)
    images, true = load_digits(return_X_y=True)
    x = (images - images.mean()) / images.std()
    draw, count = np.random.default_rng(seed), max(1, round(config.flipped * len(true)))
    rows = draw.choice(len(true), count, replace=False)
    given = true.copy()
    given[rows] = (true[rows] + draw.integers(1, 10, count)) % 10
    model, loss = mlp((x.shape[1], *config.hidden, 10), relu), SoftmaxCrossEntropy()
    params, _ = fit(
        model,
        loss,
        optax.sgd(config.learning_rate),
        x,
        given,
        key=jax.random.key(seed),
        epochs=config.epochs,
        batch_size=config.batch_size,
    )
    losses, grads = jax.jit(per_example.gradients(model, loss))(
        params, jax.numpy.asarray(x, float), jax.numpy.asarray(given)
    )
    return Search(images, given, true, {"gradient norm": np.asarray(norms(grads)), "loss": np.asarray(losses)})


def table(found: list[Search]) -> str:
    """Precision at some k and average precision of each score, mean ± sd over the seeds."""
    from sklearn.metrics import average_precision_score

    count = int(found[0].wrong.sum())
    ranks = sorted({max(1, count // 4), max(1, count // 2), count, min(2 * count, len(found[0].true))})
    rows: list[tuple[str, ...]] = [("ranked by", *(f"precision at {k}" for k in ranks), "average precision")]
    for name in found[0].scores:
        each = []
        for one in found:
            order = np.argsort(-one.scores[name])
            each.append(
                [one.wrong[order[:k]].mean() for k in ranks] + [average_precision_score(one.wrong, one.scores[name])]
            )
        means, sds = np.mean(each, axis=0), np.std(each, axis=0, ddof=1 if len(each) > 1 else 0)
        rows.append((name, *(f"{m:.3f} ± {s:.3f}" for m, s in zip(means, sds, strict=True))))
    chance = count / len(found[0].true)
    rows.append(("chance", *(f"{chance:.3f}" for _ in rows[0][1:])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def picture(found: Search) -> Figure:
    """The digits with the largest gradients, each with the label it was given; wrong ones in red, with the true one."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'jaxann[plots]'") from None
    figure = Figure(figsize=(7, 8), layout="constrained")
    for axes, i in zip(figure.subplots(5, 5).flat, np.argsort(-found.scores["gradient norm"])[:WORST], strict=True):
        axes.imshow(found.images[i].reshape(8, 8), cmap="gray_r")
        wrong = found.wrong[i]
        title = f"given {found.given[i]}, is {found.true[i]}" if wrong else f"given {found.given[i]}"
        axes.set_title(title, size=9, color="firebrick" if wrong else "black")
        axes.set_axis_off()
    return figure


def main() -> int:
    """The exit code."""
    config = tyro.cli(Config, description=__doc__)
    try:
        config.check()
        found = [search(config, seed) for seed in range(config.seeds)]
        print(f"{found[0].wrong.sum()} of {len(found[0].true)} labels are wrong; {config.seeds} seeds")
        print(table(found))
        if config.figure is not None:
            picture(found[0]).savefig(config.figure, dpi=150)
    except (ValueError, FloatingPointError, ImportError, OSError) as error:
        print(f"per_example.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

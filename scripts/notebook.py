"""Why does it not learn? Four formulas of a network on Iris are wrong at once, and the gradient check names each one.

The network is 4-50-20-10-3 with sigmoids, softmax and cross-entropy. Mending each subset of the four formulas gives 16
networks. All of them start from the same parameters and train on all 150 flowers in batches of 2; each flower is
standardized over its own four numbers. As with the first such network, a run ends at the first flower whose loss is
above 3. All 16 networks are also checked before training.

A network counts as learning if it classifies at least 0.85 of its training flowers correctly; a third is chance. With
--no-stop no run ends early, and training says even less: with one or two formulas wrong, a network may still learn.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import python_version  # noqa: F401 - before jaxann, which an older Python cannot import
from jax import Array
from sklearn.datasets import load_iris
from tqdm import tqdm
from wrong_formulas import CULPRITS, VARIANTS, Repairs, make_network

from jaxann import backprop, check
from jaxann.cli.program import run_program
from jaxann.data.extras import require_packages
from jaxann.gradcheck import Report, style
from jaxann.nn.batch import forward_batch
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.table import format_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEARNS = 0.85


@dataclass(frozen=True)
class NotebookSettings:
    """How long to train, from which parameters, and whether to draw the result."""

    epochs: int = 200
    seed: int = 47
    """Seed of the parameters and of the order of the flowers."""
    stop: bool = True
    """End a run at the first flower whose loss is above 3."""
    figure: Path | None = None
    """Where to save a picture of accuracies and losses."""

    def check(self) -> None:
        """Refuses numbers out of range, and a picture without matplotlib."""
        validate_number("epochs", self.epochs, least=1, integer=True)
        validate_number("seed", self.seed, least=0, most=2**32 - 1, integer=True)
        if self.figure is not None:
            require_packages("a picture", "matplotlib.figure")


class Result(NamedTuple):
    """The accuracy, losses and gradient check of the network in which some formulas are mended.

    Attributes:
        repairs: The formulas that are mended.
        accuracy: The share of the training flowers that are classified correctly.
        losses: [epochs], the mean loss of each epoch; NaN from where the run ended.
        report: The gradient check of the untrained network.
    """

    repairs: Repairs
    accuracy: float
    losses: np.ndarray
    report: Report

    @property
    def wrong(self) -> list[str]:
        """The formulas that are not mended."""
        return [name for name, mended in self.repairs._asdict().items() if not mended]

    @property
    def epochs(self) -> int:
        """How many epochs the run completed."""
        return int(np.isfinite(self.losses).sum())

    @property
    def learns(self) -> bool:
        """Whether the accuracy is `LEARNS` or more."""
        return self.accuracy >= LEARNS


class Start(NamedTuple):
    """The data and the parameters from which all networks start.

    Attributes:
        x: [150, 4], the features; those of each flower have mean 0 and variance 1.
        t: [150, 3], the targets, 0.98 for the right class and 0.01 for the others.
        params: The parameters of the network.
    """

    x: np.ndarray
    t: np.ndarray
    params: tuple


def make_start(seed: int) -> Start:
    """Shuffles the flowers, and draws W from a normal distribution with standard deviation 1 / n; b is zero."""
    generator = np.random.RandomState(seed)
    order = np.arange(150)
    generator.shuffle(order)
    x, labels = (np.take(np.asarray(values), order, axis=0) for values in load_iris(return_X_y=True))
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, ddof=1, keepdims=True)
    params = []
    for n, m in pairwise((4, 50, 20, 10, 3)):
        params += [{"W": generator.normal(0, 1 / n, n * m).reshape(m, n), "b": np.zeros(m)}, ()]
    return Start(x, np.where(labels[:, None] == np.arange(3), 0.98, 0.01), tuple(params))


def run_variants(settings: NotebookSettings) -> list[Result]:
    """Trains and checks all `VARIANTS`; raises ValueError for a setting out of range."""
    settings.check()
    print(f"training {len(VARIANTS)} networks side by side", file=sys.stderr)
    start = make_start(settings.seed)
    with jax.enable_x64(True):
        accuracies, losses = map(np.asarray, train_variants(settings, start))
    reports = [check_variant(repairs, start) for repairs in tqdm(VARIANTS, desc="checking each", unit="network")]
    return [Result(*values) for values in zip(VARIANTS, accuracies.tolist(), losses, reports, strict=True)]


def train_variants(settings: NotebookSettings, start: Start) -> tuple[Array, Array]:
    """Returns accuracies [16] and losses [16, epochs] of all `VARIANTS`, which train in one program."""
    batches = tuple(jnp.reshape(values, (75, 2, -1)) for values in start[:2])
    limit = 3 if settings.stop else jnp.inf

    def train_variant(repairs):
        model, loss = make_network(repairs)
        gradient = backprop(model, loss)

        def step(carry, batch):
            (params, running), (x, t) = carry, batch
            losses = jax.vmap(loss.value)(forward_batch(model, params, x)[0], t)
            first, second = losses > limit
            updating = running & ~first  # the second flower completes the batch, whatever its loss
            _, grads = gradient(params, x, t)
            params = jax.tree.map(lambda p, g: jnp.where(updating, p - 0.5 * g, p), params, grads)
            running = updating & ~second
            return (params, running), jnp.where(running, losses.mean(), jnp.nan)

        def epoch(carry, _):
            carry, losses = jax.lax.scan(step, carry, batches)
            return carry, losses.mean()

        (params, _), losses = jax.lax.scan(epoch, (start.params, jnp.array(True)), length=settings.epochs)
        y, _ = forward_batch(model, params, jnp.asarray(start.x))
        return jnp.mean(y.argmax(axis=1) == start.t.argmax(axis=1)), losses

    return jax.jit(jax.vmap(train_variant))(Repairs(*jnp.array(VARIANTS).T))


def check_variant(repairs: Repairs, start: Start) -> Report:
    """Returns the gradient check of an untrained network, which must find exactly what is not mended."""
    model, loss = make_network(repairs)
    report = check(model, loss, start.params, start.x, start.t, examples=8)
    wrong = {path for mended, paths in zip(repairs, CULPRITS.values(), strict=True) if not mended for path in paths}
    assert set(report.wrong) == wrong, report
    return report


def format_results(results: Sequence[Result]) -> str:
    """Returns a table with a line for each network: what is mended, how training ended, and what the check found."""
    header = [*map(spell, Repairs._fields), "accuracy", "last loss", "epochs", "found wrong by the check"]
    rows = [
        [
            *("mended" if mended else "-" for mended in result.repairs),
            f"{result.accuracy:.2f}",
            f"{result.losses[result.epochs - 1]:.4f}" if result.epochs else "-",
            str(result.epochs),
            " ".join(result.report.wrong) or "-",
        ]
        for result in results
    ]
    return format_table([header, *rows], right=(4, 5, 6))


def format_diagnoses(result: Result) -> str:
    """Returns what the check says of each wrong formula, for the first gradient that shows it."""
    rows = [result.report[CULPRITS[name][0]] for name in result.wrong]
    return "\n".join(f"{row.path} of {row.owner}: {row.diagnosis}" for row in rows)


def conclude(results: Sequence[Result]) -> str:
    """Returns a sentence on which formulas must be mended, and which may stay wrong unnoticed."""
    learning = [result for result in results if result.learns]
    count = f"{len(learning)} of {len(results)} learn (accuracy {LEARNS} or more)"
    if [result.wrong for result in learning] == [[]]:
        return f"{count}: the one in which all four are mended."
    unnoticed = [spell(name) for name in Repairs._fields if any(name in result.wrong for result in learning)]
    if unnoticed:
        count += f"; with {' or '.join(unnoticed)} wrong a network may still learn, and only the check finds it"
    return f"{count}."


def spell(name: str) -> str:
    """Returns the name of a formula as it is spelled in text."""
    return name.replace("_", "-")


def plot_results(results: Sequence[Result]) -> Figure:
    """Draws, for each network, what is mended and its accuracy on the left, and the losses of its run on the right."""
    figure = style.make_figure(12.5, 5)
    mended, accuracy, losses = figure.subplots(1, 3, width_ratios=(1, 1.5, 3))
    learning = sum(result.learns for result in results)
    rows = range(len(results))
    for row, result in zip(rows, results, strict=True):
        for column, switch in enumerate(result.repairs):
            mended.plot(column, row, "o", color=style.BLUE, fillstyle="full" if switch else "none", markersize=7)
        color = style.BLUE if result.learns else style.PALE
        accuracy.barh(row, result.accuracy, color=color, height=0.7)
        text = {"va": "center", "size": style.NOTE_SIZE, "color": style.INK}
        accuracy.text(result.accuracy + 0.02, row, f"{result.accuracy:.2f}", **text)
    for axes in (mended, accuracy):
        axes.set(ylim=(len(results) - 0.4, -0.6), yticks=())
    mended.set(xlim=(-0.5, 3.5))
    mended.set_xticks(range(4), map(spell, Repairs._fields), rotation=45, ha="right")
    accuracy.set(xlim=(0, 1.1), xticks=(0, 0.5, 1))
    learn = "learns" if learning == 1 else "learn"
    title, note = f"{learning} of {len(results)} networks {learn}", f"blue: learns (at least {LEARNS})"
    style.style_axes(mended, "", note="full: mended", grid=False)
    style.style_axes(accuracy, title, "training accuracy", note=note)
    _draw_losses(losses, results)
    return figure


def _draw_losses(axes: Axes, results: Sequence[Result]) -> None:
    """Draws a line for each run that completed an epoch, named if all, none, or all but one formula is mended."""
    colors, lines = dict(zip(Repairs._fields, style.PALETTE[1:], strict=False)), {}
    for result in results:
        if not result.epochs:
            continue
        color, name = style.PALE, ""
        if not result.wrong:
            color, name = style.BLUE, "all four mended"
        elif len(result.wrong) == 1:
            color, name = colors[result.wrong[0]], f"all but {spell(result.wrong[0])} mended"
        elif len(result.wrong) == len(result.repairs):
            color, name = style.INK, "none mended"
        values, order = result.losses[: result.epochs], 2.5 if name else 2
        epochs = np.arange(1, len(values) + 1)
        (line,) = axes.plot(epochs, values, color=color, linewidth=1.5, zorder=order)
        if result.epochs < len(result.losses):
            axes.plot(epochs[-1], values[-1], "x", color=color, zorder=order)
        if name:
            lines[line] = f"{name}: {result.accuracy:.2f}"
    title = "No run completes an epoch"
    if axes.lines:
        style.scale_logarithmically(axes, "y")
        last = results[0].losses[results[0].epochs - 1]
        title = f"With nothing mended the loss ends at {last:.2f}" if results[0].epochs else "Losses of the runs"
    note = "×: the run ended at a flower whose loss is above 3; runs that ended in the first epoch are not shown"
    style.style_axes(axes, title, "epoch", "mean loss of the epoch", note=note)
    style.label_lines(axes, lines)


def main() -> int:
    """Runs the program and returns its exit code: 0, or 2 after a sentence on what was wrong with the input."""

    def work(settings: NotebookSettings, spelling: dict[str, str]) -> int:
        results = run_variants(settings)
        print(format_results(results), format_diagnoses(results[0]), conclude(results), sep="\n\n")
        if settings.figure is not None:
            plot_results(results).savefig(settings.figure)
        return 0

    return run_program(NotebookSettings, __doc__, work)


def main_with_cache() -> int:
    """Calls `main` with a compilation cache, because the sixteen networks have most of their programs in common."""
    with TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        return main()


if __name__ == "__main__":
    try:
        sys.exit(main_with_cache())
    except KeyboardInterrupt:
        sys.exit(130)

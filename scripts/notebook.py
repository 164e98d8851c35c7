"""Why does it not learn? Four formulas of a network on Iris are wrong at once, and the gradient check names each.

The network is 4-50-20-10-3 with sigmoids, softmax and cross-entropy, in batches of 2. All 16 ways to mend some of the
four are trained from the same parameters on all 150 flowers, each standardised over its own four numbers. As with the
first such network, a run ends at the first flower whose loss is above 3. All 16 are also checked, untrained.

A network counts as learning if it gets at least 0.85 of the flowers that it was trained on right; a third is chance.
With --no-stop no run is ended, and training tells even less: with two of the formulas wrong, it may learn all the same.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.lax import logistic
from tqdm import tqdm

import jaxann
from jaxann import check

if TYPE_CHECKING:
    from jax import Array

    from jaxann.gradcheck import Report

    Switch = bool | Array  # an array where networks that differ in it train side by side

LEARNS = 0.85


@dataclass(frozen=True)
class Config:
    """How long to train, from which parameters, and whether to draw it."""

    epochs: int = 200
    seed: int = 47
    """Of the order of the flowers and the parameters."""
    stop: bool = True
    """End a run at the first flower whose loss is above 3."""
    figure: Path | None = None
    """Where to save the losses of all 16 as a picture."""


# The four formulas: each layer, and the loss, is right where it is mended.


@dataclass(frozen=True)
class Sigmoid(jaxann.nn.Layer):
    """y = 1 / (1 + e⁻ˣ), or 1 / (1 + e⁺ˣ), whose derivative has the other sign."""

    mended: Switch

    def forward(self, params, x, key=None):
        y = logistic(jnp.where(self.mended, x, -x))
        return y, y

    def backward(self, params, saved, dy):
        y = saved
        return (), y * (1 - y) * dy  # y = 1 / (1 + e⁻ˣ)


@dataclass(frozen=True)
class Softmax(jaxann.nn.Layer):
    """y_i = exp(x_i) / Σ_j exp(x_j), its Jacobian diag(z) - z zᵀ at z = y, or at z = x."""

    mended: Switch

    def forward(self, params, x, key=None):
        e = jnp.exp(x - x.max())
        y = e / e.sum()
        return y, (x, y)

    def backward(self, params, saved, dy):
        x, y = saved
        z = jnp.where(self.mended, y, x)
        return (), z * (dy - z @ dy)  # y = e / Σe


@dataclass(frozen=True)
class CrossEntropy(jaxann.nn.Loss):
    """E = -Σ_i t_i log y_i, its gradient -t / y, or that of a yes or no for each class."""

    mended: Switch

    def value(self, y, t):
        return -jnp.sum(t * jnp.log(y))

    def gradient(self, y, t):
        return -t / y + jnp.where(self.mended, 0, (1 - t) / (1 - y))  # -t log y, and -(1 - t) log(1 - y)


@dataclass(frozen=True, kw_only=True, repr=False)
class Dense(jaxann.nn.Dense):
    """y = W x + b, its bias going downhill, or up."""

    mended: Switch

    def backward(self, params, saved, dy):
        grads, dx = super().backward(params, saved, dy)
        return grads | {"b": jnp.where(self.mended, dy, -dy)}, dx  # y = W x + b: ∂E/∂b = dy


class Mended(NamedTuple):
    """Which of the four are mended."""

    sigmoid: Switch
    softmax: Switch
    cross_entropy: Switch
    bias: Switch


WAYS = [Mended(*way) for way in sorted(product((True, False), repeat=4), key=sum)]
# What the check is to find wrong, by the formula that is.
CULPRITS = {
    "sigmoid": ("1.dx", "3.dx", "5.dx"),
    "softmax": ("7.dx",),
    "cross_entropy": ("loss",),
    "bias": ("0.b", "2.b", "4.b", "6.b"),
}


def network(mended: Mended) -> tuple[jaxann.nn.Sequential, CrossEntropy]:
    """The network and its loss."""
    layers = []
    for n, m in ((4, 50), (50, 20), (20, 10)):
        layers += [Dense(n, m, mended=mended.bias), Sigmoid(mended.sigmoid)]
    layers += [Dense(10, 3, mended=mended.bias), Softmax(mended.softmax)]
    return jaxann.nn.Sequential(layers), CrossEntropy(mended.cross_entropy)


class Row(NamedTuple):
    """One way to mend: training accuracy; the mean loss of each epoch, NaN from where the run ended; the check."""

    mended: Mended
    accuracy: float
    losses: np.ndarray
    report: Report

    @property
    def wrong(self) -> list[str]:
        """The formulas that are not mended."""
        return [name for name, right in self.mended._asdict().items() if not right]

    @property
    def epochs(self) -> int:
        """How many epochs the run completed."""
        return int(np.isfinite(self.losses).sum())

    @property
    def learns(self) -> bool:
        """Whether training accuracy is `LEARNS` or more."""
        return self.accuracy >= LEARNS


class Start(NamedTuple):
    """Features [150, 4], each flower's of mean 0 and variance 1, targets of .98 and .01 [150, 3], and parameters."""

    x: np.ndarray
    t: np.ndarray
    params: tuple


def beginning(seed: int) -> Start:
    """The flowers in their order, and W normal with a standard deviation of 1 / n, b zero."""
    from sklearn.datasets import load_iris

    draw = np.random.RandomState(seed)
    order = np.arange(150)
    draw.shuffle(order)
    x, labels = (np.take(np.asarray(values), order, axis=0) for values in load_iris(return_X_y=True))
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, ddof=1, keepdims=True)
    params = []
    for n, m in pairwise((4, 50, 20, 10, 3)):
        params += [{"W": draw.normal(0, 1 / n, n * m).reshape(m, n), "b": np.zeros(m)}, ()]
    return Start(x, np.where(labels[:, None] == np.arange(3), 0.98, 0.01), tuple(params))


def run(config: Config) -> list[Row]:
    """A row for each of `WAYS`. Raises ValueError for settings that do not fit."""
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed is {config.seed}, but a whole number from 0 to below 2³² is wanted")
    if config.figure and not find_spec("matplotlib"):
        raise ValueError("a figure takes matplotlib: pip install 'jaxann[plots]'")
    if config.epochs < 1:
        raise ValueError(f"epochs is {config.epochs}, but at least 1 is wanted")
    print(f"training {len(WAYS)} networks side by side", file=sys.stderr)
    start = beginning(config.seed)
    with jax.enable_x64(True):
        accuracies, losses = map(np.asarray, trained(config, start))
    reports = [checked(mended, start) for mended in tqdm(WAYS, desc="checking each", unit="network")]
    return [Row(*row) for row in zip(WAYS, accuracies.tolist(), losses, reports, strict=True)]


def trained(config: Config, start: Start) -> tuple[Array, Array]:
    """Accuracies [16] and losses [16, epochs], of all `WAYS` in one program."""
    batches = tuple(jnp.reshape(values, (75, 2, -1)) for values in start[:2])
    limit = 3 if config.stop else jnp.inf

    def one(mended):
        model, loss = network(mended)
        gradient = jaxann.backprop(model, loss)
        outputs = jax.vmap(lambda params, x: model.forward(params, x)[0], (None, 0))

        def step(carry, batch):
            (params, going), (x, t) = carry, batch
            losses = jax.vmap(loss.value)(outputs(params, x), t)
            first, second = losses > limit
            moves = going & ~first  # the second flower completes the batch, whatever its loss
            _, grads = gradient(params, x, t)
            params = jax.tree.map(lambda p, g: jnp.where(moves, p - 0.5 * g, p), params, grads)
            going = moves & ~second
            return (params, going), jnp.where(going, losses.mean(), jnp.nan)

        def epoch(carry, _):
            carry, losses = jax.lax.scan(step, carry, batches)
            return carry, losses.mean()

        (params, _), losses = jax.lax.scan(epoch, (start.params, jnp.array(True)), length=config.epochs)
        y = outputs(params, start.x)
        return jnp.mean(y.argmax(axis=1) == start.t.argmax(axis=1)), losses

    return jax.jit(jax.vmap(one))(Mended(*jnp.array(WAYS).T))


def checked(mended: Mended, start: Start) -> Report:
    """The gradient check of a network that has not been trained, which must find just what is not mended."""
    model, loss = network(mended)
    report = check(model, loss, start.params, start.x, start.t, examples=8)
    wrong = {path for right, paths in zip(mended, CULPRITS.values(), strict=True) if not right for path in paths}
    assert set(report.wrong) == wrong, report
    return report


def table(rows: list[Row]) -> str:
    """What is mended, what came of it, and what the check found, a line for each row."""
    lines = ["sigmoid  softmax  cross-entropy  bias    accuracy  last loss  epochs  found wrong by the check"]
    for row in rows:
        marks = "  ".join(
            f"{'mended' if right else '-':<{w}}" for right, w in zip(row.mended, (7, 7, 13, 6), strict=True)
        )
        lines.append(f"{marks}  {outcome(row)}  {' '.join(row.report.wrong) or '-'}")
    return "\n".join(lines)


def outcome(row: Row) -> str:
    """Accuracy, the last epoch's mean loss, and the number of epochs that the run completed."""
    loss = f"{row.losses[row.epochs - 1]:.4f}" if row.epochs else "-"
    return f"{row.accuracy:8.2f}  {loss:>9}  {row.epochs:6}"


def diagnoses(row: Row) -> str:
    """What the check says of each formula that is wrong, in its first place."""
    found = [row.report[CULPRITS[name][0]] for name in row.wrong]
    return "\n".join(f"{gradient.path} of {gradient.owner}: {gradient.diagnosis}" for gradient in found)


def conclusion(rows: list[Row]) -> str:
    """What the table shows of which formulas must be mended, and which may stay wrong unseen."""
    learned = [row for row in rows if row.learns]
    told = f"{len(learned)} of {len(rows)} learn (accuracy {LEARNS} or more)"
    if [row.wrong for row in learned] == [[]]:
        return f"{told}: the one in which all four are mended."
    unseen = [spoken(name) for name in Mended._fields if any(name in row.wrong for row in learned)]
    if unseen:
        told += f"; with {' or '.join(unseen)} wrong a network may learn all the same, and only the check tells"
    return f"{told}."


def spoken(name: str) -> str:
    """A formula's name as it is said."""
    return name.replace("_", "-")


def draw(rows: list[Row], path: Path) -> None:
    """Saves the losses over the epochs. Raises ValueError or OSError where that cannot be done."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    colors = {"sigmoid": "tab:brown", "softmax": "tab:pink", "cross_entropy": "tab:orange", "bias": "tab:green"}
    for row in rows:
        color = colors[row.wrong[0]] if len(row.wrong) == 1 else "0.55" if row.wrong else "tab:blue"
        axes.plot(np.arange(len(row.losses)) + 1, row.losses, color=color, linewidth=0.8 if row.wrong else 2)
        if row.epochs and len(row.wrong) in (0, 1, 4):
            end, lift = (row.epochs, row.losses[row.epochs - 1]), 6 if row.wrong else -6
            axes.annotate(title(row), end, (6, lift), textcoords="offset points", color=color, va="center")
    axes.set(xlabel="epoch", ylabel="mean loss of the epoch", yscale="log", xlim=(1, len(rows[0].losses) + 1))
    axes.set_title(f"Four wrong gradients, mended in {len(rows)} ways", loc="left")
    axes.set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def title(row: Row) -> str:
    """What is mended, where that is almost all or nothing, and the accuracy."""
    name = {0: "all four mended", 1: f"all but {' '.join(map(spoken, row.wrong))}"}.get(len(row.wrong), "none mended")
    return f"{name}: {row.accuracy:.2f}"


def main() -> int:
    """0; 2, after one sentence, for bad input."""
    config = tyro.cli(Config, description=__doc__)
    try:
        rows = run(config)
        print(table(rows), diagnoses(rows[0]), conclusion(rows), sep="\n\n")
        if config.figure:
            draw(rows, config.figure)
    except (ValueError, OSError) as error:
        print(f"notebook.py: {error}", file=sys.stderr)
        return 2
    return 0


def main_with_cache() -> int:
    """`main`, each program compiled once: the sixteen networks have most of theirs in common."""
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

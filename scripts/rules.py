"""Compares learning rules on scikit-learn's digits. All seeds of a rule train in one program.

Each seed draws its own split of the data, parameters, feedback and order of the examples. The table has a line for each
rule. It gives the accuracy on held-out digits, as mean ± one standard deviation over the seeds. For each matrix it also
gives two angles in the last epoch, in degrees: the angle between the rule's gradient and the true one, and the angle
between the weights and their feedback. The feedback of the first matrix is not used. output_layer_only, which trains
nothing but the last layer, is the control: a rule is worth what it gains over it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import python_version  # noqa: F401 - before jaxann, which an older Python cannot import
from tqdm import tqdm

from jaxann import fit, predict
from jaxann.cli.program import run_program
from jaxann.data import load_dataset
from jaxann.data.extras import require_packages
from jaxann.data.validation import validate_schedule
from jaxann.gradcheck import style
from jaxann.nn import SoftmaxCrossEntropy, mlp, tanh
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.table import format_table
from jaxann.rules import RULES, KolenPollack, Rule, WithAngles
from jaxann.training import optimizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONTROL = "output_layer_only"
NAMES = (*(name for name in RULES if name != CONTROL), "kolen_pollack", CONTROL)
LABELS = {
    "sign_symmetric": "sign-symmetric, fixed",
    "sign_symmetric_batchwise": "sign-symmetric, batchwise",
    "sign_symmetric_uniform": "sign-symmetric, uniform",
    "kolen_pollack": "Kolen-Pollack",
    CONTROL: "output layer only, the control",
}


@dataclass(frozen=True)
class ComparisonSettings:
    """Which rules to compare, how to train by them, and what to save."""

    rules: tuple[str, ...] = NAMES
    seeds: int = 20
    """Number of networks that each rule trains."""
    hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers."""
    learning_rate: float = 0.1
    weight_decay: float = 1e-3
    """λ in W ← W - l λ W at every step, with the learning rate l, for all rules; kolen_pollack needs one above 0."""
    epochs: int = 80
    batch_size: int = 32
    held_out: float = 0.2
    """Share of the digits that are kept apart for the test."""
    figure: Path | None = None
    """Where to save a picture of losses and angles over the epochs."""
    json: Path | None = None
    """Where to save the outcome of every seed, as JSON."""

    def check(self) -> None:
        """Refuses rules that do not exist, fewer than one seed, and a picture without matplotlib."""
        for rule in self.rules:
            if rule not in NAMES:
                raise SettingError("rules", f"to be among {', '.join(NAMES)}", rule)
        if not self.rules:
            raise SettingError("rules", "to name at least one rule", self.rules)
        validate_number("seeds", self.seeds, least=1, integer=True)
        if self.figure is not None:
            require_packages("a picture", "matplotlib.figure")


class Outcome(NamedTuple):
    """What training by a rule led to, for each seed.

    Attributes:
        accuracy: [seeds], on the held-out digits; NaN where a seed diverged.
        loss: [seeds, epochs], the training loss.
        angles: [seeds, epochs] for each kind of angle and matrix, such as "gradient angle 0.W", in degrees.
    """

    accuracy: np.ndarray
    loss: np.ndarray
    angles: dict[str, np.ndarray]

    @property
    def converged(self) -> np.ndarray:
        """[seeds], False where a seed diverged."""
        return np.isfinite(self.accuracy)

    def last_angles(self, kind: str) -> list[float]:
        """Returns the last epoch's angles of one kind, averaged over the seeds that did not diverge."""
        last = [values[self.converged, -1] for name, values in self.angles.items() if name.startswith(kind)]
        return [float(angles.mean()) if len(angles) else np.nan for angles in last]

    def hidden_angles(self) -> np.ndarray:
        """Returns the angle to the true gradient, averaged over the hidden layers [seeds, epochs].

        The output layer is left out, because all rules have its true gradient.
        """
        angles = [values for name, values in self.angles.items() if name.startswith("gradient")]
        return np.mean(angles[:-1] or angles, axis=0)


def compare_rules(settings: ComparisonSettings) -> dict[str, Outcome]:
    """Trains all seeds of every rule.

    Args:
        settings: Which rules to compare, and how to train by them.

    Returns:
        The outcome of each rule.

    Raises:
        ValueError: If a setting is out of range or names an unknown rule.
        ImportError: If a picture is to be drawn and matplotlib is missing.
    """
    settings.check()
    loaded = [load_dataset("digits", held_out=settings.held_out, seed=seed) for seed in range(settings.seeds)]
    train, test = ([getattr(data, part) for data in loaded] for part in ("train", "test"))
    x, t, x_test, t_test = (
        jnp.asarray(np.stack([getattr(part, name) for part in parts])) for parts in (train, test) for name in "xt"
    )
    x, x_test = x.astype(float), x_test.astype(float)
    model, loss = mlp((x.shape[-1], *settings.hidden, len(loaded[0].classes)), tanh), SoftmaxCrossEntropy()
    validate_schedule(x.shape[1], settings.epochs, settings.batch_size)
    update = optimizer("sgd", settings.learning_rate, weight_decay=settings.weight_decay)
    size: dict[str, Any] = {"epochs": settings.epochs, "batch_size": settings.batch_size}

    def train_seed(rule: Rule, key: Any, x: Any, t: Any, x_test: Any, t_test: Any) -> tuple[Any, ...]:
        params, history = fit(model, loss, update, x, t, key=key, gradient=WithAngles(rule), **size)
        y = predict(model, params, x_test)
        accuracy = jnp.mean(y.argmax(axis=1) == t_test)
        # Each loss is computed before its step, so only the outputs show whether the last step left finite parameters.
        finite = jnp.isfinite(history.loss).all() & jnp.isfinite(y).all()
        return jnp.where(finite, accuracy, jnp.nan), history.loss, history.metrics

    keys, outcomes = jax.vmap(jax.random.key)(jnp.arange(settings.seeds)), {}
    for name, rule in tqdm(make_rules(settings, update).items(), disable=None, leave=False):
        train_seeds = jax.jit(jax.vmap(lambda *args, rule=rule: train_seed(rule, *args)))
        accuracy, losses, angles = jax.tree.map(np.asarray, train_seeds(keys, x, t, x_test, t_test))
        in_order = {metric: angles[metric] for metric in sorted(angles, key=layer_number)}
        outcomes[name] = Outcome(accuracy, losses, in_order)
    return outcomes


def label(rule: str) -> str:
    """Returns the name of a rule as a picture shows it."""
    return LABELS.get(rule, style.spell(rule))


def layer_number(metric: str) -> int:
    """Returns the number of the layer that an angle belongs to; sorted as text, 10.W would come before 2.W."""
    return int(metric.split()[-1].removesuffix(".W"))


def make_rules(settings: ComparisonSettings, update: optax.GradientTransformation) -> dict[str, Rule]:
    """Returns the rules that the settings name; Kolen-Pollack changes its feedback by the optimizer `update`."""
    known = RULES | {"kolen_pollack": KolenPollack(update)}
    return {name: known[name] for name in settings.rules}


def format_outcomes(outcomes: Mapping[str, Outcome]) -> str:
    """Returns a table with a line for each rule."""
    rows: list[tuple[str, ...]] = [("rule", "accuracy", "gradient to the true one", "weights to feedback", "")]
    for name, outcome in outcomes.items():
        accuracy = outcome.accuracy[outcome.converged]
        diverged = np.flatnonzero(~outcome.converged).tolist()
        notes = [*(["the control"] if name == CONTROL else []), *([f"seeds {diverged} diverged"] if diverged else [])]
        angles = [" ".join(f"{angle:.0f}" for angle in outcome.last_angles(kind)) for kind in ("gradient", "feedback")]
        mean = f"{accuracy.mean():.3f}" if len(accuracy) else "nan"
        spread = f" ± {accuracy.std(ddof=1):.3f}" if len(accuracy) > 1 else ""
        rows.append((name, mean + spread, *angles, ", ".join(notes)))
    return format_table(rows)


def plot_outcomes(outcomes: Mapping[str, Outcome]) -> Figure:
    """Draws, over the epochs, the training loss and the angle to the true gradient, each with its spread."""
    figure = style.make_figure(13.5, 4.6)
    loss, angle = figure.subplots(1, 2)
    converged = {name: outcome for name, outcome in outcomes.items() if outcome.converged.any()}
    losses = {name: outcome.loss[outcome.converged] for name, outcome in converged.items()}
    angles = {name: outcome.hidden_angles()[outcome.converged] for name, outcome in converged.items()}
    _draw_bands(loss, losses, describe_best("ends with the lowest training loss", losses, ".2g"), "training loss")
    angles_of_others = {name: values for name, values in angles.items() if name != "backprop"}
    title = describe_best("ends nearest the true gradient", angles_of_others, ".0f", "°")
    _draw_bands(angle, angles, title, "degrees from the true gradient, hidden layers")
    return figure


def _draw_bands(axes: Axes, values: Mapping[str, np.ndarray], title: str, y: str) -> None:
    """Draws a line and a band for the values [seeds, epochs] of each rule."""
    others = [name for name in NAMES if name not in ("backprop", CONTROL)]
    colors = dict(zip(others, style.PALETTE, strict=True)) | {"backprop": style.INK, CONTROL: style.GREY}
    lines = {}
    for name, rows in values.items():
        deviations = rows.std(axis=0, ddof=1) if len(rows) > 1 else np.zeros(rows.shape[1])
        look = {"color": colors[name], "linestyle": "--" if name == CONTROL else "-"}
        line = style.draw_band(axes, np.arange(1, rows.shape[1] + 1), rows.mean(axis=0), deviations, **look)
        lines[line] = label(name)
    if "loss" in y and lines:
        style.scale_logarithmically(axes, "y")
    if "degrees" in y:
        axes.set(ylim=(-3, 95), yticks=range(0, 91, 15))
    note = style.describe_band([len(rows) for rows in values.values()])
    style.style_axes(axes, title, "epoch", y, note=note)
    style.label_lines(axes, lines)


def describe_best(finding: str, values: Mapping[str, np.ndarray], form: str, unit: str = "") -> str:
    """Returns a title on the rule with the least value in the last epoch, averaged over its seeds."""
    last = {name: rows[:, -1].mean() for name, rows in values.items()}
    if not last:
        return "No rule to compare"
    best = min(last, key=lambda name: last[name])
    return f"{label(best)[0].upper()}{label(best)[1:]} {finding} ({last[best]:{form}}{unit})"


def to_json(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Returns every seed's outcome; a number that is not finite becomes None."""

    def to_numbers(values: np.ndarray) -> list[Any]:
        return [to_numbers(row) if row.ndim else (float(row) if isfinite(row) else None) for row in values]

    return {
        name: {
            "accuracy": to_numbers(outcome.accuracy),
            "loss": to_numbers(outcome.loss),
            **{metric: to_numbers(values) for metric, values in outcome.angles.items()},
        }
        for name, outcome in outcomes.items()
    }


def main() -> int:
    """Runs the program and returns its exit code: 0, or 2 after a sentence on what was wrong with the input."""

    def work(settings: ComparisonSettings, spelling: dict[str, str]) -> int:
        outcomes = compare_rules(settings)
        print(format_outcomes(outcomes))
        if settings.json is not None:
            settings.json.write_text(json.dumps(to_json(outcomes)), encoding="utf-8")
        if settings.figure is not None:
            plot_outcomes(outcomes).savefig(settings.figure)
        return 0

    return run_program(ComparisonSettings, __doc__, work)


if __name__ == "__main__":
    sys.exit(main())

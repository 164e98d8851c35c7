"""Learning rules side by side on scikit-learn's digits: all seeds of a rule train in one program.

Each seed draws its own split of the data, parameters, feedback and order of the examples. A row a rule: accuracy on the
held-out digits, mean and standard deviation over the seeds, and the last epoch's angles in degrees, a matrix each: of
the rule's gradients to the true ones, and of weights to their feedback. The first matrix's feedback is never used.
output_layer_only is the control: what a rule is worth is what it has above that.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tyro

if TYPE_CHECKING:
    import optax

    from jaxann.rules import Rule

CONTROL = "output_layer_only"
# jaxann's own names, written out because importing jax for them would make --help wait.
NAMES = (
    "backprop",
    "feedback_alignment",
    "direct_feedback_alignment",
    "sign_symmetric",
    "sign_symmetric_batchwise",
    "sign_symmetric_uniform",
    "kolen_pollack",
    CONTROL,
)


@dataclass(frozen=True)
class Config:
    """What to train, by which rules, and what to leave behind."""

    rules: tuple[str, ...] = NAMES
    seeds: int = 20
    hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers."""
    learning_rate: float = 0.1
    weight_decay: float = 1e-3
    """For all rules, W ← W - l λ W at every step; kolen_pollack needs some."""
    epochs: int = 80
    batch_size: int = 32
    held_out: float = 0.2
    """Share of the digits kept apart for the test."""
    figure: Path | None = None
    """Where to save losses and angles over the epochs as a picture."""
    json: Path | None = None
    """Where to save the outcome of every seed."""

    def check(self) -> None:
        """Raises ValueError for settings out of range."""
        for rule in self.rules:
            if rule not in NAMES:
                raise ValueError(f"there is no rule {rule}, only {', '.join(NAMES)}")
        if not self.rules:
            raise ValueError("rules are none, but at least one is wanted")
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}, but at least 1 is wanted")
        if self.figure and not find_spec("matplotlib"):
            raise ValueError("a figure takes matplotlib: pip install 'jaxann[plots]'")


class Outcome(NamedTuple):
    """What a rule came to: accuracy [seeds], NaN where a seed diverged, training loss and angles [seeds, epochs]."""

    accuracy: np.ndarray
    loss: np.ndarray
    angles: dict[str, np.ndarray]

    def last(self, kind: str) -> list[float]:
        """The last epoch's angles of one kind, the means over the seeds that did not diverge."""
        rows = [values[:, -1] for name, values in self.angles.items() if name.startswith(kind)]
        return [mean(row[np.isfinite(self.accuracy)]) for row in rows]


def run(config: Config) -> dict[str, Outcome]:
    """Each rule's outcome. Raises ValueError for settings that do not fit."""
    config.check()
    import jax
    import jax.numpy as jnp
    from tqdm import tqdm

    from jaxann import fit, predict
    from jaxann.data import load
    from jaxann.data.validation import validate_schedule
    from jaxann.nn import SoftmaxCrossEntropy, mlp, tanh
    from jaxann.rules import WithAngles
    from jaxann.training import optimizer

    loaded = [load("digits", held_out=config.held_out, seed=seed) for seed in range(config.seeds)]
    parts = [
        np.stack([getattr(getattr(data, part), of) for data in loaded]) for part in ("train", "test") for of in "xt"
    ]
    x, t, x_test, t_test = map(jnp.asarray, parts)
    x, x_test = x.astype(float), x_test.astype(float)
    model, loss = mlp((x.shape[-1], *config.hidden, len(loaded[0].classes)), tanh), SoftmaxCrossEntropy()
    validate_schedule(x.shape[1], config.epochs, config.batch_size)
    update = optimizer("sgd", config.learning_rate, weight_decay=config.weight_decay)

    def member(rule: Rule, key: Any, x: Any, t: Any, x_test: Any, t_test: Any) -> tuple[Any, ...]:
        params, history = fit(
            model,
            loss,
            update,
            x,
            t,
            key=key,
            epochs=config.epochs,
            batch_size=config.batch_size,
            gradient=WithAngles(rule),
        )
        y = predict(model, params, x_test)
        right = jnp.mean(y.argmax(axis=1) == t_test)
        well = jnp.isfinite(history.loss).all() & jnp.isfinite(y).all()  # the losses are from before the last step
        return jnp.where(well, right, jnp.nan), history.loss, history.metrics

    keys, found = jax.vmap(jax.random.key)(jnp.arange(config.seeds)), {}
    for name, rule in tqdm(rules(config, update).items(), disable=None, leave=False):
        members = jax.jit(jax.vmap(lambda *args, rule=rule: member(rule, *args)))
        accuracy, losses, angles = jax.tree.map(np.asarray, members(keys, x, t, x_test, t_test))
        found[name] = Outcome(accuracy, losses, {metric: angles[metric] for metric in sorted(angles, key=place)})
    return found


def place(metric: str) -> int:
    """Of the matrix that an angle is told of, in the network: jax sorts by name, 10.W before 2.W."""
    return int(metric.split()[-1].removesuffix(".W"))


def rules(config: Config, update: optax.GradientTransformation) -> dict[str, Rule]:
    """The rules asked for, by name."""
    from jaxann.rules import RULES, KolenPollack

    known = RULES | {"kolen_pollack": KolenPollack(update)}
    return {name: known[name] for name in config.rules}


def table(found: dict[str, Outcome]) -> str:
    """A row a rule."""
    rows: list[tuple[str, ...]] = [("rule", "accuracy", "gradient to the true one", "weights to feedback", "")]
    for name, outcome in found.items():
        good = outcome.accuracy[np.isfinite(outcome.accuracy)]
        diverged = np.flatnonzero(~np.isfinite(outcome.accuracy)).tolist()
        notes = [*(["the control"] if name == CONTROL else []), *([f"seeds {diverged} diverged"] if diverged else [])]
        angles = (" ".join(f"{angle:.0f}" for angle in outcome.last(kind)) for kind in ("gradient", "feedback"))
        spread = f" ± {good.std(ddof=1):.3f}" if len(good) > 1 else ""
        rows.append((name, f"{mean(good):.3f}{spread}", *angles, ", ".join(notes)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def mean(values: np.ndarray) -> float:
    """The mean; NaN of none."""
    return float(values.mean()) if len(values) else np.nan


def draw(found: dict[str, Outcome], path: Path) -> None:
    """Loss and angles to the true gradient over the epochs, the mean over seeds and a band of one sd."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    loss, angle = figure.subplots(1, 2)
    for name, outcome in found.items():
        steepest = [values for metric, values in outcome.angles.items() if metric.startswith("gradient")]
        hidden = np.mean(steepest[:-1] or steepest, axis=0)  # the output layer's is the true one by every rule
        for axes, values in (loss, outcome.loss), (angle, hidden):
            good = values[np.isfinite(outcome.accuracy)]
            if not len(good):
                continue
            centre, spread, epochs = good.mean(axis=0), good.std(axis=0), np.arange(1, good.shape[1] + 1)
            (line,) = axes.plot(epochs, centre, "--" if name == CONTROL else "-", label=name, linewidth=1)
            axes.fill_between(epochs, centre - spread, centre + spread, color=line.get_color(), alpha=0.15, linewidth=0)
    loss.set(xlabel="epoch", ylabel="training loss", yscale="log")
    angle.set(xlabel="epoch", ylabel="degrees from the true gradient, hidden layers", ylim=(0, 95))
    if loss.lines:  # there are none where every seed diverged
        loss.legend(fontsize=7)
    figure.savefig(path, dpi=150)


def to_json(found: dict[str, Outcome]) -> dict[str, Any]:
    """Every seed's outcome; None for what is no number."""

    def numbers(values: np.ndarray) -> list[Any]:
        return [numbers(row) if row.ndim else (float(row) if abs(row) < inf else None) for row in values]

    return {
        name: {
            "accuracy": numbers(outcome.accuracy),
            "loss": numbers(outcome.loss),
            **{metric: numbers(values) for metric, values in outcome.angles.items()},
        }
        for name, outcome in found.items()
    }


def main() -> int:
    """The exit code."""
    config = tyro.cli(Config, description=__doc__)
    try:
        found = run(config)
        print(table(found))
        if config.json is not None:
            config.json.write_text(json.dumps(to_json(found)), encoding="utf-8")
        if config.figure is not None:
            draw(found, config.figure)
    except (ValueError, OSError) as error:
        print(f"rules.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

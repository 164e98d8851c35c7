"""Presets: sets of defaults for a run, of which the dataset decides which one holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from jaxann.cli.settings import Settings

S = TypeVar("S", bound=Settings)

# The defaults of `Settings` are those of the derivation, so its preset changes none of them.
DERIVATION: dict[str, Any] = {}
# On wine, breast_cancer, digits, diabetes and three synthetic tables, four seeds of each, with every epoch evaluated,
# a patience of 20 chose the same epochs as all 300 epochs did, while 5 and 10 ended some runs too early.
TABLE: dict[str, Any] = {
    "hidden": (64, 64),
    "activation": "relu",
    "loss": "automatic",
    "label_smoothing": 0.0,
    "optimizer": "adam",
    "learning_rate": 0.001,
    "batch_size": None,
    "validation": 0.2,
    "patience": 20,
    "epochs": 300,
}
PRESETS: dict[str, dict[str, Any]] = {"derivation": DERIVATION, "table": TABLE}
# The members of a sweep have no early stopping, and the sweep has its own share for the validation part. Without early
# stopping, 20 to 30 epochs had the lowest loss on new examples of digits, diabetes and three synthetic tables.
SWEEP_TABLE = {name: value for name, value in TABLE.items() if name not in ("validation", "patience")} | {"epochs": 30}
SWEEP_PRESETS: dict[str, dict[str, Any]] = {"derivation": DERIVATION, "table": SWEEP_TABLE}


def find_preset(settings: S, presets: Mapping[str, Mapping[str, Any]] = PRESETS) -> S:
    """Returns the defaults under which a command line is read: those of its preset.

    Args:
        settings: The settings of the command line as read so far. Its preset is `settings.preset` or, if that is None,
            derivation for the dataset iris and table for any other.
        presets: The values of each preset. A patience among them holds only where there is a validation part.

    Returns:
        The defaults, of the same class as `settings`.
    """
    name = settings.preset or ("derivation" if settings.dataset == "iris" else "table")
    values = dict(presets[name])
    if not settings.validation:
        values.pop("patience", None)
    return replace(type(settings)(), **values)


def describe_presets(presets: Mapping[str, Mapping[str, Any]] = PRESETS) -> str:
    """Returns a paragraph for the help of a program: the values of each preset, as flags.

    Args:
        presets: The values of each preset. All presets have the settings of all others, by default those of `Settings`.
    """
    names = list(dict.fromkeys(name for values in presets.values() for name in values))
    defaults = {name: getattr(Settings(), name) for name in names}
    lines = ["The presets, whose values flags override (derivation by default for iris, table for all other data):"]
    for preset, values in presets.items():
        shown = (f"{name.replace('_', '-')} {_format(value)}" for name, value in (defaults | dict(values)).items())
        lines.append(f"{preset}: {', '.join(shown)}")
    return "\n\n".join(lines)


def _format(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)

"""Presets: sets of defaults for a run. The network and the dataset decide which preset holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from jaxann.cli.network_settings import TEXT_NETWORKS, NetworkSettings
from jaxann.cli.networks import NETWORKS
from jaxann.cli.settings import Settings
from jaxann.data.text_parts import DOCUMENTATION

S = TypeVar("S", bound=Settings)
Presets = Mapping[str, Mapping[str, Any]]

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
IMAGES = TABLE | {
    "dataset": "digits",
    "scaling": "all",
    "learning_rate": 0.003,
    "schedule": "cosine",
    "batch_size": 64,
    "validation": 0.1,
    "patience": None,
    "epochs": 20,
}
SEQUENCES = TABLE | {"hidden": (128,), "scaling": "all", "batch_size": 128, "clip": 1.0, "learning_rate": 0.003}
TEXT = TABLE | {
    "dataset": DOCUMENTATION,
    "network": "transformer",
    "hidden": (256,),
    "learning_rate": 0.003,
    "schedule": "cosine",
    "warmup": 0.5,
    "clip": 1.0,
    "validation": 0.1,
    "patience": None,
    "epochs": 10,
}
PRESETS: dict[str, dict[str, Any]] = {
    "derivation": DERIVATION,
    "table": TABLE,
    "images": IMAGES,
    "sequences": SEQUENCES,
    "text": TEXT,
}
# The members of a sweep have no early stopping, and the sweep has its own share for the validation part. Without early
# stopping, 20 to 30 epochs had the lowest loss on new examples of digits, diabetes and three synthetic tables.
SWEEP_PRESETS: dict[str, dict[str, Any]] = {
    name: {key: value for key, value in values.items() if key not in ("validation", "patience")}
    for name, values in PRESETS.items()
}
for _name in ("table", "sequences"):
    SWEEP_PRESETS[_name]["epochs"] = 30
SWEEP_TABLE = SWEEP_PRESETS["table"]


def find_preset(settings: S, presets: Presets = PRESETS) -> S:
    """Returns the defaults under which a command line is read: those of its preset.

    Args:
        settings: The settings of the command line as read so far. Its preset is `settings.preset` or, if that is None,
            text for text, images for lenet and resnet, sequences for gru and lstm, derivation for the dataset iris, and
            table for any other. For gru and lstm the dataset iris, which they do not take, counts as none, so that
            their preset is text.
        presets: The values of each preset. A patience among them holds only where there is a validation part.

    Returns:
        The defaults, of the same class as `settings`.
    """
    values = dict(presets[settings.preset or choose_preset(settings)])
    if not settings.validation:
        values.pop("patience", None)
    return replace(type(settings)(), **values)


def choose_preset(settings: Settings) -> str:
    """Returns the name of the preset of settings that name none."""
    is_default = settings.dataset == Settings().dataset
    if settings.is_text() or (settings.network in TEXT_NETWORKS and is_default):
        return "text"
    preset = NETWORKS[settings.network].preset
    return "derivation" if preset == "table" and is_default else preset


def list_defaults(settings: Settings) -> dict[str, set[Any]]:
    """Returns the defaults of each setting of a network: that of `Settings`, and that of the settings' own preset."""
    preset = PRESETS[choose_preset(settings)]
    names = [field.name for field in fields(NetworkSettings)]
    return {name: {getattr(Settings(), name), preset.get(name, getattr(Settings(), name))} for name in names}


def describe_presets(presets: Presets = PRESETS) -> str:
    """Returns a paragraph for the help of a program: the values of each preset, as flags.

    Args:
        presets: The values of each preset. A preset that lacks a setting of table is shown with the default of
            `Settings`.
    """
    defaults = {name: getattr(Settings(), name) for name in presets["table"]}
    lines = [
        "The presets, whose values flags override (by default text for text, images for lenet and resnet, sequences "
        "for gru and lstm, derivation for iris, and table for all other data):"
    ]
    for preset, values in presets.items():
        shown = (f"{name.replace('_', '-')} {_format(value)}" for name, value in (defaults | dict(values)).items())
        lines.append(f"{preset}: {', '.join(shown)}")
    return "\n\n".join(lines)


def _format(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)

"""Activations and losses by name, and the sentences for what is neither a name nor a layer or a loss."""

from __future__ import annotations

from typing import Any

from jaxann.nn.activations import ACTIVATIONS
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError
from jaxann.nn.loss import Loss
from jaxann.nn.losses import LOSSES


def resolve_layer(setting: str, value: Any) -> Layer:
    """Returns the layer that a setting stands for.

    Args:
        setting: The name of the setting, for the message.
        value: A layer, a class of layers that needs no settings, or the name of an activation.

    Raises:
        SettingError: If the value is none of these; the message has the names of the activations.
    """
    if isinstance(value, Layer):
        return value
    if isinstance(value, str) and value in ACTIVATIONS:
        return ACTIVATIONS[value]
    if isinstance(value, type) and issubclass(value, Layer):
        try:
            return value()
        except TypeError:  # the class has settings without defaults
            raise SettingError(setting, "to be a layer, such as Dense(4, 3), not a class", value.__name__) from None
    expectation = f"to be a layer of jaxann.nn or the name of an activation ({', '.join(ACTIVATIONS)})"
    raise SettingError(setting, expectation, value)


def resolve_loss(value: Any) -> Loss:
    """Returns the loss that the setting `loss` stands for.

    Args:
        value: A loss, a class of losses that needs no settings, or one of the names in `LOSSES`.

    Raises:
        SettingError: If the value is none of these; the message has the names of the losses.
    """
    if isinstance(value, Loss):
        return value
    if isinstance(value, str) and value in LOSSES:
        return LOSSES[value]()
    if isinstance(value, type) and issubclass(value, Loss):
        try:
            return value()
        except TypeError:  # the class has settings without defaults
            expectation = "to be a loss, such as SquaredError(), not a class that needs settings"
            raise SettingError("loss", expectation, value.__name__) from None
    raise SettingError("loss", f"to be a loss of jaxann.nn or the name of one ({', '.join(LOSSES)})", value)

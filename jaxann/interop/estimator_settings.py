"""The settings of an estimator: their checks, and what they make of its network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxann.gradients.autodiff import autodiff
from jaxann.gradients.backprop import backprop
from jaxann.interop.estimator_network import DECOUPLED, SOLVERS, Structure
from jaxann.nn.activations import ACTIVATIONS
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.loss import Loss
from jaxann.rules.registry import RULES

NUMBERS: dict[str, dict[str, Any]] = {
    "learning_rate_init": {"above": 0},
    "alpha": {"least": 0},
    "beta_1": {"least": 0, "below": 1},
    "beta_2": {"least": 0, "below": 1},
    "epsilon": {"above": 0},
    "momentum": {"least": 0, "most": 1},
    "dropout": {"least": 0, "below": 1},
    "tol": {"least": 0},
    "n_iter_no_change": {"least": 1, "integer": True},
}
"""The settings that a compiled program takes as numbers, each with its range."""

_SWITCHES = ("shuffle", "warm_start", "early_stopping", "nesterovs_momentum")
_GRADIENTS: dict[str, Callable] = {**RULES, "backprop": backprop, "autodiff": autodiff}
_ALIASES = {"logistic": "sigmoid"}  # scikit-learn's name


def validate_settings(estimator: Any) -> None:
    """Checks the settings that do not depend on the data.

    Args:
        estimator: The classifier or the regressor.

    Raises:
        SettingError: If a setting is out of range or of the wrong type. It is a ValueError.
    """
    for name, limits in NUMBERS.items():
        value = getattr(estimator, name)
        if not (name == "n_iter_no_change" and isinstance(value, float) and value == inf):
            validate_number(name, value, **limits)
    validate_number("max_iter", estimator.max_iter, least=1, integer=True)
    validate_number("validation_fraction", estimator.validation_fraction, above=0, below=1)
    for name in _SWITCHES:
        if not isinstance(getattr(estimator, name), bool | np.bool_):
            raise SettingError(name, "to be True or False", getattr(estimator, name))
    if estimator.batch_size != "auto":
        if isinstance(estimator.batch_size, str):
            raise SettingError("batch_size", "to be auto or a whole number", estimator.batch_size)
        validate_number("batch_size", estimator.batch_size, least=1, integer=True)
    if not isinstance(estimator.solver, str) or estimator.solver not in SOLVERS:
        raise SettingError("solver", f"to be {', '.join(SOLVERS[:-1])} or {SOLVERS[-1]}", estimator.solver)


def make_structure(estimator: Any, inputs: int, outputs: int, loss: Loss, score: Callable) -> Structure:
    """Returns the settings that are compiled into the program of an estimator.

    Args:
        estimator: The classifier or the regressor.
        inputs: The number of features.
        outputs: The number of outputs.
        loss: The loss.
        score: The score of validation outputs.

    Raises:
        SettingError: If the hidden layers, their activations or the gradient are not what they should be.
    """
    hidden = _read_sizes(estimator.hidden_layer_sizes)
    return Structure(
        sizes=(inputs, *hidden, outputs),
        activations=_read_activations(estimator.activation, len(hidden)),
        loss=loss,
        score=score,
        solver=estimator.solver,
        nesterov=bool(estimator.nesterovs_momentum),
        gradient=_read_gradient(estimator.gradient),
        drops=estimator.dropout > 0,
        shuffle=bool(estimator.shuffle),
        early_stopping=bool(estimator.early_stopping),
    )


def read_numbers(estimator: Any, scale: float) -> dict[str, np.ndarray]:
    """Returns the settings that a compiled program takes as numbers, in the default precision.

    Args:
        estimator: The classifier or the regressor.
        scale: The number that the weights of the examples were divided by; a penalty by their sum is divided by it too.
    """
    numbers = {name: float(getattr(estimator, name)) for name in NUMBERS}
    numbers["alpha"] /= scale if estimator.solver not in DECOUPLED else 1
    return {name: np.asarray(value, jnp.result_type(float)) for name, value in numbers.items()}


def _read_sizes(sizes: Any) -> tuple[int, ...]:
    if isinstance(sizes, Integral) or np.ndim(sizes) == 0:
        sizes = (sizes,)
    for i, size in enumerate(sizes):
        validate_number(f"hidden_layer_sizes[{i}]", size, least=1, integer=True)
    return tuple(int(size) for size in sizes)


def _read_activations(activation: Any, layers: int) -> tuple[Layer, ...]:
    if isinstance(activation, str | Layer) or not isinstance(activation, Iterable):
        activation = (activation,) * layers
    names: tuple[Any, ...] = tuple(activation)
    if len(names) != layers:
        raise SettingError("activation", f"to be one name, or one for each of {layers} hidden layers", activation)
    for name in names:
        if isinstance(name, Layer):
            if jax.tree.leaves(jax.eval_shape(name.init, jax.random.key(0))):
                raise SettingError("activation", "to be a layer without parameters", name)
        elif not isinstance(name, str) or _ALIASES.get(name, name) not in ACTIVATIONS:
            raise SettingError("activation", f"among {', '.join(ACTIVATIONS)} and logistic", name)
    return tuple(name if isinstance(name, Layer) else ACTIVATIONS[_ALIASES.get(str(name), str(name))] for name in names)


def _read_gradient(gradient: Any) -> Callable:
    if callable(gradient):
        return gradient
    if not isinstance(gradient, str) or gradient not in _GRADIENTS:
        raise SettingError("gradient", f"to be a gradient function or among {', '.join(_GRADIENTS)}", gradient)
    return _GRADIENTS[gradient]

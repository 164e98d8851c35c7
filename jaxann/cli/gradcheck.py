"""Checks the handwritten gradients of a network that `jaxann train` can train, or of a layer of your own.

The exit code is 0 if all gradients are right, 1 if one is wrong, which the table describes, and 2 for bad input.
"""

from __future__ import annotations

import ast
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro

from jaxann.cli.errors import ERRORS, flags, print_error, program_name
from jaxann.cli.settings import UNSTORED, Settings
from jaxann.cli.task import Task, prepare
from jaxann.data.batches import make_lanes
from jaxann.gradcheck.check import check, check_layer
from jaxann.gradcheck.plots import plot_report
from jaxann.gradcheck.report import Report
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.training.recipe import start, train


@dataclass(frozen=True)
class GradcheckSettings(Settings):
    """What is checked. The settings of `jaxann train` that concern a run and its folder have no effect."""

    after: int = 0
    """Number of epochs of training after which the network is checked once more. By default it is checked once."""
    layer: str | None = None
    """Layer to check instead of a network: module:Class, module:Class(5, rate=0.1) or module:instance."""
    shape: tuple[int, ...] | None = None
    """Shape of one input of that layer. By default the number of features that it takes, or 8 if it takes any."""
    on_purpose: tuple[str, ...] = ()
    """Paths of gradients that differ on purpose, such as 2, 2.W, loss or gradient.value."""
    json: bool = False
    """Whether JSON is printed instead of a table."""
    plot: Path | None = None
    """File for a picture of the last check. By default none is drawn."""


def run_checks(settings: GradcheckSettings) -> dict[str, Report]:
    """Checks a layer, or a network before and after training.

    Returns:
        The report of each check, by the time of the check: "at initialization", "after 3 epochs" or "at random".

    Raises:
        ValueError: If a setting is out of range, or settings and data do not fit together.
    """
    if settings.layer is not None:
        return {"at random": check_own_layer(settings, settings.layer)}
    validate_number("after", settings.after, least=0, integer=True)
    for name in UNSTORED:
        if getattr(settings, name) != getattr(Settings(), name):
            raise SettingError(name, "only for `jaxann train`", getattr(settings, name))
    if settings.precision == "bfloat16":
        raise SettingError("precision", "to be float32 or float64, whose rounding a check allows for", "bfloat16")
    task = prepare(settings)
    state = start(task.recipe, jax.random.key(settings.seed))
    reports = {"at initialization": check_network(task, state.params, settings)}
    if settings.after:
        lanes = make_lanes(task.examples, settings.batch_size)
        state, _ = train(task.recipe, state, lanes, settings.after)
        reports[f"after {settings.after} epochs"] = check_network(task, state.params, settings)
    return reports


def check_network(task: Task, params: Any, settings: GradcheckSettings) -> Report:
    """Checks a network with its parameters, its loss and its gradient."""
    recipe, examples = task.recipe, task.examples
    return check(
        recipe.model,
        recipe.loss,
        params,
        examples.x,
        examples.t,
        gradient=recipe.gradient,
        on_purpose=settings.on_purpose,
        seed=settings.seed,
    )


def check_own_layer(settings: GradcheckSettings, name: str) -> Report:
    """Checks the layer that `name` stands for, with random parameters at a random input.

    Raises:
        ValueError: If there is no such layer, or it cannot be initialized, or the shape is not one of an input.
    """
    layer, key = import_layer(name), jax.random.key(settings.seed)
    if settings.shape and min(settings.shape) < 1:
        raise SettingError("shape", "to be sizes of at least 1", settings.shape)
    try:
        x, params = jax.random.normal(key, settings.shape or input_shape(layer)), layer.init(key)
    except Exception as error:
        raise ValueError(f"the layer {name!r} cannot be initialized: {type(error).__name__}: {error}") from None
    return check_layer(layer, params, x, on_purpose=settings.on_purpose, seed=settings.seed)


def import_layer(name: str) -> Layer:
    """Imports the layer that a text such as "module:Class(5, rate=0.1)" stands for.

    Raises:
        ValueError: If the text is not of this form, or does not stand for a layer.
    """
    module, _, text = name.partition(":")
    try:
        expression = ast.parse(text, mode="eval").body
        call = expression if isinstance(expression, ast.Call) else None
        target = call.func if call else expression
        if not module or not isinstance(target, ast.Name):
            raise SyntaxError("expected the name of a module and a name in it")
        arguments = [ast.literal_eval(argument) for argument in call.args] if call else []
        settings = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords} if call else {}
    except (SyntaxError, ValueError):
        expectation = "to be module:Class, module:Class(5, rate=0.1) or module:instance"
        raise SettingError("layer", expectation, name) from None
    sys.path.insert(0, "")
    try:
        value = getattr(importlib.import_module(module), target.id)
        layer = value if isinstance(value, Layer) else value(*arguments, **settings)
    except Exception as error:
        raise ValueError(f"the layer {name!r} cannot be made: {type(error).__name__}: {error}") from None
    if not isinstance(layer, Layer):
        raise SettingError("layer", "to stand for a jaxann.nn.Layer", f"{name} of type {type(layer).__name__}")
    return layer


def input_shape(layer: Layer) -> tuple[int]:
    """Returns the shape of one input of a layer: [8] if the layer takes any number of features."""
    n, _ = layer.sizes
    return (n or 8,)


def main() -> int:
    """Checks what the command line says, and prints the reports.

    Returns:
        The exit code: 0 if all gradients are right, 1 if one is wrong, or 2 for bad input after a sentence on stderr.
    """
    settings = tyro.cli(GradcheckSettings, prog=program_name(), description=__doc__)
    try:
        reports = run_checks(settings)
        if settings.plot is not None:
            plot_report(list(reports.values())[-1]).savefig(settings.plot)
    except ERRORS as error:
        return print_error(error, flags(GradcheckSettings))
    if settings.json:
        print(json.dumps({when: report.to_dict() for when, report in reports.items()}, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(f"{when}\n{report}" for when, report in reports.items()))
    return 0 if all(report.ok for report in reports.values()) else 1

"""Checks the handwritten gradients of a network that `jaxann train` can train, or of your own layer or function.

The exit code is 0 if all gradients are right, 1 if one is wrong, which the table describes, and 2 for bad input.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from jaxann.cli.own_code import draw_input, import_layer, import_pair, make_arguments, report_failure
from jaxann.cli.presets import describe_presets, find_preset
from jaxann.cli.program import run_program
from jaxann.cli.settings import UNSTORED, Settings
from jaxann.cli.task import Task, prepare
from jaxann.data.batches import make_lanes
from jaxann.data.extras import require_packages
from jaxann.gradcheck.check import check, check_layer
from jaxann.gradcheck.plots import plot_report
from jaxann.gradcheck.report import Report
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.runs.files import write_picture
from jaxann.training.memory import validate_memory
from jaxann.training.recipe import start, train


@dataclass(frozen=True)
class GradcheckSettings(Settings):
    """The settings of a check: those of `jaxann train` that describe the data and the network, and its own.

    For a network, the settings of `jaxann train` about folders, files and devices are refused. Those that concern only
    the course of a run or its record have no effect.
    """

    after: int = 0
    """Number of epochs of training after which the network is checked once more. By default it is not trained."""
    layer: str | None = None
    """Layer to check instead of a network: module:Class, module:Class(5, rate=0.1) or module:instance.
    The module, which may lie in the current folder, is imported, and this runs its code: name only code that you trust.
    """
    shape: tuple[int, ...] | None = None
    """Shape of one input of that layer. By default the number of its input features, or 8 if it takes any number.
    A layer that takes no vector, such as a convolution, needs a shape.
    """
    function: str | None = None
    """Functions to check instead of a network: module:forward,backward, where backward(dy, *args) gives the gradients.
    They may be written in NumPy, JAX or anything else that takes and returns arrays. Their module is imported, too."""
    args: str | None = None
    """Arguments of that forward function: module:name of a tuple, or of a function without parameters that returns one.
    By default they are random and have the given shapes."""
    shapes: tuple[str, ...] = ()
    """Shapes of arguments of that function drawn from the standard normal distribution: 3,4 5 for two, () for a scalar.
    By default no argument is drawn."""
    on_purpose: tuple[str, ...] = ()
    """Paths of gradients that differ on purpose, such as 2, 2.W, loss or gradient.value."""
    json: bool = False
    """Whether JSON is printed instead of a table."""
    plot: Path | None = None
    """File for a picture of the last check, in the format of its extension, such as .png. By default none is drawn."""


def run_checks(settings: GradcheckSettings) -> dict[str, Report]:
    """Checks a layer, a pair of functions, or a network before and after training.

    Returns:
        The report of each check, by the point of the check: "at initialization", "after 3 epochs", "at random" or "at
        the given arguments".

    Raises:
        ValueError: If a setting is out of range, if settings and data do not fit together, or if a layer or a function
            cannot be checked.
    """
    if settings.function is not None:
        return {
            "at the given arguments" if settings.args else "at random": check_own_function(settings, settings.function)
        }
    for name in ("args", "shapes"):
        if getattr(settings, name):
            raise SettingError(name, "only for functions", getattr(settings, name))
    if settings.layer is not None:
        return {"at random": check_own_layer(settings, settings.layer)}
    validate_number("after", settings.after, least=0, integer=True)
    for name in UNSTORED:
        if name != "cache" and getattr(settings, name) != getattr(Settings(), name):
            raise SettingError(name, "only for `jaxann train`", getattr(settings, name))
    if settings.precision == "bfloat16":
        raise SettingError("precision", "to be float32 or float64, whose rounding a check allows for", "bfloat16")
    task = prepare(settings)
    x = task.examples.x
    validate_memory(task.recipe, jax.random.key(settings.seed), x.shape[1:], dtype=x.dtype)
    state = start(task.recipe, jax.random.key(settings.seed))
    reports = {"at initialization": check_network(task, state.params, settings)}
    if settings.after:
        lanes = make_lanes(task.examples, task.recipe.batch_size)
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
    """Checks the layer that `name` stands for, with random parameters and a random input.

    Raises:
        ValueError: If the layer cannot be imported, constructed, initialized or checked, or if the shape is not that of
            an input.
    """
    layer, key = import_layer(name), jax.random.key(settings.seed)
    if settings.shape and min(settings.shape) < 1:
        raise SettingError("shape", "to be sizes of at least 1", settings.shape)
    with report_failure(name, "initialized"):
        default, params = input_shape(layer), layer.init(key)
    with report_failure(name, "checked"):
        x = draw_input(layer, params, settings.shape, default, key)
        return check_layer(layer, params, x, on_purpose=settings.on_purpose, seed=settings.seed)


def check_own_function(settings: GradcheckSettings, name: str) -> Report:
    """Checks the pair of functions that `name` stands for, at given arguments or at random ones.

    Raises:
        ValueError: If the functions or their arguments cannot be imported, do not fit together or cannot be checked.
    """
    if settings.layer is not None:
        raise SettingError("function", "only without a layer", name)
    forward, backward = import_pair(name)
    args = make_arguments(name, forward, settings.args, settings.shapes, settings.seed)
    from jaxann.gradcheck.check_function import check_function

    with report_failure(name, "checked", "function"):
        return check_function(forward, backward, *args, on_purpose=settings.on_purpose, seed=settings.seed)


def input_shape(layer: Layer) -> tuple[int]:
    """Returns the shape of the input that is tried by default: [8] if the layer does not state how many features."""
    n, _ = layer.sizes
    return (n or 8,)


def require_picture(path: Path) -> None:
    """Checks that a picture can be written to a path, before any gradient is checked.

    Raises:
        ImportError: If matplotlib is missing.
        SettingError: If matplotlib does not know the format, if the path is a folder, or if its folder does not exist.
    """
    require_packages("a picture", "matplotlib.figure")
    from matplotlib.backend_bases import FigureCanvasBase

    formats = [name for name in sorted(FigureCanvasBase.get_supported_filetypes()) if name != "pgf"]  # pgf needs TeX
    if path.suffix.lower().removeprefix(".") not in formats:
        raise SettingError("plot", f"to end in one of {', '.join(f'.{name}' for name in formats)}", path)
    if path.is_dir() or not path.parent.is_dir():
        raise SettingError("plot", "to be a file in a folder that exists", path)


def main() -> int:
    """Runs the checks that the command line asks for, and prints the reports.

    Returns:
        The exit code: 0 if all gradients are right, 1 if one is wrong, or 2 after a sentence on stderr for bad input or
        if the reports cannot be printed.
    """

    def work(settings: GradcheckSettings, spelling: dict[str, str]) -> int:
        settings = replace(settings, preset=None)  # its values are the defaults with which these were parsed
        if settings.plot is not None:
            require_picture(settings.plot)
        reports = run_checks(settings)
        if settings.plot is not None:
            write_picture(settings.plot, plot_report(list(reports.values())[-1]))
        if settings.json:
            print(json.dumps({when: report.to_dict() for when, report in reports.items()}, indent=2))
        else:
            print("\n\n".join(f"{when}\n{report}" for when, report in reports.items()))
        return 0 if all(report.ok for report in reports.values()) else 1

    return run_program(GradcheckSettings, f"{__doc__}\n{describe_presets()}", work, find_defaults=find_preset)

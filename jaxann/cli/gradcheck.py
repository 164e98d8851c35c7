"""Check the handwritten gradients of any network that train.py can train, or of a layer of your own.

Exit code 0: all right. 1: something is wrong, and the table says what, where and how. 2: bad input.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxann.cli.settings import ELSEWHERE
from jaxann.cli.settings import Settings as Training
from jaxann.cli.task import prepare
from jaxann.gradcheck.report import Report
from jaxann.nn.base import Layer


@dataclass(frozen=True)
class GradcheckSettings(Training):
    """What to check. The first settings are train.py's; those of a run and its folder are not used."""

    after: int = 0
    """Check once more after so many epochs of training."""
    layer: str | None = None
    """A layer instead of a network: module:Class, module:Class(5, rate=0.1) or module:instance."""
    shape: tuple[int, ...] | None = None
    """Of one input of that layer. None is the number of features that the layer says it takes."""
    on_purpose: tuple[str, ...] = ()
    """Paths of gradients that are meant to differ: 2, 2.W, loss, gradient.value."""
    json: bool = False
    """Print JSON instead of a table."""
    plot: Path | None = None
    """Save a picture there."""


def run_checks(config: GradcheckSettings) -> dict[str, Report]:
    """The reports, by when. Raises ValueError for what does not fit together."""
    import jax

    from jaxann.gradcheck.check import check, check_layer
    from jaxann.training.recipe import start
    from jaxann.training.recipe import train as epochs

    key = jax.random.key(config.seed)
    if config.layer is not None:
        layer = import_layer(config.layer)
        if config.shape and min(config.shape) < 1:
            raise ValueError(f"shape is {config.shape}, but sizes of at least 1 are wanted")
        try:
            x, params = jax.random.normal(key, config.shape or input_shape(layer)), layer.init(key)
        except Exception as error:
            raise ValueError(f"layer {config.layer!r} cannot begin: {type(error).__name__}: {error}") from None
        return {"at random": check_layer(layer, params, x, on_purpose=config.on_purpose, seed=config.seed)}
    if config.after < 0:
        raise ValueError(f"after is {config.after}, but 0 or more epochs are wanted")
    for name in ELSEWHERE:
        if getattr(config, name) != getattr(Training(), name):
            raise ValueError(f"{name} is {getattr(config, name)}, but only train.py takes it")
    if config.precision == "bfloat16":
        raise ValueError("precision is bfloat16, which rounds by more than a check allows: check the float32 network")
    task = prepare(config)
    state = start(task.recipe, key)
    found = {}
    for when, pause in {"at initialisation": 0, f"after {config.after} epochs": config.after}.items():
        if pause or not found:
            state = epochs(task.recipe, state, task.examples, pause)[0] if pause else state
            found[when] = check(
                task.recipe.model,
                task.recipe.loss,
                state.params,
                task.examples.x,
                task.examples.t,
                gradient=task.recipe.gradient,
                on_purpose=config.on_purpose,
                seed=config.seed,
            )
    return found


def import_layer(name: str) -> Layer:
    """The layer that `name` stands for. Raises ValueError where there is none."""
    import ast
    import importlib

    from jaxann.nn.base import Layer

    module, _, thing = name.partition(":")
    wanted = "module:Class, module:Class(5, rate=0.1) or module:instance"
    try:
        expression = ast.parse(thing, mode="eval").body
        call = expression if isinstance(expression, ast.Call) else None
        target = call.func if call else expression
        if not module or not isinstance(target, ast.Name):
            raise SyntaxError(wanted)
        arguments = [ast.literal_eval(argument) for argument in call.args] if call else []
        settings = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords} if call else {}
    except (SyntaxError, ValueError):
        raise ValueError(f"layer is {name!r}, but {wanted} is wanted") from None
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), target.id)
        layer = found if isinstance(found, Layer) else found(*arguments, **settings)
    except Exception as error:
        raise ValueError(f"layer {name!r} cannot be made: {type(error).__name__}: {error}") from None
    if not isinstance(layer, Layer):
        raise ValueError(f"layer {name!r} is of type {type(layer).__name__}, not a jaxann.Layer")
    return layer


def input_shape(layer: Layer) -> tuple[int]:
    """The shape of an example, as far as the layer tells; 8 features where it takes any number."""
    n, _ = layer.sizes
    return (n or 8,)


def main() -> int:
    """The exit code."""
    config = tyro.cli(GradcheckSettings, description=__doc__)
    try:
        found = run_checks(config)
        if config.plot is not None:
            from jaxann.gradcheck.plots import plot_report

            plot_report(list(found.values())[-1]).savefig(config.plot, dpi=150)
    except (ValueError, ImportError, OSError) as error:
        print(f"gradcheck.py: {error}", file=sys.stderr)
        return 2
    if config.json:
        print(json.dumps({when: report.to_dict() for when, report in found.items()}, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(f"{when}\n{report}" for when, report in found.items()))
    return 0 if all(report.ok for report in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

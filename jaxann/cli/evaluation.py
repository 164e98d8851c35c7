"""The evaluation of a network on a part of the data: what its scores are computed of, and its loss."""

from __future__ import annotations

from typing import Any

from jaxtyping import PyTree

from jaxann.cli.task import Task, make_examples
from jaxann.data.batches import Examples
from jaxann.nn.base import Layer
from jaxann.nn.each_loss import EachLoss
from jaxann.nn.loss import Loss
from jaxann.training.fit import evaluate_batch
from jaxann.training.programs import Program
from jaxann.training.recipe import choose_options
from jaxann.training.text import evaluate_tokens


def evaluate_part(model: Layer, loss: Loss, params: PyTree, examples: Examples) -> tuple[Any, Any]:
    """Evaluates a network, as `evaluate_tokens` does with a loss at each position, and otherwise as `evaluate_batch`.

    Args:
        model: The network.
        loss: The loss between its outputs and the targets.
        params: The parameters of the network.
        examples: N examples.

    Returns:
        The outputs [N, m], or for text [N, T, 2], and the mean loss.
    """
    evaluate = evaluate_tokens if isinstance(loss, EachLoss) else evaluate_batch
    return evaluate(model, loss, params, examples)


def compute_outputs(task: Task, params: Any, part: Examples) -> Any:
    """Returns the outputs for a part of a task's dataset, [N, m], or for text as `evaluate_tokens` does, [N, T, 2]."""
    recipe = task.recipe
    return evaluate(recipe.model, recipe.loss, params, make_examples(recipe, task.targets, part))[0]


evaluate = Program(evaluate_part, ("model", "loss"), lambda params, **_: choose_options(params))

"""Members of a sweep: the tasks that they belong to, and the training of the members that share a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from math import inf, isfinite
from typing import Any

from jaxann.cli.evaluation import evaluate_part
from jaxann.cli.network_settings import NetworkSettings
from jaxann.cli.networks import NETWORKS
from jaxann.cli.scorer import Scorer
from jaxann.cli.settings import Settings
from jaxann.cli.task import (
    TRACEABLE,
    Task,
    check_settings,
    choose_batch_size,
    make_recipe,
    prepare,
)
from jaxann.data.batches import Examples
from jaxann.data.targets import Targets
from jaxann.data.validation import validate_schedule
from jaxann.nn.hyperparameters import Number, SettingError
from jaxann.runs.files import finite_or_none
from jaxann.training.recipe import Recipe
from jaxann.training.sweep import Outcome, sweep

Row = dict[str, Any]
# The arrays of a task depend on these settings.
PREPARED = ("held_out", "validation", "scaling", "network", "context", "loss", "class_weights", "label_smoothing")


def split_traced(settings: Settings, swept: Mapping[str, Any]) -> tuple[Settings, dict[str, float]]:
    """Splits the settings of a member into those of its compiled program and the numbers that vary inside it.

    A number that is 0 or None stays in the program's settings, because it leaves a part of the network out.

    Args:
        settings: All settings of the member.
        swept: The settings that the grid varies.

    Returns:
        The settings with the default of each number that varies inside the program, and those numbers.
    """
    traced = {*TRACEABLE}
    if settings.loss == "softmax_cross_entropy":  # it smooths the labels itself; other losses get smoothed targets
        traced.add("label_smoothing")
    numbers = {name: float(getattr(settings, name)) for name in swept if name in traced and getattr(settings, name)}
    return replace(settings, **{name: getattr(Settings(), name) for name in numbers}), numbers


def task_key(settings: Settings, swept: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns a key that is equal for members that can share a task."""
    base, numbers = split_traced(settings, swept)
    return *(getattr(base, name) for name in PREPARED), "label_smoothing" in numbers


def make_tasks(settings: Settings, candidates: list[Row]) -> dict[tuple[Any, ...], Task]:
    """Makes the tasks of all combinations of settings, by their `task_key`.

    Raises:
        ValueError: If the settings of a combination do not fit together or do not fit the data.
    """
    tasks: dict[tuple[Any, ...], Task] = {}
    for swept in candidates:
        member = replace(settings, **swept)
        check_settings(member)
        require_effects(member, swept)
        key = task_key(member, swept)
        if key not in tasks:
            tasks[key] = prepare(member)
        data = tasks[key].data
        validate_schedule(len(data.train.x), member.epochs, choose_batch_size(member, data))
        base, numbers = split_traced(member, swept)
        make_member_recipe(base, tasks[key], numbers)
    return tasks


def require_effects(settings: Settings, swept: Row) -> None:
    """Checks that each setting that a grid varies has an effect on the network of a member.

    Raises:
        SettingError: If one has none, so that members would differ by nothing.
    """
    own = NETWORKS[settings.network].settings
    for name in (field.name for field in fields(NetworkSettings) if field.name in swept):
        if name != "network" and name not in own:
            raise SettingError(name, f"to be left out of the grid for the network {settings.network}", swept[name])


def make_member_recipe(settings: Settings, task: Task, numbers: Mapping[str, Number]) -> Recipe:
    """Makes the recipe of a member.

    Args:
        settings: The settings of its program, as `split_traced` returns them.
        task: The task that it belongs to.
        numbers: The numbers that vary inside the program. JAX may trace them.
    """
    targets = smooth_targets(settings, task, numbers.get("label_smoothing", settings.label_smoothing))
    return make_recipe(settings, task.data, targets, numbers)


def smooth_targets(settings: Settings, task: Task, smoothing: Number | None) -> Targets:
    """Returns the encoding of the targets for a member, which has its own smoothing if the loss smooths the labels.

    Args:
        settings: The settings of the member or of its program.
        task: The task that it belongs to.
        smoothing: The label smoothing of the member. JAX may trace it.
    """
    if settings.loss == "softmax_cross_entropy" and smoothing is not None:
        return replace(task.targets, smoothing=smoothing)
    return task.targets


def recipe_maker(task: Task, bases: list[Settings]) -> Callable[..., Recipe]:
    """Returns the function that makes the recipe of a member, as `sweep` takes it.

    Args:
        task: The task that the members belong to.
        bases: The settings of their programs.

    Returns:
        A function of `base`, the position of the member's settings in `bases`, and the numbers that vary.
    """
    return lambda base, **numbers: make_member_recipe(bases[base], task, numbers)


def evaluate_member(recipe: Recipe, params: Any, examples: Examples) -> tuple[Any, Any]:
    """Returns the network's outputs for examples, and the loss on them."""
    return evaluate_part(recipe.model, recipe.loss, params, examples)


def evaluate_retrained(recipe: Recipe, params: Any, examples: Examples) -> tuple[Any, Any, Any]:
    """Returns the network's outputs for examples, the loss on them, and the parameters."""
    return *evaluate_member(recipe, params, examples), params


def train_members(
    settings: Settings,
    members: Iterable[Row],
    tasks: Mapping[tuple[Any, ...], Task],
    part: str,
    *,
    devices: Sequence[Any],
    budget: float | None,
) -> Iterator[tuple[Row, Outcome]]:
    """Trains members and scores them on the examples that their tasks show.

    Args:
        settings: The settings that the members have in common.
        members: The members, each with the "settings" that the grid varies and a "seed".
        tasks: The tasks of the members, by their `task_key`.
        part: The part that the tasks show, "validation" or "test". With "test" the outcomes hold the parameters, too.
        devices: The devices over which members are spread.
        budget: The most memory that a chunk of members may take, in bytes; None for the default of `sweep`.

    Returns:
        An iterator over the members, each with its losses and scores, and their outcomes, measured by
        `evaluate_member` or `evaluate_retrained`.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for member in members:
        own = replace(settings, **member["settings"])
        _, numbers = split_traced(own, member["settings"])
        key = task_key(own, member["settings"]), own.epochs, tuple(numbers)
        groups.setdefault(key, []).append(member)
    for (key, epochs, traced), group in groups.items():
        task, bases, described = tasks[key], [], []
        for member in group:
            base, numbers = split_traced(replace(settings, **member["settings"]), member["settings"])
            if base not in bases:
                bases.append(base)
            described.append({"seed": member["seed"], "base": bases.index(base), **numbers})
        outcomes = sweep(
            recipe_maker(task, bases),
            described,
            task.examples,
            epochs=epochs,
            traced=traced,
            measure=evaluate_retrained if part == "test" else evaluate_member,
            measure_data=task.shown[0],
            devices=devices,
            budget=budget,
        )
        for outcome in outcomes:
            yield group[outcome.place] | score_member(outcome, task, part, settings.score), outcome


def score_member(outcome: Outcome, task: Task, part: str, key: str) -> Row:
    """Returns the losses and the score of a member, with None for numbers that are not finite.

    Args:
        outcome: The outcome of the member.
        task: The task that it belongs to.
        part: The part that the task shows, "validation" or "test".
        key: The name of the score, as `find_score` takes it.
    """
    (examples, t), (y, loss, *_), score = task.shown, outcome.measured, inf
    if outcome.finite:
        with suppress(FloatingPointError):  # a member whose outputs or score are not finite diverged as well
            score = Scorer(task, key).score(t, y, examples.weights, loss)
    numbers = {"loss": outcome.loss[-1], f"{part}_loss": loss, f"{part}_score": score}
    finite = {name: finite_or_none(float(number)) for name, number in numbers.items()}
    return finite | {"diverged": not isfinite(score)}

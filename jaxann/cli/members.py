"""The members of a sweep: what each is made of, and how those that share data are trained together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from math import inf, isfinite
from typing import Any

import numpy as np

from jaxann.cli.settings import Settings
from jaxann.cli.task import Scorer, Task, check_settings, make_examples, make_recipe, prepare, weight_examples
from jaxann.data.batches import Examples
from jaxann.training.recipe import Recipe
from jaxann.training.sweep import Outcome

Row = dict[str, Any]
NUMBERS = ("learning_rate", "weight_decay", "dropout", "init_scale", "clip")  # of a program that may compute with them
PREPARED = ("held_out", "validation", "scaling", "loss", "class_weights", "label_smoothing")  # what arrays depend on


def split_numbers(config: Settings, settings: Mapping[str, Any]) -> tuple[Settings, dict[str, float]]:
    """The config without those of the settings that its program may compute with, and they.

    0 and None are left in: they mean built without.
    """
    known = {*NUMBERS}
    if config.loss == "softmax_cross_entropy":  # of other losses the targets are smoothed
        known.add("label_smoothing")
    found = {name: float(getattr(config, name)) for name in settings if name in known and getattr(config, name)}
    return replace(config, **dict.fromkeys(found)), found


def task_key(config: Settings, settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells members apart of which each needs a `Task` of its own."""
    base, numbers = split_numbers(config, settings)
    return *(getattr(base, name) for name in PREPARED), "label_smoothing" in numbers


def make_tasks(config: Settings, combinations: list[Row]) -> dict[tuple[Any, ...], Task]:
    """The tasks of all combinations, by `place`. Raises ValueError for combinations that do not fit together."""
    from jaxann.data.validation import validate_schedule

    found: dict[tuple[Any, ...], Task] = {}
    for settings in combinations:
        each = replace(config, **settings)
        check_settings(each)
        if task_key(each, settings) not in found:
            found[task_key(each, settings)] = prepare(each)
        task = found[task_key(each, settings)]
        validate_schedule(len(task.data.train.x), each.epochs, each.batch_size)
        make_member_recipe(each, task)
    return found


def make_member_recipe(config: Settings, task: Task) -> Recipe:
    """The recipe of a config whose task has the same `place`."""
    targets = task.targets
    if config.loss == "softmax_cross_entropy" and config.label_smoothing is not None:
        targets = replace(targets, smoothing=config.label_smoothing)
    return make_recipe(config, task.data, targets)


def merge_validation(config: Settings, task: Task) -> Task:
    """The task of training on the training and the validation part and showing the test part."""
    from jaxann.data.targets import Targets

    data, old = task.data, task.targets

    def both(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in (data.train, data.validation)])

    train = Examples(both("x"), both("t"), None if data.train.weights is None else both("weights"))
    task = task._replace(
        data=data._replace(train=train, validation=None),
        targets=Targets.fit(old.loss, old.classes, float(old.smoothing), train.t),
    )
    examples, shown = (
        make_examples(task.recipe, task.targets, part) for part in (weight_examples(config, task.data), data.test)
    )
    return task._replace(examples=examples, shown=(shown, data.test.t))


def recipe_maker(task: Task, bases: list[Settings]) -> Callable[..., Recipe]:
    """What makes the recipe of a member: from the place of its config, and its own numbers."""
    return lambda base, **numbers: make_member_recipe(replace(bases[base], **numbers), task)


def evaluate_member(recipe: Recipe, params: Any, examples: Examples) -> tuple[Any, Any]:
    """The outputs for examples, and the loss over them."""
    from jaxann.training.fit import evaluate_batch

    return evaluate_batch(recipe.model, recipe.loss, params, examples)


def train_members(
    config: Settings, members: Iterable[Row], ready: Mapping[tuple[Any, ...], Task], how: Mapping[str, Any], part: str
) -> Iterator[tuple[Row, int]]:
    """The members with their losses and scores on the `part` that their tasks show, as they come.

    With each, how many more of its chunk are to come, which are computed already.

    `how` are budget and devices, as `jaxann.sweep.sweep` takes them.
    """
    from jaxann.training.sweep import sweep

    runs: dict[tuple[Any, ...], list[Row]] = {}
    for member in members:
        each = replace(config, **member["settings"])
        _, numbers = split_numbers(each, member["settings"])
        key = task_key(each, member["settings"]), each.epochs, tuple(numbers)
        runs.setdefault(key, []).append(member)
    for (key, epochs, traced), here in runs.items():
        task, bases, described = ready[key], [], []
        for member in here:
            base, numbers = split_numbers(replace(config, **member["settings"]), member["settings"])
            if base not in bases:
                bases.append(base)
            described.append({"seed": member["seed"], "base": bases.index(base), **numbers})
        for outcome in sweep(
            recipe_maker(task, bases),
            described,
            task.examples,
            epochs=epochs,
            traced=traced,
            measure=evaluate_member,
            measure_data=task.shown[0],
            **how,
        ):
            yield here[outcome.place] | score_member(outcome, task, part), outcome.more


def score_member(outcome: Outcome, task: Task, part: str) -> Row:
    """What a member came to; None for what is no finite number."""
    (examples, t), (y, loss), score = task.shown, outcome.measured, inf
    if outcome.finite and np.isfinite(y).all():
        with suppress(FloatingPointError), np.errstate(all="ignore"):  # numbers too large are diverged too
            score = Scorer(task).score(t, y, examples.weights)
    numbers = {"loss": outcome.loss[-1], f"{part}_loss": loss, f"{part}_score": score}
    finite = {name: float(number) if isfinite(number) else None for name, number in numbers.items()}
    return finite | {"diverged": not isfinite(score)}

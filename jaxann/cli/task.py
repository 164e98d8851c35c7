"""Tasks: the data, network and plan that the settings of a run stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array
from sklearn.utils.class_weight import compute_class_weight

from jaxann.cli.cache import find_folder, use_cache
from jaxann.cli.data_settings import COLUMNS
from jaxann.cli.networks import Interface, build_network, check_network, require_fit
from jaxann.cli.presets import PRESETS, choose_preset, list_defaults
from jaxann.cli.settings import Settings
from jaxann.data.augmentation import Augmentation
from jaxann.data.batches import Examples
from jaxann.data.column_settings import ColumnSettings
from jaxann.data.scaling import Scaling
from jaxann.data.splits import Dataset, load_dataset
from jaxann.data.targets import Targets, TokenTargets
from jaxann.data.text_parts import load_text
from jaxann.data.validation import validate, validate_schedule, validate_weights
from jaxann.gradients.autodiff import autodiff
from jaxann.gradients.backprop import backprop
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import Number, SettingError, validate_number
from jaxann.nn.loss import Loss
from jaxann.nn.precision import MixedPrecision
from jaxann.training.loop import Plan, piece_length
from jaxann.training.optimizers import optimizer, schedule
from jaxann.training.recipe import Recipe

TRACEABLE = ("learning_rate", "weight_decay", "dropout", "init_scale", "clip")  # may vary inside a compiled program
BATCH_SIZE = 32  # where the settings have none
SHOWN = 2000  # training examples on which progress is shown without a validation part


class Task(NamedTuple):
    """A training run, made from its settings.

    Attributes:
        data: The parts of the dataset, standardized.
        targets: The encoding of the targets for the loss, which also decodes outputs.
        recipe: The network, the loss, the optimizer and everything else that the compiled program fixes.
        examples: The training part, as arrays for the recipe.
        shown: Examples on which progress is shown, and their true targets: the validation part or, without one, up to
            2000 examples of the training part.
        plan: The number of epochs of the run, and when it is evaluated.
    """

    data: Dataset
    targets: Targets
    recipe: Recipe
    examples: Examples
    shown: tuple[Examples, Array | np.ndarray]
    plan: Plan


def check_settings(settings: Settings) -> None:
    """Checks all of a run's settings that can be checked without the data.

    Raises:
        SettingError: If a setting is out of range, or has no effect without another one.
    """
    check_network(settings, list_defaults(settings))
    settings.check()
    validate_number("epochs", settings.epochs, least=1, integer=True)
    validate_number("epochs", settings.epochs, most=2**31 - 1)  # a state counts them in int32
    validate_number("warmup", settings.warmup, below=settings.epochs, note="the number of epochs")
    if settings.label_smoothing is not None:
        validate_number("label_smoothing", settings.label_smoothing, least=0, below=1)
    dtype = "float64" if settings.precision == "float64" else "float32"
    validate_number("learning_rate", settings.learning_rate, above=0)
    largest = float(np.finfo(dtype).max)
    validate_number("learning_rate", settings.learning_rate, most=largest, note=f"the largest {dtype} number")


def _rename_setting(error: SettingError, name: str, setting: str) -> SettingError:
    """Returns the error with the library's name of a setting, `name`, replaced by the name in `Settings`, `setting`."""
    return SettingError(setting, error.expectation, error.value) if error.name == name else error


def prepare(settings: Settings) -> Task:
    """Loads the data and makes the network that the settings describe, and sets JAX's default precision.

    Raises:
        ValueError: If a setting is out of range, or settings and data do not fit together.
    """
    jax.config.update("jax_enable_x64", settings.precision == "float64")
    check_settings(settings)
    if settings.cache:
        use_cache(find_folder())
    data, targets = load_text_data(settings) if settings.is_text() else load_table_data(settings)
    source, interface = settings.dataset, Interface(data.train.x.shape[1], data.shape, targets)
    require_fit(settings, source, interface)
    validate_schedule(len(data.train.x), settings.epochs, choose_batch_size(settings, data))
    recipe = make_recipe(settings, data, targets)
    examples = make_examples(recipe, targets, weight_examples(settings, data))
    x, t, weights = data.train
    shown = data.validation or Examples(x[:SHOWN], t[:SHOWN], None if weights is None else weights[:SHOWN])
    length, every = piece_length(steps_per_epoch(settings, data), settings.epochs, settings.evaluate_every)
    plan = Plan(settings.epochs, length, every, settings.patience)
    return Task(data, targets, recipe, examples, (make_examples(recipe, targets, shown), shown.t), plan)


def load_table_data(settings: Settings) -> tuple[Dataset, Targets]:
    """Loads the parts of a table, and fits the encoding of its targets.

    Raises:
        ValueError: If a setting is out of range, or settings and data do not fit together.
    """
    for name in ("context", "tokenizer"):
        if getattr(settings, name) != getattr(Settings(), name):
            place = f"and {settings.network} reads {settings.dataset} as a table"
            raise SettingError(name, f"only for text, {place}", getattr(settings, name))
    if settings.network == "transformer":
        raise SettingError("network", f"to fit the table {settings.dataset} (transformer takes text)", "transformer")
    data, loss = load_parts(settings), settings.loss
    if loss in (None, "automatic"):
        for_classes = "cross_entropy" if loss is None else "softmax_cross_entropy"
        loss = for_classes if data.classes else "squared_error"
    smoothing = settings.label_smoothing
    if smoothing is None:
        smoothing = 0.03 if data.classes and loss != "hinge" else 0.0
    try:
        return data, Targets.fit(loss, len(data.classes), smoothing, data.train.t)
    except SettingError as error:
        raise _rename_setting(error, "smoothing", "label_smoothing") from None


def load_parts(settings: Settings) -> Dataset:
    """Loads the parts of a table, and says how to read a .txt file as text if it holds no table.

    Raises:
        ValueError: As `load_dataset` does.
    """
    try:
        return load_dataset(
            settings.dataset,
            held_out=settings.held_out,
            validation=settings.validation,
            seed=settings.seed if settings.split is None else settings.split,
            scaling=settings.scaling,
            target=settings.target,
            weights=settings.weights,
            kind=settings.kind,
            header=settings.header,
            columns=ColumnSettings(settings.ignore, settings.id, settings.categorical, settings.numeric),
        )
    except ValueError as error:
        if isinstance(error, SettingError) or not settings.dataset.lower().endswith(".txt"):
            raise
        raise ValueError(f"{error} ({settings.dataset} is read as text with --network transformer)") from None


def load_text_data(settings: Settings) -> tuple[Dataset, Targets]:
    """Loads the parts of a text.

    Raises:
        ValueError: If a setting is out of range or has no meaning for text, or the text cannot be read or is too short.
    """
    for name in (*COLUMNS, "scaling", "class_weights", "crop", "flip"):
        if getattr(settings, name) != getattr(Settings(), name):
            raise SettingError(name, "to be left out for text", getattr(settings, name))
    parts = load_text(
        settings.dataset,
        context=settings.context,
        tokenizer=settings.tokenizer,
        held_out=settings.held_out,
        validation=settings.validation,
    )
    loss = "softmax_cross_entropy" if settings.loss in (None, "automatic") else settings.loss
    try:
        targets = TokenTargets(
            loss, parts.tokenizer.size, settings.label_smoothing or 0.0, characters_per_token=parts.characters_per_token
        )
    except SettingError as error:
        raise _rename_setting(error, "smoothing", "label_smoothing") from None
    scaling = Scaling(np.zeros(0), np.ones(0))
    shape, data = (settings.context,), (parts.train, parts.validation, parts.test)
    return Dataset(*data, (), (), "next token", scaling, shape=shape, tokenizer=parts.tokenizer), targets


def choose_batch_size(settings: Settings, data: Dataset) -> int:
    """Returns the number of examples in a batch: by default 32, or all training examples if there are fewer.

    A batch size that equals the preset's is reduced likewise.
    """
    size, default = settings.batch_size, PRESETS[choose_preset(settings)].get("batch_size")
    return min(size or BATCH_SIZE, len(data.train.x)) if size is None or size == default else size


def steps_per_epoch(settings: Settings, data: Dataset) -> int:
    """Returns the number of batches in an epoch."""
    return -(-len(data.train.x) // choose_batch_size(settings, data))


def make_recipe(
    settings: Settings, data: Dataset, targets: Targets, numbers: Mapping[str, Number] | None = None
) -> Recipe:
    """Makes the recipe of a run, which its compiled program fixes.

    Args:
        settings: The settings of the run.
        data: The dataset, for its numbers of features and examples.
        targets: How the targets are encoded for the loss.
        numbers: Values of settings in `TRACEABLE` that replace those in `settings`. JAX may trace them.

    Raises:
        ValueError: If a setting is out of range.
    """
    values = {name: getattr(settings, name) for name in TRACEABLE} | dict(numbers or {})
    model, loss = make_network(settings, Interface(data.train.x.shape[1], data.shape, targets), values)
    steps = steps_per_epoch(settings, data)
    final = settings.final
    if final is None:
        final = 0.01 if settings.schedule == "exponential" else 0.0
    warmup = round(settings.warmup * steps)
    rate = schedule(settings.schedule, values["learning_rate"], settings.epochs * steps, warmup=warmup, final=final)
    others: Any = {"weight_decay": values["weight_decay"], "clip": values["clip"]}
    try:
        update = optimizer(settings.optimizer, rate, settings=settings.optimizer_settings, **others)
    except SettingError as error:
        raise _rename_setting(error, "settings", "optimizer_settings") from None
    gradient = {"backprop": backprop, "autodiff": autodiff}[settings.gradient]
    augment = make_augmentation(settings, data)
    return Recipe(model, loss, update, choose_batch_size(settings, data), gradient, augment=augment)


def make_network(
    settings: Settings, interface: Interface, numbers: Mapping[str, Number] | None = None
) -> tuple[Layer, Loss]:
    """Makes the network and the loss.

    Args:
        settings: The settings of the run.
        interface: The interface of the network.
        numbers: Values of settings in `TRACEABLE` that replace those in `settings`. JAX may trace them.
    """
    values = {"init_scale": settings.init_scale, "dropout": settings.dropout} | dict(numbers or {})
    model = build_network(settings, interface, values)
    return MixedPrecision(model) if settings.precision == "bfloat16" else model, interface.targets.make_loss()


def make_augmentation(settings: Settings, data: Dataset) -> Augmentation | None:
    """Makes the random changes of images, or returns None where there are none.

    Raises:
        SettingError: If the examples are not images, or are too small for the crop.
    """
    for name in ("crop", "flip"):
        if getattr(settings, name) and len(data.shape) != 3:
            raise SettingError(
                name, f"only for images, which {settings.dataset} does not hold", getattr(settings, name)
            )
    return Augmentation(data.shape, settings.crop, settings.flip) if settings.crop or settings.flip else None


def weight_examples(settings: Settings, data: Dataset) -> Examples:
    """Returns the training part, with each example's weight multiplied by the weight of its class.

    Raises:
        ValueError: If there are class weights, but no classes, or not one weight for each class.
    """
    part, classes = data.train, len(data.classes)
    if settings.class_weights is None:
        return part
    if not classes:
        raise SettingError("class_weights", "only for classes (the targets are numbers)", settings.class_weights)
    if settings.class_weights == "balanced":
        for label in np.flatnonzero(np.bincount(part.t, minlength=classes) == 0):
            raise ValueError(f"expected examples of every class to balance, got none of class {data.classes[label]}")
        weights = compute_class_weight("balanced", classes=np.arange(classes), y=part.t)
    elif len(settings.class_weights) != classes:
        raise SettingError("class_weights", f"to be one for each of {classes} classes", settings.class_weights)
    else:
        weights = np.array(settings.class_weights)
    return part._replace(weights=weights[part.t] * (1 if part.weights is None else part.weights))


def make_examples(recipe: Recipe, targets: Targets, part: Examples) -> Examples:
    """Returns a part of the dataset as arrays for a recipe's network and loss.

    Raises:
        ValueError: If the part does not fit the network or the loss.
    """
    x, t = validate(recipe.model, recipe.loss, part.x, targets.encode(part.t))
    return Examples(x, t, validate_weights(part.weights, len(x)))

"""A config made concrete: data, network and plan, and the measure of how well the network does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from jaxann.cli.settings import Settings
from jaxann.data.batches import Examples
from jaxann.data.splits import Dataset
from jaxann.data.targets import Targets
from jaxann.nn.base import Layer
from jaxann.nn.loss import Loss
from jaxann.runs.folder import Folder
from jaxann.training.loop import Plan
from jaxann.training.recipe import Recipe


class Task(NamedTuple):
    """A config made concrete: the data, their targets, what is compiled in, training arrays, and how far it goes.

    `shown` are examples and true targets to show progress on: the validation part, or some of the training part.
    """

    data: Dataset
    targets: Targets
    recipe: Recipe
    examples: Examples
    shown: tuple[Examples, np.ndarray]
    plan: Plan


def check_settings(config: Settings) -> None:
    """Raises ValueError for settings that are out of range, whatever the data."""
    import numpy as np

    config.check()
    if not 0 < config.learning_rate <= np.finfo(np.float64 if config.precision == "float64" else np.float32).max:
        raise ValueError(f"learning_rate is {config.learning_rate}, but a finite number above 0 is wanted")


def prepare(config: Settings) -> Task:
    """Raises ValueError for what does not fit together."""
    import jax

    from jaxann.data.splits import load
    from jaxann.data.targets import Targets
    from jaxann.data.validation import validate_schedule
    from jaxann.training.loop import Plan, piece_length

    jax.config.update("jax_enable_x64", config.precision == "float64")
    check_settings(config)
    data = load(
        config.dataset,
        held_out=config.held_out,
        validation=config.validation,
        seed=config.seed if config.split is None else config.split,
        scaling=config.scaling,
        target=config.target,
        weights=config.weights,
        kind=config.kind,
    )
    name = config.loss or ("cross_entropy" if data.classes else "squared_error")
    smoothing = config.label_smoothing
    if smoothing is None:
        smoothing = 0.03 if data.classes and name != "hinge" else 0.0
    targets = Targets.fit(name, len(data.classes), smoothing, data.train.t)
    validate_schedule(len(data.train.x), config.epochs, config.batch_size)
    made = make_recipe(config, data, targets)
    examples = make_examples(made, targets, weight_examples(config, data))
    x, t, weights = data.train
    shown = data.validation or Examples(x[:2000], t[:2000], None if weights is None else weights[:2000])
    plan = Plan(
        config.epochs,
        *piece_length(steps_per_epoch(config, data), config.epochs, config.evaluate_every),
        config.patience,
    )
    return Task(data, targets, made, examples, (make_examples(made, targets, shown), np.asarray(shown.t)), plan)


def steps_per_epoch(config: Settings, data: Dataset) -> int:
    """Of an epoch."""
    return -(-len(data.train.x) // config.batch_size)


def make_recipe(config: Settings, data: Dataset, targets: Targets) -> Recipe:
    """What is compiled in. The numbers of the config may be traced, but for those that tell shares and lengths."""
    from jaxann.gradients.autodiff import autodiff
    from jaxann.gradients.backprop import backprop
    from jaxann.training.optimizers import optimizer, schedule
    from jaxann.training.recipe import Recipe

    model, loss = make_network(config, data.train.x.shape[1], targets)
    warmup, whole = round(config.warmup * steps_per_epoch(config, data)), config.epochs * steps_per_epoch(config, data)
    final = config.final if config.final is not None else 0.01 if config.schedule == "exponential" else 0.0
    rate = schedule(config.schedule, config.learning_rate, whole, warmup=warmup, final=final)
    update = optimizer(
        config.optimizer,
        rate,
        settings=config.optimizer_settings,
        weight_decay=config.weight_decay,
        clip=config.clip,
    )
    gradient = {"backprop": backprop, "autodiff": autodiff}[config.gradient]
    return Recipe(model, loss, update, config.batch_size, gradient)


def make_network(config: Settings, features: int, targets: Targets) -> tuple[Layer, Loss]:
    """The model and the loss, which need no data."""
    from jax.nn import initializers

    from jaxann.nn.activations import ACTIVATIONS, identity, softmax
    from jaxann.nn.precision import MixedPrecision
    from jaxann.nn.sequential import mlp

    weights = initializers.variance_scaling(config.init_scale**2, "fan_avg", "uniform")  # Glorot and Bengio, scaled
    output = softmax if targets.loss == "cross_entropy" else identity
    sizes = (features, *config.hidden, targets.outputs)
    model = mlp(sizes, ACTIVATIONS[config.activation], output, config.dropout, weights)
    return MixedPrecision(model) if config.precision == "bfloat16" else model, targets.make_loss()


def weight_examples(config: Settings, data: Dataset) -> Examples:
    """The training part, its examples' weights times those of their classes."""
    import numpy as np
    from sklearn.utils.class_weight import compute_class_weight

    part, classes = data.train, len(data.classes)
    if config.class_weights is None:
        return part
    if not classes:
        raise ValueError("class_weights are given, but the targets are numbers")
    if config.class_weights == "balanced":
        for label in np.flatnonzero(np.bincount(part.t, minlength=classes) == 0):
            raise ValueError(f"class_weights are balanced, but there is no example of class {data.classes[label]}")
        weights = compute_class_weight("balanced", classes=np.arange(classes), y=part.t)
    elif len(config.class_weights) != classes:
        raise ValueError(
            f"class_weights are {len(config.class_weights)}, but one for each of {classes} classes is wanted"
        )
    else:
        weights = np.array(config.class_weights)
    return part._replace(weights=weights[part.t] * (1 if part.weights is None else part.weights))


def make_examples(recipe: Recipe, targets: Targets, part: Examples) -> Examples:
    """A part's examples as arrays that fit the model and the loss."""
    from jaxann.data.batches import Examples
    from jaxann.data.validation import validate, validate_weights

    x, t = validate(recipe.model, recipe.loss, part.x, targets.encode(part.t))
    return Examples(x, t, validate_weights(part.weights, len(x)))


class Scorer:
    """From parameters, examples and their true targets to accuracy, or R² of numbers, and loss."""

    def __init__(self, task: Task) -> None:
        from sklearn.metrics import accuracy_score, r2_score

        classes = ("accuracy", "accuracy", accuracy_score)
        self.name, self.key, self._score = classes if task.data.classes else ("R²", "r2", r2_score)
        self._task = task

    def __call__(self, params: Any, examples: Examples, t: np.ndarray) -> tuple[float, float]:
        from jaxann.training.fit import evaluate

        y, loss = evaluate(self._task.recipe.model, self._task.recipe.loss, params, examples)
        return self.score(t, y, examples.weights), float(loss)

    def score(self, t: np.ndarray, y: Any, weights: Any = None) -> float:
        import numpy as np

        predicted = self._task.targets.decode(np.asarray(y))
        if not np.isfinite(predicted).all():
            raise FloatingPointError(f"{np.sum(~np.isfinite(predicted))} of {len(t)} predictions are not finite")
        return float(self._score(t, predicted, sample_weight=weights))


class DataDescription(NamedTuple):
    """What a run keeps of its data, in data.json: enough to predict from others, and to know the same again."""

    classes: Sequence[str]
    columns: Sequence[str]
    target: str
    mean: Sequence[float]
    sd: Sequence[float]
    targets: dict[str, Any]
    digest: str

    @classmethod
    def of(cls, task: Task) -> DataDescription:
        """What is to be kept of a task's data."""
        import numpy as np

        data, digest = task.data, sha256()
        for numbers in (a for part in (data.train, data.validation, data.test) if part for a in part if a is not None):
            digest.update(np.ascontiguousarray(numbers).data)
        scaling = data.scaling.mean.tolist(), data.scaling.sd.tolist()
        return cls(data.classes, data.columns, data.target, *scaling, asdict(task.targets), digest.hexdigest())

    @classmethod
    def read(cls, folder: Folder) -> DataDescription:
        """What was kept in a run's folder. Raises ValueError where it is not what `of` makes."""
        kept = folder.json("data")
        if not isinstance(kept, dict) or kept.keys() != set(cls._fields):
            raise ValueError(f"{folder.path / 'data.json'} is damaged: {', '.join(cls._fields)} are wanted in it")
        return cls(**kept)

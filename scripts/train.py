"""Train a network on a table of data, its gradient written by hand.

Without arguments: the derivation's own network, 4-50-20-10-3 with sigmoids, softmax and cross-entropy, on Iris.
"""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import tyro
from config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from jaxann.data import Data, Part
    from jaxann.layer import Layer
    from jaxann.losses import Loss
    from jaxann.pieces import Plan, Standing
    from jaxann.record import Record
    from jaxann.targets import Targets
    from jaxann.training import Examples, Recipe


class Task(NamedTuple):
    """A config made concrete: the data, their targets, what is compiled in, training arrays, and how far it goes."""

    data: Data
    targets: Targets
    recipe: Recipe
    examples: Examples
    validation: Examples | None
    plan: Plan


class Outcome(NamedTuple):
    """What came of a run: accuracy, or R² of numbers, on the test part, and what it took."""

    score: float
    epochs: int
    steps: int
    seconds: float
    compiling: float
    signals: tuple[int, ...]


def prepare(config: Config) -> Task:
    """Raises ValueError for what does not fit together."""
    import jax
    import numpy as np

    from jaxann import autodiff, backprop
    from jaxann.data import load
    from jaxann.optimizers import optimizer, schedule
    from jaxann.pieces import Plan, piece_length
    from jaxann.targets import Targets
    from jaxann.training import Recipe
    from jaxann.validate import validate_schedule

    jax.config.update("jax_enable_x64", config.precision == "float64")
    if not 0 < config.learning_rate <= np.finfo(np.float64 if config.precision == "float64" else np.float32).max:
        raise ValueError(f"learning_rate is {config.learning_rate}, but a finite number above 0 is wanted")
    named = {"target": config.target, "weights": config.weights, "kind": config.kind}
    parts = {"held_out": config.held_out, "validation": config.validation, "seed": config.seed}
    data = load(config.dataset, scaling=config.scaling, **parts, **named)
    name = config.loss or ("cross_entropy" if data.classes else "squared_error")
    smoothing = config.label_smoothing
    if smoothing is None:
        smoothing = 0.03 if data.classes and name != "hinge" else 0.0
    targets = Targets.of(name, len(data.classes), smoothing, data.train.t)
    model, loss = network(config, data.train.x.shape[1], targets)
    examples = prepared(model, loss, targets, weighted(config, data))
    validation = None if data.validation is None else prepared(model, loss, targets, data.validation)
    if config.patience is not None and (validation is None or config.patience < 1):
        wanted = "a validation part is wanted to measure it on" if validation is None else "at least 1 epoch is wanted"
        raise ValueError(f"patience is {config.patience}, but {wanted}")
    validate_schedule(len(examples.x), config.epochs, config.batch_size)
    steps = -(-len(examples.x) // config.batch_size)
    final = config.final if config.final is not None else 0.01 if config.schedule == "exponential" else 0.0
    rate = schedule(
        config.schedule, config.learning_rate, config.epochs * steps, warmup=round(config.warmup * steps), final=final
    )
    update = optimizer(
        config.optimizer,
        rate,
        settings=config.optimizer_settings,
        weight_decay=config.weight_decay,
        clip=config.clip,
    )
    gradient = {"backprop": backprop, "autodiff": autodiff}[config.gradient]
    plan = Plan(config.epochs, *piece_length(steps, config.epochs, config.evaluate_every), config.patience)
    return Task(data, targets, Recipe(model, loss, update, config.batch_size, gradient), examples, validation, plan)


def network(config: Config, features: int, targets: Targets) -> tuple[Layer, Loss]:
    """The model and the loss, which need no data."""
    from jaxann import ACTIVATIONS, MixedPrecision, identity, mlp, softmax

    output = softmax if targets.loss == "cross_entropy" else identity
    sizes = (features, *config.hidden, targets.outputs)
    model = mlp(sizes, ACTIVATIONS[config.activation], output, config.dropout)
    return MixedPrecision(model) if config.precision == "bfloat16" else model, targets.function()


def weighted(config: Config, data: Data) -> Part:
    """The training part, its examples' weights times those of their classes."""
    import numpy as np
    from sklearn.utils.class_weight import compute_class_weight

    part, classes = data.train, len(data.classes)
    if config.class_weights is None:
        return part
    if not classes:
        raise ValueError("class_weights are given, but the targets are numbers")
    if config.class_weights == "balanced":
        weights = compute_class_weight("balanced", classes=np.arange(classes), y=part.t)
    elif len(config.class_weights) != classes:
        raise ValueError(
            f"class_weights are {len(config.class_weights)}, but one for each of {classes} classes is wanted"
        )
    else:
        weights = np.array(config.class_weights)
    return part._replace(weights=weights[part.t] * (1 if part.weights is None else part.weights))


def prepared(model: Layer, loss: Loss, targets: Targets, part: Part) -> Examples:
    """A part's examples as arrays that fit the model and the loss."""
    from jaxann.training import Examples
    from jaxann.validate import validate, validate_weights

    x, t = validate(model, loss, part.x, targets.encode(part.t))
    return Examples(x, t, validate_weights(part.weights, len(x)))


def run(task: Task, config: Config) -> Outcome:
    """Trains in pieces, between which progress is shown and recorded and a signal ends the run; then reports.

    Raises FloatingPointError where the loss stops being finite, ValueError for a folder that cannot be the run's, and
    OSError and ImportError where the record cannot be written.
    """
    import jax
    from tqdm import tqdm

    from jaxann.pieces import begin, finished, pieces, programs

    from jaxann.training import Examples

    measure, look = Measure(task), None
    shown = Examples(*(a if a is None else a[:2000] for a in task.examples)), task.data.train.t[:2000]
    if task.validation is not None:
        shown = task.validation, task.data.validation.t

        def look(params):
            score, loss = measure(params, *shown)
            better = score if config.score == "accuracy" else -loss
            return better, {"validation_loss": loss, f"validation_{measure.name}": score}

    began = perf_counter()
    record, standing = recorded(task, config, begin(task.recipe, jax.random.key(config.seed)))
    compiled = programs(task.recipe, task.examples, task.plan, standing)
    measure(standing.best, *shown)
    compiling, began = perf_counter() - began, perf_counter()
    before = int(standing.state.epoch)
    with heard() as signals, tqdm(total=config.epochs, initial=before, unit="epoch") as bar:
        for standing, rows in pieces(task.recipe, task.examples, task.plan, standing, look, compiled):
            if record is not None:
                record.after(standing, rows)
            if bar.update(len(rows)) or finished(task.plan, standing):  # where it is drawn, and at the end
                score, _ = measure(standing.state.params, *shown)
                bar.set_postfix({"loss": f"{rows[-1]['loss']:.4f}", measure.name: f"{score:.3f}"})
            if signals:
                bar.write(f"interrupted after epoch {standing.state.epoch}", file=sys.stderr)
                break
    seconds, epochs = perf_counter() - began, int(standing.state.epoch)
    steps = (epochs - before) * -(-len(task.examples.x) // config.batch_size)
    outcome = Outcome(
        report(task, standing, measure, record, config), epochs, steps, seconds, compiling, tuple(signals)
    )
    rate = f"{steps / seconds:,.0f} steps a second"
    print(f"{steps} steps in {seconds:.2f} s: {rate}; compiling took {compiling:.2f} s before")
    return outcome


class Measure:
    """From parameters, examples and their true targets to accuracy, or R² of numbers, and loss."""

    def __init__(self, task: Task) -> None:
        from sklearn.metrics import accuracy_score, r2_score

        self.name, self._score = ("accuracy", accuracy_score) if task.data.classes else ("R²", r2_score)
        self._task = task

    def __call__(self, params: Any, examples: Examples, t: np.ndarray) -> tuple[float, float]:
        from jaxann.training import evaluate

        y, loss = evaluate(self._task.recipe.model, self._task.recipe.loss, params, examples)
        return self.score(t, y, examples.weights), float(loss)

    def score(self, t: np.ndarray, y: Any, weights: Any = None) -> float:
        import numpy as np

        return float(self._score(t, self._task.targets.decode(np.asarray(y)), sample_weight=weights))


@contextmanager
def heard() -> Iterator[list[int]]:
    """The signals that were to end the run, Ctrl-C's and SIGTERM; it is to end itself. A second one ends it at once."""
    signals: list[int] = []

    def hear(number, frame):
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hear)
    yield signals


def recorded(task: Task, config: Config, standing: Standing) -> tuple[Record | None, Standing]:
    """The record that the config asks for, in a new folder or an old one, and where its run stands."""
    if config.run is None and config.resume is None:
        return None, standing
    from jaxann.folder import Folder
    from jaxann.record import Record, installed

    installed(plots=config.plots, tensorboard=config.tensorboard)
    data, targets = task.data, task.targets
    known = {
        "classes": data.classes,
        "columns": data.columns,
        "target": data.target,
        "mean": data.scaling.mean.tolist(),
        "sd": data.scaling.sd.tolist(),
        "targets": asdict(targets),
        "digest": sha256(data.train.x.tobytes() + data.train.t.tobytes()).hexdigest(),
    }
    if config.resume is None:
        folder = Folder.create(config.run, config=config.to_json(), data=known)
    else:
        folder = Folder(config.resume)
        if folder.json("data").get("digest") != known["digest"]:
            raise ValueError(f"the training data are not those that {config.resume} was begun with")
        folder.write("config", config.to_json())
    return Record.of(
        folder, standing, config.checkpoint, tensorboard=config.tensorboard, seconds=config.checkpoint_seconds
    )


def report(task: Task, standing: Standing, measure: Measure, record: Record | None, config: Config) -> float:
    """The test part's score, printed with its confusion matrix where there are classes, and recorded."""
    import numpy as np
    from sklearn.metrics import confusion_matrix

    from jaxann.training import predict

    data, counts = task.data, None
    y = predict(task.recipe.model, standing.best, data.test.x.astype(task.examples.x.dtype))
    score = measure.score(data.test.t, y, data.test.weights)
    of = "" if task.validation is None else f", the parameters of epoch {standing.best_epoch}"
    print(f"held-out {measure.name}: {score:.3f} ({len(data.test.t)} examples{of})")
    if data.classes:
        labels = range(len(data.classes))
        counts = confusion_matrix(data.test.t, task.targets.decode(np.asarray(y)), labels=labels)
        print("confusion matrix (a row for each true class, a column for each predicted one):")
        width = max(map(len, data.classes))
        for name, row in zip(data.classes, counts, strict=True):
            print(f"  {name:>{width}}", *(f"{count:4d}" for count in row))
    if record is not None:
        result = {"epoch": int(standing.state.epoch), "best_epoch": standing.best_epoch, measure.name: score}
        record.end(standing, result, counts, data.classes, plots=config.plots)
    return score


def settled(config: Config, arguments: list[str] | None = None) -> Config:
    """The config with the settings of the file or the run that it names below its own."""
    source = config.config if config.resume is None else config.resume / "config.json"
    if source is None:
        if config.checkpoint is not None:
            raise ValueError(f"checkpoint is {config.checkpoint}, but there is no run to resume")
        return config
    if config.resume is not None and (config.config is not None or config.run is not None):
        raise ValueError("resume goes on in its own folder, with its own settings: give neither run nor config with it")
    if config.resume is not None and not source.is_file():
        raise ValueError(f"{config.resume} holds no run: there is no config.json in it")
    stored = Config.from_file(source)
    config = tyro.cli(Config, default=stored, description=__doc__, args=arguments)
    return config if config.resume is None else config.resuming(stored)


def main() -> int:
    """0; after one sentence 2 for bad input, a loss that stops being finite, or a folder that cannot be written.

    128 and the signal's number, 130 for Ctrl-C, for a run that a signal ended.
    """
    config = tyro.cli(Config, description=__doc__)
    try:
        config = settled(config)
        outcome = run(prepare(config), config)
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 128 + outcome.signals[0] if outcome.signals else 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something to report, Ctrl-C just ends it
    sys.exit(main())

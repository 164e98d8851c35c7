"""Train a network on one of scikit-learn's datasets, its gradient written by hand.

Without arguments: the derivation's own network, 4-50-20-10-3 with sigmoids, softmax and cross-entropy, on Iris.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import tyro

if TYPE_CHECKING:
    import numpy as np
    from jax import Array
    from optax import GradientTransformation

    from jaxann.data import Data
    from jaxann.training import Recipe

# jaxann's own names, written out because importing jax for them would make --help wait.
Dataset = Literal["iris", "wine", "breast_cancer", "digits", "diabetes"]
Activation = Literal[
    "identity",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "softplus",
    "gelu",
    "silu",
    "hard_tanh",
    "softmax",
]
Loss = Literal[
    "cross_entropy",
    "softmax_cross_entropy",
    "sigmoid_cross_entropy",
    "hinge",
    "squared_error",
    "absolute_error",
    "huber",
    "poisson",
]
FOR_CLASSES, FOR_ANY = get_args(Loss)[:4], get_args(Loss)[4:]
Optimizer = Literal["sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw", "lion"]


@dataclass(frozen=True)
class Config:
    """What to train, on what, and how."""

    dataset: Dataset = "iris"
    hidden: tuple[int, ...] = (50, 20, 10)
    """Sizes of the hidden layers."""
    activation: Activation = "sigmoid"
    """Of the hidden layers."""
    loss: Loss | None = None
    """None is cross_entropy for classes, squared_error for numbers."""
    label_smoothing: float = 0.03
    """Share of a class's target spread over all: 0.03 gives targets .98 and .01 of three classes. Not for hinge."""
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.5
    epochs: int = 500
    batch_size: int = 2
    held_out: float = 0.2
    """Share of the examples that is kept apart."""
    seed: int = 0
    """Of the split, the parameters and the order of the examples."""
    gradient: Literal["backprop", "autodiff"] = "backprop"
    """Written by hand, or by jax.grad."""
    precision: Literal["float32", "float64"] = "float32"


class Task(NamedTuple):
    """A config made concrete: the data, what is compiled in, training arrays, and how outputs are read."""

    data: Data
    recipe: Recipe
    x: Array
    t: Array
    read: Callable[[np.ndarray], np.ndarray]


class Outcome(NamedTuple):
    """What came of a run: accuracy, or R² of numbers, on the held-out part, and what it took."""

    score: float
    epochs: int
    steps: int
    seconds: float
    compiling: float


def prepare(config: Config) -> Task:
    """Raises ValueError for what does not fit together."""
    import jax
    import numpy as np

    from jaxann import ACTIVATIONS, LOSSES, SoftmaxCrossEntropy, autodiff, backprop, identity, mlp, softmax
    from jaxann.data import load
    from jaxann.training import Recipe
    from jaxann.validate import validate, validate_schedule

    jax.config.update("jax_enable_x64", config.precision == "float64")
    if not 0 < config.learning_rate <= np.finfo(config.precision).max:
        raise ValueError(f"learning_rate is {config.learning_rate}, but a finite number above 0 is wanted")
    data = load(config.dataset, held_out=config.held_out, seed=config.seed)
    name = config.loss or ("cross_entropy" if data.classes else "squared_error")
    loss = SoftmaxCrossEntropy(config.label_smoothing) if name == "softmax_cross_entropy" else LOSSES[name]()
    t, read = encode(data, name, config.label_smoothing)
    sizes = (data.x.shape[1], *config.hidden, len(data.classes) or 1)
    model = mlp(sizes, ACTIVATIONS[config.activation], softmax if name == "cross_entropy" else identity)
    gradient = {"backprop": backprop, "autodiff": autodiff}[config.gradient]
    x, t = validate(model, loss, data.x, t)
    validate_schedule(len(x), config.epochs, config.batch_size)
    return Task(data, Recipe(model, loss, optimizer(config), config.batch_size, gradient), x, t, read)


def optimizer(config: Config) -> GradientTransformation:
    """optax's of that name, momentum being SGD's."""
    import optax

    if config.optimizer in ("momentum", "nesterov"):
        return optax.sgd(config.learning_rate, momentum=0.9, nesterov=config.optimizer == "nesterov")
    return getattr(optax, config.optimizer)(config.learning_rate)


def encode(data: Data, loss: str, smoothing: float) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Training targets as `loss` wants them, and what reads labels, or numbers in their own unit, off outputs."""
    import numpy as np

    if not data.classes:
        if loss in FOR_CLASSES:
            raise ValueError(f"the loss {loss} is for classes; for numbers there are {', '.join(FOR_ANY)}")
        if loss == "poisson":
            return data.t[:, None], lambda y: np.exp(y)[:, 0]
        mean, sd = data.t.mean(), data.t.std()
        return (data.t[:, None] - mean) / sd, lambda y: y[:, 0] * sd + mean
    if not 0 <= smoothing < 1:
        raise ValueError(f"label_smoothing is {smoothing}, but a share from 0 to below 1 is wanted")
    one_hot = np.eye(len(data.classes))[data.t]
    smoothed = (1 - smoothing) * one_hot + smoothing / len(data.classes)
    t = {"softmax_cross_entropy": data.t, "hinge": 2 * one_hot - 1}.get(loss, smoothed)
    return t, lambda y: y.argmax(axis=1)


def run(task: Task, config: Config) -> Outcome:
    """Trains in pieces of some epochs, between which progress is shown and Ctrl-C ends the run; then reports.

    Raises FloatingPointError where the loss stops being finite.
    """
    import jax
    import numpy as np
    from sklearn.metrics import accuracy_score, r2_score
    from tqdm import tqdm

    from jaxann.training import predict, raise_if_nonfinite, start, train

    data, recipe, x, t, read = task
    measure, score = ("accuracy", accuracy_score) if data.classes else ("R²", r2_score)
    steps = -(-len(x) // recipe.batch_size)
    piece = min(max(1, 600 // steps), config.epochs)  # some hundred steps: between pieces Ctrl-C is heard
    began, key = perf_counter(), jax.random.key(config.seed)
    # It runs once, so optimising it much costs more than it saves; level 0 was seen to compile other programs wrongly.
    state = start.lower(recipe, key).compile({"xla_backend_optimization_level": "1"})(key)
    pieces = {n: train.lower(recipe, state, x, t, n).compile() for n in {piece, config.epochs % piece} - {0}}
    predict(recipe.model, state.params, x).block_until_ready()
    compiling, began = perf_counter() - began, perf_counter()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on there is something to keep
    with tqdm(total=config.epochs, unit="epoch") as bar:
        try:
            while left := config.epochs - int(state.epoch):
                before, (state, history) = state, pieces[min(piece, left)](state, x, t)
                raise_if_nonfinite(recipe, before, state, history, x, t)
                if bar.update(min(piece, left)) or left <= piece:  # where it is drawn, and at the end
                    reached = score(data.t, read(np.asarray(predict(recipe.model, state.params, x))))
                    bar.set_postfix({"loss": f"{np.asarray(history.loss)[-1]:.4f}", measure: f"{reached:.3f}"})
        except KeyboardInterrupt:
            bar.write(f"interrupted after epoch {state.epoch}", file=sys.stderr)
    seconds, epochs = perf_counter() - began, int(state.epoch)
    predicted = read(np.asarray(predict(recipe.model, state.params, data.x_test.astype(x.dtype))))
    outcome = Outcome(float(score(data.t_test, predicted)), epochs, epochs * steps, seconds, compiling)
    report(task, outcome, measure, predicted)
    return outcome


def report(task: Task, outcome: Outcome, measure: str, predicted: np.ndarray) -> None:
    """Prints the held-out part's score, its confusion matrix where there are classes, and what the run took."""
    from sklearn.metrics import confusion_matrix

    data = task.data
    print(f"held-out {measure}: {outcome.score:.3f} ({len(data.t_test)} examples)")
    if data.classes:
        print("confusion matrix (a row for each true class, a column for each predicted one):")
        width = max(map(len, data.classes))
        for name, row in zip(data.classes, confusion_matrix(data.t_test, predicted), strict=True):
            print(f"  {name:>{width}}", *(f"{count:4d}" for count in row))
    rate = f"{outcome.steps / outcome.seconds:,.0f} steps a second"
    print(f"{outcome.steps} steps in {outcome.seconds:.2f} s: {rate}; compiling took {outcome.compiling:.2f} s before")


def main() -> int:
    """0; after one sentence 2 for bad input or a loss that stops being finite; 130 for a run that Ctrl-C ended."""
    config = tyro.cli(Config, description=__doc__)
    try:
        task = prepare(config)
    except ValueError as error:
        return stop(error)
    try:
        outcome = run(task, config)
    except FloatingPointError as error:
        return stop(error)
    return 130 if outcome.epochs < config.epochs else 0


def stop(error: Exception) -> int:
    """Says why in one sentence; the exit code that goes with it."""
    print(f"train.py: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something to report, Ctrl-C just ends it
    sys.exit(main())

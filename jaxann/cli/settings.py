"""The settings of a training run: what the command line takes, what a run's config.json holds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from math import inf
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

# jaxann's own names, written out because importing jax for them would make --help wait.
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
Optimizer = Literal[
    "sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw", "nadam", "radam", "lamb", "lion"
]
Schedule = Literal["constant", "linear", "cosine", "exponential"]
DEVICES = ("devices", "model_devices", "distributed", "coordinator", "processes", "process", "connect_seconds")
ELSEWHERE = ("run", "resume", "checkpoint", "config", *DEVICES)  # where a run lies and what runs it: no settings of it
LATER = ("dataset", "epochs", "patience", "plots", "tensorboard", "checkpoint_seconds")  # what resuming may change


@dataclass(frozen=True)
class Settings:
    """What to train, on what, and how."""

    dataset: str = "iris"
    """iris, wine, breast_cancer, digits, diabetes; mnist_784, Fashion-MNIST or openml:NAME, fetched once; a .csv file
    with named columns; an .npz file with x and t; a folder of MNIST's IDX files."""
    target: str | None = None
    """A .csv's column that is to be predicted; None is the last."""
    weights: str | None = None
    """A .csv's column that says how much each example counts."""
    kind: Literal["classes", "numbers"] | None = None
    """What the targets are. None: text is classes, and so are whole numbers of at most 20 values."""
    held_out: float | None = None
    """Share of the examples kept apart for the test; None is the dataset's own test part, or 0.2."""
    validation: float = 0.0
    """Share of the other examples that is not trained on but evaluated on the way; the best parameters are kept."""
    scaling: Literal["feature", "all", "none"] = "feature"
    """Standardise each feature, all by one mean and sd (for images), or none; fitted on the training part."""
    hidden: tuple[int, ...] = (50, 20, 10)
    """Sizes of the hidden layers."""
    activation: Activation = "sigmoid"
    """Of the hidden layers."""
    init_scale: float = 1.0
    """Factor on the weights that are drawn."""
    dropout: float = 0.0
    """Share of each hidden layer's outputs that is dropped at every step."""
    loss: Loss | None = None
    """None is cross_entropy for classes, squared_error for numbers."""
    label_smoothing: float | None = None
    """Share of a class's target spread over all; None is 0.03 (targets .98 and .01 of three classes) where it fits."""
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    """How much each class counts; balanced is by the inverse of its frequency."""
    optimizer: Optimizer = "sgd"
    optimizer_settings: dict[str, float] = field(default_factory=dict)
    """Others of the optimiser's numbers by optax's names: b1 0.8 eps 1e-7."""
    learning_rate: float = 0.5
    schedule: Schedule = "constant"
    """How the learning rate falls over the run."""
    warmup: float = 0.0
    """Epochs over which the learning rate rises to its value first."""
    final: float | None = None
    """Share of the learning rate at the schedule's end; None is 0, or 0.01 where it is exponential."""
    weight_decay: float | None = None
    """W ← W - l λ W at every step, not for biases. None is the optimiser's own, 0 for most."""
    clip: float | None = None
    """The gradient's norm is scaled down to this where it is larger."""
    epochs: int = 500
    batch_size: int = 2
    evaluate_every: int | None = None
    """Epochs between evaluations on the validation part; None is every some hundred steps, and 50 times at least."""
    patience: int | None = None
    """End when so many epochs have brought no better validation score."""
    score: Literal["loss", "accuracy"] = "loss"
    """Which one that is; accuracy is R² for numbers."""
    seed: int = 0
    """Of the parameters, the order of the examples and the dropout."""
    split: int | None = None
    """Seed of the parts; None is the same."""
    gradient: Literal["backprop", "autodiff"] = "backprop"
    """Written by hand, or by jax.grad."""
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    """bfloat16 is for what a layer computes; parameters and sums stay float32."""
    run: Path | None = None
    """A new folder for settings, metrics, checkpoints and pictures."""
    checkpoint_seconds: float = 10.0
    """At least so long from one checkpoint to the next."""
    tensorboard: bool = True
    """In the run's folder, scalars for TensorBoard too."""
    plots: bool = True
    """In the run's folder, pictures too."""
    resume: Path | None = None
    """Go on with the run in this folder, by its own settings; with more epochs, if you like."""
    checkpoint: int | None = None
    """Resume from the checkpoint of this epoch instead of the last."""
    devices: int | None = None
    """How many devices each batch is spread over; None is one, or as many as --distributed finds. The run is the same,
    but for rounding."""
    model_devices: int = 1
    """Over how many devices, for each of those, the outputs of the hidden layers are spread."""
    distributed: bool = False
    """Be one of several processes, started by Slurm, Open MPI or, with the next three, by hand."""
    coordinator: str | None = None
    """HOST:PORT of process 0."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which one this is, from 0."""
    connect_seconds: float = 60.0
    """Give up when the processes have not found each other by then."""
    config: Path | None = None
    """Take the settings from this file, such as a run's config.json; others on the command line go before."""

    def check(self) -> None:
        """Raises ValueError for settings that are out of range or have no effect."""
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}, but a whole number from 0 to below 2³² is wanted")
        if not 0 < self.init_scale < inf:
            raise ValueError(f"init_scale is {self.init_scale}, but a finite number above 0 is wanted")
        for name in ("warmup", "checkpoint_seconds", "connect_seconds"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"{name} is {getattr(self, name)}, but a finite number of at least 0 is wanted")
        for name in ("devices", "model_devices"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}, but at least 1 is wanted")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}, but at least 1 epoch is wanted")
        if not self.validation:
            for name, unset in {"patience": None, "evaluate_every": None, "score": "loss"}.items():
                if getattr(self, name) != unset:
                    raise ValueError(f"{name} is {getattr(self, name)}, but a share for validation is wanted for that")
        for name in ("coordinator", "processes", "process"):
            if getattr(self, name) is not None and not self.distributed:
                raise ValueError(f"{name} is {getattr(self, name)}, but only with distributed it has an effect")
        if self.checkpoint is not None and self.resume is None:
            raise ValueError(f"checkpoint is {self.checkpoint}, but there is no run to resume")

    def to_json(self) -> dict[str, Any]:
        """All that `from_json` needs to make the same run."""
        return {name: value for name, value in asdict(self).items() if name not in ELSEWHERE}

    @classmethod
    def from_file(cls, path: Path) -> Settings:
        """The settings that a file holds. Raises ValueError for one that cannot be read or holds something else."""
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as settings: {error}") from None
        hints = get_type_hints(Settings)
        if not isinstance(settings, dict):
            raise ValueError(f"{path} holds a {type(settings).__name__}, but names and values of settings are wanted")
        for name, value in settings.items():
            if name not in hints or name in ELSEWHERE:
                raise ValueError(f"{path}: there is no setting {name}")
            if not matches(value, hints[name]):
                wanted = str(Settings.__annotations__[name])
                raise ValueError(f"{path}: {name} is {value!r}, but {wanted} is wanted")
        known: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in settings.items()}
        return cls(**known)

    def resuming(self, stored: Settings) -> Settings:
        """These settings, for a run that was begun with those `stored`. Raises ValueError for what cannot change."""
        for setting in fields(Settings):
            before, now = (getattr(config, setting.name) for config in (stored, self))
            if before != now and setting.name not in (*ELSEWHERE, *LATER):
                raise ValueError(f"{setting.name} is {now}, but the run that is to be resumed has {before}")
        if self.epochs != stored.epochs and self.schedule != "constant":
            raise ValueError(f"epochs is {self.epochs}, but the run's learning rate is scheduled for {stored.epochs}")
        return self


def matches(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is what an annotation says."""
    kind, args = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(matches(value, arg) for arg in args)
    if kind is Literal:
        return value in args
    if kind is tuple:
        return isinstance(value, list) and all(matches(item, args[0]) for item in value)
    if kind is dict:
        return isinstance(value, dict) and all(matches(item, args[1]) for item in value.values())
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, NoneType if hint is NoneType else hint)

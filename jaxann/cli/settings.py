"""The settings of a training run: the command line takes them, and a run's config.json stores them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_type_hints

from jaxann.cli.annotations import convert, describe_annotation, matches
from jaxann.cli.data_settings import DataSettings
from jaxann.cli.network_settings import TEXT_NETWORKS, NetworkSettings
from jaxann.data.tables import is_table
from jaxann.data.text_parts import DOCUMENTATION
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.losses import LOSSES
from jaxann.nn.text import describe_value
from jaxann.runs.files import read_json
from jaxann.runs.folder import require_readable_version
from jaxann.training.optimizers import OPTIMIZERS, SCHEDULES

# The choices are the names in the library's tables, which a type checker cannot know.
Loss: TypeAlias = Literal[*LOSSES]  # pyright: ignore[reportInvalidTypeForm]
Optimizer: TypeAlias = Literal[*OPTIMIZERS]  # pyright: ignore[reportInvalidTypeForm]
Schedule: TypeAlias = Literal[*SCHEDULES]  # pyright: ignore[reportInvalidTypeForm]
ScoreKey: TypeAlias = Literal[
    "loss",
    "accuracy",
    "balanced_accuracy",
    "log_loss",
    "roc_auc",
    "precision",
    "recall",
    "f1",
    "r2",
    "mae",
    "rmse",
    "bits_per_character",
    "perplexity",
    "token_accuracy",
]

DEVICE_SETTINGS = ("devices", "model_devices", "distributed", "coordinator", "processes", "process", "connect_seconds")
# config.json leaves out a run's paths, devices and cache, and the preset of its defaults.
UNSTORED = ("run", "resume", "checkpoint", "config", "preset", "cache", *DEVICE_SETTINGS)
# Resuming a run may change these settings.
CHANGEABLE = ("dataset", "epochs", "patience", "plots", "tensorboard", "checkpoint_seconds", "keep")


@dataclass(frozen=True)
class Settings(NetworkSettings, DataSettings):
    """The settings of a training run."""

    loss: Loss | Literal["automatic"] | None = None
    """Loss that is minimized. By default cross_entropy for classes, squared_error for numbers and
    softmax_cross_entropy for text; automatic is softmax_cross_entropy for classes, which does not overflow, and the
    default for all other data."""
    label_smoothing: float | None = None
    """Share of each class target that is spread evenly over all classes: with 3 classes, 0.03 gives 0.98, 0.01, 0.01.
    None stands for 0.03 for classes, and for 0 for numbers, for text and for the hinge loss."""
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    """How much each class counts. By default all classes count alike.
    Either a number for each class, in the order of the confusion matrix, or balanced: the inverse of its frequency."""
    optimizer: Optimizer = "sgd"
    """Optimizer, by its name in optax; momentum and nesterov are variants of sgd."""
    optimizer_settings: dict[str, float] = field(default_factory=dict)
    """Other numbers of the optimizer by their names in optax, such as b1 0.8 eps 1e-7. By default those of optax."""
    learning_rate: float = 0.5
    """Learning rate l, the factor on every step of the optimizer."""
    schedule: Schedule = "constant"
    """How the learning rate falls over the run."""
    warmup: float = 0.0
    """Number of epochs at the beginning over which the learning rate rises from 0 to its value."""
    final: float | None = None
    """Share of the learning rate that is left at the end of the schedule. By default 0, or 0.01 if exponential."""
    weight_decay: float | None = None
    """Weight decay λ: every step also subtracts l λ W from each weight matrix W, but nothing from a bias.
    By default the optimizer's own in optax, which is 0 for most."""
    clip: float | None = None
    """Largest norm of the gradient: a longer gradient is scaled down to it. By default none is scaled down."""
    epochs: int = 500
    """Number of passes over the training part."""
    batch_size: int | None = 2
    """Number of examples in a batch. None stands for 32, or for all training examples if there are fewer."""
    evaluate_every: int | None = None
    """Number of epochs from one evaluation on the validation part to the next.
    By default as many as fit into 600 steps and into a fiftieth of the run, but at least one."""
    patience: int | None = None
    """Number of epochs without a better validation score after which the run ends. With None it never ends early."""
    score: ScoreKey = "loss"
    """Score on the validation part that decides which parameters are best.
    For numbers, accuracy stands for R², and for text for bits per character.
    Precision, recall and f1 are those of the second of two classes, and means over more classes."""
    seed: int = 0
    """Random seed of the parameters, the order of the examples, dropout and, by default, the split into parts."""
    split: int | None = None
    """Random seed of the split into training, validation and test parts. By default the same as --seed."""
    gradient: Literal["backprop", "autodiff"] = "backprop"
    """How the gradient is computed: by the handwritten backward passes, or by jax.grad."""
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    """Precision of all numbers; with bfloat16 the layers compute in it, but parameters and sums stay float32."""
    run: Path | None = None
    """New folder for the run's settings, metrics, checkpoints and pictures. By default nothing is stored."""
    checkpoint_seconds: float = 10.0
    """Minimum time from one checkpoint to the next, in seconds."""
    keep: int = 2
    """Number of checkpoints that the run's folder keeps, the last ones. An older one is deleted only after a new one is
    on the disk, so that a run that is killed leaves one even with 1. With 2, one is left if the last is damaged."""
    tensorboard: bool = True
    """Whether the run's folder also gets scalars for TensorBoard."""
    plots: bool = True
    """Whether the run's folder also gets pictures."""
    resume: Path | None = None
    """Folder of a run to continue with its own settings.
    Only a few may be changed, such as --epochs with a constant --schedule."""
    checkpoint: int | None = None
    """Epoch of the checkpoint from which --resume continues. By default the last one."""
    cache: bool = False
    """Whether compiled programs are kept in the user's cache directory, from which later runs load them."""
    devices: int | None = None
    """Number of devices over which each batch is spread, which changes the results by rounding only.
    By default one, or with --distributed all devices of all processes."""
    model_devices: int = 1
    """Number of devices over which the outputs of each hidden layer are spread.
    The run takes --devices times as many devices."""
    distributed: bool = False
    """Whether this is one of several processes that train together.
    They are started by Slurm, by Open MPI, or by hand with --coordinator, --processes and --process."""
    coordinator: str | None = None
    """Address of process 0, as HOST:PORT. By default the launcher's."""
    processes: int | None = None
    """Number of processes. By default the launcher's."""
    process: int | None = None
    """Number of this process, counted from 0. By default the launcher's."""
    connect_seconds: float = 60.0
    """Time after which a process gives up waiting for the others, in seconds."""
    config: Path | None = None
    """JSON file with settings, such as a run's config.json. Flags on the command line override it."""

    def is_text(self) -> bool:
        """Returns whether the data are text, and not a table."""
        if self.dataset == DOCUMENTATION or self.network not in TEXT_NETWORKS:
            return self.dataset == DOCUMENTATION
        return self.dataset.lower().endswith(".txt") or (self.network == "transformer" and not is_table(self.dataset))

    def check(self) -> None:
        """Checks all that can be checked without the data.

        Raises:
            SettingError: If a setting is out of range, or has no effect without another one.
        """
        for name in ("seed", "split"):
            if getattr(self, name) is not None:
                validate_number(name, getattr(self, name), least=0, most=2**32 - 1, integer=True)
        validate_number("init_scale", self.init_scale, above=0, most=1e150)  # so that its square is a float, too
        validate_number("dropout", self.dropout, least=0, below=1)
        for name in ("warmup", "checkpoint_seconds", "connect_seconds"):
            validate_number(name, getattr(self, name), least=0)
        if self.preset is not None:
            raise SettingError("preset", "only on the command line, where it changes the defaults", self.preset)
        for name in ("keep", "devices", "model_devices", "patience", "evaluate_every"):
            if getattr(self, name) is not None:
                validate_number(name, getattr(self, name), least=1, integer=True)
        for name in ("hidden", "widths"):
            sizes = getattr(self, name)
            if min(sizes, default=1) < 1:
                raise SettingError(name, "to be sizes of at least 1", sizes)
            if max(sizes, default=1) > 2**31 - 1:
                raise SettingError(name, "to be sizes of at most 2147483647", sizes)
        for name in ("width", "heads", "blocks", "context"):
            if getattr(self, name) is not None:
                validate_number(name, getattr(self, name), least=1, most=2**31 - 1, integer=True)
        if self.width % self.heads:
            raise SettingError("heads", f"to divide the width {self.width}", self.heads)
        for name, default in {"patience": None, "evaluate_every": None, "score": "loss"}.items():
            if getattr(self, name) != default and not self.validation:
                raise SettingError(name, "only together with --validation", getattr(self, name))
        join = {name: getattr(self, name) for name in ("coordinator", "processes", "process")}
        for name in (name for name, value in join.items() if value is not None):
            if not self.distributed:
                raise SettingError(name, "only together with --distributed", join[name])
            if None in join.values():
                others = " and ".join(f"--{other}" for other in join if other != name)
                raise SettingError(name, f"only together with {others}", join[name])
        if self.checkpoint is not None and self.resume is None:
            raise SettingError("checkpoint", "only together with --resume", self.checkpoint)

    def to_json(self) -> dict[str, Any]:
        """Returns the settings from which `from_file` makes the same run, and the version of jaxann."""
        stored = {name: value for name, value in asdict(self).items() if name not in UNSTORED}
        return {"version": version("jaxann"), **stored}

    def origin(self) -> dict[str, Any]:
        """Returns the settings that a run keeps when it is resumed, as its checkpoints store them."""
        return {name: value for name, value in self.to_json().items() if name not in ("version", *CHANGEABLE)}

    @classmethod
    def from_file(cls, path: Path) -> Settings:
        """Reads settings from a JSON file. Settings that are missing in it have their defaults.

        Raises:
            ValueError: If the file cannot be read, holds anything but settings, or was written by a newer version of
                jaxann.
        """
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError(
                f"{path}: expected an object with names and values of settings, got {describe_value(content)}"
            )
        writer = content.pop("version", None)
        if not matches(writer, str | None):
            raise ValueError(f"{path}: expected version to be a string, got {describe_value(writer)}")
        require_readable_version(path, writer)
        annotations = get_type_hints(Settings)
        for name, value in content.items():
            if name not in annotations or name in UNSTORED:
                raise ValueError(f"{path}: expected names of settings, got {describe_value(name)}")
            if not matches(value, annotations[name]):
                expectation = describe_annotation(annotations[name])
                raise ValueError(f"{path}: expected {name} to be {expectation}, got {describe_value(value)}")
        return cls(**{name: convert(value, annotations[name]) for name, value in content.items()})

    def check_resumable(self, stored: Settings) -> None:
        """Checks that a run can be continued with these settings.

        Args:
            stored: The settings with which the run was started.

        Raises:
            SettingError: If a setting has changed that must stay the same.
        """
        for name in (setting.name for setting in fields(Settings)):
            before, now = getattr(stored, name), getattr(self, name)
            if before != now and name not in (*UNSTORED, *CHANGEABLE):
                raise SettingError(name, f"to be {before}, as in the run that is resumed", now)
        if self.epochs != stored.epochs and self.schedule != "constant":
            expectation = f"to be {stored.epochs}, over which the run's learning rate is scheduled"
            raise SettingError("epochs", expectation, self.epochs)

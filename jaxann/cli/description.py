"""Descriptions of a run's data, which suffice to predict and to recognize the same data when the run is resumed."""

from __future__ import annotations

from dataclasses import asdict
from hashlib import sha256
from math import nan, prod
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from jaxann.cli.annotations import describe_annotation, matches
from jaxann.cli.networks import Interface
from jaxann.cli.settings import Settings
from jaxann.cli.task import Task
from jaxann.data.encoding import Column, Encoding, from_json, to_json
from jaxann.data.scaling import Scaling
from jaxann.data.targets import Targets, TokenTargets
from jaxann.data.tokens import Tokenizer
from jaxann.data.tokens import from_json as tokenizer_from_json
from jaxann.nn.text import describe_value
from jaxann.runs.files import format_json
from jaxann.runs.folder import Folder

# How a message describes a difference in each field.
_DIFFERENCES = {
    "classes": "different names of classes",
    "columns": "different names of columns",
    "target": "a different name of the target",
    "mean": "different means of the features",
    "sd": "different standard deviations of the features",
    "targets": "a different encoding of the targets",
    "encoding": "a different encoding of the columns",
    "shape": "examples of a different shape",
    "tokenizer": "a different tokenizer",
    "digest": "different examples",
}


class DataDescription(NamedTuple):
    """The content of a run's data.json.

    Attributes:
        classes: The names of the classes; empty if the targets are numbers or tokens.
        columns: The names of the features; empty for text.
        target: The name of the target.
        mean: The mean of each feature in the training part.
        sd: The standard deviation of each feature in the training part.
        targets: The fields of `Targets`, or for text of `TokenTargets`.
        digest: The SHA-256 digest of the examples in all parts.
        encoding: How features are made of the columns, as `encoding.to_json` returns it; None for the data of a source
            of arrays, and for runs of versions of jaxann that read nothing but numbers.
        shape: The shape that the features of an example have, such as (height, width, channels), or (T,) for windows of
            T tokens; () for the columns of a table, and in runs of older versions, which did not store it.
        tokenizer: The tokenizer of a text, as its `to_json` returns it; None for a table.
    """

    classes: tuple[str, ...]
    columns: tuple[str, ...]
    target: str
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    targets: dict[str, float | str]
    digest: str
    encoding: dict[str, Any] | None = None
    shape: tuple[int, ...] = ()
    tokenizer: dict[str, Any] | None = None

    @classmethod
    def from_task(cls, task: Task) -> DataDescription:
        """Describes the data of a task."""
        data, digest = task.data, sha256()
        parts = [part for part in (data.train, data.validation, data.test) if part]
        for array in (array for part in parts for array in part if array is not None):
            digest.update(np.ascontiguousarray(array).data)
        scaling = tuple(data.scaling.mean.tolist()), tuple(data.scaling.sd.tolist())
        encoding = to_json(data.encoding) if data.encoding.columns else None
        fields = data.classes, data.columns, data.target, *scaling, asdict(task.targets), digest.hexdigest()
        tokenizer = None if data.tokenizer is None else data.tokenizer.to_json()
        return cls(*fields, encoding, data.shape, tokenizer)

    @classmethod
    def read(cls, folder: Folder) -> DataDescription:
        """Reads the description in a run's folder.

        Raises:
            ValueError: If data.json cannot be read, or does not describe the data of a run.
        """
        path, stored = folder.path / "data.json", folder.json("data")
        if not isinstance(stored, dict) or stored.keys() | cls._field_defaults.keys() != set(cls._fields):
            content = describe_value(list(stored) if isinstance(stored, dict) else stored)
            raise ValueError(f"{path} is damaged: expected an object with {', '.join(cls._fields)}, got {content}")
        stored = {"encoding": None, "shape": [], "tokenizer": None} | stored
        for name, annotation in get_type_hints(cls).items():
            if not matches(stored[name], annotation):
                expectation = f"expected {name} to be {describe_annotation(annotation)}"
                raise ValueError(f"{path} is damaged: {expectation}, got {describe_value(stored[name])}")
        values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in stored.items()}
        description = cls(**values)
        try:
            description._validate()
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        return description

    def _validate(self) -> None:
        """Raises ValueError unless the lengths, signs and names fit together; `Targets` may raise other errors."""
        n, classes = len(self.columns), self.make_targets().classes
        if self.tokenizer is not None:
            size = self.make_tokenizer().size
            if (self.columns, self.classes, self.mean, self.sd, len(self.shape)) != ((), (), (), (), 1):
                raise ValueError("expected a shape of one number and no columns beside a tokenizer")
            if classes != size or not isinstance(self.shape[0], int) or self.shape[0] < 1:
                expectation = f"expected {size} tokens and a window of at least 1 token"
                raise ValueError(f"{expectation}, got {classes} tokens and a window of {self.shape[0]}")
            return
        mean, sd = np.array(self.mean, float), np.array(self.sd, float)
        unit = np.array([self.targets.get("mean", 0.0), self.targets.get("sd", 1.0)], float)
        checks = {
            "a name of its own for each column": len(set(self.columns)) == n > 0,
            f"a name of its own for each of {classes} classes": len(set(self.classes)) == len(self.classes) == classes,
            f"a finite mean for each of {n} columns": mean.shape == (n,) and np.isfinite(mean).all(),
            f"a finite sd above 0 for each of {n} columns": sd.shape == (n,) and (np.isfinite(sd) & (sd > 0)).all(),
            "a finite mean and a finite sd above 0 of the targets": np.isfinite(unit).all() and unit[1] > 0,
            f"a shape with {n} entries": not self.shape or prod(self.shape) == n,
            "the features of the encoding as columns": self.make_encoding().feature_names() == tuple(self.columns),
        }
        for expectation in (expectation for expectation, holds in checks.items() if not holds):
            raise ValueError(f"expected {expectation}")

    def like(self, stored: DataDescription) -> DataDescription:
        """Returns this description without the fields that the stored one, written by an earlier version, lacks."""
        missing = {name: default for name, default in self._field_defaults.items() if getattr(stored, name) == default}
        return self._replace(**missing) if self.tokenizer is None else self

    def require_same(self, path: Path, other: DataDescription) -> None:
        """Checks that a run is resumed with the data with which it was started.

        Args:
            path: The folder of the run, for the message.
            other: The description of the data with which the run would be resumed.

        Raises:
            ValueError: If anything differs.
        """
        for name, before, now in zip(self._fields, self, other, strict=True):
            if before != now:
                raise ValueError(f"expected the data with which {path} was started, got data with {_DIFFERENCES[name]}")

    def to_json(self) -> dict[str, Any]:
        """Returns the content of data.json, which leaves out fields that have their defaults."""
        defaults = self._field_defaults
        return {name: value for name, value in self._asdict().items() if defaults.get(name, nan) != value}

    def fingerprint(self) -> str:
        """Returns the SHA-256 digest of all fields."""
        return sha256(format_json(self.to_json()).encode()).hexdigest()

    def make_targets(self) -> Targets:
        """Returns the `Targets` that encode the targets and decode outputs."""
        fields: dict[str, Any] = self.targets
        return Targets(**fields) if self.tokenizer is None else TokenTargets(**fields)

    def make_tokenizer(self) -> Tokenizer:
        """Returns the tokenizer of a text."""
        return tokenizer_from_json(self.tokenizer)

    def make_interface(self) -> Interface:
        """Returns the interface of the network."""
        features = len(self.columns) if self.tokenizer is None else self.shape[0]
        return Interface(features, self.shape, self.make_targets())

    def make_encoding(self) -> Encoding:
        """Returns the encoding of the columns. Without one, every column is a feature, and no number may be missing."""
        if self.encoding is None:
            return Encoding(tuple(Column(name, "number", fill=nan) for name in self.columns))
        return from_json(self.encoding)

    def make_scaling(self) -> Scaling:
        """Returns the map that standardizes the features."""
        return Scaling(np.array(self.mean), np.array(self.sd))


def describe_origin(settings: Settings, description: DataDescription) -> dict[str, dict[str, Any]]:
    """Returns what identifies a run, for `Checkpoints`, which refuses the checkpoints of any other run."""
    return {"config.json": settings.origin(), "data.json": {"digest": description.fingerprint()}}

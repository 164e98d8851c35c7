"""Runs in Python: the network of a run's folder, its settings and its history, and predictions from tables."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxann.data.files import join_names
from jaxann.data.numbers import to_numbers
from jaxann.data.validation import validate_features
from jaxann.nn.base import Layer
from jaxann.runs.checkpoints import Checkpoints
from jaxann.runs.folder import Folder
from jaxann.runs.network_file import Network, read_network
from jaxann.training.fit import predict


class Run:
    """A run that the command line trained, with the best parameters of its last checkpoint.

    Args:
        path: The folder of the run.

    Attributes:
        path: The folder of the run.
        settings: The settings of the run, as `jaxann.cli.settings.Settings`.
        classes: The names of the classes; empty if the targets are numbers.
        columns: The names of the features.
        target: The name of the target.
        model: The network, which takes standardized features.

    Raises:
        ValueError: If the folder holds no run, is damaged, or was written by a newer version of jaxann.
    """

    def __init__(self, path: Path | str) -> None:
        from jaxann.cli.description import DataDescription  # with scikit-learn, which takes long to import
        from jaxann.cli.settings import Settings
        from jaxann.cli.task import make_network

        self._folder = Folder(path, reader=True)
        self.path, file = self._folder.path, self._folder.path / "data.json"
        if not file.is_file():
            raise ValueError(f"expected the folder of a run of jaxann train, with a data.json in it, got {self.path}")
        self.settings = Settings.from_file(self.path / "config.json")
        self._description = DataDescription.read(self._folder)
        self.classes, self.columns = self._description.classes, tuple(self._description.columns)
        self.target, self._targets = self._description.target, self._description.make_targets()
        self.model: Layer = make_network(self.settings, self._description.make_interface())[0]

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def params(self) -> PyTree:
        """The best parameters, in the precision of the run.

        Raises:
            ValueError: If there is no checkpoint, or if it is damaged or of another run.
            ImportError: If orbax, which reads the checkpoints, is missing.
        """
        from jaxann.cli.description import describe_origin

        origin = describe_origin(self.settings, self._description)
        with self._precision():
            like = jax.jit(self.model.init)(jax.random.key(0))
            return Checkpoints(self.path / "checkpoints", origin=origin, reader=True).best(like)

    @property
    def history(self) -> Any:
        """A row for each epoch so far, as a DataFrame of pandas."""
        import pandas as pd

        return pd.DataFrame(self._folder.rows())

    def predict(self, x: Any) -> np.ndarray:
        """Predicts from features in the unit of the data.

        Args:
            x: A DataFrame of pandas with the columns that the run was trained on, in any order and possibly with
                others, or an array [N, n] of features in the order of `columns`.

        Returns:
            [N], the names of the classes, or numbers in the unit of the data.

        Raises:
            ValueError: If columns are missing or doubled, or if the features are not finite numbers [N, n].
            FloatingPointError: If an output of the network or a prediction is not finite.
        """
        values = self._targets.decode(self._compute_outputs(x))
        return np.array(self.classes)[values] if self.classes else values

    def predict_proba(self, x: Any) -> np.ndarray:
        """Returns the probabilities of the classes, [N, len(classes)], in the order of `classes`.

        Args:
            x: The features, as for `predict`.

        Raises:
            ValueError: If the network has no probabilities, or as `predict` does.
            FloatingPointError: If an output of the network is not finite.
        """
        probabilities = self._targets.probabilities(self._compute_outputs(x))
        if probabilities is None:
            expectation = "expected a network that was trained for probabilities of classes"
            raise ValueError(f"{expectation}, got one for the loss {self._targets.loss} and the target {self.target}")
        return probabilities

    def generate(self, prompt: str, *, length: int = 200, temperature: float | int = 0.8, seed: int = 0) -> str:
        """Continues a text, by the network of a run that was trained on text.

        Args:
            prompt: The beginning of the text.
            length: How many tokens to draw.
            temperature: What the logits are divided by before a token is drawn; 0 takes the most likely token.
            seed: The number for `jax.random.key`.

        Returns:
            The text after the prompt.

        Raises:
            ValueError: If the network was trained on a table, if a setting is out of range, or if the prompt is empty,
                longer than the network's context, or has an unknown character.
        """
        from jaxann.cli.sampler import continue_text

        if self._description.tokenizer is None:
            raise ValueError(f"expected a run of a text to continue a prompt, got {self.path}, a run of other data")
        params, tokenizer = self.params, self._description.make_tokenizer()
        options: Any = {"length": length, "temperature": temperature, "seed": seed}
        with self._precision():
            context = self._description.shape[0]
            return continue_text(self.model, params, tokenizer, prompt, context=context, **options)

    def _compute_outputs(self, x: Any) -> np.ndarray:
        if self._description.tokenizer is not None:
            raise ValueError(f"expected a run of a table, got {self.path}, a run of a text, which has `generate`")
        if hasattr(x, "iloc") and hasattr(x, "columns"):  # a DataFrame
            from jaxann.data.frames import to_frame

            x = self._description.make_encoding().encode_new("the features", to_frame(x))
        array = np.asarray(to_numbers("features", x))
        if array.ndim > 2 and array.shape[1:] == self._description.shape:
            array = array.reshape(len(array), -1)
        if array.ndim != 2 or array.shape[1] != len(self.columns):
            shape = "".join(f", {n}" for n in self._description.shape or (len(self.columns),))
            known = join_names(self.columns, 20)
            raise ValueError(f"expected features of shape (N{shape}): {known}; got shape {array.shape}")
        params = self.params
        with self._precision():
            features = validate_features(self._description.make_scaling()(array))
            return np.asarray(predict(self.model, params, features))

    def _precision(self) -> Any:
        return jax.enable_x64(self.settings.precision == "float64")


def load(path: Path | str) -> Network | Run:
    """Reads a network that `jaxann.save` or `jaxann train --run` stored.

        model, params = jaxann.load("network.npz")
        run = jaxann.load("runs/churn")
        labels = run.predict(frame)

    Args:
        path: A file of `jaxann.save`, or the folder of a run. Reading a file imports the modules that it names for
            layers that are not of jaxann, so take files with such layers only from people whose code you would run.

    Returns:
        The model and the parameters of a file, as a tuple; a `Run` for a folder.

    Raises:
        ValueError: If there is nothing at the path, or something else; if it is damaged or of a newer version of
            jaxann; or if the parameters do not fit the model.
    """
    return Run(path) if Path(path).is_dir() else read_network(path)

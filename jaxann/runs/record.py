"""Records of runs: metrics, TensorBoard scalars and checkpoints during a run, and a result and pictures at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

import numpy as np

from jaxann.runs.checkpoints import KEEP, Checkpoints
from jaxann.runs.files import write_picture
from jaxann.runs.folder import Folder, Row
from jaxann.runs.scalars import Scalars
from jaxann.training.loop import Progress
from jaxann.training.processes import any_process, is_first


class Record:
    """The record of a run in its folder; `Record.open` opens one, for a new run or for one to resume.

    Metrics of epochs after `progress` are removed from the folder, because the run will log these epochs again. In a
    run of several processes, each writes its part of the checkpoints, and the first one writes everything else.

    Args:
        folder: The folder of the run, open for writing in the first process.
        checkpoints: The checkpoints of the run.
        progress: Where the run stands.
        tensorboard: Whether to write the metrics as scalars for TensorBoard as well.
        seconds: The least time between two checkpoints, in seconds.

    Raises:
        ImportError: If `tensorboard` is set and tensorboardX is not installed.
        ValueError: If the metrics in the folder are damaged.
    """

    def __init__(
        self, folder: Folder, checkpoints: Checkpoints, progress: Progress, *, tensorboard: bool, seconds: float | int
    ) -> None:
        self._log = Log(folder, int(progress.state.epoch), tensorboard=tensorboard) if is_first() else None
        self._checkpoints, self._seconds = checkpoints, seconds
        self._epoch, self._saved = int(progress.state.epoch), monotonic()

    @classmethod
    def open(
        cls,
        folder: Folder,
        begun: Progress,
        epoch: int | None = None,
        *,
        tensorboard: bool,
        seconds: float | int,
        origin: Mapping[str, Any] | None = None,
        keep: int = KEEP,
    ) -> tuple[Record, Progress]:
        """Opens the record of a run.

        Args:
            folder: The folder of the run, open for writing in the first process.
            begun: Where the run stands before its first epoch.
            epoch: The epoch of the checkpoint to resume from, by default the last.
            tensorboard: Whether to write the metrics as scalars for TensorBoard as well.
            seconds: The least time between two checkpoints, in seconds.
            origin: What identifies the run, as `Checkpoints` takes it.
            keep: How many checkpoints to keep, as `Checkpoints` takes it.

        Returns:
            The record, and where the run stands: at the checkpoint, or at `begun` where the folder holds none.

        Raises:
            ImportError: If a package that the record needs is not installed.
            ValueError: If the checkpoint does not exist, is damaged or is of another model or another run, or if the
                metrics in the folder are damaged.
        """
        checkpoints = Checkpoints(folder.path / "checkpoints", origin=origin, keep=keep)
        resumes = epoch is not None or checkpoints.epochs()
        progress = checkpoints.restore(begun, epoch) if resumes else begun
        return cls(folder, checkpoints, progress, tensorboard=tensorboard, seconds=seconds), progress

    def add(self, progress: Progress, rows: list[Row]) -> None:
        """Logs the metrics of some more epochs, and writes a checkpoint if the last one is old enough.

        Args:
            progress: Where the run stands after these epochs.
            rows: The metrics of these epochs, a row for each: its number as "epoch", and its metrics by name.

        Raises:
            OSError: If a file cannot be written, as on a full disk.
        """
        if self._log is not None:
            self._log.add(rows)
        if any_process(monotonic() - self._saved >= self._seconds):
            self._save(progress)

    def end(
        self,
        progress: Progress,
        result: Row,
        counts: np.ndarray | None,
        classes: Sequence[str],
        *,
        plots: bool,
        predictions: tuple[np.ndarray, np.ndarray, np.ndarray | None] | None = None,
        target: str = "target",
    ) -> None:
        """Writes the last checkpoint, the result, and pictures of all epochs.

        Args:
            progress: Where the run stands at its end.
            result: What to store as result.json.
            counts: The confusion matrix [m, m], a row for each true class; None for targets that are numbers.
            classes: The names of the m classes.
            plots: Whether to draw the metrics as curves.png, the confusion matrix as confusion.png, and the predictions
                as predictions.png.
            predictions: True numbers [N], predicted numbers [N] and weights [N] or None; None for classes.
            target: The name of the target that is predicted.

        Raises:
            ImportError: If `plots` is set and matplotlib is not installed.
            OSError: If a file cannot be written, as on a full disk.
        """
        self.save(progress)
        if self._log is not None:
            self._log.end(result, counts, classes, plots=plots, predictions=predictions, target=target)

    def save(self, progress: Progress) -> None:
        """Writes a checkpoint, unless the last one is of the same epoch.

        Args:
            progress: Where the run stands.

        Raises:
            OSError: If the checkpoint cannot be written, as on a full disk.
        """
        if int(progress.state.epoch) > self._epoch:
            self._save(progress)

    def close(self) -> None:
        """Writes what is still in memory, and gives up the lock of the folder.

        Raises:
            OSError: If a file cannot be written, as on a full disk.
        """
        if self._log is not None:
            self._log.close()

    def _save(self, progress: Progress) -> None:
        if self._log is not None:
            self._log.sync()  # before the checkpoint, because a resumed run expects the metrics up to it
        self._checkpoints.save(progress)
        self._epoch, self._saved = int(progress.state.epoch), monotonic()


class Log:
    """The files of a record other than its checkpoints. Metrics of epochs after `epoch` are removed from the folder.

    Args:
        folder: The folder of the run.
        epoch: The number of epochs that the run has done.
        tensorboard: Whether to write the metrics as scalars for TensorBoard as well.

    Raises:
        ImportError: If `tensorboard` is set and tensorboardX is not installed.
        ValueError: If the metrics in the folder are damaged.
        OSError: If a file cannot be written. The methods raise it, too.
    """

    def __init__(self, folder: Folder, epoch: int, *, tensorboard: bool) -> None:
        self._folder = folder
        folder.rewind(epoch)
        self._scalars = Scalars(folder.path / "tensorboard", epoch) if tensorboard else None

    def add(self, rows: list[Row]) -> None:
        """Appends the metrics of some more epochs, a row for each."""
        self._folder.log(rows)
        if self._scalars is not None:
            self._scalars.add(rows)

    def sync(self) -> None:
        """Waits until the metrics are on the disk."""
        self._folder.sync()

    def end(
        self,
        result: Row,
        counts: np.ndarray | None,
        classes: Sequence[str],
        *,
        plots: bool,
        predictions: tuple[np.ndarray, np.ndarray, np.ndarray | None] | None,
        target: str,
    ) -> None:
        """Writes the result and the pictures, as `Record.end` does."""
        self._folder.write("result", result)
        if plots:
            from jaxann.runs.plots import plot_confusion, plot_curves, plot_predictions

            rows = self._folder.rows()
            pictures = {"curves": plot_curves(rows, result.get("best_epoch"))} if rows else {}
            if counts is not None:
                pictures["confusion"] = plot_confusion(counts, classes)
            if predictions is not None:
                t, predicted, weights = predictions
                pictures["predictions"] = plot_predictions(t, predicted, target, weights)
            for name, figure in pictures.items():
                write_picture(self._folder.path / f"{name}.png", figure)

    def close(self) -> None:
        """Writes the scalars that are still in memory, and gives up the lock of the folder."""
        try:
            if self._scalars is not None:
                self._scalars.close()
        finally:
            self._folder.close()  # here, because frames of the import of matplotlib may keep this object alive

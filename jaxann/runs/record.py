"""What a run leaves in its folder: metrics, TensorBoard's scalars and checkpoints on the way, pictures at its end.

The parts that need other packages import them here, once, before there is a folder.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from time import monotonic

import numpy as np

from jaxann.runs.checkpoints import Checkpoints
from jaxann.runs.folder import Folder, Row
from jaxann.training.loop import Progress
from jaxann.training.processes import any_process, is_first


def require_packages(*, plots: bool, tensorboard: bool) -> None:
    """Raises ImportError, with how to install it, for the first thing that a record needs and that is missing."""
    needed = {"orbax.checkpoint": ("checkpoints", "")}
    if tensorboard:
        needed["tensorboardX"] = ("logging", " (or give --no-tensorboard)")
    if plots:
        needed["matplotlib.figure"] = ("plots", " (or give --no-plots)")
    for name, (extra, without) in needed.items():
        try:
            import_module(name)
        except ImportError:
            package = name.split(".")[0]
            raise ImportError(f"a run folder needs {package}: pip install 'jaxann[{extra}]'{without}") from None


class Record:
    """The record of the run in `folder`, from where `standing` is; a checkpoint at most every so many seconds.

    What the folder knows of later epochs is forgotten: a run that was killed makes them again. Of several processes all
    write checkpoints, each its part of them, and the first one all else.
    """

    def __init__(
        self, folder: Folder, checkpoints: Checkpoints, standing: Progress, *, tensorboard: bool, seconds: float
    ) -> None:
        self._log = Log(folder, int(standing.state.epoch), tensorboard=tensorboard) if is_first() else None
        self._checkpoints, self._seconds = checkpoints, seconds
        self._epoch, self._saved = int(standing.state.epoch), monotonic()

    @classmethod
    def of(
        cls, folder: Folder, begun: Progress, epoch: int | None = None, *, tensorboard: bool, seconds: float
    ) -> tuple[Record, Progress]:
        """A record that goes on, and where the run stands: at its last checkpoint, at that of `epoch`, or begun."""
        checkpoints = Checkpoints(folder.path / "checkpoints")
        there = epoch is not None or checkpoints.epochs()
        standing = checkpoints.restore(begun, epoch) if there else begun
        return cls(folder, checkpoints, standing, tensorboard=tensorboard, seconds=seconds), standing

    def after(self, standing: Progress, rows: list[Row]) -> None:
        """Logs the rows, and writes a checkpoint when it is time. Raises OSError where the disk does not take it."""
        if self._log is not None:
            self._log.add(rows)
        if any_process(monotonic() - self._saved >= self._seconds):
            self._save(standing)

    def end(
        self, standing: Progress, result: Row, counts: np.ndarray | None, classes: Sequence[str], *, plots: bool
    ) -> None:
        """Writes the last checkpoint, the result and the pictures of the whole run. Raises OSError as `after` does."""
        if int(standing.state.epoch) > self._epoch:
            self._save(standing)
        if self._log is not None:
            self._log.end(result, counts, classes, plots=plots)

    def close(self) -> None:
        """Writes out what is still held."""
        if self._log is not None:
            self._log.close()

    def _save(self, standing: Progress) -> None:
        self._checkpoints.save(standing)
        self._epoch, self._saved = int(standing.state.epoch), monotonic()


class Log:
    """Metrics and TensorBoard's scalars in `folder` from an epoch on, what it has of later ones being forgotten."""

    def __init__(self, folder: Folder, epoch: int, *, tensorboard: bool) -> None:
        self._folder, self._writer = folder, None
        folder.rewind(epoch)
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=epoch + 1)

    def add(self, rows: list[Row]) -> None:
        """Metrics of some epochs more."""
        self._folder.log(rows)
        if self._writer is not None:
            for row in rows:
                for name in row.keys() - {"epoch"}:
                    self._writer.add_scalar(name, row[name], row["epoch"])

    def end(self, result: Row, counts: np.ndarray | None, classes: Sequence[str], *, plots: bool) -> None:
        """The result and the pictures of the whole run."""
        self._folder.write("result", result)
        if plots:
            from jaxann.runs.plots import plot_confusion, plot_curves

            rows = self._folder.rows()
            pictures = {"curves": plot_curves(rows)} if rows else {}
            if counts is not None:
                pictures["confusion"] = plot_confusion(counts, classes)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph")  # names in a script that the font lacks
                for name, figure in pictures.items():
                    figure.savefig(self._folder.path / f"{name}.png", dpi=100)

    def close(self) -> None:
        """Writes out what TensorBoard's writer still holds."""
        if self._writer is not None:
            self._writer.close()

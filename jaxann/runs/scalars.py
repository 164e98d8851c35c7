"""Scalars for TensorBoard, written by tensorboardX, which the extra `logging` installs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from time import time
from typing import Any

from jaxann.data.extras import require_packages
from jaxann.runs.folder import Row


class Scalars:
    """A new file of events in a folder. TensorBoard shows it in place of the later epochs in older files.

    The calling thread writes the events, so that a full disk raises an error in the call that writes. The
    `SummaryWriter` of tensorboardX would raise it in another thread.

    Args:
        folder: The folder, which is made if it does not exist.
        epoch: The number of epochs that the run has done.

    Raises:
        ImportError: If tensorboardX is not installed.
        OSError: If the file cannot be written.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        require_packages("a record for TensorBoard", "tensorboardX")
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        protocol: Any = event_pb2  # its classes are made when it is imported, which a type checker does not see
        self._folder, self._event, self._scalar = folder, protocol.Event, scalar
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._write(epoch + 1, session_log=protocol.SessionLog(status=protocol.SessionLog.START))

    def add(self, rows: list[Row]) -> None:
        """Writes the metrics of some epochs, except those that are not finite.

        Args:
            rows: A row for each epoch: its number as "epoch", and its metrics by name.

        Raises:
            OSError: If the file cannot be written.
        """
        for row in rows:
            for name in (name for name in row.keys() - {"epoch"} if isfinite(row[name])):
                self._write(row["epoch"], summary=self._scalar(name, row[name]))
        with self._name_file():
            self._writer.flush()  # at once, because TensorBoard may be watching

    def close(self) -> None:
        """Writes what is still in memory.

        Raises:
            OSError: If the file cannot be written.
        """
        with self._name_file():
            self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        with self._name_file():
            self._writer.write_event(self._event(wall_time=time(), step=step, **content))

    @contextmanager
    def _name_file(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(f"the scalars in {self._folder} cannot be written: {error.strerror}") from None

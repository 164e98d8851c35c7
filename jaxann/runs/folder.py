"""The folder of a run: its settings, its metrics and its result, and a lock that lets one process at a time write.

A folder appears together with its first files, and a file that is rewritten is replaced atomically, so that a killed
process leaves nothing half written except perhaps the last line of the metrics.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import weakref
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock

from jaxann.data.files import require_regular_file
from jaxann.nn.text import describe_value
from jaxann.runs.files import (
    finite_or_none,
    format_json,
    is_number_or_none,
    parse_json,
    read_json,
    sync_folder,
    temporary_name,
    write_file,
)

Row = dict[str, Any]


class Folder:
    """The folder of a run, opened for writing or only for reading; `Folder.create` makes a new one.

    The lock for writing is given up by `close`, when the object is garbage collected, and when its process ends, even
    if the process is killed. Readers neither take the lock nor wait for it.

    Args:
        path: The folder.
        reader: Whether to open it only for reading.

    Raises:
        ValueError: If the folder holds no run, or if it is opened for writing while another process has it open for
            writing.
    """

    def __init__(self, path: Path | str, *, reader: bool = False) -> None:
        self.path = Path(path)
        self._unlock: weakref.finalize | None = None
        if not (self.path / "config.json").is_file():
            raise ValueError(f"expected the folder of a run, with a config.json in it, got {self.path}")
        if reader:
            return
        lock = filelock.FileLock(self.path / "lock", thread_local=False)  # any thread may release it
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ValueError(f"{self.path} is in use: another process is writing to it") from None
        self._unlock = weakref.finalize(self, lock.release, force=True)

    @classmethod
    def create(cls, path: Path | str, **files: Any) -> Folder:
        """Makes a new folder and opens it for writing. It appears with its files in it, or not at all.

        Args:
            path: The folder, which must not exist or must be empty. Missing folders above it are made.
            **files: The content of each file, which is stored as JSON: `config={...}` becomes config.json.

        Returns:
            The folder.

        Raises:
            ValueError: If the path is a file or a folder that is not empty, or does not end in a name.
            OSError: If the folder cannot be written.
        """
        path = Path(path)
        if not path.name:
            raise ValueError(f"expected a name for a new folder, got {str(path)!r}")
        new = path.with_name(temporary_name())
        new.mkdir(parents=True)
        try:
            for name, content in files.items():
                write_file(new / f"{name}.json", format_json(content))
            os.rename(new, path)  # this fails unless the path is free or an empty folder: two processes cannot both win
        except OSError:
            if path.is_file() or (path.is_dir() and any(path.iterdir())):
                content = "which already holds a run" if (path / "config.json").exists() else "which is not empty"
                raise ValueError(f"expected a new or an empty folder, got {path}, {content}") from None
            raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
        sync_folder(path.parent)
        return cls(path)

    def close(self) -> None:
        """Releases the lock, so that another process can write. This object must not write after that."""
        if self._unlock is not None:
            self._unlock()

    def json(self, name: str) -> Any:
        """Returns the content of the file `name`.json.

        Raises:
            ValueError: As `files.read_json` does.
        """
        return read_json(self.path / f"{name}.json")

    def write(self, name: str, content: Any) -> None:
        """Replaces the file `name`.json atomically.

        Args:
            name: The name of the file, without its extension.
            content: What to store, as JSON.

        Raises:
            OSError: If the file cannot be written; then the old one stays.
        """
        write_file(self.path / f"{name}.json", format_json(content))

    def rows(self) -> list[Row]:
        """Returns the metrics so far, a row for each epoch. A last line that a kill has cut short is left out.

        Raises:
            ValueError: If another line is not the row of an epoch.
        """
        path = self.path / "metrics.jsonl"
        require_regular_file(path)
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            rows = [parse_json(line) for line in lines if line.endswith("\n")]
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        for number, row in enumerate(rows, 1):
            is_row = isinstance(row, dict) and isinstance(row.get("epoch"), int)
            if not is_row or not all(map(is_number_or_none, row.values())):
                raise ValueError(
                    f"{path} is damaged: expected the row of an epoch in line {number}, got {describe_value(row)}"
                )
        return rows

    def log(self, rows: list[Row]) -> None:
        """Appends rows to the metrics.

        Args:
            rows: A row for each epoch: its number as "epoch", and its metrics by name. A number that is not finite is
                stored as null, because JSON has no such numbers.

        Raises:
            OSError: If the file cannot be written.
        """
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(_format_rows(rows))
        except OSError as error:
            raise OSError(f"{path} cannot be written: {error.strerror}") from None

    def sync(self) -> None:
        """Waits until the metrics are on the disk, so that they survive a power cut.

        Raises:
            OSError: If they cannot be written.
        """
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            os.fsync(file.fileno())

    def rewind(self, epoch: int) -> None:
        """Removes the metrics of all epochs after `epoch`, which a resumed run will log again.

        Raises:
            ValueError: If the metrics are damaged.
            OSError: If the file cannot be written.
        """
        kept = [row for row in self.rows() if row["epoch"] <= epoch]
        write_file(self.path / "metrics.jsonl", _format_rows(kept))


def require_readable_version(path: Path, version: str | None) -> None:
    """Checks that a run was not made by a newer version of jaxann than the installed one.

    Args:
        path: The folder of the run or the file of its settings, for the message.
        version: The version of jaxann that made the run; None for a run that was made before versions were stored.

    Raises:
        ValueError: If `version` is newer than the installed version, or does not begin with a digit.
    """
    if version is None:
        return
    installed = metadata.version("jaxann")
    if not re.match(r"\d", version):
        raise ValueError(
            f"expected the version of jaxann that made the run, such as {installed}, got {version!r} in {path}"
        )
    if _parse_release(version) > _parse_release(installed):
        raise ValueError(f"expected a run of jaxann {installed} or older, got one of {version} in {path}")


def _parse_release(version: str) -> tuple[int, ...]:
    """Returns the numbers of a release without the zeros at its end, which have no meaning: (1, 2) for 1.2.0rc1."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(number) for number in match[0].split(".")] if match else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _format_rows(rows: list[Row]) -> str:
    """Returns a line of JSON for each row, with null for numbers that are not finite."""
    finite = [{name: finite_or_none(value) for name, value in row.items()} for row in rows]
    return "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in finite)

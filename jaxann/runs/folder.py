"""The folder of a run: its settings, its metrics, its checkpoints, and a lock, so that one process at a time writes.

It appears with its settings inside or not at all, and files are rewritten as a whole, so that a kill leaves no half.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Folder:
    """A run's folder at `path`; `create` makes one, `Folder(path)` opens one that is there.

    Raises ValueError where there is no run, and, unless it is only to be read, where another process has it open.
    """

    def __init__(self, path: Path, *, reader: bool = False) -> None:
        self.path = Path(path)
        self.close: Callable[[], object] = lambda: None
        if not (self.path / "config.json").is_file():
            raise ValueError(f"{self.path} holds no run: there is no config.json in it")
        if not reader:
            lock = (self.path / "lock").open("a")
            self.close = weakref.finalize(self, lock.close)  # at the latest, when nobody has it any more
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which a killed process gives up too
            except BlockingIOError:
                raise ValueError(f"{self.path} is in use: another process goes on with that run") from None

    @classmethod
    def create(cls, path: Path, **files: Any) -> Folder:
        """A new folder with `files` in it, as JSON. Raises ValueError where something is already."""
        path = Path(path)
        if not path.name:
            raise ValueError(f"{path} is no name for a new folder")
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.mkdir(parents=True, exist_ok=True)  # one that was killed may have had this process id
        try:
            for name, content in files.items():
                (new / f"{name}.json").write_text(_json(content), encoding="utf-8")
            os.rename(new, path)  # onto nothing or an empty folder, else it fails: two cannot have the same
        except OSError:
            if path.is_file() or (path.is_dir() and any(path.iterdir())):
                raise ValueError(f"{path} is there already; a run of that name goes on with --resume {path}") from None
            raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return cls(path)

    def json(self, name: str) -> Any:
        """What `name`.json holds. Raises ValueError where it cannot be read."""
        try:
            return json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path / name}.json cannot be read: {error}") from None

    def write(self, name: str, content: Any) -> None:
        """`name`.json anew, as a whole."""
        _replace(self.path / f"{name}.json", _json(content))

    def rows(self) -> list[Row]:
        """The metrics so far, a row for each epoch. A last line that a kill cut short is left out.

        Raises ValueError for what is no JSON.
        """
        path = self.path / "metrics.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            rows = [json.loads(line) for line in lines if line.endswith("\n")]
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
                raise ValueError(f"{path} is damaged: line {number} is no row of an epoch")
        return rows

    def log(self, rows: list[Row]) -> None:
        """Appends rows of metrics."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)

    def rewind(self, epoch: int) -> None:
        """Forgets the metrics of all epochs after this one, which the resumed run will make again."""
        kept = [row for row in self.rows() if row["epoch"] <= epoch]
        _replace(self.path / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in kept))


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)

"""Folders of sweeps: the settings of a sweep, and a line for each member that has been trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxann.cli.settings import Settings
from jaxann.data.files import require_regular_file
from jaxann.nn.hyperparameters import SettingError
from jaxann.nn.text import describe_value
from jaxann.runs.files import is_number_or_none, parse_json, write_file
from jaxann.runs.folder import Folder, require_readable_version

Row = dict[str, Any]


def member_key(row: Row) -> str:
    """Returns the settings and the seed of a member as one text, which is the same for the member and its row."""
    return json.dumps([row["settings"], row["seed"]], sort_keys=True)


def open_folder(path: Path, config: Row, sweep: Row) -> Folder:
    """Opens the folder of a sweep, or creates it.

    Args:
        path: Where the folder is.
        config: What config.json holds: the settings that the members have in common.
        sweep: What sweep.json holds: the grid, the number of seeds, the digests of the data and of their description,
            and the settings of JAX's random numbers.

    Raises:
        ValueError: If the folder holds anything but a sweep, if the sweep has other settings or other data, if a newer
            version of jaxann wrote it, or if another process is writing to it.
        OSError: If the folder cannot be created.
    """
    files = {"config": config, "sweep": sweep}
    if not (path / "sweep.json").is_file():
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise ValueError(f"expected {path} to be a new folder or that of a sweep, got a folder with other files")
        return Folder.create(path, **files)
    folder = Folder(path)
    try:
        for file, content in json.loads(json.dumps(files)).items():
            stored = folder.json(file)
            if not isinstance(stored, dict) or not isinstance(stored.get("version"), str | None):
                expectation = "expected an object of settings, with a version that is a string"
                raise ValueError(f"{path / file}.json is damaged: {expectation}, got {describe_value(stored)}")
            require_readable_version(path / f"{file}.json", stored.get("version"))
            if file == "sweep":  # older sweeps do not have these
                stored = {name: content[name] for name in ("description", "random")} | stored
            else:
                # Older sweeps lack newer settings, and all were ranked by accuracy.
                stored = json.loads(json.dumps(Settings().to_json())) | {"score": "accuracy"} | stored
            for name, value in content.items():
                if name != "version" and stored.get(name) != value:
                    if name in ("data", "description"):
                        raise ValueError(f"expected the data with which {path} was started, got different data")
                    if name == "random":
                        raise ValueError(
                            f"expected JAX to draw random numbers by {stored[name]}, as in the sweep in {path}, "
                            f"got {value}"
                        )
                    raise SettingError(name, f"to be {stored.get(name)}, as in the sweep in {path}", value)
    except Exception:
        folder.close()
        raise
    return folder


def parse_row(row: Any, part: str) -> Row:
    """Returns the row of a member, without anything else that is stored in it.

    Args:
        row: The row, as it was read from JSON.
        part: The part on which the member was scored, "validation" or "test".

    Raises:
        ValueError: If the row lacks something or holds something else.
        LookupError, TypeError: Likewise.
    """
    numbers = [row[name] for name in ("loss", f"{part}_loss", f"{part}_score")]
    is_scored = isinstance(row["diverged"], bool) and (row[f"{part}_score"] is None) == row["diverged"]
    if not is_scored or not all(map(is_number_or_none, numbers)):
        raise ValueError("expected losses, a score and whether the member diverged")
    return {name: row[name] for name in ("settings", "seed", "loss", f"{part}_loss", f"{part}_score", "diverged")}


def read_rows(path: Path, members: list[Row]) -> list[Row]:
    """Reads the rows in a file, and removes from it a last line that a kill has cut short.

    Args:
        path: The file, which is made if it does not exist.
        members: The members of the sweep.

    Raises:
        ValueError: If a line does not describe a member of the sweep.
    """
    require_regular_file(path)
    content = path.read_bytes() if path.exists() else b""
    complete = content[: content.rfind(b"\n") + 1]
    if complete != content or not path.exists():
        write_file(path, complete)
    rows, by_key = [], {member_key(member): member for member in members}
    for number, line in enumerate(complete.splitlines(), 1):
        try:
            row = parse_row(parse_json(line.decode()), "validation")
            rows.append(row | by_key.pop(member_key(row)))  # a second row of a member would count it twice
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"{path} is damaged: line {number} does not describe a network of this sweep") from None
    return rows

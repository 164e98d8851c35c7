"""Files of runs and programs: files that appear with all their content or not at all, and JSON that is checked.

A written file survives a power cut. Its temporary name cannot be guessed, and a link at its path is not followed.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import warnings
from contextlib import suppress
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxann.data.files import require_regular_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_file(path: Path | str, content: str | bytes, *, new: bool = False) -> None:
    """Writes a file that appears with all its content or not at all, in place of an older one.

    Args:
        path: The file.
        content: What it holds; text is stored in UTF-8.
        new: Whether to refuse to replace an older file.

    Raises:
        FileExistsError: If `new` is set and something exists at the path.
        OSError: If the file cannot be written; then an older one stays as it was.
    """
    path = Path(path)
    if new:
        require_new_file(path)
    temporary = path.with_name(temporary_name())
    try:
        with temporary.open("xb") as file:  # "x" makes a new file: it neither follows a link nor reuses a file
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def require_new_file(path: Path | str) -> None:
    """Checks that nothing exists at a path and that its folder exists.

    Raises:
        FileExistsError: If something exists at the path.
        FileNotFoundError: If the folder that it would lie in does not exist.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"expected a new file, got one that exists: {path}")
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"no such folder: {Path(path).parent}")


def write_picture(path: Path | str, figure: Figure) -> None:
    """Writes a figure as `write_file` does, in the format that the extension of the path names, such as .png.

    Raises:
        ValueError: If matplotlib does not know the format.
        OSError: If the file cannot be written; then an older one stays as it was.
    """
    content = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the font may lack letters of a name
        figure.savefig(content, format=Path(path).suffix.removeprefix(".") or None)
    write_file(path, content.getvalue())


def temporary_name() -> str:
    """Returns a name for a temporary file or folder that nobody can guess."""
    return f".jaxann-{secrets.token_hex(8)}"


def sync_folder(path: Path | str) -> None:
    """Waits until the names in a folder are on the disk, where the file system can say so."""
    with suppress(OSError):  # Windows and some network file systems cannot, and the names are there all the same
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def finite_or_none(value: Any) -> Any:
    """Returns a value, but None for a number that is not finite, because JSON has no such numbers."""
    return None if isinstance(value, float) and not isfinite(value) else value


def is_number_or_none(value: Any) -> bool:
    """Returns whether a value from JSON is null or a number that a float can hold."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (is_number and not abs(value) > sys.float_info.max)


def format_json(content: Any) -> str:
    """Returns the text of a JSON file, which ends in a new line.

    Raises:
        ValueError: If a number is not finite, because JSON has no such numbers.
    """
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path | str) -> Any:
    """Returns the content of a JSON file.

    Raises:
        ValueError: If the file does not exist, cannot be read, or does not hold JSON that `parse_json` accepts.
    """
    require_regular_file(path)
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def parse_json(text: str) -> Any:
    """Returns what a JSON text describes.

    Raises:
        ValueError: If the text is not JSON, is nested too deeply, or has a key twice in one object.
    """
    try:
        return json.loads(text, object_pairs_hook=_make_object)
    except RecursionError:
        raise ValueError("expected JSON that is not nested deeply, got too many brackets inside one another") from None


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"expected each key once in a JSON object, got {twice!r} twice")
    return content

"""Text files as rows of cells: their compression, their encoding, and the character that separates the cells.

Unexpected content raises a ValueError, whose message is one short sentence that names the file.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import zipfile
from io import BytesIO, StringIO

from jaxann.data import files

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# The first bytes of compressed files, and the functions that decompress them.
_COMPRESSIONS = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ\0": lzma.decompress}
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SAMPLE = 100  # lines from which the separator is found


def read_rows(path: str, data: bytes, notes: list[str]) -> tuple[list[list[str]], str]:
    """Splits the content of a text file into cells.

    Args:
        path: The file, for messages.
        data: Its content.
        notes: A list to which notes on the encoding and the separator are appended.

    Returns:
        The rows that are not blank, whose cells have no spaces around them, and the separator.

    Raises:
        ValueError: If the content cannot be decompressed, decoded or split.
    """
    lines = list(StringIO(_decode(path, _decompress(path, data), notes), newline=""))
    comments = 0
    while comments < len(lines) and lines[comments].startswith("#"):
        comments += 1
    separator = _find_separator(lines[comments : comments + _SAMPLE])
    if 0 < comments < len(lines):
        last, first = (line.count(separator) for line in lines[comments - 1 : comments + 1])
        comments -= last == first > 0  # then the last of these lines holds the names of the columns
    if separator != ",":
        notes.append(f"the cells of {path} are separated by {SEPARATORS[separator]}")
    reader = csv.reader(lines[comments:], delimiter=separator, skipinitialspace=True, strict=True)
    try:
        rows = [[cell.strip() for cell in row] for row in reader]
    except csv.Error as error:
        place = f"{path}, line {comments + reader.line_num},"
        problem = files.describe_error(error)
        raise ValueError(f"{place} cannot be read as cells separated by {SEPARATORS[separator]}: {problem}") from None
    return [row for row in rows if len(row) > 1 or "".join(row)], separator


def zip_members(path: str, data: bytes) -> list[str]:
    """Returns the names of the files in a zip file, without what macOS adds to them.

    Raises:
        ValueError: If the content is no zip file.
    """
    try:
        names = zipfile.ZipFile(BytesIO(data)).namelist()
    except Exception as error:  # zipfile raises errors of many types for damaged files
        raise ValueError(f"{path} cannot be read as a zip file: {files.describe_error(error)}") from None
    return [name for name in names if not name.endswith("/") and not name.startswith("__MACOSX/")]


def _decompress(path: str, data: bytes) -> bytes:
    members = zip_members(path, data) if data.startswith(b"PK") else [path]
    if len(members) != 1:
        raise ValueError(f"expected one file in {path}, got {len(members)}")
    try:
        if data.startswith(b"PK"):
            return zipfile.ZipFile(BytesIO(data)).read(members[0])
        decompress = next((f for start, f in _COMPRESSIONS.items() if data.startswith(start)), bytes)
        return decompress(data)
    except Exception as error:  # each method of compression has errors of its own
        raise ValueError(f"{path} cannot be decompressed: {files.describe_error(error)}") from None


def _decode(path: str, data: bytes, notes: list[str]) -> str:
    """Returns the text of a file. A note says if its encoding had to be guessed."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        try:
            text = data.decode("cp1252")
            notes.append(f"{path} is not in UTF-8; it was read as Windows-1252")
        except UnicodeDecodeError:
            text = "\0"
    if "\0" in text:
        raise ValueError(f"expected text in UTF-8, UTF-16 or Windows-1252 in {path}, got other bytes")
    return text


def _find_separator(lines: list[str]) -> str:
    """Returns the separator that splits most lines into the same number of cells, which must be more than one.

    Of two that split equally many, a comma is the less likely one, because it may be a decimal comma.
    """
    best, score = ",", (0.0, False, 0)
    for separator in SEPARATORS:
        try:
            counts = [len(row) for row in csv.reader(lines, delimiter=separator, skipinitialspace=True) if row]
        except csv.Error:
            continue
        usual = max(set(counts), key=counts.count, default=1)
        agreement = counts.count(usual) / len(counts) if usual > 1 else 0.0
        if (agreement, separator != ",", usual) > score and agreement:
            best, score = separator, (agreement, separator != ",", usual)
    return best

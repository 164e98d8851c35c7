"""Text as training, validation and test parts: windows of tokens, and the token that follows each token of a window."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxann.data import files
from jaxann.data.batches import Examples
from jaxann.data.tokens import CharacterTokenizer, Tokenizer, read_tokenizer
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.text import shorten

DOCUMENTATION = "pydoc"


class TextParts(NamedTuple):
    """The parts of a text.

    Attributes:
        train: The windows to train on: tokens x [N, T] and the next tokens t [N, T], as int32.
        validation: The windows to evaluate on during training; None if no share was set apart for them.
        test: The windows to evaluate on at the end.
        tokenizer: The way from text to tokens and back.
        characters_per_token: The mean number of characters of a token.
    """

    train: Examples
    validation: Examples | None
    test: Examples
    tokenizer: Tokenizer
    characters_per_token: float


def load_text(
    source: str,
    *,
    context: int,
    tokenizer: str | None = None,
    held_out: float | None = None,
    validation: float = 0.0,
) -> TextParts:
    """Reads a text and cuts it into windows of `context` tokens, which lie side by side.

    The test part is the end of the text, and the validation part is the end of what lies before it. The last tokens of
    a part that fill no window are left out.

    Args:
        source: "pydoc", the documentation that comes with Python, or the path of a file of text in UTF-8.
        context: T, the number of tokens in a window, at least 1.
        tokenizer: The file of a tokenizer of the package tokenizers. By default tokens are characters.
        held_out: The share of the text for the test part, between 0 and 1; 0.1 by default.
        validation: The share of the rest for the validation part; 0 makes no such part.

    Raises:
        SettingError: If a setting is out of range, or if a part has too few tokens for one window. It is a ValueError.
        ValueError: If a file cannot be read.
        ImportError: If the package tokenizers is needed and missing.
    """
    held_out = 0.1 if held_out is None else held_out
    validate_number("held_out", held_out, above=0, below=1)
    validate_number("validation", validation, least=0, below=1)
    validate_number("context", context, least=1, integer=True)
    text = read_text(source)
    end = len(text) - ceil(held_out * len(text))
    start = end - ceil(validation * end)
    used = CharacterTokenizer.fit(text) if tokenizer is None else read_tokenizer(tokenizer)
    pieces = {"training": text[:start], "validation": text[start:end], "test": text[end:]}
    tokens = {part: used.encode(piece) for part, piece in pieces.items() if piece or part != "validation"}
    for part, ids in tokens.items():
        if len(ids) < 2:
            expectation = f"expected at least 2 tokens in the {part} part of {shorten(source)}"
            raise ValueError(f"{expectation}, got a text of {len(text)} characters with {len(ids)} there")
        if len(ids) <= context:
            note = f"the number of tokens in the {part} part of {shorten(source)}"
            raise SettingError("context", f"to be below {len(ids)} ({note})", context)
    train, test = (_cut_windows(tokens[part], context) for part in ("training", "test"))
    valid = _cut_windows(tokens["validation"], context) if "validation" in tokens else None
    return TextParts(train, valid, test, used, len(text) / sum(map(len, tokens.values())))


def read_text(source: str) -> str:
    """Reads a text.

    Args:
        source: "pydoc", or the path of a file in UTF-8.

    Raises:
        ValueError: If the file cannot be read or is empty.
    """
    if source == DOCUMENTATION:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    files.require_regular_file(source)
    try:
        text = Path(source).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected text in UTF-8 in {source}, got other bytes at position {error.start}") from None
    except (OSError, ValueError) as error:
        raise files.read_error(source, error) from None
    if not text:
        raise ValueError(f"expected a text, got an empty file: {source}")
    return text


def _cut_windows(tokens: np.ndarray, context: int) -> Examples:
    count = (len(tokens) - 1) // context
    x, t = (tokens[start : start + count * context].reshape(count, context) for start in (0, 1))
    return Examples(x, t)

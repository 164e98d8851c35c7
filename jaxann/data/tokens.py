"""Tokens: the pieces of text that networks for text take, each an integer, and the way from text to tokens and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxann.data import files
from jaxann.data.extras import require_packages
from jaxann.nn.text import describe_value


@runtime_checkable
class Tokenizer(Protocol):
    """A way from text to tokens and back.

    Attributes:
        size: How many different tokens there are.
    """

    @property
    def size(self) -> int: ...

    def encode(self, text: str) -> np.ndarray:
        """Returns the tokens of a text, [T] as int32.

        Raises:
            ValueError: If a part of the text has no token.
        """
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """Returns the text of tokens [T]."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Returns the tokenizer as `from_json` reads it."""
        ...


@dataclass(frozen=True)
class CharacterTokenizer:
    """Characters as tokens.

    Attributes:
        alphabet: The characters, in the order of their tokens.
    """

    alphabet: str

    @classmethod
    def fit(cls, text: str) -> CharacterTokenizer:
        """Returns the tokenizer for all characters of a text, in the order of their code points."""
        return cls("".join(sorted(set(text))))

    @property
    def size(self) -> int:
        return len(self.alphabet)

    @cached_property
    def _tokens(self) -> dict[str, int]:
        return {character: token for token, character in enumerate(self.alphabet)}

    def encode(self, text: str) -> np.ndarray:
        unknown = sorted(set(text) - self._tokens.keys())
        if unknown:
            raise ValueError(
                f"expected characters of the text that the network was trained on, got {describe_value(unknown[0])}"
            )
        return np.array([self._tokens[character] for character in text], np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        return "".join(self.alphabet[token] for token in tokens.tolist())

    def to_json(self) -> dict[str, Any]:
        return {"alphabet": self.alphabet}


@dataclass(frozen=True)
class TokenizerFile:
    """The tokens of a file of the package tokenizers.

    Attributes:
        content: The content of the file, JSON.

    Raises:
        ImportError: If the package tokenizers is missing.
        ValueError: If the content is not that of such a file.
    """

    content: str

    def __post_init__(self) -> None:
        require_packages("a tokenizer", "tokenizers")
        try:
            _ = self._tokenizer  # reads the file now, so that a damaged one is refused here
        except Exception as error:  # the package has no error of its own
            raise ValueError(
                f"expected the file of a tokenizer of the package tokenizers, got one that it cannot read: "
                f"{files.describe_error(error)}"
            ) from None

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer as PackageTokenizer  # pyright: ignore[reportMissingImports]

        tokenizer = PackageTokenizer.from_str(self.content)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @property
    def size(self) -> int:
        return max(self._tokenizer.get_vocab().values()) + 1  # there may be gaps below

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        return self._tokenizer.decode(tokens.tolist(), skip_special_tokens=False)

    def to_json(self) -> dict[str, Any]:
        return {"tokenizer": json.loads(self.content)}


def read_tokenizer(path: str) -> TokenizerFile:
    """Reads a file of the package tokenizers.

    Args:
        path: The .json file.

    Raises:
        ImportError: If the package tokenizers is missing.
        ValueError: If the file cannot be read, or is not such a file.
    """
    files.require_regular_file(path)
    try:
        return TokenizerFile(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise files.read_error(path, error) from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def from_json(content: Any) -> Tokenizer:
    """Returns a tokenizer from what its `to_json` returned.

    Raises:
        ImportError: If the package tokenizers, which the tokenizer needs, is missing.
        ValueError: If the content is not of a tokenizer.
    """
    if isinstance(content, Mapping) and len(content) == 1:
        alphabet = content.get("alphabet")
        if isinstance(alphabet, str) and alphabet and "".join(sorted(set(alphabet))) == alphabet:
            return CharacterTokenizer(alphabet)
        if isinstance(content.get("tokenizer"), dict):
            return TokenizerFile(json.dumps(content["tokenizer"]))
    raise ValueError(f"expected a tokenizer, got {describe_value(content)}")

"""Errors of the programs: one sentence that names a setting as the caller wrote it, and exit code 2."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from jaxann.data.extras import require_packages
from jaxann.nn.hyperparameters import SettingError
from jaxann.nn.text import make_printable, shorten

# The message of these errors is a sentence that explains them, so that no traceback is printed.
ERRORS = (ValueError, FloatingPointError, OSError, ImportError, MemoryError)
LONGEST_WORD, LONGEST_SENTENCE = 200, 500  # in characters


def program_name() -> str:
    """Returns the name under which the program was called, such as "jaxann train" or "train.py"."""
    return os.path.basename(sys.argv[0])


def flags(settings: type[Any]) -> dict[str, str]:
    """Returns the command-line flag of each field of a dataclass of settings, such as "--batch-size" of batch_size."""
    return {field.name: "--" + field.name.replace("_", "-") for field in fields(settings)}


def is_explained(error: Exception) -> bool:
    """Returns whether a sentence explains an error to a user, so that a traceback is not needed."""
    return isinstance(error, ERRORS) or _explain_jax(error) is not None


def format_error(error: Exception, spelling: Mapping[str, str]) -> str:
    """Returns the sentence that explains an error.

    Args:
        error: The error. If it is a `SettingError`, the name of its setting is replaced.
        spelling: The caller's spelling of each setting, by its name, as `flags` returns it. Other names stay.
    """
    if isinstance(error, SettingError):
        return error.spell(lambda name: spelling.get(name, name))
    return _explain_jax(error) or str(error) or type(error).__name__


def print_error(error: Exception, spelling: Mapping[str, str]) -> int:
    """Prints the name of the program and the sentence of an error to stderr, and returns the exit code, 2."""
    print_line(format_error(error, spelling))
    return 2


def print_line(message: str) -> None:
    """Prints the name of the program and a message to stderr, on one line of bounded length."""
    print(f"{program_name()}: {format_line(message)}", file=sys.stderr)


def format_line(message: str) -> str:
    """Returns a message as one line of at most 500 characters, in which the middle of a long value is left out."""
    line = make_printable(" ".join(message.splitlines())).strip()
    line = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: shorten(word[0], LONGEST_WORD), line)
    explanation, got, value = line.rpartition(", got ")
    room = LONGEST_SENTENCE - len(explanation) - len(got)
    if got and room >= LONGEST_WORD:
        return explanation + got + shorten(value, room)
    return shorten(line, LONGEST_SENTENCE)


def _explain_jax(error: Exception) -> str | None:
    """Returns a sentence for an error of JAX that the machine or the environment causes, and None for any other."""
    message = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in message):
        return f"expected enough memory for the data and the network, got less: {message}".removesuffix(": ")
    if isinstance(error, RuntimeError) and message.startswith("Unable to initialize backend"):
        platforms = os.environ.get("JAX_PLATFORMS")
        if platforms:
            return f"expected JAX_PLATFORMS to name a platform that JAX finds here, such as cpu, got {platforms!r}"
        return message
    return None


def require_optional_packages(purpose: str, required: tuple[str, ...], refusable: Mapping[str, str]) -> None:
    """Checks that optional packages can be imported. The error says how to install them or how to do without them.

    Args:
        purpose: What needs the packages, as the subject of the sentence: "a run folder".
        required: The modules that are needed in any case.
        refusable: The modules that a flag makes unnecessary, each with that flag.

    Raises:
        ImportError: If any of the modules is missing.
    """
    try:
        require_packages(purpose, *required, *refusable)
    except ImportError as error:
        spared = [flag for module, flag in refusable.items() if module.split(".")[0] in str(error)]
        raise ImportError(f"{error} (or give {' and '.join(spared)})" if spared else str(error)) from None

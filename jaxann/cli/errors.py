"""Errors of the programs: one sentence that names a setting as the caller wrote it, and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from jaxann.data.extras import require_packages
from jaxann.nn.hyperparameters import SettingError

ERRORS = (ValueError, FloatingPointError, OSError, ImportError)  # their sentence explains them, without a traceback


def program_name() -> str:
    """Returns the name under which the program was called, such as "jaxann train" or "train.py"."""
    return os.path.basename(sys.argv[0])


def flags(settings: type[Any]) -> dict[str, str]:
    """Returns the command-line flag of each field of a dataclass of settings: "--batch-size" of batch_size."""
    return {field.name: "--" + field.name.replace("_", "-") for field in fields(settings)}


def format_error(error: Exception, spelling: Mapping[str, str]) -> str:
    """Returns the sentence that explains an error.

    Args:
        error: The error. If it is a `SettingError`, the name of its setting is replaced.
        spelling: How the caller wrote each setting, such as `flags` returns it; other names stay as they are.
    """
    if isinstance(error, SettingError):
        return error.spell(lambda name: spelling.get(name, name))
    return str(error)


def print_error(error: Exception, spelling: Mapping[str, str]) -> int:
    """Prints the name of the program and the sentence of an error to stderr, and returns the exit code, 2."""
    print(f"{program_name()}: {format_error(error, spelling)}", file=sys.stderr)
    return 2


def require_optional_packages(purpose: str, required: tuple[str, ...], refusable: Mapping[str, str]) -> None:
    """Imports optional packages, and where some are missing says how to install them or do without them.

    Args:
        purpose: What needs the packages, as the subject of the sentence: "a run folder".
        required: The modules that are needed in any case.
        refusable: The modules that a flag makes unnecessary, and that flag.

    Raises:
        ImportError: If any of the modules is missing.
    """
    try:
        require_packages(purpose, *required, *refusable)
    except ImportError as error:
        given_up = [flag for module, flag in refusable.items() if module.split(".")[0] in str(error)]
        raise ImportError(f"{error} (or give {' and '.join(given_up)})" if given_up else str(error)) from None

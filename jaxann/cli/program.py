"""The skeleton that all programs share: settings from the command line, the work, and one sentence for an error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from typing import TypeVar

import tyro

from jaxann.cli.errors import LONGEST_WORD, flags, is_explained, print_error, program_name
from jaxann.cli.terminal import colored_streams, run_in_terminal
from jaxann.nn.text import shorten

S = TypeVar("S")


def run_program(settings: type[S], description: str | None, work: Callable[[S, dict[str, str]], int]) -> int:
    """Runs a program with the settings on the command line.

    Args:
        settings: The dataclass of the program's settings.
        description: What the program does, for its help.
        work: A function that does the work and returns the exit code. It gets the settings, and a dictionary with the
            spelling of each setting for error messages, which it may change.

    Returns:
        The exit code: that of `work`, or 2 for bad input after a sentence on stderr.

    Raises:
        SystemExit: If the command line asks for the help, or cannot be parsed.
        Exception: Whatever `work` raises, unless a sentence explains it.
    """

    def run() -> int:
        parsed, spelling = parse_settings(settings, description), flags(settings)
        try:
            return work(parsed, spelling)
        except Exception as error:
            if not is_explained(error):
                raise
            return print_error(error, spelling)

    return run_in_terminal(run)


def parse_settings(settings: type[S], description: str | None) -> S:
    """Parses the settings on the command line.

    Args:
        settings: The dataclass of the settings.
        description: What the program does, for its help.

    Raises:
        SystemExit: If the command line asks for the help, or cannot be parsed.
    """

    def parse(arguments: list[str]) -> S:
        with colored_streams():
            return tyro.cli(settings, args=arguments, prog=program_name(), description=description)

    arguments, message = sys.argv[1:], StringIO()
    shown = [shorten(argument, LONGEST_WORD) for argument in arguments]
    if shown == arguments:
        return parse(arguments)
    try:
        with redirect_stderr(message):
            return parse(arguments)
    except SystemExit as stop:
        if stop.code:
            parse(shown)  # fails again, with a message that shows the shortened arguments
            print(message.getvalue(), file=sys.stderr, end="")  # only if the shortened arguments can be parsed
        raise

"""The skeleton that all programs share: settings from the command line, the work, and one sentence for an error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from typing import Any, TypeVar

import tyro

from jaxann.cli.errors import LONGEST_WORD, flags, is_explained, print_error, program_name
from jaxann.cli.terminal import colored_streams, run_in_terminal
from jaxann.nn.text import describe_value, shorten

S = TypeVar("S")
HELP = ("-h", "--help")


def run_program(
    settings: type[S],
    description: str | None,
    work: Callable[[S, dict[str, str]], int],
    *,
    find_defaults: Callable[[S], S] | None = None,
    positional: str | None = None,
) -> int:
    """Runs a program with the settings on the command line.

    Args:
        settings: The dataclass of the program's settings.
        description: What the program does, for its help.
        work: A function that does the work and returns the exit code. It gets the settings, and a dictionary with the
            spelling of each setting for error messages, which it may change.
        find_defaults: A function that returns the defaults for the settings that the command line decides, as
            `parse_settings` takes it. By default these are the defaults of the dataclass.
        positional: The setting that the first argument stands for if it is not a flag. By default there is none.

    Returns:
        The exit code: that of `work`, or 2 for bad input after a sentence on stderr.

    Raises:
        SystemExit: If the command line asks for the help, or cannot be parsed.
        Exception: Whatever `work` raises, unless a sentence explains it.
    """

    def run() -> int:
        spelling = flags(settings)
        try:
            arguments = name_first(sys.argv[1:], positional)
            return work(parse_settings(settings, description, arguments, find_defaults), spelling)
        except Exception as error:
            if not is_explained(error):
                raise
            return print_error(error, spelling)

    return run_in_terminal(run)


def name_first(arguments: list[str], name: str | None) -> list[str]:
    """Returns the arguments with the flag of a setting before the first one, if that is not a flag itself.

    Raises:
        ValueError: If the setting has its flag as well.
    """
    if name is None or not arguments or arguments[0].startswith("-"):
        return arguments
    for argument in arguments[1:]:
        if argument.partition("=")[0] == f"--{name}":
            first, second = map(describe_value, (arguments[0], argument))
            raise ValueError(f"expected the {name} once, got {first} as the first argument and then {second}")
    return [f"--{name}", *arguments]


def parse_settings(
    settings: type[S],
    description: str | None,
    arguments: list[str],
    find_defaults: Callable[[S], S] | None = None,
) -> S:
    """Parses the settings on the command line.

    Args:
        settings: The dataclass of the settings.
        description: What the program does, for its help.
        arguments: The command line.
        find_defaults: A function of the settings that returns their defaults. It is called with the settings as parsed
            with the defaults of the dataclass, and then once more with those parsed with the defaults that it
            returned, because these may decide on other defaults.

    Raises:
        SystemExit: If the command line asks for the help, or cannot be parsed.
        Exception: Whatever `find_defaults` raises.
    """
    if find_defaults is None:
        return _parse(settings, description, arguments, None)
    plain, defaults = [argument for argument in arguments if argument not in HELP], None
    parsed = _parse(settings, description, plain, None)
    for _ in range(2):
        better = find_defaults(parsed)
        if better == defaults:
            break
        defaults = better
        parsed = _parse(settings, description, plain, defaults)
    return parsed if plain == arguments else _parse(settings, description, arguments, defaults)  # shows the help


def _parse(settings: type[S], description: str | None, arguments: list[str], default: S | None) -> S:
    def parse(arguments: list[str]) -> S:
        options: Any = {} if default is None else {"default": default}
        with colored_streams():
            return tyro.cli(settings, args=arguments, prog=program_name(), description=description, **options)

    message, shown = StringIO(), [shorten(argument, LONGEST_WORD) for argument in arguments]
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

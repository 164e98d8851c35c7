"""The command `jaxann`, which starts one of the programs."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any

from jaxann.cli.errors import print_line
from jaxann.cli.signals import exit_at_interrupt
from jaxann.cli.terminal import run_in_terminal
from jaxann.nn.text import describe_value

COMMANDS = {
    "train": "Trains a network on a table of data.",
    "sweep": "Trains many networks on one table of data, and ranks their settings.",
    "predict": "Predicts with the parameters of a run.",
    "gradcheck": "Checks the handwritten gradients of a network, a layer or a function.",
    "audit": "Judges every custom derivative inside a JAX program.",
}


def format_help() -> str:
    """Returns what `jaxann --help` prints."""
    return "\n".join(
        [
            "usage: jaxann [-h] [--version] {" + ",".join(COMMANDS) + "} ...",
            "",
            "commands:",
            *(f"  {name:<12}{summary}" for name, summary in COMMANDS.items()),
            "",
            "options:",
            "  -h, --help  Shows this help; `jaxann COMMAND --help` shows the settings of a command.",
            "  --version   Shows the version.",
        ]
    )


def main() -> int:
    """Runs the command that the first argument names.

    Returns:
        The exit code of that command, or 2 if the first argument is missing or names no command.
    """
    sys.argv = ["jaxann", *sys.argv[1:]]  # `python -m jaxann` has the name __main__.py
    with exit_at_interrupt():
        return run_in_terminal(run_command)


def run_command() -> int:
    """Runs the command that the first argument names, in a terminal that has been prepared for it."""
    command, *arguments = sys.argv[1:] or [None]
    if command in ("-h", "--help", None):
        print(format_help(), file=sys.stdout if command else sys.stderr)
        return 0 if command else 2
    if command == "--version":
        print(f"jaxann {version('jaxann')}")
        return 0
    if command not in COMMANDS:
        print_line(f"expected one of the commands {', '.join(COMMANDS)}, got {describe_value(command)}")
        return 2
    sys.argv = [f"jaxann {command}", *arguments]
    return import_program(command).main()


def import_program(command: str) -> Any:
    """Imports the module of a command, whose function `main` is the program.

    A program is imported only when its command is called, so that `jaxann --help` does not wait. Imported modules never
    become garbage, and searching them for it would take a tenth of a short run.

    Args:
        command: One of `COMMANDS`.
    """
    name = f"jaxann.cli.{command}"
    if name not in sys.modules:
        gc.disable()
        try:
            import_module(name)
            gc.freeze()
        finally:
            gc.enable()
    return sys.modules[name]

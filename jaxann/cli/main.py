"""The command `jaxann`: one program for each of its words."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "train": "train a network on a table",
    "sweep": "train many networks, and rank their settings",
    "predict": "predict with the parameters of a run",
    "gradcheck": "check handwritten gradients",
}


def main() -> int:
    """Runs the command that the first argument names, and returns its exit code; 2 where there is no such command."""
    arguments = sys.argv[1:]
    usage = "usage: jaxann {" + ",".join(COMMANDS) + "} [--help] ..."
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage, "", *(f"  {name:<10} {what}" for name, what in COMMANDS.items()), sep="\n")
        return 0 if arguments else 2
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"jaxann: expected one of the commands {', '.join(COMMANDS)}, got {command!r}", file=sys.stderr)
        return 2
    sys.argv = [f"jaxann {command}", *rest]
    return import_module(f"jaxann.cli.{command}").main()

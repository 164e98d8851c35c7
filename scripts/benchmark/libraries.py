"""The libraries of the peers: preparing the peers that are installed, and naming the versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TypeVar

T = TypeVar("T")


def prepare_installed(peers: Mapping[str, tuple[str, Callable[[], T]]]) -> dict[str, T]:
    """Prepares every peer that is installed, and prints a line for each with its versions or its absence.

    Args:
        peers: For each peer, the packages that it consists of, separated by spaces, and the function that prepares it,
            which raises ImportError if one of them is missing.

    Returns:
        What the functions returned, by peer, without those that are missing.
    """
    prepared = {}
    for name, (packages, prepare) in peers.items():
        try:
            prepared[name] = prepare()
        except ImportError as error:
            print(f"{name} is left out: {error}")
        else:
            print(f"{name}: {', '.join(map(describe_package, packages.split()))}")
    return prepared


def describe_package(name: str) -> str:
    """Returns the name and the version of an installed package, and for PyTorch the number of its threads."""
    if name != "torch":
        return f"{name} {version(name)}"
    import torch  # pyright: ignore[reportMissingImports]

    return f"{name} {version(name)} with {torch.get_num_threads()} threads"

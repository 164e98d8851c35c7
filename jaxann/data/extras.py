"""Optional packages, and the sentence that says how to install those that are missing."""

from __future__ import annotations

from importlib import import_module

# The packages that each extra of jaxann installs, the smallest extra first.
EXTRAS = {
    "plots": {"matplotlib"},
    "logging": {"tensorboardX"},
    "checkpoints": {"orbax-checkpoint"},
    "runs": {"matplotlib", "tensorboardX", "orbax-checkpoint"},
    "tables": {"openpyxl", "pyarrow"},
    "sequences": {"mnist1d"},
    "text": {"tokenizers"},
    "oracles": {"backpack-for-pytorch", "torch"},
}
_PACKAGES = {
    "matplotlib.figure": "matplotlib",
    "tensorboardX": "tensorboardX",
    "orbax.checkpoint": "orbax-checkpoint",
    "torch": "torch",
    "openpyxl": "openpyxl",
    "pyarrow": "pyarrow",
    "mnist1d": "mnist1d",
    "tokenizers": "tokenizers",
}


def require_packages(purpose: str, *modules: str) -> None:
    """Imports optional modules, so that a program without them can fail before its work has begun.

    Args:
        purpose: What needs the modules, as the subject of a sentence: "a run folder".
        *modules: The modules to import: such as "matplotlib.figure".

    Raises:
        ImportError: If a module is missing. The message names the packages of all missing modules, and the smallest
            extra of jaxann that installs them.
    """
    missing = []
    for module in modules:
        try:
            import_module(module)
        except ImportError:
            missing.append(_PACKAGES[module])
    if missing:
        extra = next(name for name, packages in EXTRAS.items() if packages >= set(missing))
        *others, last = missing
        names = f"{', '.join(others)} and {last}" if others else last
        raise ImportError(f"{purpose} needs {names}: pip install 'jaxann[{extra}]'")

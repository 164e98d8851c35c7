"""Optional packages: imported where they are used, and when some are missing, one sentence says how to install them."""

from __future__ import annotations

from importlib import import_module

# The packages that each extra of jaxann installs, the smallest extra first.
EXTRAS = {
    "plots": {"matplotlib"},
    "logging": {"tensorboardX"},
    "checkpoints": {"orbax-checkpoint"},
    "runs": {"matplotlib", "tensorboardX", "orbax-checkpoint"},
}
_PACKAGES = {"matplotlib.figure": "matplotlib", "tensorboardX": "tensorboardX", "orbax.checkpoint": "orbax-checkpoint"}


def require_packages(purpose: str, *modules: str) -> None:
    """Imports optional modules, so that a program can fail before it has begun.

    Args:
        purpose: What needs them, as the subject of the sentence: "a run folder".
        modules: The modules to import, such as "matplotlib.figure".

    Raises:
        ImportError: If any of them is missing; it names all that are, and the smallest extra that installs them.
    """
    missing = []
    for module in modules:
        try:
            import_module(module)
        except ImportError:
            missing.append(_PACKAGES[module])
    if missing:
        extra = next(name for name, packages in EXTRAS.items() if packages >= set(missing))
        raise ImportError(f"{purpose} needs {' and '.join(missing)}: pip install 'jaxann[{extra}]'")

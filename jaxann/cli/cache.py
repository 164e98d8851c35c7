"""The folder of compiled programs, which later runs of the same programs load instead of compiling them again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax
from filelock import FileLock

SIZE = 2**30  # bytes; beyond it JAX deletes the programs that were not used for longest
SECONDS = 0.05  # programs that compile faster than this are not stored


def find_folder() -> Path:
    """Returns the folder of compiled programs in the user's cache directory."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "jaxann"


def use_cache(folder: Path) -> None:
    """Keeps compiled programs in a folder, which several processes may use at once.

    JAX writes a program and then the time of its use, under a lock. A process that is killed in between leaves a
    program that may be incomplete, and whose time is missing. Such programs are deleted.

    Args:
        folder: The folder, which need not exist.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lockfile"):  # JAX's own lock
        for program in folder.glob("*-cache"):
            if not program.with_name(f"{program.name.removesuffix('-cache')}-atime").exists():
                program.unlink()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", SIZE)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)

"""Calls as users make them. The tests check all annotations, and would otherwise refuse arguments before the library."""

from contextlib import contextmanager

import jaxtyping


@contextmanager
def unchecked():
    """Runs the block without checks of annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)

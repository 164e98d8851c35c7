"""Calls as users make them: the tests check all annotations, which would refuse arguments before the library does."""

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

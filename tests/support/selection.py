"""Which cases of a long list are fast tests."""

import pytest


def choose(names, step):
    """Returns the names as parameters of a test: all but every few of them are slow."""
    return [name if i % step == 0 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(names)]

"""Which cases of a long list are fast tests."""

import pytest


def choose(cases, step):
    """Returns cases, single values or tuples, as parameters of a test: all but one of every `step` are slow."""
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*v, marks=[pytest.mark.slow] if i % step else []) for i, v in enumerate(values)]

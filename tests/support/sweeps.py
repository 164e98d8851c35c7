"""Sweeps of the program sweep: a small one that tests share, and how its members are compared."""

import pytest
from support.programs import call

from jaxann.cli import sweep
from jaxann.cli.sweep_folder import member_key

QUICK = ("--precision", "float64", "--devices", "1", "--epochs", "4", "--batch-size", "16", "--hidden", "4")
GRID = ("--grid", "learning_rate=0.1,1e200,1", "activation=tanh,sigmoid", "--seeds", "2")  # 1e200 makes them diverge
COLUMNS = {"settings", "seed", "loss", "validation_loss", "validation_score", "diverged"}


def call_sweep(*arguments):
    return call(sweep.main, *QUICK, *arguments, name="sweep.py")


def by_member(rows):
    by_key = {member_key(row): row for row in rows}
    assert len(by_key) == len(rows)
    return by_key


def assert_same_members(rows, others, rtol=1e-9):
    """Each member is once in both, with the same numbers but for rounding."""
    rows, others = by_member(rows), by_member(others)
    assert rows.keys() == others.keys()
    for key, row in rows.items():
        assert row.keys() == COLUMNS
        for column in COLUMNS - {"settings"}:
            other = others[key][column]
            assert row[column] == (other if other is None else pytest.approx(other, rel=rtol))

"""Every wrong backward pass is caught, pinned on what is wrong, and explained; its right twin is not."""

from functools import partial

import jax
import numpy as np
import pytest
from support.layers import Positions
from support.mutants import MUTANTS, NOTEBOOK, RIGHT

from jaxann import check, predict
from jaxann.gradcheck.verdict import TOLERANCE
from jaxann.nn import Hinge

FOUND = {}  # by mutant: whether it was caught in both precisions, pinned on the culprits, and rightly explained


def report_of(mutant):
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.1, mutant.model.init(jax.random.key(0)))
    positions = (3,) if isinstance(mutant.model, Positions) else ()
    x = draw.normal(size=(6, *positions, mutant.model.sizes[0] or 4))
    t = draw.uniform(size=jax.eval_shape(partial(predict, mutant.model), params, x).shape)
    if isinstance(mutant.loss, Hinge):
        t = np.sign(t - 0.5)
    return check(mutant.model, mutant.loss, params, x, t, gradient=mutant.gradient, on_purpose=mutant.on_purpose)


def seen_in(row, dtype):
    """Whether this precision shows it, where it was measured: not a gradient of the wrong shape, nor one by weights."""
    error = getattr(row, dtype)
    return np.isnan(error) or error > TOLERANCE[dtype]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_backward_is_pinned_down_and_explained(name):
    mutant = MUTANTS[name]
    report = report_of(mutant)
    culprits = [report[path] for path in report.wrong]
    caught = bool(culprits) and all(seen_in(row, dtype) for row in culprits for dtype in TOLERANCE)
    pinned = set(report.wrong) == set(mutant.wrong)
    explained = {row.cause for row in culprits} == {mutant.cause}
    FOUND[name] = caught, pinned, explained
    assert (caught, pinned) == (True, True), f"\n{report}"


def test_kill_rate_and_share_of_right_diagnoses(capsys):
    caught, pinned, explained = np.sum(list(FOUND.values()) or [(0, 0, 0)], axis=0)
    with capsys.disabled():
        print(f"\n{len(FOUND)} mutants: {caught} caught, {pinned} pinned on the culprit, {explained} rightly explained")
    assert caught == pinned == len(FOUND)
    assert explained >= 0.9 * len(FOUND)


@pytest.mark.parametrize("name", RIGHT)
def test_the_same_done_right_is_not_caught(name):
    report = report_of(RIGHT[name])
    assert report.ok, f"\n{report}"


def test_there_are_enough_of_them_and_the_notebooks_four_are_among_them():
    assert len(MUTANTS) >= 40
    assert len(NOTEBOOK) == 4
    assert NOTEBOOK.items() <= MUTANTS.items()

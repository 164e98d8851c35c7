"""Every wrong backward pass is found, located and diagnosed; a right one is not found wrong."""

from functools import partial

import jax
import numpy as np
import pytest
from support.layers import Positions
from support.mutants import CHOICES, MUTANTS, NOTEBOOK, RIGHT
from support.selection import choose

from jaxann import check, predict
from jaxann.gradcheck.leaf import TOLERANCE
from jaxann.nn import Hinge

# The fast tests have the notebook's mutants and one for every eighth diagnosis; the slow tests have all others.
FAST = {*NOTEBOOK, *list({mutant.cause: name for name, mutant in MUTANTS.items()}.values())[::12]}
RESULTS = {}  # by mutant: whether it was found in both precisions, located, and diagnosed rightly


def check_mutant(mutant):
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.1, mutant.model.init(jax.random.key(0)))
    positions = (3,) if isinstance(mutant.model, Positions) else ()
    x = rng.normal(size=(6, *positions, mutant.model.sizes[0] or 4))
    t = rng.uniform(size=jax.eval_shape(partial(predict, mutant.model), params, x).shape)
    if isinstance(mutant.loss, Hinge):
        t = np.sign(t - 0.5)
    return check(mutant.model, mutant.loss, params, x, t, gradient=mutant.gradient, on_purpose=mutant.on_purpose)


def is_measured_wrong(row, dtype):
    """Whether the error exceeds the tolerance; a wrong shape has no error, and some rows none in float32."""
    error = getattr(row, dtype)
    return np.isnan(error) or error > TOLERANCE[dtype]


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MUTANTS]
)
def test_a_wrong_backward_is_located_and_diagnosed(name):
    mutant = MUTANTS[name]
    report = check_mutant(mutant)
    rows = [report[path] for path in report.wrong]
    found = bool(rows) and all(is_measured_wrong(row, dtype) for row in rows for dtype in TOLERANCE)
    located = set(report.wrong) == set(mutant.wrong)
    diagnosed = {row.cause for row in rows} == {mutant.cause}
    RESULTS[name] = found, located, diagnosed
    assert (found, located, diagnosed) == (True, True, True), f"\n{report}"


def test_every_mutant_is_found_located_and_diagnosed(capsys):
    found, located, diagnosed = np.sum(list(RESULTS.values()) or [(0, 0, 0)], axis=0)
    with capsys.disabled():
        print(f"\n{len(RESULTS)} mutants: {found} found, {located} located, {diagnosed} diagnosed rightly")
    assert found == located == diagnosed == len(RESULTS)


@pytest.mark.parametrize("name", choose(CHOICES, 3))
def test_another_slope_at_a_kink_is_right_and_told_as_a_choice(name):
    choice = CHOICES[name]
    report = check_mutant(choice)
    assert report.ok, f"\n{report}"
    assert {row.path for row in report.rows if row.cause} == set(choice.wrong)
    for path in choice.wrong:
        assert report[path].cause == choice.cause
        assert report[path].diagnosis.startswith("another choice of slope at a kink")


@pytest.mark.parametrize("name", choose(RIGHT, 4))
def test_the_same_without_the_mistake_is_right(name):
    report = check_mutant(RIGHT[name])
    assert report.ok, f"\n{report}"


def test_there_are_enough_mutants_and_the_notebooks_four_are_among_them():
    assert len(MUTANTS) >= 70
    assert len(MUTANTS | CHOICES) >= 80
    assert len(NOTEBOOK) == 4
    assert NOTEBOOK.items() <= MUTANTS.items()

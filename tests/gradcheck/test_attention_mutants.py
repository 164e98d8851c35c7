"""Each term of the backward passes of attention, feed-forward blocks and positions matters, and the check sees it."""

import pytest
from support.attention_mutants import MUTANTS, RIGHT, build_mutant, draw

from jaxann import check_layer

FAST = {"gated: the gate left out"}


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MUTANTS]
)
def test_a_wrong_term_is_found_in_the_gradients_that_it_spoils(name):
    layer, shape, paths = build_mutant(name)
    report = check_layer(layer, *draw(layer, shape), seconds=0)
    assert set(report.wrong) == set(paths), f"\n{report}"


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in RIGHT])
def test_the_layers_without_a_mistake_are_right(name):
    layer, shape = RIGHT[name]
    report = check_layer(layer, *draw(layer, shape))
    assert report.ok, f"\n{report}"

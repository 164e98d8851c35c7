import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.layers import Twice

from jaxann import backprop, compare
from jaxann.gradients.probe import Probe, find_nonfinite, observe, with_probes
from jaxann.nn import (
    CrossEntropy,
    Dense,
    Elementwise,
    Huber,
    MixedPrecision,
    Sequential,
    SquaredError,
    mlp,
    relu,
    sigmoid,
    sum_examples,
    tanh,
)

MODEL = Sequential((mlp((4, 5, 3), hidden=tanh), Sequential((sigmoid,)), Dense(3, 2)))
PARAMS = MODEL.init(jax.random.key(0))
X, T = jax.random.normal(jax.random.key(1), (6, 4)), jax.random.normal(jax.random.key(2), (6, 2))


def test_every_leaf_layer_gets_a_probe_that_knows_its_path():
    forwards, _, _, backwards = observe(MODEL, SquaredError(), PARAMS, X, T)
    assert [record.probe.path for record in forwards] == ["0.0", "0.1", "0.2", "0.3", "1.0", "2"]
    assert [record.probe.path for record in backwards] == ["2", "1.0", "0.3", "0.2", "0.1", "0.0"]
    assert str(forwards[2].probe) == "layer 0.2, Dense(5, 3)"
    assert str(with_probes(tanh)) == "tanh"
    assert with_probes(MODEL).sizes == MODEL.sizes
    assert isinstance(with_probes(tanh), Probe)


def test_records_are_what_passed_and_change_nothing():
    forwards, losses, dy, backwards = observe(MODEL, SquaredError(), PARAMS, X, T)
    for below, above in itertools.pairwise(forwards):
        np.testing.assert_array_equal(below.y, above.x)
    for above, below in itertools.pairwise(backwards):
        np.testing.assert_array_equal(above.dx, below.dy)
    np.testing.assert_array_equal(forwards[0].x, X)
    np.testing.assert_allclose(backwards[0].dy, dy)
    value, grads = backprop(MODEL, SquaredError())(PARAMS, X, T)
    np.testing.assert_allclose(losses.mean(), value, rtol=1e-14)
    last = sum_examples(backwards[0].grads)
    assert compare(jax.tree.map(lambda leaf: leaf / 6, last), grads[2]).error < 1e-14


def test_the_same_key_gives_the_same_parameters():
    assert compare(with_probes(MODEL).init(jax.random.key(0)), PARAMS).error == 0


POLE = Elementwise("pole", lambda x: 1 / (x - x), lambda x, y: y)
STEEP = Elementwise("steep", lambda x: x, lambda x, y: 1 / (x - x))


@dataclass(frozen=True)
class Cliff(Huber):
    """A loss whose value is finite and whose gradient is not."""

    def gradient(self, y, t):
        return 1 / (y - y)


@pytest.mark.parametrize(
    ("model", "loss", "expected"),
    [
        (mlp((4, 5, 2)), SquaredError(), None),
        (mlp((4, 5, 2), hidden=POLE), SquaredError(), "the output of layer 1, pole"),
        (mlp((4, 5, 2), hidden=STEEP), SquaredError(), "the gradient of layer 1, steep"),
        (mlp((4, 5, 5, 2), hidden=STEEP), SquaredError(), "the gradient of layer 3, steep"),
        (mlp((4, 5, 2)), CrossEntropy(), "the value of CrossEntropy()"),
        (mlp((4, 5, 2)), Cliff(), "the gradient of Cliff(delta=1.0)"),
        (Sequential((Twice(Dense(4, 4)), STEEP, Dense(4, 2))), SquaredError(), "the gradient of layer 1, steep"),
    ],
)
def test_the_first_thing_that_is_not_finite_is_named(model, loss, expected):
    params = model.init(jax.random.key(3))
    for network in (model, MixedPrecision(model), Sequential((MixedPrecision(model.layers[0]), *model.layers[1:]))):
        assert find_nonfinite(network, loss, params, X, jnp.abs(T)) == expected


def test_layers_inside_mixed_precision_are_observed_as_without_it():
    plain, mixed = (observe(model, SquaredError(), PARAMS, X, T) for model in (MODEL, MixedPrecision(MODEL)))
    for records, others in ((plain[0], mixed[0]), (plain[3], mixed[3])):
        assert [str(record.probe) for record in records] == [str(record.probe) for record in others]
    assert {record.y.dtype for record in mixed[0]} == {jnp.dtype("bfloat16")}
    inside = MixedPrecision(Sequential((Dense(4, 3), relu)))
    assert str(with_probes(inside)) == str(MixedPrecision(with_probes(inside.layer)))

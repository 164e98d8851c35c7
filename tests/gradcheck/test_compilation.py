"""How a check saves the compiler's time: programs without optimization first, and one program for equal layers."""

import gc
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from jaxann import check_layer
from jaxann.gradcheck import verdict
from jaxann.gradcheck.arguments import Args
from jaxann.gradcheck.cases import collect_layer_cases
from jaxann.gradcheck.subjects import LayerSubject
from jaxann.nn import Dense, Residual, Sequential, SquaredError, tanh

DENSE = Dense(4, 3)
PARAMS = DENSE.init(jax.random.key(0))
X = np.random.default_rng(0).normal(size=4)


def scale(gradients, factor):
    return {name: factor * value for name, value in gradients.items()}


def fail(gradients):
    raise jax.errors.JaxRuntimeError("the program cannot be compiled")


@pytest.mark.parametrize(
    "distort",
    [
        lambda g: g._replace(handwritten=scale(g.handwritten, 1.1)),
        lambda g: g._replace(autodiff=scale(g.autodiff, 1.1)),
        lambda g: g._replace(handwritten=scale(g.handwritten, np.inf), autodiff=scale(g.autodiff, np.inf)),
        lambda g: g._replace(y=np.nan * g.y),
        fail,
    ],
)
def test_what_a_program_without_optimization_gets_wrong_is_computed_again(distort, monkeypatch):
    evaluate, levels = LayerSubject.evaluate, []

    @contextmanager
    def optimization(level):
        levels.append(level)
        yield

    def evaluate_distorted(*args):
        gradients = evaluate(*args)
        return gradients if levels[-1] else distort(gradients)

    monkeypatch.setattr(verdict, "optimization", optimization)
    monkeypatch.setattr(LayerSubject, "evaluate", evaluate_distorted)
    report = check_layer(DENSE, PARAMS, X)
    assert report.ok, f"\n{report}"
    assert levels == [0, 1]
    assert report["dx"].float64 < 1e-15


def test_equal_layers_with_equal_inputs_share_their_programs():
    model = Sequential((*[Residual(Sequential((Dense(4, 4), tanh)))] * 4, DENSE))
    data = Args(model.init(jax.random.key(0)), np.stack([X, X]), np.ones((2, 3)), ())
    cases, _, _ = collect_layer_cases(model, SquaredError(), data, np.random.default_rng(0))
    assert len(cases) == 4 * 4 + 2
    assert len({case.subject for case in cases}) == 4 + 2  # a block has four layers: a chain, its parts, and a residual


def test_a_check_leaves_the_garbage_collector_as_it_was():
    usual = gc.get_threshold()
    check_layer(DENSE, PARAMS, X)
    with pytest.raises(ValueError, match="expected x to be at least one real number"):
        check_layer(DENSE, PARAMS, X[:0])
    assert gc.get_threshold() == usual
